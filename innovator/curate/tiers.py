"""High, medium and low: where among the grades of an assessor the bounds between the tiers are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from innovator.curate.alignment import Grades
from innovator.models.spec import Spec

TIERS = ("high", "medium", "low")


@dataclass(frozen=True, kw_only=True)
class Quantiles(Spec):
    """The best share of the sample is high, the worst is low, what is between them medium."""

    kind: Literal["quantiles"] = "quantiles"
    high: float = 0.4
    low: float = 0.2

    def __post_init__(self) -> None:
        if not (self.high > 0 and self.low > 0 and self.high + self.low < 1):
            raise ValueError(f"high ({self.high}) and low ({self.low}) are shares that leave one for medium")

    def bounds(self, grades: Grades) -> tuple[float, float]:
        """The least grade that is medium, and the least that is high."""
        medium, high = np.quantile(grades, [self.low, 1 - self.high]).tolist()
        return medium, high


@dataclass(frozen=True, kw_only=True)
class Thresholds(Spec):
    """The least grade of the assessor that is medium, and the least that is high."""

    kind: Literal["thresholds"] = "thresholds"
    medium: float
    high: float

    def __post_init__(self) -> None:
        if self.medium >= self.high:
            raise ValueError(f"medium ({self.medium}) must be below high ({self.high})")

    def bounds(self, grades: Grades) -> tuple[float, float]:
        """As given."""
        return self.medium, self.high


def tier_of(grade: float, medium: float, high: float) -> str:
    """The tier of a grade of the assessor."""
    return "high" if grade >= high else "medium" if grade >= medium else "low"

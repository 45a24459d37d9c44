"""What is to be known of a student before it is let loose: agreement with its assessor, calibration, and speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from innovator.curate.rule import Facts, Kept, Outcome
from innovator.curate.tiers import TIERS

N_BINS = 10
Shares = NDArray[np.float64]


class AnyStudent(Protocol):
    """What stamps tiers and knows how sure it is."""

    def apply(self, text: str, facts: Facts) -> Outcome:
        """Stamp the document."""
        ...

    def probabilities(self, texts: Sequence[str]) -> Shares:
        """Of each text, that of high, and that of high or medium."""
        ...


@dataclass(frozen=True)
class Bin:
    """Documents whose predicted probability of medium or high falls in a tenth: its mean, what came true, how many."""

    predicted: float
    observed: float
    n: int


@dataclass(frozen=True)
class StudentReport:
    """How a student agrees with its assessor on held-out documents, and how fast a core is, one document at a time.

    bounds: the least grade that is medium, and the least that is high. confusion: of the assessor's tiers, how many the
    student put in each. kappa: Cohen's. calibration_error: the mean distance of predicted and observed shares of
    medium or high, weighted by documents (expected calibration error, ten bins).
    """

    n: int
    bounds: tuple[float, float]
    confusion: dict[str, dict[str, int]]
    agreement: float
    kappa: float
    reliability: list[Bin]
    calibration_error: float
    documents_per_second: float
    megabytes_per_second: float

    @classmethod
    def of(
        cls, student: AnyStudent, texts: Sequence[str], tiers: Sequence[str], bounds: tuple[float, float]
    ) -> StudentReport:
        """Let it stamp texts whose tiers by the assessor are known."""
        student.apply(texts[0], {})  # so that loading is not timed
        start = time.process_time()
        said = [_tier(student.apply(text, {})) for text in texts]
        seconds = time.process_time() - start
        confusion = {tier: dict.fromkeys(TIERS, 0) for tier in TIERS}
        for tier, theirs in zip(tiers, said, strict=True):
            confusion[tier][theirs] += 1
        agreement = sum(confusion[tier][tier] for tier in TIERS) / len(texts)
        bins = reliability(student.probabilities(texts)[:, 1], np.array([tier != "low" for tier in tiers]))
        return cls(
            len(texts),
            bounds,
            confusion,
            agreement,
            _kappa(confusion),
            bins,
            sum(one.n * abs(one.predicted - one.observed) for one in bins) / len(texts),
            len(texts) / seconds,
            sum(len(text.encode()) for text in texts) / 1e6 / seconds,
        )


def reliability(predicted: Shares, true: NDArray[np.bool_]) -> list[Bin]:
    """The table that shows whether probabilities come true; bins without documents are left out."""
    places = np.minimum((predicted * N_BINS).astype(int), N_BINS - 1)
    inside = [places == number for number in range(N_BINS)]
    return [Bin(float(predicted[one].mean()), float(true[one].mean()), int(one.sum())) for one in inside if one.any()]


def _kappa(confusion: dict[str, dict[str, int]]) -> float:
    table = np.array([[confusion[tier][theirs] for theirs in TIERS] for tier in TIERS], dtype=float)
    n = table.sum()
    by_chance = float(table.sum(axis=0) @ table.sum(axis=1)) / n**2
    return 1.0 if by_chance == 1 else (float(np.trace(table)) / n - by_chance) / (1 - by_chance)


def _tier(outcome: Outcome) -> str:
    assert isinstance(outcome, Kept)
    return str(outcome.facts["tier"])

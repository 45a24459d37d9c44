"""Lightweight deployment: a small fast model that stamps every document high, medium or low, as the assessor would.

It learns where a sample of the corpus stands among the assessor's grades, and says probabilities of the tiers; whether
they come true is part of its report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random

import numpy as np

from innovator.curate.alignment import Grades
from innovator.curate.linear import Linear, expit, fit_grades
from innovator.curate.rule import Dropped, Facts, Kept, Outcome
from innovator.curate.student_report import Shares, StudentReport
from innovator.curate.tiers import TIERS, Quantiles, Thresholds, tier_of
from innovator.files import write_json
from innovator.models.spec import Spec

AT_LEAST = ("high", "medium")
STRENGTH = 3.0


@dataclass(frozen=True, kw_only=True)
class Distil(Spec):
    """How the student is made. n_documents: sample of the corpus that the assessor grades; held_out: share of it that
    the student is only tested on."""

    n_documents: int = 5000
    held_out: float = 0.2
    tiers: Quantiles | Thresholds = field(default_factory=Quantiles)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}: it must be between 0 and 1")

    def train(self, texts: Sequence[str], grades: Grades, out: Path) -> StudentReport:
        """Fit on a part of graded texts, test on the rest, save the model and `report.json`; give the report.

        Texts that were not graded (grade not a number) are left out. ValueError if a tier would be empty.
        """
        graded = [number for number in range(len(texts)) if not np.isnan(grades[number])]
        bounds = self.tiers.bounds(grades[graded])
        Random(self.seed).shuffle(graded)
        n_test = round(self.held_out * len(graded))
        test, train = (_Graded.of(texts, grades, bounds, part) for part in (graded[:n_test], graded[n_test:]))
        _student_of(train).save(out / "model")
        report = StudentReport.of(Student(folder=str(out / "model")), test.texts, test.tiers, bounds)
        write_json(out / "report.json", asdict(report))
        return report


@dataclass(frozen=True, kw_only=True)
class Student(Spec):
    """Stamps a document's `tier` and `grade`, from 0 for surely low to 1 for surely high.

    high: the probability of that tier is at least one half; medium: that of high or medium is.
    """

    folder: str

    @property
    def name(self) -> str:
        """What the account calls it."""
        return "grade"

    def apply(self, text: str, facts: Facts) -> Outcome:
        """Stamp the document."""
        ((high, at_least_medium),) = self.probabilities([text])
        tier = "high" if high >= 0.5 else "medium" if at_least_medium >= 0.5 else "low"
        return Kept(text, facts={"grade": round(float(high + at_least_medium) / 2, 4), "tier": tier})

    def probabilities(self, texts: Sequence[str]) -> Shares:
        """Of each text, that of high, and that of high or medium."""
        high, at_least_medium = expit(self._model.scores(texts)).T
        return np.stack([np.minimum(high, at_least_medium), at_least_medium], axis=1)

    @cached_property
    def _model(self) -> Linear:
        return Linear.open(Path(self.folder))


@dataclass(frozen=True, kw_only=True)
class Keep(Spec):
    """The share of each tier that enters the mixture; which documents is decided by a hash of their ids.

    A larger share keeps all that a smaller one does.
    """

    high: float = 1.0
    medium: float = 0.3
    low: float = 0.0

    def __post_init__(self) -> None:
        for tier, share in asdict(self).items():
            if not 0 <= share <= 1:
                raise ValueError(f"{tier} is {share}: it is a share, from 0 to 1")

    @property
    def name(self) -> str:
        """What the account calls it."""
        return "keep"

    def apply(self, text: str, facts: Facts) -> Outcome:
        """Drop the document if its draw is not below the share of its tier."""
        tier = str(facts["tier"])
        share = {"high": self.high, "medium": self.medium, "low": self.low}[tier]
        if draw(str(facts["id"])) < share:
            return Kept(text)
        return Dropped(f"tier {tier}: share" if share else f"tier {tier}")


def draw(id: str) -> float:
    """A number from 0 to 1 that depends on nothing but the id."""
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8).digest()) / 2**64


@dataclass(frozen=True)
class _Graded:
    """Texts, where each stands among the assessor's grades, from 0 to 1, and its tier."""

    texts: Sequence[str]
    ranks: Grades
    tiers: Sequence[str]

    @classmethod
    def of(cls, texts: Sequence[str], grades: Grades, bounds: tuple[float, float], numbers: Sequence[int]) -> _Graded:
        chosen = grades[list(numbers)]
        tiers = [tier_of(grade, *bounds) for grade in chosen.tolist()]
        if missing := [tier for tier in TIERS if tier not in tiers]:
            raise ValueError(
                f"none of {len(tiers)} graded texts is {missing[0]}: grade more, or move the tiers' bounds"
            )
        ranks = np.argsort(np.argsort(chosen)) / max(len(chosen) - 1, 1)
        return cls([texts[number] for number in numbers], ranks, tiers)


def _student_of(train: _Graded) -> Linear:
    """A regression on ranks, whose scores are log-odds of `high` and of `medium` or better.

    What a rank says of the odds is learned where the regression was not: on the other half of the texts.
    """
    half = len(train.texts) // 2
    rank = fit_grades(train.texts[:half], train.ranks[:half], strength=STRENGTH).scores(train.texts[half:])
    odds = [_odds(rank, [tier in TIERS[: place + 1] for tier in train.tiers[half:]]) for place in range(len(AT_LEAST))]
    slopes, offsets = np.array(odds).T
    model = fit_grades(train.texts, train.ranks, strength=STRENGTH)
    weights_FN = (model.weights_FN * slopes).astype(np.float32)
    return Linear(AT_LEAST, weights_FN, (model.bias_N * slopes + offsets).astype(np.float32))


def _odds(rank: Grades, true: Sequence[bool]) -> tuple[float, float]:
    """Slope and offset of the log-odds (Platt 1999)."""
    from sklearn.linear_model import LogisticRegression  # here because it is slow to load

    model = LogisticRegression(C=1e3).fit(rank, true)
    return float(model.coef_[0, 0]), float(model.intercept_[0])

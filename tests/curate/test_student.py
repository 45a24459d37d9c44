"""The student follows its assessor, knows how sure it is, and what is kept depends on ids alone."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from test_linear import FILL

from innovator.curate.rule import Dropped, Kept
from innovator.curate.student import Distil, Keep, Student, draw
from innovator.curate.student_report import StudentReport, reliability
from innovator.curate.tiers import Quantiles, Thresholds, tier_of


def graded(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts with zero to ten muddy words among thirty, each of which costs a point."""
    rng = random.Random(seed)
    muddy = [rng.randint(0, 10) for _ in range(n)]
    texts = [" ".join(rng.sample(["mud"] * n_mud + rng.choices(FILL, k=30 - n_mud), 30)) for n_mud in muddy]
    return texts, -np.array(muddy, dtype=float)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudentReport]:
    folder = tmp_path_factory.mktemp("student")
    return folder, Distil(tiers=Thresholds(medium=-7, high=-3), held_out=0.3).train(*graded(400, seed=0), folder)


def test_the_student_agrees_with_its_assessor(distilled: tuple[Path, StudentReport]) -> None:
    _, report = distilled
    assert report.n == 120 == sum(n for row in report.confusion.values() for n in row.values())
    assert report.agreement > 0.8 and report.kappa > 0.7  # the grade can be counted, up to which words fill the text
    assert report.confusion["low"]["high"] == report.confusion["high"]["low"] == 0
    assert report.documents_per_second > 0 and report.megabytes_per_second > 0


def test_the_report_is_on_disk(distilled: tuple[Path, StudentReport]) -> None:
    folder, report = distilled
    said = json.loads((folder / "report.json").read_text())
    assert said["kappa"] == report.kappa and len(said["reliability"]) == len(report.reliability)


def test_stamps_are_one_for_one_with_probabilities(distilled: tuple[Path, StudentReport]) -> None:
    student = Student(folder=str(distilled[0] / "model"))
    texts, grades = graded(100, seed=1)
    stamps = [outcome.facts for outcome in (student.apply(text, {}) for text in texts) if isinstance(outcome, Kept)]
    for stamped, (high, at_least_medium) in zip(stamps, student.probabilities(texts).tolist(), strict=True):
        assert 0 <= high <= at_least_medium <= 1
        assert stamped["tier"] == ("high" if high >= 0.5 else "medium" if at_least_medium >= 0.5 else "low")
        assert stamped["grade"] == pytest.approx((high + at_least_medium) / 2, abs=1e-4)
    assert np.corrcoef([float(str(one["grade"])) for one in stamps], grades)[0, 1] > 0.8


def test_texts_without_a_grade_are_left_out(tmp_path: Path) -> None:
    texts, grades = graded(200, seed=2)
    grades[::2] = np.nan
    report = Distil(held_out=0.2).train(texts, grades, tmp_path)
    assert report.n == 20


def test_an_empty_tier_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of 20 graded texts is high"):
        Distil(tiers=Thresholds(medium=-5, high=1)).train(*graded(100, seed=0), tmp_path)


def test_quantiles_give_each_tier_its_share() -> None:
    grades = np.random.default_rng(0).normal(size=1000)
    tiers = [tier_of(grade, *Quantiles(high=0.3, low=0.1).bounds(grades)) for grade in grades.tolist()]
    assert [tiers.count(tier) for tier in ("high", "medium", "low")] == [300, 600, 100]


def test_true_probabilities_come_true_and_false_ones_do_not() -> None:
    rng = np.random.default_rng(0)
    said = rng.uniform(size=100_000)
    true = rng.uniform(size=100_000) < said
    assert all(abs(one.predicted - one.observed) < 0.02 for one in reliability(said, true))  # 5 sigma of 10,000 draws
    assert all(abs(one.predicted - one.observed) > 0.05 for one in reliability(said**3, true)[1:-1])
    assert sum(one.n for one in reliability(said, true)) == 100_000


def kept(keep: Keep, tier: str, n: int = 4000) -> set[str]:
    ids = [f"document {number}" for number in range(n)]
    return {id for id in ids if isinstance(keep.apply("", {"tier": tier, "id": id}), Kept)}


def test_of_each_tier_its_share_is_kept() -> None:
    keep = Keep(high=1.0, medium=0.3, low=0.0)
    assert len(kept(keep, "high")) == 4000 and not kept(keep, "low")
    assert abs(len(kept(keep, "medium")) / 4000 - 0.3) < 0.036  # 5 sigma


def test_a_larger_share_keeps_all_that_a_smaller_one_does() -> None:
    assert kept(Keep(medium=0.2), "medium") < kept(Keep(medium=0.5), "medium")
    assert 0 <= draw("any") == draw("any") < 1


def test_reasons_tell_tiers_from_shares() -> None:
    assert Keep().apply("", {"tier": "low", "id": "x"}) == Dropped("tier low")
    dropped = {str(Keep().apply("", {"tier": "medium", "id": str(n)})) for n in range(50)}
    assert str(Dropped("tier medium: share")) in dropped


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="medium is"):
        Keep(medium=share)

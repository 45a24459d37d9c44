"""A simulated annotator, for tests only: it sees the true value of a document with noise."""

from __future__ import annotations

import random
from collections.abc import Mapping

from innovator.curate.judgements import GradeJudgement, PairJudgement
from innovator.curate.rubric import Criterion, Rubric

CRITERION = Criterion(question="Is it good?", good="It is.", poor="It is not.")
RUBRIC = Rubric(
    title="Test",
    annotators_know="Nothing.",
    grades=("bad", "poor", "fair", "good", "best"),
    criteria={"clean": CRITERION, "deep": Criterion(question="Deep?", good="Yes.", poor="No.", weight=3.0)},
)


class Annotator:
    """noise: standard deviation of what is added to true values that lie in [0, 1]. tie: the least difference seen."""

    def __init__(self, name: str, truth: Mapping[str, float], noise: float, seed: int, tie: float = 0.0) -> None:
        self.name, self.truth, self.noise, self.tie = name, truth, noise, tie
        self.random = random.Random(f"{seed} {name}")

    def seen(self, document: str) -> float:
        """The value as this annotator sees it, this time."""
        return self.truth[document] + self.random.gauss(0, self.noise)

    def compare(self, a: str, b: str) -> PairJudgement:
        """Which is better."""
        difference = self.seen(a) - self.seen(b)
        prefers = "tie" if abs(difference) < self.tie else "a" if difference > 0 else "b"
        return pair(self.name, a, b, prefers)

    def grade(self, document: str) -> GradeJudgement:
        """From 1 to 5."""
        return grade(self.name, document, min(5, max(1, 1 + int(5 * self.seen(document)))))


def pair(annotator: str, a: str, b: str, prefers: str, criterion: str = "clean") -> PairJudgement:
    """A judgement of two documents."""
    return PairJudgement(criterion=criterion, a=a, b=b, prefers=prefers, annotator=annotator, seconds=1.0)  # type: ignore[arg-type]


def grade(annotator: str, document: str, value: int, criterion: str = "clean") -> GradeJudgement:
    """A judgement of one document."""
    return GradeJudgement(criterion=criterion, document=document, grade=value, annotator=annotator, seconds=1.0)

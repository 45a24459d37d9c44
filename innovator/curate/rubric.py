"""A rubric: the criteria by which experts, and models after them, judge whether a text is worth learning from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from innovator.document import read
from innovator.models.spec import Spec

SCIENCE = Path(__file__).with_name("rubric-science.yaml")


@dataclass(frozen=True, kw_only=True)
class Criterion(Spec):
    """One thing that is asked of a text. weight: what it counts beside the others."""

    question: str
    good: str
    poor: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight <= 0:
            raise ValueError(
                f"weight is {self.weight}: it must be above zero; leave out a criterion that counts nothing"
            )


@dataclass(frozen=True, kw_only=True)
class Rubric(Spec):
    """What is asked of texts, by criterion.

    annotators_know: what one must know before judging. grades: the words of the scale, worst first; the first is 1.
    """

    kind: Literal["rubric"] = "rubric"
    title: str
    annotators_know: str
    grades: tuple[str, ...]
    criteria: dict[str, Criterion]

    def __post_init__(self) -> None:
        if not self.criteria:
            raise ValueError("a rubric needs at least one criterion")
        if not 2 <= len(self.grades) <= 9:
            raise ValueError(f"grades has {len(self.grades)} words: a scale has 2 to 9, one for each digit key")

    @staticmethod
    def open(path: str | None) -> Rubric:
        """The rubric at `path`; without one, that for science texts which comes with Innovator."""
        return read(SCIENCE if path is None else Path(path), [], Rubric)

    def as_prompt(self) -> str:
        """The whole rubric as one text, for a model that judges."""
        scale = ", ".join(f"{grade} = {word}" for grade, word in enumerate(self.grades, start=1))
        return "\n\n".join([self.title, self.annotators_know, *self._asked(), f"Scale: {scale}."])

    def _asked(self) -> list[str]:
        return [
            f"{name} (weight {it.weight:g}): {it.question}\n  Good: {it.good}\n  Poor: {it.poor}"
            for name, it in self.criteria.items()
        ]

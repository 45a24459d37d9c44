"""How far grades agree with pairs that were held out, and the bar that they must reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from innovator.curate.pairs import Pair
from innovator.files import write_json
from innovator.models.spec import Spec
from innovator.say import say

Grades = NDArray[np.float64]
Z = 1.96


class Grader(Protocol):
    """Whatever gives a text a number that is higher for better texts."""

    def grade(self, texts: Sequence[str]) -> Grades:
        """One number for each text; not a number where the grader refuses."""
        ...


@dataclass(frozen=True)
class Share:
    """A share of n cases with Wilson's interval at 95 %, as if they were independent; pairs of one document are not."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, value: float, n: int) -> Share:
        """Wilson 1927: Probable inference, the law of succession, and statistical inference."""
        if not n:
            return cls(math.nan, 0.0, 1.0, 0)
        middle = (value + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * math.sqrt(value * (1 - value) / n + Z**2 / (4 * n**2))
        return cls(value, middle - half, middle + half, n)

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%}, n = {self.n})"


@dataclass(frozen=True)
class Alignment:
    """Agreement with held-out pairs: of all, by what they are about, by gap, and by both.

    A pair counts by its weight; equal grades agree by half. n_refused: pairs with a text that was not graded; they are
    in none of the shares.
    """

    whole: Share
    by_about: dict[str, Share]
    by_gap: dict[str, Share]
    by_both: dict[str, dict[str, Share]]
    n_refused: int

    @classmethod
    def of(cls, pairs: Sequence[Pair], grade: Mapping[str, float]) -> Alignment:
        """Compare grades by name with pairs."""
        graded = [pair for pair in pairs if not math.isnan(grade[pair.better] + grade[pair.worse])]
        abouts = sorted({pair.about for pair in graded})
        return cls(
            _agreement(graded, grade),
            _by(graded, grade, lambda pair: pair.about),
            _by(graded, grade, _gap),
            {about: _by([pair for pair in graded if pair.about == about], grade, _gap) for about in abouts},
            len(pairs) - len(graded),
        )

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, asdict(self))


@dataclass(frozen=True, kw_only=True)
class Examined(Spec):
    """What must agree with held-out pairs. bar: with which share of them; the paper names 95 %.

    below_bar: whether a grader that does not reach it stops the curation.
    """

    bar: float = 0.95
    below_bar: Literal["stop", "go-on"] = "stop"

    def __post_init__(self) -> None:
        if not 0 < self.bar <= 1:
            raise ValueError(f"bar is {self.bar}: it is a share, above 0 and at most 1")

    def at(self, root: Path | None) -> Self:
        """The same with relative paths taken from `root`."""
        return self

    def fingerprint(self) -> str:
        """What is learned from beside pairs; ValueError if it is not there."""
        return ""

    def hold(self, alignment: Alignment) -> None:
        """ValueError, or a line if the spec says to go on, where agreement is below the bar."""
        if alignment.whole.value >= self.bar:
            return
        short = f"{100 * (self.bar - alignment.whole.value):.1f} points below the bar of {self.bar:.0%}"
        where = ", ".join(f"{about} {share.value:.1%}" for about, share in alignment.by_about.items())
        told = f"the assessor agrees with {alignment.whole} of the held-out pairs, {short} ({where})"
        if self.below_bar == "stop":
            raise ValueError(f"{told}; say `below_bar: go-on` to use it all the same")
        say(f"  {told}; going on, as the recipe says")


def aligned(grader: Grader, texts: Mapping[str, str], pairs: Sequence[Pair]) -> Alignment:
    """Let a grader grade the texts of pairs, each once."""
    names = sorted({name for pair in pairs for name in (pair.better, pair.worse)})
    grades = grader.grade([texts[name] for name in names])
    return Alignment.of(pairs, dict(zip(names, grades.tolist(), strict=True)))


def _agreement(pairs: Sequence[Pair], grade: Mapping[str, float]) -> Share:
    weight = sum(pair.weight for pair in pairs)
    agreed = sum(pair.weight * (1 + np.sign(grade[pair.better] - grade[pair.worse])) / 2 for pair in pairs)
    return Share.of(float(agreed) / weight if pairs else math.nan, len(pairs))


def _by(pairs: Sequence[Pair], grade: Mapping[str, float], key: Callable[[Pair], str]) -> dict[str, Share]:
    groups: dict[str, list[Pair]] = {value: [] for value in sorted(set(map(key, pairs)))}
    for pair in pairs:
        groups[key(pair)].append(pair)
    return {value: _agreement(group, grade) for value, group in groups.items()}


def _gap(pair: Pair) -> str:
    return f"{pair.gap:g}"

"""Whose turn it is: corpora take turns in proportions that may change at given tokens of a run."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from innovator.models.spec import Spec

PERIOD = 4096

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Phase(Spec):
    """Rows that begin at token `from_tokens` of the run or later are drawn by these weights: a row is never cut."""

    from_tokens: int
    mixture: dict[str, float]

    def __post_init__(self) -> None:
        _counts(self.mixture)

    def first_row(self, seq_len: int) -> int:
        """The number of its first row."""
        return -(-self.from_tokens // seq_len)


def named(weights: Mapping[str, float], phases: Sequence[Phase]) -> tuple[str, ...]:
    """Every corpus that is ever read, in the order in which they are first named."""
    return tuple(dict.fromkeys(name for mixture in (weights, *(phase.mixture for phase in phases)) for name in mixture))


class Turns:
    """Whose turn each row of a stream is; in a new phase every corpus goes on where it stood.

    Shares are multiples of 1/4096 and kept at every place of a phase: to a row of two corpora, to 1 + share * (n - 2)
    rows of n. A corpus that a phase does not name waits.
    """

    def __init__(self, phases: Sequence[Phase], seq_len: int, seed: int) -> None:
        self.stretches: list[_Stretch] = []
        for phase in phases:
            first = phase.first_row(seq_len)
            before = self.before(first) if self.stretches else {}
            self.stretches.append(_Stretch(first, before, _period(phase.mixture, seed)))

    def at(self, row: int) -> tuple[str, int]:
        """The corpus of a row of the stream, and how many earlier rows are of the same corpus."""
        stretch = self._stretch(row)
        corpus, turn = stretch.period.at(row - stretch.first)
        return corpus, stretch.before.get(corpus, 0) + turn

    def before(self, row: int) -> dict[str, int]:
        """How many earlier rows are each corpus'."""
        stretch = self._stretch(row)
        turns = stretch.period.before(row - stretch.first)
        return {name: stretch.before.get(name, 0) + turns.get(name, 0) for name in {**stretch.before, **turns}}

    def _stretch(self, row: int) -> _Stretch:
        return self.stretches[bisect_right(self.stretches, row, key=lambda stretch: stretch.first) - 1]


def remark(epochs: Mapping[str, float]) -> str:
    """What a person should know of how often each corpus is read: which ones repeatedly, and which ones never."""
    often = ", ".join(f"{name} {times:.1f} times" for name, times in epochs.items() if times > 1)
    never = ", ".join(name for name, times in epochs.items() if times == 0)
    parts = (f"reads {often}" if often else "", f"never reads {never}" if never else "")
    return "; ".join(part for part in parts if part)


@dataclass(frozen=True)
class _Period:
    """Whose turn each row of a period is, and how many turns that corpus had before within the period."""

    names: tuple[str, ...]
    corpus: Integers
    earlier: Integers
    counts: Integers

    def at(self, row: int) -> tuple[str, int]:
        period, within = divmod(row, PERIOD)
        corpus = int(self.corpus[within])
        return self.names[corpus], period * int(self.counts[corpus]) + int(self.earlier[within])

    def before(self, row: int) -> dict[str, int]:
        period, within = divmod(row, PERIOD)
        turns = period * self.counts + np.bincount(self.corpus[:within], minlength=len(self.names))
        return dict(zip(self.names, turns.tolist(), strict=True))


@dataclass(frozen=True)
class _Stretch:
    """A phase from its first row on, and the turns that each corpus had before it."""

    first: int
    before: Mapping[str, int]
    period: _Period


def _period(weights: Mapping[str, float], seed: int) -> _Period:
    """Each corpus gets its share of a period, in turns equally far apart; the seed sets the phase."""
    counts = _counts(weights)
    earlier = np.concatenate([np.arange(count) for count in counts])
    owner = np.repeat(np.arange(len(counts)), counts)
    phase = np.random.default_rng(seed).random(len(counts))
    order = np.argsort((earlier + phase[owner]) / counts[owner], kind="stable")
    return _Period(tuple(weights), owner[order], earlier[order], counts)


def _counts(weights: Mapping[str, float]) -> Integers:
    """Each corpus' rows in a period, all of them given out."""
    if not weights:
        raise ValueError("a mixture needs at least one corpus: weights is empty")
    for name, weight in weights.items():
        if not 0 < weight < math.inf:
            raise ValueError(f"the weight of {name!r} is {weight}: it must be positive")
    share = np.array(list(weights.values())) / sum(weights.values()) * PERIOD
    counts = np.floor(share).astype(np.int64)
    counts[np.argsort(counts - share, kind="stable")[: PERIOD - counts.sum()]] += 1
    for name, count in zip(weights, counts, strict=True):
        if count == 0:
            raise ValueError(f"the weight of {name!r} is below 1/{PERIOD} of the whole: it would never be read")
    return counts

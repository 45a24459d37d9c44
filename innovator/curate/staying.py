"""Which of documents that are alike stays, and which go, for what reason."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from innovator.curate.near import Number

EXACT, NEAR, HELD_OUT = "exact duplicate", "near duplicate", "near held-out"
DIGEST = 16
MOST_PAIRED = 64  # documents of a bucket; all pairs of more would cost their square


class Alike(Protocol):
    """What is known of who is like whom."""

    def proposed(self, but: Collection[Number]) -> Iterable[Sequence[Number]]:
        """Lists of documents of which some may be alike, without those of `but`."""
        ...

    def like(self, one: Number, others: Sequence[Number]) -> Iterable[Number]:
        """Those of the others that are like the one."""
        ...


class NobodyAlike:
    """For those who look for equal documents only."""

    def proposed(self, but: Collection[Number]) -> Iterable[Sequence[Number]]:
        """No lists."""
        return ()

    def like(self, one: Number, others: Sequence[Number]) -> Iterable[Number]:
        """None of them."""
        return ()


@dataclass(frozen=True)
class Fate:
    """Why a document is dropped, and the id of the one that it is like."""

    reason: str
    of: str


class Neighbours:
    """Documents that are alike."""

    def __init__(self) -> None:
        self.of: dict[Number, set[Number]] = {}

    def add(self, one: Number, other: Number) -> None:
        """Note that these two are."""
        self.of.setdefault(one, set()).add(other)
        self.of.setdefault(other, set()).add(one)


class Crowds:
    """Documents of which so many may be alike that only those that stay are held against the others."""

    def __init__(self) -> None:
        self.of: dict[Number, list[set[Number]]] = {}

    def add(self, run: Iterable[Number]) -> None:
        """Note that any of these may be."""
        crowd = set(run)
        for number in crowd:
            self.of.setdefault(number, []).append(crowd)

    def others(self, number: Number) -> list[Number]:
        """Who may be like it and has not left."""
        return sorted(set().union(*self.of.get(number, ())))

    def leave(self, number: Number) -> None:
        """Nobody asks for it any more; it may still ask for others."""
        for crowd in self.of.get(number, ()):
            crowd.discard(number)


class Decision:
    """Which documents stay, out of what was noted of all of them; of held-out ones, the last task, all do."""

    def __init__(self, notes: Path, n_tasks: int) -> None:
        self.notes, self.n_tasks = notes, n_tasks
        self.names: dict[Number, tuple[int, str]] = {}

    def fates(self, exact: bool, alike: Alike) -> dict[Number, Fate]:
        """The documents that are dropped. alike: tells near-duplicates among those that equal none."""
        fates = self._copies(self._equal()) if exact else {}
        neighbours, crowds = Neighbours(), Crowds()
        for run in alike.proposed(fates):
            if len(run) > MOST_PAIRED:
                crowds.add(run)
                continue
            for place, one in enumerate(run[:-1]):
                for other in alike.like(one, run[place + 1 :]):
                    neighbours.add(one, other)
        candidates = neighbours.of.keys() | crowds.of.keys()
        self._learn_names(candidates)
        for number in sorted(candidates, key=self._rank):
            crowds.leave(number)
            kept = [
                it for it in neighbours.of.get(number, ()) if it not in fates and self._rank(it) < self._rank(number)
            ]
            if kept and not self._held_out(number):
                fates[number] = self._fate(min(kept, key=self._rank), NEAR)
                continue
            for other in alike.like(number, crowds.others(number)):
                neighbours.add(number, other)
                if not self._held_out(other):
                    crowds.leave(other)
        return fates

    def _copies(self, groups: list[list[Number]]) -> dict[Number, Fate]:
        """All of each group but the one that stays rather."""
        self._learn_names({number for group in groups for number in group})
        fates: dict[Number, Fate] = {}
        for group in groups:
            first, *others = sorted(group, key=self._rank)
            fates |= {number: self._fate(first, EXACT) for number in others if not self._held_out(number)}
        return fates

    def _equal(self) -> list[list[Number]]:
        """Groups of documents whose texts are equal."""
        tasks = [np.fromfile(self.notes / f"{rank:05d}.digests", f"V{DIGEST}") for rank in range(self.n_tasks)]
        first = np.cumsum([0, *map(len, tasks)])
        order, bounds = _equal_runs(np.concatenate(tasks))
        groups = [order[start:stop] for start, stop in bounds]
        ranks = [np.searchsorted(first, group, "right") - 1 for group in groups]
        return [
            list(zip(rank.tolist(), (group - first[rank]).tolist(), strict=True))
            for group, rank in zip(groups, ranks, strict=True)
        ]

    def _learn_names(self, numbers: Collection[Number]) -> None:
        for rank in range(self.n_tasks):
            with (self.notes / f"{rank:05d}.jsonl").open(encoding="utf-8") as lines:
                for place, line in enumerate(lines):
                    if (rank, place) in numbers:
                        length, id = json.loads(line)
                        self.names[rank, place] = length, id

    def _held_out(self, number: Number) -> bool:
        return number[0] == self.n_tasks - 1

    def _rank(self, number: Number) -> tuple[bool, tuple[int, str], Number]:
        """What stays rather comes first: the held-out, then the long; the last part decides between equal ids."""
        return not self._held_out(number), self.names[number], number

    def _fate(self, kept: Number, reason: str) -> Fate:
        return Fate(HELD_OUT if self._held_out(kept) else reason, self.names[kept][1])


def _equal_runs(digests: npt.NDArray[np.void]) -> tuple[npt.NDArray[np.int64], list[tuple[int, int]]]:
    """An order in which equal digests stand together, and from where to where those go that are not alone."""
    halves = digests.view("<u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    same = (halves[order][1:] == halves[order][:-1]).all(axis=1)
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    stops = np.append(starts[1:], len(order))
    return order, [
        (start, stop) for start, stop in zip(starts.tolist(), stops.tolist(), strict=True) if stop - start > 1
    ]

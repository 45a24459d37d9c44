"""Which of documents that are alike stays, and which go, for what reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from innovator.curate.near import Number

EXACT, NEAR, HELD_OUT = "exact duplicate", "near duplicate", "near held-out"
DIGEST = 16
Alike = Callable[[Collection[Number]], Iterable[tuple[Number, Number]]]


@dataclass(frozen=True)
class Fate:
    """Why a document is dropped, and the id of the one that it is like."""

    reason: str
    of: str


class Decision:
    """Which documents stay, out of what was noted of all of them; of held-out ones, the last task, all do."""

    def __init__(self, notes: Path, n_tasks: int) -> None:
        self.notes, self.n_tasks = notes, n_tasks
        self.names: dict[Number, tuple[int, str]] = {}

    def fates(self, exact: bool, alike: Alike) -> dict[Number, Fate]:
        """The documents that are dropped. alike: gives pairs of near-duplicates among those that equal none."""
        fates = self._copies(self._equal()) if exact else {}
        neighbours: dict[Number, set[Number]] = {}
        for one, other in alike(fates):
            neighbours.setdefault(one, set()).add(other)
            neighbours.setdefault(other, set()).add(one)
        self._learn_names(neighbours)
        for number in sorted(neighbours.keys() - fates.keys(), key=self._rank):
            kept = [
                other for other in neighbours[number] if other not in fates and self._rank(other) < self._rank(number)
            ]
            if kept and not self._held_out(number):
                fates[number] = self._fate(min(kept, key=self._rank), NEAR)
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


def none_alike(but: Collection[Number]) -> Iterable[tuple[Number, Number]]:
    """For those who look for equal documents only."""
    return ()


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

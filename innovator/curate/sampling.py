"""Which documents an annotator is shown: drawn by hashes, so that the same seed asks the same, now and after more.

Documents of a pair are neighbours in length, so that length is no cue. A share of what is asked is the same for all
annotators; the side on which a document stands depends on the annotator.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from innovator.data.sources import Document

Mode = Literal["pairs", "grades"]
POOL = 5000
NEIGHBOURS = 8


@dataclass(frozen=True)
class Item:
    """One question: a criterion, and one document to grade or two to compare, in the order in which they are shown."""

    criterion: str
    documents: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What one annotator is asked. n: things for each criterion. double: share of them that all are asked."""

    annotator: str
    mode: Mode
    n: int
    double: float
    seed: int

    def items(self, documents: Sequence[Document], criteria: Iterable[str]) -> list[Item]:
        """Every criterion of a thing before the next thing; ValueError if there are fewer things than n."""
        criteria = list(criteria)
        return [Item(criterion, shown) for shown in self._shown(documents) for criterion in criteria]

    def _shown(self, documents: Sequence[Document]) -> list[tuple[str, ...]]:
        things = list(neighbours(documents, self.n) if self.mode == "pairs" else ((it.id,) for it in documents))
        if len(things) < self.n:
            raise ValueError(f"{len(documents)} documents give {len(things)} {self.mode}, fewer than {self.n}: lower n")
        n_shared = round(self.double * self.n)
        shared = self._least(things, n_shared, "shared by all")
        own = self._least(set(things) - set(shared), self.n - n_shared, self.annotator)
        ordered = sorted([*shared, *own], key=lambda it: number(self.seed, "order", self.annotator, *it))
        return [self._sides(it) for it in ordered]

    def _least(self, things: Iterable[tuple[str, ...]], n: int, whose: str) -> list[tuple[str, ...]]:
        return heapq.nsmallest(n, things, key=lambda it: number(self.seed, "of", whose, *it))

    def _sides(self, documents: tuple[str, ...]) -> tuple[str, ...]:
        return documents[::-1] if number(self.seed, "side", self.annotator, *documents) % 2 else documents


def pool(documents: Iterable[Document], seed: int) -> list[Document]:
    """A sample of a corpus of any size that fits into memory."""
    return heapq.nsmallest(POOL, documents, key=lambda it: number(seed, "pool", it.id))


def neighbours(documents: Sequence[Document], n: int) -> Iterator[tuple[str, str]]:
    """Pairs of documents that are near each other in the order of length; further apart only as n needs it."""
    by_length = sorted(documents, key=lambda it: (len(it.text), it.id))
    found = 0
    for distance in range(1, len(by_length)):
        if distance > NEIGHBOURS and found >= n:
            return
        for one, other in zip(by_length, by_length[distance:], strict=False):
            found += 1
            first, second = sorted((one.id, other.id))
            yield first, second


def number(seed: int, *words: str) -> int:
    """A number that looks random and depends on nothing but the words."""
    return int.from_bytes(blake2b("\0".join([str(seed), *words]).encode(), digest_size=8).digest())

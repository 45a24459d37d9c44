"""Builds the index of benchmark items that leaks are found by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from innovator.curate.leaks import N_SHINGLE, SLACK, Index, Postings
from innovator.curate.words import Hashes, Places, Words, shingles, words_of
from innovator.data.benchmarks import Item

SHORTEST = 8
MOST_ITEMS = 10
MOST_PASSAGES = 40
SHARE = 0.5
LEAST = 8
LONG_WORD = 3
FEWEST_WORDS = 4
NO_WORDS = words_of("")


@dataclass
class Builder:
    """Items in, index out. n_gram: words in a row that are a leak. near: look for edited questions too.

    n-grams of more than MOST_ITEMS items of one benchmark are its instructions, and those of less than FEWEST_WORDS
    different words are rows of numbers: they are nobody's own. skipped: items of each benchmark that cannot be found
    word for word, as they have no n-gram of their own, or less than SHORTEST words in all.
    """

    n_gram: int
    near: bool
    names: list[tuple[str, str]] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    grams: dict[int, list[tuple[Hashes, Places]]] = field(default_factory=dict)
    passages: list[Words] = field(default_factory=list)

    def add(self, benchmark: str, items: Iterable[Item]) -> None:
        """Take in all items of a benchmark."""
        first = len(self.names)
        runs: dict[int, list[tuple[Hashes, int]]] = {}
        for item in items:
            for length, hashes in self._runs(item):
                runs.setdefault(length, []).append((hashes, len(self.names)))
            self.names.append((benchmark, item.id))
        found = np.zeros(len(self.names) - first, np.bool_)
        for length, pairs in runs.items():
            hashes, numbers = _own(pairs)
            found[numbers - first] = True
            self.grams.setdefault(length, []).append((hashes, numbers))
        self.skipped[benchmark] = int((~found).sum())

    def index(self) -> Index:
        """The index of all that was added."""
        grams = {
            length: Postings.of(*(np.concatenate(parts) for parts in zip(*pairs, strict=True)))
            for length, pairs in self.grams.items()
        }
        telling = self._telling()
        n_telling = np.bincount(telling.items, minlength=len(self.passages))
        needed = np.maximum(np.ceil(SHARE * n_telling).astype(np.int64), LEAST)
        reach = np.array([int(SLACK * len(passage)) for passage in self.passages], np.int64)
        return Index(grams, telling, needed, reach, self.names)

    def _telling(self) -> Postings:
        """The shingles that few passages share and that hold a word of some length: runs of numbers tell nothing."""
        pairs = [(_shingles_with_a_word(passage), i) for i, passage in enumerate(self.passages)]
        every = Postings.of(*_pairs(pairs))
        n_passages = np.diff(every.first)
        rare = np.repeat(n_passages <= MOST_PASSAGES, n_passages)
        return Postings.of(np.repeat(every.hashes, n_passages)[rare], every.items[rare])

    def _runs(self, item: Item) -> Iterator[tuple[int, Hashes]]:
        """The runs of words that are a leak of this item, by their length; and note its passages."""
        text = words_of(item.text)
        self.passages += [words_of(item.question), text] if self.near else [NO_WORDS, NO_WORDS]
        length = min(self.n_gram, len(text))
        if length >= SHORTEST:
            runs = np.sort(np.lib.stride_tricks.sliding_window_view(text.hashes, length), axis=1)
            varied = (np.diff(runs, axis=1) != 0).sum(axis=1) >= FEWEST_WORDS - 1
            yield length, next(shingles(text.hashes, length))[varied]


def _shingles_with_a_word(passage: Words) -> Hashes:
    (hashes,) = shingles(passage.hashes, N_SHINGLE)
    if not len(hashes):
        return hashes
    long = np.lib.stride_tricks.sliding_window_view(passage.end - passage.start >= LONG_WORD, N_SHINGLE).any(axis=1)
    return np.unique(hashes[long])


def _pairs(runs: list[tuple[Hashes, int]]) -> tuple[Hashes, Places]:
    """Each hash with the number of its item."""
    if not runs:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    numbers = np.repeat([number for _, number in runs], [len(hashes) for hashes, _ in runs])
    return np.concatenate([hashes for hashes, _ in runs]), numbers.astype(np.int64)


def _own(runs: list[tuple[Hashes, int]]) -> tuple[Hashes, Places]:
    """The hashes that are few items' own, each with the number of its item."""
    hashes, numbers = _pairs([(np.unique(hashes), number) for hashes, number in runs])
    _, kind, n_items = np.unique(hashes, return_inverse=True, return_counts=True)
    few = n_items[kind] <= MOST_ITEMS
    return hashes[few], numbers[few]

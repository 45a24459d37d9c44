"""Items of benchmarks in texts: an index of their n-grams and questions, and where a text repeats them.

Two ways of repeating count. Word for word: n words of an item in a row (13 in GPT-3, arXiv 2005.14165, appendix C, and
in lm-evaluation-harness), or the whole of a shorter one. Nearly: most of a question's telling runs of three words
within a stretch of text little longer than it, which are left of a question that was edited here and there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from innovator.curate.words import Hashes, Places, Words, shingles, words_of

N_SHINGLE = 3
SLACK = 1.5
VERBATIM, NEARLY = "n-gram", "near question"


@dataclass(frozen=True)
class Leak:
    """A benchmark's item in a document: how it was found, between which characters, and how many words they are."""

    benchmark: str
    item: str
    how: str
    start: int
    end: int
    words: int


@dataclass(frozen=True)
class Postings:
    """For each of some sorted hashes, the items that hold it: `items[first[i]:first[i + 1]]`."""

    hashes: Hashes
    first: Places
    items: Places

    @classmethod
    def of(cls, hashes: Hashes, items: Places) -> Postings:
        """Group pairs of a hash and an item by the hash."""
        order = np.lexsort((items, hashes))
        unique, first = np.unique(hashes[order], return_index=True)
        return cls(unique, np.append(first, len(order)), items[order])

    def met(self, hashes: Hashes) -> tuple[Places, Places]:
        """Where in a text's hashes an item is met, and which one: pairs in the order of the text."""
        if not len(self.hashes):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        begins, shift = self._beginnings
        places = np.flatnonzero(begins[hashes >> shift])
        rank = np.minimum(np.searchsorted(self.hashes, hashes[places]), len(self.hashes) - 1)
        same = self.hashes[rank] == hashes[places]
        places, rank = places[same], rank[same]
        first, last = self.first[rank], self.first[rank + 1]
        n = last - first
        within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        return np.repeat(places, n), self.items[np.repeat(first, n) + within]

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What it consists of, by name."""
        return {"hashes": self.hashes, "first": self.first, "items": self.items}

    @cached_property
    def _beginnings(self) -> tuple[npt.NDArray[np.bool_], np.uint64]:
        """Whether any of the hashes begins with these bits: one look that spares most hashes the search."""
        n_bits = (16 * len(self.hashes)).bit_length()
        shift = np.uint64(64 - n_bits)
        begins = np.zeros(1 << n_bits, np.bool_)
        begins[self.hashes >> shift] = True
        return begins, shift


@dataclass(frozen=True)
class Index:
    """What is known of all items.

    grams: runs of so many words that are an item's own. telling: shingles of passages that are few passages' own;
    passage 2i is the question of item i, passage 2i + 1 all of it. needed: how many of them show a passage. reach:
    within how many words. names: benchmark and id of each item.
    """

    grams: Mapping[int, Postings]
    telling: Postings
    needed: Places
    reach: Places
    names: Sequence[tuple[str, str]]

    def leaks(self, text: str) -> list[Leak]:
        """Every item that a text repeats, in the order of the text."""
        words = words_of(text)
        spans = _merged([*self._verbatim(words), *self._near(words)])
        leaks = [self._leak(words, span) for span in spans]
        return sorted(leaks, key=lambda leak: (leak.start, leak.benchmark, leak.item))

    def _verbatim(self, words: Words) -> Iterator[_Span]:
        if not self.grams:
            return
        lengths = sorted(self.grams)
        for length, hashes in zip(lengths, shingles(words.hashes, *lengths), strict=True):
            places, items = self.grams[length].met(hashes)
            for place, item in zip(places.tolist(), items.tolist(), strict=True):
                yield _Span(item, place, place + length, VERBATIM)

    def _near(self, words: Words) -> Iterator[_Span]:
        """Passages enough of whose telling shingles, and different ones, stand close together."""
        (hashes,) = shingles(words.hashes, N_SHINGLE)
        places, passages = self.telling.met(hashes)
        order = np.lexsort((places, passages))
        places, passages = places[order], passages[order]
        last = np.arange(len(passages)) + self.needed[passages] - 1
        first = np.flatnonzero(last < len(passages))
        last = last[first]
        close = (passages[last] == passages[first]) & (places[last] - places[first] < self.reach[passages[first]])
        for i in first[close].tolist():
            passage, start = int(passages[i]), int(places[i])
            stop = np.searchsorted(passages, passage, "right")
            within = places[i : i + np.searchsorted(places[i:stop], start + self.reach[passage])]
            if len(np.unique(hashes[within])) >= self.needed[passage]:
                yield _Span(passage // 2, start, int(within[-1]) + N_SHINGLE, NEARLY)

    def _leak(self, words: Words, span: _Span) -> Leak:
        start, end = int(words.start[span.start]), int(words.end[span.end - 1])
        return Leak(*self.names[span.item], span.how, start, end, span.end - span.start)

    def save(self, path: Path) -> None:
        """Write it as one file of arrays."""
        postings = {f"gram {n}": one for n, one in self.grams.items()} | {"telling": self.telling}
        arrays = {f"{name} {part}": array for name, one in postings.items() for part, array in one.arrays().items()}
        arrays |= {"needed": self.needed, "reach": self.reach, "names": np.array(self.names, str).reshape(-1, 2)}
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def open(cls, path: Path) -> Index:
        """The index that `save` wrote."""
        with np.load(path) as file:
            arrays = dict(file)
        parts = {
            name.removesuffix(" hashes"): Postings(*(arrays[name.replace("hashes", part)] for part in PARTS))
            for name in arrays
            if name.endswith(" hashes")
        }
        telling = parts.pop("telling")
        grams = {int(name.removeprefix("gram ")): one for name, one in parts.items()}
        names = [(benchmark, item) for benchmark, item in arrays["names"].tolist()]
        return cls(grams, telling, arrays["needed"], arrays["reach"], names)


PARTS = ("hashes", "first", "items")


@dataclass(frozen=True, order=True)
class _Span:
    """Words of a text, from `start` to `end`, that are an item's."""

    item: int
    start: int
    end: int
    how: str


def _merged(spans: list[_Span]) -> list[_Span]:
    """Overlapping words of an item as one; found word for word if any of them was."""
    merged: list[_Span] = []
    for span in sorted(spans):
        if merged and merged[-1].item == span.item and span.start <= merged[-1].end:
            before = merged.pop()
            how = VERBATIM if VERBATIM in (before.how, span.how) else NEARLY
            span = _Span(span.item, before.start, max(before.end, span.end), how)
        merged.append(span)
    return merged

"""A text as a sequence of word hashes: letters and digits of any script, blind to case, marks, spacing and punctuation.

Everything is done on arrays of characters, so that a core reads tens of megabytes of text in a second.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

BETWEEN, IGNORED = 0, 1
BLOCK = 1 << 18
LONGEST_WORD = 64
# Scripts that put no space between words; each of their letters counts as a word.
UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True)
class Words:
    """The words of a text: the hash of each, and the characters of the text that it takes up, from `start` to `end`."""

    hashes: Hashes
    start: Places
    end: Places

    def __len__(self) -> int:
        return len(self.hashes)


def words_of(text: str) -> Words:
    """All words of a text, in order."""
    parts = [_words(text[start:end], start) for start, end in _blocks(text)]
    return Words(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def shingles(hashes: Hashes, *lengths: int) -> Iterator[Hashes]:
    """The hash of every run of so many words, by the place of its first word; `lengths` ascend."""
    total = np.zeros_like(hashes)
    for k in range(lengths[-1]):
        n_runs = max(0, len(hashes) - k)
        total = total[:n_runs] + hashes[k : k + n_runs] * _power(k)
        if k + 1 in lengths:
            yield mixed(total)


def mixed(numbers: Hashes) -> Hashes:
    """Scatter numbers over all 64 bits (the finalizer of SplitMix64, Steele et al., OOPSLA 2014)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    """Where to cut a text into pieces that arrays of are affordable, between words if that can be."""
    start = 0
    while len(text) - start > BLOCK:
        end = max(text.rfind(mark, start + 1, start + BLOCK) for mark in " \n")
        end = end if end > 0 else start + BLOCK
        yield start, end
        start = end
    yield start, len(text)


def _words(text: str, offset: int) -> tuple[Hashes, Places, Places]:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    letters, unspaced = _letters()
    folded = letters[codes]
    (places,) = np.nonzero(folded != IGNORED)
    folded = folded[places]
    alone = unspaced[codes[places]]
    in_word = folded != BETWEEN
    first = in_word.copy()
    first[1:] &= ~in_word[:-1] | alone[1:] | alone[:-1]
    kept = np.flatnonzero(in_word)
    starts = np.flatnonzero(first[kept])
    within = np.arange(len(kept)) - np.repeat(starts, np.diff(starts, append=len(kept)))
    values = folded[kept] * _powers()[np.minimum(within, LONGEST_WORD - 1)]
    hashes = np.add.reduceat(values, starts) if len(starts) else np.empty(0, np.uint64)
    ends = np.append(starts[1:], len(kept)) - 1 if len(starts) else starts
    return mixed(hashes), places[kept[starts]] + offset, places[kept[ends]] + offset + 1


@cache
def _letters() -> tuple[Hashes, npt.NDArray[np.bool_]]:
    """For every character: a hash of the letter or digit that it is a form of, or BETWEEN or IGNORED; and if alone."""
    folded = np.zeros(0x110000, np.uint64)
    for code in range(0x110000):
        character = chr(code)
        if character.isalnum():
            folded[code] = ord(unicodedata.normalize("NFKD", character.lower())[0].lower())
        elif unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf"):
            folded[code] = IGNORED
    unspaced = np.zeros(len(folded), np.bool_)
    for first, last in UNSPACED:
        unspaced[first : last + 1] = folded[first : last + 1] > IGNORED
    return np.where(folded > IGNORED, mixed(folded), folded), unspaced


@cache
def _powers() -> Hashes:
    return np.array([_power(k) for k in range(LONGEST_WORD)])


def _power(k: int) -> np.uint64:
    return np.uint64(pow(0x9E3779B97F4A7C15, k, 1 << 64))

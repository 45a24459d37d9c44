"""What optical recognition did to words, undone where the words of the document, or of English, say what they were."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import ClassVar, Literal

from innovator.curate.clean.base import BlockRule, Mend, cleaned, in_prose
from innovator.curate.clean.blocks import Block, Kind, render
from innovator.curate.rule import Facts, Kept, Outcome

LETTER = r"[^\W\d_]"
WORD = re.compile(rf"{LETTER}+")
LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
COMPOUND = re.compile(rf"{LETTER}+-{LETTER}+")
PAIR = re.compile(rf"(?<![\w\'\u2019-])({LETTER}+) (?=({LETTER}+)\b(?!-))")
SHAPES = re.compile(r"[ﬀ-ﬆ]|\u00ad\n?[ \t]*")
HYPHENATED = re.compile(rf"(?<![\w-])({LETTER}{{2,}})-[ \t]*\n[ \t]*({LETTER}{{2,}})(?![\w-])")
SPACED = re.compile(rf"(?<![^\s(“-]){LETTER}(?: {LETTER}){{3,}}(?![^\s.,;:!?)])")
DIGITS = re.compile(
    r"(?<![\w.])(?!\d+(?:st|nd|rd|th)\b)(?=[A-Za-z]{0,40}[01])[A-Za-z01]{0,40}[A-Za-z]{2}[A-Za-z01]{0,40}(?!\w)"
)
SHORTEST = 4
KNOWN, SHORT_KNOWN, PAIR_KNOWN = 100, 1000, 20_000  # times in the subtitles that the dictionary was counted in
MOST_TORN = 5  # times that a document may have a piece of broken words
LOWER, UPPER = str.maketrans("01", "ol"), str.maketrans("01", "OI")
HARMED = re.compile(r"[ﬀ-ﬆ\u00ad]|-[ \t]*\n|[A-Za-z][01]|[01][A-Za-z]|\b\w \w \w \w\b")


@dataclass(frozen=True, kw_only=True)
class Ocr(BlockRule):
    """Mends ligatures, soft and line-end hyphens, spaced and broken words, and digits that stand for letters."""

    kind: Literal["ocr"] = "ocr"
    touches: ClassVar[frozenset[Kind]] = frozenset(("heading", "paragraph", "list", "caption", "reference"))

    def apply(self, text: str, facts: Facts) -> Outcome:
        """The text with its words mended, as often as the words that this brings back allow to mend more."""
        count, outcome = 0, cleaned(self, text)
        while outcome.count:
            count += outcome.count
            outcome = cleaned(self, outcome.text)
        return Kept(outcome.text, count)

    def mender(self, blocks: Sequence[Block]) -> Mend | None:
        """Mends the words of a block by those of all blocks."""
        words = Vocabulary(blocks)

        def mend(block: Block) -> Block:
            if not (words.torn or HARMED.search(block.text)):
                return block
            repair = Repair(words)
            return block.mended(in_prose(block.text, repair.text), repair.count)

        return mend


@lru_cache(maxsize=1)
def english() -> frozenset[str]:
    """The words of English, in lower case; of the short ones, which are mostly names and noises, the frequent."""
    from spellchecker import SpellChecker  # reading its dictionary takes a while

    enough = {1: PAIR_KNOWN, 2: PAIR_KNOWN, 3: SHORT_KNOWN}
    counts = SpellChecker(language="en", distance=1).word_frequency.dictionary
    return frozenset(word for word, n in counts.items() if n >= enough.get(len(word), KNOWN))


def _is_lost(pair: tuple[str, str], lost: set[str]) -> bool:
    """Whether a piece of a pair is lost without the other; a single letter may be a name, and is not taken for one."""
    return any(piece in lost for piece in pair if len(piece) > 1)


class Vocabulary:
    """The words of a document in lower case, and how often it has them."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        text = render(block for block in blocks if block.kind in Ocr.touches)
        whole = text if text.isascii() else SHAPES.sub(lambda match: LIGATURES.get(match[0], ""), text)
        self.raw, self.text = whole, whole.lower()
        self.words = WORD.findall(self.text)
        self.counts = Counter(self.words)

    def has(self, word: str) -> bool:
        """Whether the document has a word, in any case."""
        return word.lower() in self.counts

    @cached_property
    def compounds(self) -> frozenset[str]:
        """The words that the document writes with a hyphen."""
        return frozenset(COMPOUND.findall(self.text))

    @cached_property
    def torn(self) -> frozenset[tuple[str, str]]:
        """Pieces of words that a space broke: the document has the whole, and one piece, which is no word, not else."""
        rare = {word for word, n in self.counts.items() if n <= MOST_TORN} - english()
        pairs = Counter([pair for pair in pairwise(self.words) if pair[0] in rare or pair[1] in rare])
        pairs = Counter({pair: n for pair, n in pairs.items() if self.counts["".join(pair)] > n})
        pieces = Counter(piece for pair, n in pairs.items() for piece in pair * n)
        lost = {piece for piece, n in pieces.items() if piece in rare and n >= self.counts[piece]}
        torn = frozenset(pair for pair in pairs if _is_lost(pair, lost))
        return frozenset(pair for pair in torn if "".join(pair) in self.plain) if torn else torn

    @cached_property
    def plain(self) -> frozenset[str]:
        """The words that the document has without capitals inside, which names in programs have."""
        return frozenset(word.lower() for word in set(WORD.findall(self.raw)) if word[1:].islower())


class Repair:
    """Mends texts by a vocabulary, and counts what it mended."""

    def __init__(self, words: Vocabulary) -> None:
        self.words, self.count, self.joined = words, 0, -1

    def text(self, text: str) -> str:
        """The text as it was before recognition."""
        text = SHAPES.sub(self._shape, text)
        text = HYPHENATED.sub(self._hyphen, text)
        text = SPACED.sub(self._spaced, text)
        text = DIGITS.sub(self._digits, text)
        return PAIR.sub(self._whole, text) if self.words.torn else text

    def _mended(self, text: str) -> str:
        self.count += 1
        return text

    def _shape(self, match: re.Match[str]) -> str:
        return self._mended(LIGATURES.get(match[0], ""))

    def _hyphen(self, match: re.Match[str]) -> str:
        """The word without its hyphen, unless the document has it with one, or its parts are words and it is not."""
        first, second = match[1], match[2]
        whole = (first + second).lower()
        compound = f"{first}-{second}".lower() in self.words.compounds or not second.islower()
        parted = second in english() and (first.lower() in english() or len(second) > SHORTEST)
        keeps = not self.words.has(whole) and (compound or (parted and whole not in english()))
        return self._mended(f"{first}-{second}" if keeps else first + second)

    def _spaced(self, match: re.Match[str]) -> str:
        """The letters as a word, but for a word of one letter before or after it."""
        letters = match[0].split(" ")
        for start, end in ((0, len(letters)), (1, len(letters)), (0, len(letters) - 1)):
            if self.words.has(word := "".join(letters[start:end])):
                return self._mended(" ".join([*letters[:start], word, *letters[end:]]))
        return match[0]

    def _digits(self, match: re.Match[str]) -> str:
        word = match[0]
        for table in (LOWER, UPPER):
            known = word.translate(table)
            is_word = known.lower() in english() or not word[-1].isdecimal()  # a name may well end in a number
            if len(word) >= SHORTEST and known.isalpha() and is_word and self.words.has(known):
                return self._mended(known)
        return word

    def _whole(self, match: re.Match[str]) -> str:
        """The first piece of a torn word without the space after it; a piece is not joined to words on both sides."""
        torn = (match[1].lower(), match[2]) in self.words.torn and match.start() != self.joined
        self.joined = match.end() if torn else -1
        return self._mended(match[1]) if torn else match[0]

"""What can be told of a text without understanding it: twenty-odd figures about characters, words, sentences and lines.

They are cues of damage (broken words, odd characters, lost delimiters, repeats) that hashed words do not carry. None
of them grows with the length of the text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

STOP_WORDS = (
    "a an and are as at be been but by can could did do does for from had has have he her his how if in into is it its "
    "may more most no not of on one or our she so some such than that the their them then there these they this to up "
    "was we were what when where which while who will with would you your"
)
CONNECTIVES = (
    "also although and because but consequently finally for furthermore hence however it instead moreover nevertheless "
    "next nor otherwise second she similarly so such that then therefore these they third this those thus yet"
)
STOPPING, CONNECTING = frozenset(STOP_WORDS.split()), frozenset(CONNECTIVES.split())
SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+")
PARAGRAPH_END = re.compile(r"\n\s*\n")
WORD = re.compile(r"[^\W\d_]+")
DIGIT_IN_WORD = re.compile(r"[A-Za-z]\d+[A-Za-z]")
CAPITAL_IN_WORD = re.compile(r"[a-z][A-Z]")
MARK_IN_WORD = re.compile(r"[|!$@&;:,.](?<=[a-z].)[a-z]")
LONE_LETTER = re.compile(r"\s[b-hj-zB-HJ-Z](?=\s)")
NO_VOWEL = re.compile(r"[b-df-hj-np-tv-xz]{5}")
HYPHENATED_LINE = re.compile(r"[a-z]-\n\s*[a-z]")
SENTENCES_COMPARED = 60

NAMES = (
    "letters",
    "digits",
    "capitals",
    "white",
    "marks",
    "foreign",
    "odd",
    "stop words",
    "distinct words",
    "mean word",
    "digit in word",
    "capital in word",
    "mark in word",
    "lone letters",
    "no vowel",
    "immediate repeats",
    "mean sentence",
    "sentences begun small",
    "paragraphs begun by a connective",
    "neighbours' words",
    "mean line",
    "hyphenated lines",
    "repeated lines",
    "short lines",
    "dollars open",
    "braces open",
    "environments open",
    "ends open",
)


def surface(text: str) -> list[float]:
    """The figures of NAMES, in their order; shares, or counts per word, or logarithms of means."""
    figures = [*_characters(text), *_words(text), *_sentences(text), *_lines(text), *_left_open(text)]
    assert len(figures) == len(NAMES)
    return figures


def _characters(text: str) -> Iterator[float]:
    """Letters, digits, capitals, white, marks, letters of other scripts, and what no author types."""
    n: Counter[str] = Counter()
    for character, count in Counter(text).items():
        n[_class_of(character)] += count
        n["capital"] += count * character.isupper()
    for kind in ("letter", "digit", "capital", "white", "mark", "foreign", "odd"):
        yield n[kind] / max(len(text), 1)


def _class_of(character: str) -> str:
    if character.isspace():
        return "white"
    if character.isascii() and character.isprintable():
        return "letter" if character.isalpha() else "digit" if character.isdigit() else "mark"
    category = unicodedata.category(character)
    if category.startswith("C") or character == "\ufffd" or "\ufb00" <= character <= "\ufb06":
        return "odd"
    return "foreign" if category.startswith("L") else "mark"


def _words(text: str) -> Iterator[float]:
    words = WORD.findall(text.lower())
    n = max(len(words), 1)
    yield sum(map(STOPPING.__contains__, words)) / n
    yield _distinct(words)
    yield math.log1p(sum(map(len, words)) / n)
    for cue in (DIGIT_IN_WORD, CAPITAL_IN_WORD, MARK_IN_WORD, LONE_LETTER, NO_VOWEL):
        yield len(cue.findall(text)) / n
    yield sum(one == other for one, other in pairwise(words)) / n


def _distinct(words: Sequence[str], run: int = 200) -> float:
    """The mean share of distinct words in runs of words, which hardly depends on the text's length."""
    runs = [words[start : start + run] for start in range(0, max(len(words) - run, 0) + 1, run)]
    return sum(len(set(part)) / max(len(part), 1) for part in runs) / len(runs)


def _sentences(text: str) -> Iterator[float]:
    paragraphs = [part for part in PARAGRAPH_END.split(text) if part.strip()]
    sentences = [part for paragraph in paragraphs for part in SENTENCE_END.split(paragraph) if part]
    n = max(len(sentences), 1)
    yield math.log1p(text.count(" ") / n)
    yield sum(part[:1].islower() for part in sentences) / n
    firsts = [WORD.search(paragraph) for paragraph in paragraphs]
    yield sum(first is not None and first[0].lower() in CONNECTING for first in firsts) / max(len(paragraphs), 1)
    yield _cohesion(sentences[:SENTENCES_COMPARED])


def _cohesion(sentences: Sequence[str]) -> float:
    """How many more rare words a sentence shares with the next one than with those four to six later."""
    words = [{word for word in WORD.findall(part.lower()) if len(word) > 3} - STOPPING for part in sentences]
    return _shared(words, (1,)) - _shared(words, (4, 5, 6))


def _shared(words: Sequence[set[str]], distances: tuple[int, ...]) -> float:
    shares = [
        len(one & other) / (1 + min(len(one), len(other)))
        for distance in distances
        for one, other in zip(words, words[distance:], strict=False)
    ]
    return sum(shares) / max(len(shares), 1)


def _lines(text: str) -> Iterator[float]:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    n = max(len(lines), 1)
    yield math.log1p(len(text) / n)
    yield len(HYPHENATED_LINE.findall(text)) / n
    yield 1 - len(set(lines)) / n if lines else 0.0
    yield sum(len(line) < 30 for line in lines) / n


def _left_open(text: str) -> Iterator[float]:
    """Delimiters without a partner: paragraphs with an odd number of $, braces and environments per word."""
    paragraphs = PARAGRAPH_END.split(text)
    n = 1 + text.count(" ")
    yield sum(part.count("$") % 2 for part in paragraphs) / len(paragraphs)
    yield abs(text.count("{") - text.count("}")) / n
    yield (abs(text.count("\\begin{") - text.count("\\end{")) + abs(text.count("\\[") - text.count("\\]"))) / n
    yield float(not text.rstrip().endswith((".", "!", "?", '"', "\u201d", ")", "]", ":", ";", "$", "|", "`")))

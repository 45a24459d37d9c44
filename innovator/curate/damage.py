"""Damage of known kind and severity, planted in real text: what cleaning should undo, and what a grader should notice.

The first seven kinds mirror the seven rules of cleaning, and a reader can tell what the text was before. The others
lower quality for good; they make the seed grades of the shipped example.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

Match = re.Match[str]
Harm = Callable[[Match, Random], str]

FORMULA = r"\$\$[^$]+\$\$|(?<![\\$\w])\$[^$\s](?:[^$\n]*[^$\s\\])?\$(?![\w$])|\\\(.+?\\\)|\\\[.+?\\\]"
WORD = re.compile(rf"{FORMULA}|`[^`]*`|\S{0, 60}(?:://|[\w.]@|\\)\S*|\b[A-Za-z]{{4,}}\b")
LIGATURES = {"ffi": "ﬃ", "ffl": "ﬄ", "ff": "ﬀ", "fi": "ﬁ", "fl": "ﬂ"}
LOOK_ALIKES = {"o": "0", "l": "1", "O": "0", "I": "1"}
NOISE = {"e": "c", "c": "e", "m": "rn", "h": "b", "n": "u", "a": "o", "t": "f", "i": "j", "s": "5", "d": "cl"}
JUNK = "\u200b\u2060\ufeff\u202a\u202c\u200e\u2066\u2069\x07\x1a\x90\ue0a3"
COMMAND = re.compile(r"\\(?=[a-zA-Z]{3,})")

HEADS = ("Annals of Invented Studies, Vol.", "A Short Course in Many Things, Chapter", "J. Imag. Sci.")
BOILERPLATE = (
    "© 2019 The Authors. All rights reserved.",
    "Copyright © 2004 Invented Press, Inc. All rights reserved.",
    "This article is licensed under a Creative Commons Attribution 4.0 International License.",
    "No part of this publication may be reproduced or transmitted in any form without written permission.",
    "This website uses cookies to improve your experience. Accept all cookies",
    "Share this article on Facebook | Twitter | LinkedIn",
    "Home | About us | Contact | Privacy policy | Terms of use",
    "Skip to main content",
    "Downloaded from https://journals.example.org by guest on 12 March 2018",
    "Sign up for our newsletter",
)


class Damage(Protocol):
    """One kind of damage."""

    def plant(self, text: str, severity: float, rng: Random) -> tuple[str, int]:
        """The text with damage, and in how many places; severity: from 0, none, to 1, all that this kind does."""
        ...


@dataclass(frozen=True)
class Spots:
    """Harms places that a pattern finds. most: the share of them that severity 1 harms."""

    pattern: re.Pattern[str]
    harm: Harm
    most: float = 1.0

    def plant(self, text: str, severity: float, rng: Random) -> tuple[str, int]:
        """Harm each place with a chance of `most` times the severity; a place that cannot be harmed does not count."""
        n = 0

        def planted(match: Match) -> str:
            nonlocal n
            if rng.random() >= severity * self.most:
                return match[0]
            harmed = self.harm(match, rng)
            n += harmed != match[0]
            return harmed

        return self.pattern.sub(planted, text), n


@dataclass(frozen=True)
class Furniture:
    """Running heads and page numbers at regular distances, and boilerplate before and after the text."""

    def plant(self, text: str, severity: float, rng: Random) -> tuple[str, int]:
        """Start a page every few paragraphs, at severity 1 every third."""
        parts = text.split("\n\n")
        if severity <= 0:
            return text, 0
        distance = round(3 / severity)
        head, first = f"{rng.choice(HEADS)} {rng.randint(1, 40)}", rng.randint(1, 300)
        out, n = [rng.choice(BOILERPLATE), parts[0]], 2
        for i, part in enumerate(parts[1:], start=1):
            if i % distance == 0:
                out += [rng.choice(("{}", "- {} -", "Page {}")).format(first + i // distance), head]
                n += 2
            out.append(part)
        return "\n\n".join([*out, rng.choice(BOILERPLATE)]), n


@dataclass(frozen=True)
class Recognition:
    """What optical recognition does to words: ligatures, soft hyphens, line-end hyphens, spaces, look-alike digits.

    A word loses letters to digits, or is broken by spaces, only if the text has it in other places too.
    """

    def plant(self, text: str, severity: float, rng: Random) -> tuple[str, int]:
        """Harm up to one word in twenty."""
        known = {word for word, n in Counter(re.findall(r"[A-Za-z]+", text)).items() if n > 2}
        return Spots(WORD, lambda match, rng: _misread(match[0], known, rng), 0.05).plant(text, severity, rng)


def _misread(word: str, known: set[str], rng: Random) -> str:
    if not word.isalpha():
        return word
    ligature = next((letters for letters in LIGATURES if letters in word), "")
    if ligature:
        return word.replace(ligature, LIGATURES[ligature], 1)
    cut = rng.randint(2, len(word) - 2)
    if len(word) > 5 and word.islower() and rng.random() < 0.5:
        return f"{word[:cut]}{rng.choice(('-' + chr(10), chr(0xAD)))}{word[cut:]}"
    if word not in known:
        return word
    alike = [i for i in range(1, len(word)) if word[i] in LOOK_ALIKES]
    if alike and rng.random() < 0.7:
        i = rng.choice(alike)
        return word[:i] + LOOK_ALIKES[word[i]] + word[i + 1 :]
    broken = word[:cut], word[cut:]
    return " ".join(word) if known.intersection(broken) else " ".join(broken)


def _broken_formula(match: Match, rng: Random) -> str:
    """A command torn by a space or line break, a last brace lost, or the closing delimiter lost."""
    formula = match[0]
    ways = [_torn_command, _lost_brace] + [_lost_end] * formula.startswith("$")
    return rng.choice(ways)(formula, rng)


def _torn_command(formula: str, rng: Random) -> str:
    commands = list(COMMAND.finditer(formula))
    if not commands:
        return formula
    at = rng.choice(commands).end()
    return formula[:at] + rng.choice(" \n") + formula[at:]


def _lost_brace(formula: str, rng: Random) -> str:
    end = len(formula) - (2 if formula.startswith("$$") or formula[0] == "\\" else 1)
    whole = formula[end - 1] == "}" and formula[end - 2] != "\\" and "\\begin" not in formula
    return formula[: end - 1] + formula[end:] if whole else formula


def _lost_end(formula: str, rng: Random) -> str:
    return formula[:-1] if not formula.startswith("$$") else formula[:-2]


def _cut_formula(match: Match, rng: Random) -> str:
    return match[0][: max(2, rng.randrange(len(match[0])))]


@dataclass(frozen=True)
class Layout:
    """Paragraphs broken into short lines, list marks parted from their items, headings and table rows run together."""

    def plant(self, text: str, severity: float, rng: Random) -> tuple[str, int]:
        """Harm a share `severity` of the paragraphs, list items, headings and rows."""
        width = rng.randint(60, 80)
        paragraph = Spots(PARAGRAPH, lambda match, rng: _wrapped(match[0], width))
        lists = Spots(ITEM, lambda match, rng: f"{match[1]}\n{match[2]}")
        headings = Spots(HEADING, lambda match, rng: f"{match[1]}{match[2]}")
        rows = Spots(ROW, lambda match, rng: _torn_row(match[0], rng))
        n = 0
        for spots in (lists, headings, rows, paragraph):
            text, more = spots.plant(text, severity, rng)
            n += more
        return text, n


PARAGRAPH = re.compile(r"(?m)(?<![^\n]\n)^[A-Z“\"][^\n|]{300,}[.!?:”)]$(?!\n[^\n])")
ITEM = re.compile(r"(?m)^([-*•]|\d{1,2}\.) ([A-Za-z][^\n]{20,})$")
HEADING = re.compile(r"(?m)^(#{2,5}) ([A-Z][^\n#]+)$")
ROW = re.compile(r"(?m)^\|(?:[^|\n]*[^|\n\s:-][^|\n]*\|){2,}$")


def _wrapped(paragraph: str, width: int) -> str:
    lines, line = [], ""
    for word in paragraph.split(" "):
        if line and len(line) + 1 + len(word) > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


def _torn_row(row: str, rng: Random) -> str:
    cells = [i for i, sign in enumerate(row) if sign == "|"][1:-1]
    at = rng.choice(cells)
    return f"{row[:at].rstrip()}\n{row[at:]}"


CAPTION = re.compile(r"(?m)^(Figure|Fig\.|Table|Scheme)( \d+(?:\.\d+)*)?([:.]) (?=\S)")
CITATION = re.compile(r"\[(\d{1,3})\](?!\()|^(References|Bibliography)$", re.MULTILINE)


def _broken_caption(match: Match, rng: Random) -> str:
    label, number, mark = match[1], match[2] or "", match[3]
    ways = (
        f"{' '.join(label)}{number}{mark} ",
        f"{label[:3]} {label[3:]}{number}{mark} ",
        f"{label}{number} {mark} ",
        f"{label.upper()}{number}{mark} ",
        f"{label}{number}{mark}\n",
    )
    return rng.choice(ways)


def _broken_reference(match: Match, rng: Random) -> str:
    if match[2]:
        return rng.choice(
            (" ".join(match[2]), f"{match[2][:5]}-\n{match[2][5:]}", f"{match[2][0]} {match[2][1:].upper()}")
        )
    number = match[1]
    ways = [f"[ {number} ]", f"[{number} ]", f"[ {number}]"] + [f"[{number.replace('1', 'l')}]"] * ("1" in number)
    return rng.choice(ways)


def _with_junk(match: Match, rng: Random) -> str:
    at = rng.randint(0, len(match[0]))
    return match[0][:at] + rng.choice(JUNK) + match[0][at:]


def _noisy(match: Match, rng: Random) -> str:
    spots = [i for i, letter in enumerate(match[0]) if letter in NOISE]
    if not spots or not match[0].isalpha():
        return match[0]
    at = rng.choice(spots)
    return match[0][:at] + NOISE[match[0][at]] + match[0][at + 1 :]


@dataclass(frozen=True)
class Shuffled:
    """Takes pieces out of order: in every paragraph a share `severity` of them change places with one another."""

    between: re.Pattern[str]

    def plant(self, text: str, severity: float, rng: Random) -> tuple[str, int]:
        """Count the pieces that no longer stand where they stood."""
        out, n = [], 0
        for paragraph in text.split("\n"):
            pieces = self.between.split(paragraph)
            chosen = [i for i in range(len(pieces)) if rng.random() < severity]
            moved = [pieces[i] for i in rng.sample(chosen, len(chosen))]
            n += sum(pieces[i] != piece for i, piece in zip(chosen, moved, strict=True))
            for i, piece in zip(chosen, moved, strict=True):
                pieces[i] = piece
            out.append(" ".join(pieces))
        return "\n".join(out), n


DAMAGES: dict[str, Damage] = {
    "irrelevant": Furniture(),
    "ocr": Recognition(),
    "formulas": Spots(re.compile(FORMULA, re.DOTALL), _broken_formula, 0.3),
    "structure": Layout(),
    "captions": Spots(CAPTION, _broken_caption),
    "scripts": Spots(re.compile(r"\w+"), _with_junk, 0.1),
    "references": Spots(CITATION, _broken_reference),
    "shuffled-sentences": Shuffled(re.compile(r"(?<=[.!?]) (?=[A-Z])")),
    "shuffled-words": Shuffled(re.compile(" ")),
    "ocr-noise": Spots(WORD, _noisy, 0.3),
    "boilerplate": Spots(re.compile(r"\n\n"), lambda match, rng: f"\n\n{rng.choice(BOILERPLATE)}\n\n"),
    "truncated-formulas": Spots(re.compile(FORMULA, re.DOTALL), _cut_formula),
    "repeated-lines": Spots(re.compile(r"(?m)^.+$"), lambda match, rng: "\n".join([match[0]] * rng.randint(2, 4)), 0.5),
}
CLEANED = tuple(DAMAGES)[:7]

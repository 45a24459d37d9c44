"""Headings, lists, tables and code stay as they are; what lost its line, or was broken into several, comes back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import ClassVar, Literal

from innovator.curate.clean.base import NOT_PROSE, BlockRule, Mend
from innovator.curate.clean.blocks import Block, Kind

RUN_ON = re.compile(r"^( {0,3}#{2,6})(?=[^\s#])")
MARK_ALONE = re.compile(r"(?m)^([ \t]*(?:[-*•▪◦‣]|\d{1,3}[.)]))[ \t]*\n\s*(?=[^\W\d_]|[$“\"])")
MARK_RUN_ON = re.compile(r"(?m)^([ \t]*[•▪◦‣])(?=[^\s•▪◦‣])")
RULE = re.compile(r"\s*\|(?: *:?-+:? *\|)+\s*")
LEAST_LETTERS = 0.8  # share of prose, formulas aside
NARROWEST, FEWEST_BREAKS = 40, 3


@dataclass(frozen=True, kw_only=True)
class Structure(BlockRule):
    """Joins hard-wrapped paragraphs, torn rows of tables, and the marks of lists and headings with what they mark."""

    kind: Literal["structure"] = "structure"
    touches: ClassVar[frozenset[Kind]] = frozenset(("heading", "paragraph", "list", "table", "caption"))

    def mender(self, blocks: Sequence[Block]) -> Mend | None:
        """Mends a block according to its kind; paragraphs by the width that the document is wrapped to."""
        widths = [max(map(len, lines)) for block in blocks if _wraps(lines := _lines(block), None)]
        width = median(widths) if widths else None

        def mend(block: Block) -> Block:
            if block.kind == "heading":
                return block.mended(*RUN_ON.subn(r"\1 ", block.text))
            if block.kind == "table":
                return _whole_rows(block)
            if block.kind == "list":
                text, n = MARK_ALONE.subn(r"\1 ", block.text)
                text, more = MARK_RUN_ON.subn(r"\1 ", text)
                return block.mended(text, n + more)
            lines = _lines(block)
            wrapped = len(lines) > 1 and (_wraps(lines, None) or (width is not None and _wraps(lines, width)))
            return block.mended(" ".join(lines), 1) if wrapped and _is_prose(block.text) else block

        return mend


def _lines(block: Block) -> list[str]:
    if block.kind not in ("paragraph", "caption"):
        return []
    first, *others = block.text.split("\n")
    return [first, *(line.strip() for line in others)]


def _wraps(lines: Sequence[str], width: float | None) -> bool:
    """Whether lines end where the next word would not have fitted any more.

    Without a width the longest line gives it; then it takes a few lines, and some that go on in lower case, to tell
    wrapped prose from verse.
    """
    if len(lines) < 2 or any(line.endswith("  ") for line in lines):
        return False
    if width is None and (
        len(lines) <= FEWEST_BREAKS or 3 * sum(line[:1].islower() for line in lines[1:]) < len(lines)
    ):
        return False
    width = max(map(len, lines)) if width is None else width
    if width < NARROWEST or max(map(len, lines)) > 1.5 * width:
        return False
    return all(len(line) + 1 + len(after.split(" ", 1)[0]) > width for line, after in pairwise(lines))


def _is_prose(text: str) -> bool:
    """Whether lines stand under one another and are mostly of letters, as lines of code are not."""
    first, *others = text.split("\n")
    indent = len(first) - len(first.lstrip())
    words = NOT_PROSE.sub("", text)
    n_letters = sum(1 for sign in words if sign.isalpha() or sign.isspace())
    return all(len(line) - len(line.lstrip()) <= indent for line in others) and n_letters > LEAST_LETTERS * len(words)


def _whole_rows(block: Block) -> Block:
    """Join two lines of a table that make up one row, as wide as the rule under its head."""
    lines = block.text.split("\n")
    bars = [line.count("|") for line in lines]
    whole = next((n for line, n in zip(lines, bars, strict=True) if RULE.fullmatch(line)), 0)
    if not whole:
        return block
    out = [lines[0]]
    before = bars[0]
    for line, n in zip(lines[1:], bars[1:], strict=True):
        if before < whole and n < whole and before + n == whole:
            out[-1] = f"{out[-1].rstrip()} {line.lstrip()}"
            before = whole
        else:
            out.append(line)
            before = n
    return block.mended("\n".join(out), len(lines) - len(out))

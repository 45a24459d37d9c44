"""The reference section stays, under one heading, and so do the marks of citations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from innovator.curate.clean.base import BlockRule, Mend, cleaned, in_prose
from innovator.curate.clean.blocks import REFERENCES, Block, Kind, parse
from innovator.curate.rule import Facts, Outcome

MARK = re.compile(r"(?<![\w\]\\])\[ ?([\dlI]{1,4}(?: ?[,;\u2013-] ?[\dlI]{1,4})*) ?\](?![(\w\[])")
NUMERIC = re.compile(r"(?<![\w\]\\])\[\d{1,3}\](?![(\w\[])")
TITLES = {"references": "References", "bibliography": "Bibliography"}
MISREAD = str.maketrans("lI", "11")
FEWEST_MARKS, FEWEST_ENTRIES = 3, 3
NUMBERED = re.compile(r"(?m)^\s*(?:\[ ?[\dlI]{1,4} ?\]|\d{1,3}[.)])\s")


@dataclass(frozen=True, kw_only=True)
class References(BlockRule):
    """Mends the heading and the numbers of references; the fact `references` is how many entries there are."""

    kind: Literal["references"] = "references"
    touches: ClassVar[frozenset[Kind]] = frozenset(("heading", "paragraph", "list", "caption", "reference"))

    def apply(self, text: str, facts: Facts) -> Outcome:
        """The text with its references marked."""
        return cleaned(self, text, {"references": count_entries(parse(text))})

    def mender(self, blocks: Sequence[Block]) -> Mend | None:
        """Mends the marks of a block; the first of the entries gets a heading if the document has none for them."""
        first = _without_heading(blocks)
        cites = sum(len(NUMERIC.findall(block.text)) for block in blocks if "[" in block.text) >= FEWEST_MARKS

        def mend(block: Block) -> Block:
            if block.kind == "heading":
                return _heading(block)
            if "[" in block.text:
                block = _marks(block, cites)
            return block.mended(f"References\n\n{block.text}") if block.text == first else block

        return mend


def count_entries(blocks: Sequence[Block]) -> int:
    """How many references a document lists."""
    entries = [block.text for block in blocks if block.kind == "reference"]
    return sum(max(1, len(NUMBERED.findall(text))) for text in entries)


def _without_heading(blocks: Sequence[Block]) -> str | None:
    """The text of the first of the entries that end a document, if no heading says that they are references."""
    if any(block.kind == "heading" and REFERENCES.fullmatch(block.text) for block in blocks):
        return None
    last = max((i for i, block in enumerate(blocks) if block.kind != "reference" and block.text), default=-1)
    entries = blocks[last + 1 :]
    return entries[0].text if entries and count_entries(entries) >= FEWEST_ENTRIES else None


def _heading(block: Block) -> Block:
    """A heading of references whose letters stand apart, or whose word is broken, is written as one word."""
    if not REFERENCES.fullmatch(block.text):
        return block
    letters = re.sub(r"[^A-Za-z]", "", block.text).removesuffix("continued")
    title = TITLES.get(letters.lower())
    if title is None or (letters in block.text and "continued" not in block.text):
        return block
    sign = block.text[: re.search(r"[A-Za-z]", block.text).start()]  # type: ignore[union-attr]
    return block.mended(sign + title)


def _marks(block: Block, cites: bool) -> Block:
    n = 0

    def mark(match: re.Match[str]) -> str:
        nonlocal n
        number = match[1]
        sure = cites or number.isdecimal()
        whole = f"[{number.translate(MISREAD)}]" if sure else match[0]
        n += whole != match[0]
        return whole

    text = in_prose(block.text, lambda prose: MARK.sub(mark, prose))
    return block.mended(text, n)

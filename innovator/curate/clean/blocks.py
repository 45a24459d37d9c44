"""A document as blocks: headings, paragraphs, lists, tables, code, formulas, captions, references and page breaks.

Blocks and the blank space after each make up the text exactly. What is in doubt is taken for what fewer rules touch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Literal

Kind = Literal["heading", "paragraph", "list", "table", "code", "formula", "caption", "reference", "break"]

GAP = re.compile(r"\n(?:[^\S\n\f]*\n)+")
FENCE = re.compile(r"(?m)^[ \t]*(?:>[ \t]?)?(?:```|~~~)")
OPENS_FORMULA = re.compile(r"\s*(?:\$\$|\\\[|\\begin\{)")
FORMULA_ENDS = (("$$", "$$"), (r"\[", r"\]"), (r"\begin{", r"\end{"))
HEADING = re.compile(r" {0,3}#{1,6}(?!#)[ \t]*[^\W\d_]|\\(?:sub)*section\*?\{|\\chapter\*?\{")
UNDERLINE = re.compile(r"(?:=+|-+|~+|\^+|\*+)\s*")
ITEM = re.compile(r"\s*(?:[-*+•▪◦‣·\u2013]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.)])(?:\s|$)|•\S")
ALONE = re.compile(r"\s*[•▪◦‣]\s*")
COLUMNS = re.compile(r"\S(?:\t| {3,})\S.*\S?(?:\t| {3,})\S")
LABEL = r"(?:F(?i: ?i ?g(?: ?u ?r ?e| ?\.)?)|T(?i: ?a ?b(?: ?l ?e| ?\.))|S(?i: ?c ?h ?e ?m ?e)|Plate|Chart)"
CAPTION = re.compile(rf"{LABEL}(?:(?P<number> ?[A-Z]?\d+(?:[.\-\u2013]\d+)*[a-z]?) ?[:.|]| ?[:|])(?:\s|$)")
REFERENCES = re.compile(
    r"(?:#{1,6} ?)?(?:\d{1,2}\.? )?(?:references|references and notes|bibliography|literature cited|works cited|"
    r"r ?e ?f ?e ?r ?(?:-\n)?e ?n ?c ?e ?s|b ?i ?b ?l ?i ?(?:-\n)?o ?g ?r ?a ?p ?h ?y)(?: \(continued\))?:?\s*",
    re.IGNORECASE,
)
ENDS = (".", ":", "!", "?", "|")
ENTRY = re.compile(r"\s*\[ ?[\dlI ]{1,4} ?\](?!\()\s")
CODE = re.compile(
    r"\s*(?:>>>|\.\.\. |[$%] \w|@\w[\w.]*(?:\(.*\))?$|#include|import \w|from [\w.]+ import"
    r"|(?:async )?def \w|class \w+[(:]|return\b.*[^.]$|(?:if|for|while|with|elif|switch|try|except|else)\b.*[:{]$"
    r"|[\w.\[\]'\"]+ ?[-+*/:]?= ?\S"
    r"|[\w.]+\(.*\)[;:,]?$|[)\]}]+[,;]?$|//|/\*|</?\w+[^>]*>|--\w|[^$ ]+(?: [^$ ]+){0,3};$)|[^$]*[{(\[]$"
)


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a document and the blank space after it. count: the places that were mended in it."""

    kind: Kind = field(compare=False)
    text: str
    gap: str
    count: int = field(default=0, compare=False)

    def mended(self, text: str, count: int = 1) -> Block:
        """The block with another text; itself if that is the one it has."""
        return self if text == self.text else replace(self, text=text, count=self.count + count)

    def removed(self) -> Block:
        """What is left where the block was."""
        return replace(self, text="", gap="", count=self.count + 1)


@lru_cache(maxsize=2)  # one rule after another asks for the same text
def parse(text: str) -> tuple[Block, ...]:
    """The blocks of a document, in order."""
    return tuple(_with_references(_blocks(text)))


def render(blocks: Iterable[Block]) -> str:
    """The text that blocks make up; of an untouched document, its own."""
    return "".join([part for block in blocks for part in (block.text, block.gap)])


def _blocks(text: str) -> Iterator[Block]:
    for chunk, gap in _chunks(text):
        body = chunk.strip("\n")
        start = chunk.index(body)
        if start:
            yield Block("paragraph", "", chunk[:start])
        if body:
            yield from _chunk_blocks(body, chunk[start + len(body) :] + gap)
        elif not start:
            yield Block("paragraph", "", gap)


def _chunks(text: str) -> Iterator[tuple[str, str]]:
    """What stands between blank lines, and the blank lines; a fence or formula is not cut by blank lines in it."""
    starts = [0, *(match.end() for match in GAP.finditer(text))]
    ends = [*(match.start() for match in GAP.finditer(text)), len(text)]
    i = 0
    while i < len(starts):
        last = _last_of(text, starts, ends, i)
        following = starts[last + 1] if last + 1 < len(starts) else len(text)
        yield text[starts[i] : ends[last]], text[ends[last] : following]
        i = last + 1


def _last_of(text: str, starts: Sequence[int], ends: Sequence[int], i: int) -> int:
    """The number of the chunk that ends what chunk i begins."""
    chunk = text[starts[i] : ends[i]]
    if len(FENCE.findall(chunk)) % 2:
        return next((j for j in range(i + 1, len(starts)) if FENCE.search(text, starts[j], ends[j])), i)
    if OPENS_FORMULA.match(chunk) and i + 1 < len(starts):
        following = text[starts[i + 1] : ends[i + 1]]
        if any(_left_open(chunk, *pair) and _left_open(following, *pair) for pair in FORMULA_ENDS):
            return i + 1
    if ALONE.fullmatch(chunk) and i + 1 < len(starts):
        return i + 1
    return i


def _left_open(chunk: str, opening: str, closing: str) -> bool:
    """Whether a chunk opens a formula that it does not close, or closes one that it did not open."""
    return chunk.count(opening) % 2 == 1 if opening == closing else chunk.count(opening) != chunk.count(closing)


def _chunk_blocks(body: str, gap: str) -> Iterator[Block]:
    *pages, last = body.split("\f")
    for page in pages:
        if page:
            yield from _page_blocks(page, "")
        yield Block("break", "\f", "")
    if last:
        yield from _page_blocks(last, gap)
    elif gap:
        yield Block("paragraph", "", gap)


def _page_blocks(body: str, gap: str) -> Iterator[Block]:
    if kind := _whole_kind(body):
        yield Block(kind, body, gap)
        return
    groups = _grouped(body.split("\n"))
    for i, (kind, lines) in enumerate(groups):
        yield Block(kind, "\n".join(lines), gap if i == len(groups) - 1 else "\n")


def _whole_kind(body: str) -> Kind | None:
    """The kind of lines that belong together without more ado."""
    if FENCE.match(body):
        return "code"
    if OPENS_FORMULA.match(body):
        return "formula"
    if REFERENCES.fullmatch(body):
        return "heading"
    lines = body.split("\n")
    if len(lines) == 2 and UNDERLINE.fullmatch(lines[1]) and not UNDERLINE.fullmatch(lines[0]):
        return "heading"
    if len(lines) > 1 and all(COLUMNS.search(line) for line in lines):
        return "table"
    if all(line.startswith(("    ", "\t")) for line in lines) and not ITEM.match(body):
        return "code"
    return "code" if 2 * sum(1 for line in lines if _is_code(line)) >= len(lines) else None


def _is_code(line: str) -> bool:
    return len(line) < 200 and CODE.match(line) is not None and not line.lstrip().startswith(("|", "$$"))


def _grouped(lines: Sequence[str]) -> list[tuple[Kind, list[str]]]:
    """Lines of a kind that follow one another; every heading and caption is a group of its own."""
    kinds: list[tuple[Kind, int]] = [_line_kind(lines[0], "", "heading", 0)]
    for before, line in pairwise(lines):
        kinds.append(_line_kind(line, before.rstrip(), *kinds[-1]))
    grouped = groupby(zip(kinds, lines, strict=True), key=lambda pair: pair[0])
    return [(kind, [line for _, line in group]) for (kind, _), group in grouped]


def _line_kind(line: str, before: str, kind: Kind, number: int) -> tuple[Kind, int]:
    """The kind of a line after a line `before` of a kind, and the number of the group that it is in."""
    if kind == "caption" and CAPTION.fullmatch(before):
        return kind, number
    if HEADING.match(line):
        return "heading", number + 1
    if (not before or before.endswith(ENDS)) and CAPTION.match(line):
        return "caption", number + 1
    if line.lstrip().startswith("|"):
        return "table", number + (kind != "table")
    if ENTRY.match(line):
        return "reference", number + (kind != "reference")
    if ITEM.match(line) and (kind != "paragraph" or before.endswith(ENDS) or ITEM.fullmatch(line)):
        return "list", number + (kind != "list")
    if kind in ("list", "caption", "reference", "paragraph"):
        return kind, number
    return "paragraph", number + 1


def _with_references(blocks: Iterable[Block]) -> Iterator[Block]:
    """The same blocks; what follows the heading of a reference section, up to the next heading, is references."""
    inside = False
    for block in blocks:
        if block.kind == "heading":
            inside = REFERENCES.fullmatch(block.text) is not None
        elif inside and block.kind in ("paragraph", "list"):
            block = replace(block, kind="reference")
        yield block

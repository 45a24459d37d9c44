"""Captions of figures and tables stay in the text, marked in one way, and are facts of the document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from innovator.curate.clean.base import BlockRule, Mend, cleaned, mended
from innovator.curate.clean.blocks import CAPTION, Block, Kind, parse
from innovator.curate.rule import Facts, Outcome

NAMES = {"fig": "Figure", "tab": "Table", "sch": "Scheme", "pla": "Plate", "cha": "Chart"}
LETTERS = re.compile(r"[^a-z]")


@dataclass(frozen=True, kw_only=True)
class Captions(BlockRule):
    """Marks every caption as `Figure 3: text` (or `Table`, `Scheme`, ...) and lists them in the fact `captions`."""

    kind: Literal["captions"] = "captions"
    touches: ClassVar[frozenset[Kind]] = frozenset(("caption",))

    def apply(self, text: str, facts: Facts) -> Outcome:
        """The text with its captions marked."""
        found = [block.text for block in mended(parse(text), self.touches, _mend) if block.kind == "caption"]
        return cleaned(self, text, {"captions": found})

    def mender(self, blocks: Sequence[Block]) -> Mend | None:
        """Marks a caption."""
        return _mend if any(block.kind == "caption" for block in blocks) else None


def _mend(block: Block) -> Block:
    mark = CAPTION.match(block.text)
    if mark is None:
        return block
    number = (mark["number"] or "").strip()
    label = NAMES[LETTERS.sub("", mark[0][: mark.start("number") if number else None].lower())[:3]]
    text = block.text[mark.end() :].lstrip()
    return block.mended(f"{label} {number}: {text}" if number else f"{label}: {text}") if text else block

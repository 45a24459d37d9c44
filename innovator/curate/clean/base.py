"""What the seven rules share: a rule mends one block at a time, knowing what the whole document says.

As it looks at no two blocks together, it makes the same of a document whole and window by window.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from innovator.curate.clean.blocks import Block, Kind, parse, render
from innovator.curate.rule import Facts, Kept, Outcome
from innovator.models.spec import Spec

Mend = Callable[[Block], Block]

NOT_PROSE = re.compile(
    r"(\$\$[^$]+\$\$|(?<![\\$\w])\$[^$\s](?:[^$]{0,400}?[^$\s])?\$(?![\w$])|\\\(.{1,2000}?\\\)|\\\[.{1,2000}?\\\]"
    r"|`+[^`]+`+|\b[a-zA-Z]{2,10}://\S+|(?<![\w.+-])[\w.+-]{1,64}@[\w.-]+|\\begin\{.{1,2000}?\\end\{\w+\*?\})",
    re.DOTALL,
)


class BlockRule(Spec):
    """A rule of cleaning. kind: what the account calls it. touches: the kinds of blocks that it is shown."""

    kind: str
    touches: ClassVar[frozenset[Kind]]

    @property
    def name(self) -> str:
        """What the account calls it."""
        return self.kind

    def apply(self, text: str, facts: Facts) -> Outcome:
        """The text, mended."""
        return cleaned(self, text)

    def mender(self, blocks: Sequence[Block]) -> Mend | None:
        """What it does to a block of the document that these are the blocks of; None if there is nothing to do."""
        raise NotImplementedError


def cleaned(rule: BlockRule, text: str, facts: Mapping[str, object] | None = None) -> Kept:
    """The outcome of a rule that mends blocks."""
    before = parse(text)
    mend = rule.mender(before)
    if mend is None:
        return Kept(text, facts=facts or {})
    after = mended(before, rule.touches, mend)
    count = sum(block.count for block in after)
    return Kept(render(after) if count else text, count, facts or {})


def mended(blocks: Sequence[Block], touches: frozenset[Kind], mend: Mend) -> list[Block]:
    """The blocks after a rule; where it took away the end of the text, the text ends as it did."""
    after = [mend(block) if block.kind in touches else block for block in blocks]
    last = max((i for i, block in enumerate(after) if block.text), default=len(after) - 1)
    if last < len(after) - 1:
        after[last] = replace(after[last], gap=blocks[-1].gap)
    return after


def in_prose(text: str, mend: Callable[[str], str]) -> str:
    """Mend a text around its formulas, code and addresses."""
    parts = NOT_PROSE.split(text)
    return "".join([part if i % 2 else mend(part) for i, part in enumerate(parts)])

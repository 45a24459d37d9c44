"""A long document as overlapping windows, and what became of the windows as one document, without seams or repeats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise

from innovator.curate.clean.blocks import Block
from innovator.curate.rule import count_tokens
from innovator.models.spec import Spec

Process = Callable[[Sequence[Block]], Sequence[Block]]


@dataclass(frozen=True, kw_only=True)
class Windows(Spec):
    """Windows of `size` tokens, each of which begins with the last share `overlap` of the one before.

    They begin and end between blocks; a block that is longer than a window is a window of its own.
    """

    size: int = 2048
    overlap: float = 0.15

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}: a window has at least one token")
        if not 0 <= self.overlap < 0.5:
            raise ValueError(f"overlap is {self.overlap}: give a share of a window, from 0 to less than a half")

    def spans(self, blocks: Sequence[Block]) -> list[tuple[int, int]]:
        """The first block of every window, and the one after its last."""
        tokens = [count_tokens(block.text) for block in blocks]
        spans: list[tuple[int, int]] = []
        start, end = 0, 0
        while end < len(blocks):
            end = max(_reach(tokens, start, self.size), end + 1)
            spans.append((start, end))
            start = _back(tokens, start, end, int(self.size * self.overlap))
        return spans

    def through(self, blocks: Sequence[Block], process: Process) -> list[Block]:
        """What `process` makes of the windows, as one document."""
        spans = self.spans(blocks)
        made = [process(blocks[start:end]) for start, end in spans]
        whole = list(made[0]) if made else []
        for ((_, end), (start, _)), following in zip(pairwise(spans), made[1:], strict=True):
            whole = merged(whole, following, end - start)
        return whole


def merged(left: Sequence[Block], right: Sequence[Block], n: int) -> list[Block]:
    """Two neighbours that both hold what became of n blocks between them.

    Where they agree there is nothing to decide. Else they are joined in the middle of the longest run of blocks that
    the end of one and the beginning of the other have in common, or, without one, in the middle of what they share.
    """
    if not n or list(left[-n:]) == list(right[:n]):
        return [*left, *right[n:]]
    shared = min(2 * n, len(left))
    tail, head = left[-shared:] if shared else [], right[: 2 * n]
    match = SequenceMatcher(None, tail, head, autojunk=False).find_longest_match()
    if not match.size:
        return [*left[: len(left) - n // 2], *right[n - n // 2 :]]
    cut = match.size // 2
    return [*left[: len(left) - shared + match.a + cut], *right[match.b + cut :]]


def _reach(tokens: Sequence[int], start: int, size: int) -> int:
    """How far a window from `start` reaches."""
    end, held = start, 0
    while end < len(tokens) and held + tokens[end] <= size:
        held += tokens[end]
        end += 1
    return end


def _back(tokens: Sequence[int], start: int, end: int, size: int) -> int:
    """Where the window after one from `start` to `end` begins: after its start, and `size` tokens before its end."""
    held = 0
    while end - 1 > start and held + tokens[end - 1] <= size:
        held += tokens[end - 1]
        end -= 1
    return end

"""Windows cover a document with the overlap asked for, and merge into one document without seams or repeats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from random import Random

import pytest

from innovator.curate.clean.base import mended
from innovator.curate.clean.blocks import Block, parse, render
from innovator.curate.clean.spec import SEVEN, CleanRule
from innovator.curate.clean.windows import Windows
from innovator.curate.damage import DAMAGES
from innovator.curate.rule import count_tokens


def document(seed: int, n: int = 60) -> str:
    """Paragraphs of uneven lengths out of few words, so that some come twice, and captions."""
    rng = Random(seed)
    words = [
        "the model",
        "an electron of",
        "energy $E = \\frac{m}{2}v^2$",
        "and",
        "5 values [3]",
        "in water.",
        "So it is.",
    ]
    texts = [" ".join(rng.choices(words, k=rng.choice((1, 1, 8, 40)))) for _ in range(n)]
    return "\n\n".join(f"Fig. {number}. {text}" if number % 9 == 8 else text for number, text in enumerate(texts))


@pytest.mark.parametrize("size", [1, 7, 50, 300, 10_000])
@pytest.mark.parametrize("overlap", [0.0, 0.15, 0.49])
def test_untouched_windows_merge_into_the_document(size: int, overlap: float) -> None:
    windows = Windows(size=size, overlap=overlap)
    for seed in range(5):
        blocks = parse(document(seed))
        assert windows.through(blocks, lambda window: window) == list(blocks)
    assert windows.through((), lambda window: window) == []


def test_windows_are_as_long_as_asked_and_overlap_by_no_more() -> None:
    blocks = parse(document(0))
    spans = Windows(size=600, overlap=0.2).spans(blocks)
    tokens = [[count_tokens(block.text) for block in blocks[start:end]] for start, end in spans]
    assert all(sum(window) <= 600 or len(window) == 1 for window in tokens)
    shared = [blocks[start:end] for (_, end), (start, _) in pairwise(spans)]
    assert all(sum(count_tokens(block.text) for block in both) <= 120 for both in shared)
    assert any(shared) and spans[0][0] == 0 and spans[-1][1] == len(blocks)


@pytest.mark.parametrize("rule", SEVEN, ids=[rule.name for rule in SEVEN])
@pytest.mark.parametrize("size", [20, 100])
def test_rules_make_the_same_of_windows_as_of_the_whole(rule: CleanRule, size: int) -> None:
    text, _ = DAMAGES[rule.name].plant(document(1, 100), 1.0, Random(0))
    blocks = parse(text)
    mend = rule.mender(blocks)
    assert mend is not None
    whole = mended(blocks, rule.touches, mend)
    by_window = Windows(size=size, overlap=0.3).through(blocks, lambda window: [
        mend(block) if block.kind in rule.touches else block for block in window
    ])  # fmt: skip
    assert render(by_window).rstrip() == render(whole).rstrip()


@pytest.mark.parametrize("seed", range(10))
def test_windows_that_differ_where_they_overlap_leave_no_repeats(seed: int) -> None:
    """A processor that spoils the first or last block of its window, as a model that sees half a thought may."""
    blocks = [Block("paragraph", f"paragraph number {number} of the text", "\n\n") for number in range(80)]
    rng = Random(seed)

    def spoil(window: Sequence[Block]) -> list[Block]:
        out = list(window)
        at = rng.choice((0, len(out) - 1))
        out[at] = Block("paragraph", f"{out[at].text}, changed", "\n\n")
        return out

    merged = Windows(size=60, overlap=0.4).through(blocks, spoil)
    numbers = [int(block.text.split()[2]) for block in merged]
    assert numbers == list(range(80))


def test_a_window_longer_than_asked_is_one_block() -> None:
    blocks = parse("one two three four\n\nfive")
    assert Windows(size=2, overlap=0.4).spans(blocks) == [(0, 1), (1, 2)]


@pytest.mark.parametrize(("size", "overlap"), [(0, 0.1), (10, 0.5), (10, -0.1)])
def test_impossible_windows_are_refused(size: int, overlap: float) -> None:
    with pytest.raises(ValueError, match=r"size is|overlap is"):
        Windows(size=size, overlap=overlap)

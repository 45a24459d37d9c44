"""Who sees whom is the same with a mask and, where rows are plain, without one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from readings import EXACT, Draw, exact, packed, some_tokens

from innovator.models.decoder import DecoderConfig
from innovator.models.layers import PADDING, Layout, wide

N_TOKENS, N_SLOTS = 5, 3


@pytest.mark.parametrize(("first", "most"), [(0, None), (0, 4), (1, 4)])
def test_slots_of_the_tokens_of_a_plain_row_see_all_before_them(first: int, most: int | None) -> None:
    slots = Layout.of(some_tokens(2, N_TOKENS)).repeat(N_SLOTS, first=first, most=most)
    n_slots = N_TOKENS * N_SLOTS
    expected = torch.ones(n_slots, n_slots, dtype=torch.bool).tril().expand(2, 1, -1, -1)
    assert slots.plain and torch.equal(slots.sees(slots), expected)


def test_slots_that_come_one_by_one_stand_where_those_stand_that_come_at_once() -> None:
    layout = packed((3, 2))
    singly = [layout.repeat(1, first=slot, most=N_SLOTS).order_BT for slot in range(N_SLOTS)]
    at_once_BT = layout.repeat(N_SLOTS).order_BT
    assert at_once_BT is not None and torch.equal(torch.stack(singly, dim=2).flatten(1), at_once_BT)
    assert not layout.repeat(N_SLOTS).plain


@torch.no_grad()
@pytest.mark.parametrize("window", [None, 4])
def test_a_mask_and_none_agree_on_plain_rows_of_several_slots(
    dense: DecoderConfig, draw: Draw, window: int | None
) -> None:
    """A window that is wider than the text has tokens, but not than it has slots, is one that needs a mask."""
    config = exact(replace(dense, attention=replace(dense.attention, window=window)))
    model, tokens_BT = draw(config, "model").double(), some_tokens(2, N_TOKENS)
    slots = Layout.of(tokens_BT).repeat(N_SLOTS)
    assert (config.attention.sight(slots, slots, torch.float64).mask_B1TU is None) == (window is None)
    x_BTD = model.embedded(tokens_BT.repeat_interleave(N_SLOTS, dim=1))
    without, masked = (
        model.read_once(x_BTD, layout, None, remember=False).h_BTD for layout in (slots, replace(slots, plain=False))
    )
    torch.testing.assert_close(without, masked, **EXACT)


def test_slots_that_are_gone_hold_nothing_and_see_themselves() -> None:
    layout = Layout.of(some_tokens(1, 3))
    gone_BT = torch.tensor([[False, True, False]])
    left = replace(layout, log_mass_BT=torch.full((1, 3), -torch.inf)).without(gone_BT)
    assert left.document_BT.tolist() == [[0, PADDING, 0]] and left.position_BT is layout.position_BT
    assert left.log_mass_BT is not None and left.log_mass_BT.tolist() == [[-torch.inf, 0.0, -torch.inf]]
    assert not left.plain and layout.without(gone_BT).log_mass_BT is None
    assert left.sees(left)[0, 0].tolist() == [[True, False, False], [False, True, False], [True, False, True]]


def test_sums_are_in_fp32_at_least() -> None:
    wider = {dtype: wide(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64)}
    assert list(wider.values()) == [torch.float32, torch.float32, torch.float32, torch.float64]

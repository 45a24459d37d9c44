"""What is remembered is what is held, and is copied only where something is dropped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import pytest
import torch

from innovator.models.attention import Keys
from innovator.models.layers import Layout
from innovator.models.memory import Memory


def memory_of(held_BU: torch.Tensor) -> Memory:
    """Slots that hold something where it is said, each with a key of its own."""
    layout = Layout.of(held_BU.long()).without(~held_BU)
    k_BGUH = torch.arange(held_BU.numel()).view(len(held_BU), 1, -1, 1)
    return Memory(layout, (Keys(k_BGUH, -k_BGUH),))


def test_only_slots_that_hold_nothing_in_any_row_are_dropped() -> None:
    held = memory_of(torch.tensor([[True, False, True, False], [False, False, False, True]])).held()
    assert held.layout.is_text().tolist() == [[True, True], [True, False]]
    assert held.layout.position_BT[:, 0].tolist() == [0, 3] and held.layout.position_BT[0, 1] == 2
    (keys,) = held.keys
    assert keys.k_BGUH[0, 0, :, 0].tolist() == [0, 2] and keys.k_BGUH[1, 0, 0, 0] == 7
    assert torch.equal(keys.v_BGUH, -keys.k_BGUH)


def test_where_a_row_is_full_nothing_is_copied() -> None:
    memory = memory_of(torch.tensor([[True, True, True], [False, True, False]]))
    assert memory.held() is memory
    nothing = replace(memory, layout=memory.layout.without(torch.ones(2, 3, dtype=torch.bool))).held()
    assert nothing.layout.is_text().tolist() == [[False], [False]]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_keys_that_are_followed_twice_stay_what_they_were(mode: Callable[[], AbstractContextManager[None]]) -> None:
    """Exact: the first to come stands behind them where there is room, the second is copied elsewhere."""
    with mode():
        before = drawn(3).then(drawn(2))
        was_BGUH, own, other = before.k_BGUH.clone(), drawn(4), drawn(4)
        one, another = before.then(own), before.then(other)
        assert torch.equal(before.k_BGUH, was_BGUH)
        for keys, its in ((one, own), (another, other)):
            assert torch.equal(keys.k_BGUH, torch.cat([was_BGUH, its.k_BGUH], dim=2))
            assert torch.equal(keys.v_BGUH, -keys.k_BGUH)


def test_as_keys_grow_they_are_seldom_copied() -> None:
    with torch.no_grad():
        keys, places = drawn(3), set()
        for _ in range(1000):
            keys = keys.then(drawn(1))
            places.add(keys.k_BGUH.data_ptr())
    assert keys.k_BGUH.shape[2] == 1003 and len(places) < 12


def test_what_was_remembered_in_inference_mode_may_be_followed_outside_of_it() -> None:
    with torch.inference_mode():
        before = drawn(3).then(drawn(2))
    with torch.no_grad():
        after = before.then(drawn(1))
    assert torch.equal(after.k_BGUH[:, :, :5], before.k_BGUH)


def drawn(n_slots: int) -> Keys:
    """Random keys, with values that are their opposite."""
    k_BGUH = torch.randn(2, 2, n_slots, 4)
    return Keys(k_BGUH, -k_BGUH)

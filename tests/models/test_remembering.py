"""What is remembered is what is held, and is copied only where something is dropped."""

from __future__ import annotations

from dataclasses import replace

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
    ((k_BGUH, v_BGUH),) = held.keys
    assert k_BGUH[0, 0, :, 0].tolist() == [0, 2] and k_BGUH[1, 0, 0, 0] == 7 and torch.equal(v_BGUH, -k_BGUH)


def test_where_a_row_is_full_nothing_is_copied() -> None:
    memory = memory_of(torch.tensor([[True, True, True], [False, True, False]]))
    assert memory.held() is memory
    nothing = replace(memory, layout=memory.layout.without(torch.ones(2, 3, dtype=torch.bool))).held()
    assert nothing.layout.is_text().tolist() == [[False], [False]]

"""Which tokens go on where others have halted.

Shape suffixes: B batch, T slots, A slots that are read again, H slots that have halted, D model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .layers import Layout, at_slots
from .memory import Memory


@dataclass(frozen=True)
class Going:
    """Which slots go on and which have halted, so that a pass reads only the former, as many in each row.

    Rows with fewer are filled up with slots of the other sort, which hold nothing then: slot_BA and halted_BH are
    numbers of slots, goes_BA and stands_BH tell true ones. place_BT: where each slot stands behind halted and going.
    """

    active_BT: Tensor
    slot_BA: Tensor
    goes_BA: Tensor
    halted_BH: Tensor
    stands_BH: Tensor
    place_BT: Tensor

    @classmethod
    def of(cls, active_BT: Tensor) -> Going:
        """At least one slot of each row is read, though it may hold nothing."""
        n_slots = active_BT.shape[1]
        n_active_B1 = active_BT.sum(dim=1, keepdim=True)
        n_read, n_halted = max(1, int(n_active_B1.max())), n_slots - int(n_active_B1.min())
        slot_BT = active_BT.int().argsort(dim=1, descending=True, stable=True)
        rank_BT = slot_BT.argsort(dim=1)
        goes_BT = torch.arange(n_slots, device=active_BT.device) < n_active_B1
        return cls(
            active_BT,
            slot_BT[:, :n_read],
            goes_BT[:, :n_read],
            slot_BT[:, n_slots - n_halted :],
            ~goes_BT[:, n_slots - n_halted :],
            torch.where(active_BT, n_halted + rank_BT, n_halted + rank_BT - n_slots),
        )

    def take(self, fact: Tensor) -> Tensor:
        """Of what is known of all slots, [B, T] or [B, T, D], that of those which are read."""
        return at_slots(fact, self.slot_BA)

    def put(self, fact: Tensor) -> Tensor:
        """Back to all slots, with zeros for those that do not go on."""
        index = self.slot_BA.view(self.slot_BA.shape + (1,) * (fact.dim() - 2))
        true = torch.where(self.goes_BA.view(index.shape), fact, 0)
        shape = self.active_BT.shape + fact.shape[2:]
        return fact.new_zeros(shape).scatter(1, index.expand_as(fact), true)

    def layout(self, layout: Layout) -> Layout:
        """Where the slots that are read stand."""
        return layout.at(self.slot_BA).without(~self.goes_BA)

    @property
    def everywhere(self) -> bool:
        """Whether no slot has halted."""
        return self.halted_BH.shape[1] == 0

    def halted(self, own: Memory) -> Memory:
        """The keys of the slots that have halted."""
        memory = own.at(self.halted_BH)
        return replace(memory, layout=memory.layout.without(~self.stands_BH))

    def in_order(self, read: Memory) -> Memory:
        """The keys of all slots in their order, of a memory that ends with the halted ones and those that went on."""
        return read.last(self.halted_BH.shape[1] + self.slot_BA.shape[1]).at(self.place_BT)

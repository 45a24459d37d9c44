"""What has been read so far, and what reading it again would change nothing of.

Shape suffixes: B batch, U remembered slots, A kept slots, D model.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .attention import Keys
from .layers import Layout


@dataclass(frozen=True)
class Memory:
    """Slots that later ones may look at: where they stand, and every layer's keys."""

    layout: Layout
    keys: tuple[Keys, ...]

    def then(self, later: Memory) -> Memory:
        """These slots, and after them those of another memory."""
        keys = (before.then(after) for before, after in zip(self.keys, later.keys, strict=True))
        return Memory(self.layout.then(later.layout), tuple(keys))

    def at(self, slot_BA: Tensor) -> Memory:
        """Only the slots of these numbers."""
        return Memory(self.layout.at(slot_BA), tuple(keys.at(slot_BA) for keys in self.keys))

    def last(self, n_slots: int) -> Memory:
        """The last slots of each row."""
        return Memory(self.layout.last(n_slots), tuple(keys.last(n_slots) for keys in self.keys))

    def held(self) -> Memory:
        """Only the slots that hold something, as far as rows that hold fewer need no filling; one at least."""
        is_text_BU = self.layout.is_text()
        n_held = max(1, int(is_text_BU.sum(dim=1).max()))
        if n_held == is_text_BU.shape[1]:
            return self
        slot_BU = is_text_BU.int().argsort(dim=1, descending=True, stable=True)
        return self.at(slot_BU[:, :n_held])


Memories = tuple[Memory, ...]

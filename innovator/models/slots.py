"""Reading a text whose tokens have thoughts: slots of their own behind the token's, which all later slots see.

A thought is fed the state that the slot before it came to. So slots come one after the other, and are read so when
speaking. A text of many tokens is read in sweeps over all slots at once, each fed what the sweep before came to
(Jacobi). As many sweeps as a text has thoughts are exact; fewer come near.

Shape suffixes: B batch, T tokens, K slots of a token (its own, then its thoughts), N thoughts, U remembered slots,
D model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import Layout, wide
from .memory import Memories, Memory
from .thinking import Reader


@dataclass(frozen=True)
class Way:
    """How tokens think.

    feed_scale: what a state is multiplied by when it is fed back. foresee: from the state of a token's own slot the log
    of how likely it takes each thought, its own slot's, 0, first; None if all are certain. prune: thoughts less likely
    are dropped.
    """

    n_thoughts: int
    feed_scale: float
    foresee: Callable[[Tensor], Tensor] | None
    prune: float = 0.0


@dataclass(frozen=True)
class Read:
    """What came of all slots: their states, how likely each is a thought that is taken, and whether it still is."""

    h_BTKD: Tensor
    log_mass_BTK: Tensor
    kept_BTK: Tensor
    memory: Memory | None

    def said(self) -> Tensor:
        """The states by the probability that just so many thoughts are taken; the last one kept stands for the rest."""
        mass_BTK = self.log_mass_BTK.exp() * self.kept_BTK
        share_BTK = mass_BTK - F.pad(mass_BTK[..., 1:], (0, 1))
        return (share_BTK[..., None] * self.h_BTKD).sum(dim=2).type_as(self.h_BTKD)


@dataclass(frozen=True)
class Slots:
    """A text with slots for the thoughts of each token."""

    reader: Reader
    x_BTD: Tensor
    layout: Layout
    past: Memories | None
    way: Way

    def read(self, n_sweeps: int) -> Read:
        """A token alone slot by slot, if it is remembered; a text in sweeps."""
        speaks = self.past is not None and self.x_BTD.shape[1] == 1
        return self._in_turn() if speaks else self._in_sweeps(n_sweeps)

    def _in_turn(self) -> Read:
        places = self._places(0, certain(self.x_BTD, 1))
        reading = self.reader.read_once(self.x_BTD, places, self._before, remember=True)
        log_mass_BTK = self._foreseen(reading.h_BTD)
        kept_BTK = log_mass_BTK.exp() >= self.way.prune
        states = [reading.h_BTD]
        for slot in range(1, self.way.n_thoughts + 1):
            now = slice(slot, slot + 1)
            places = self._places(slot, log_mass_BTK[..., now]).without(~kept_BTK[..., slot : slot + 1].flatten(1))
            if self.reader.in_step or kept_BTK[..., now].any():
                x_BTD = states[-1] * self.way.feed_scale
                reading = self.reader.read_once(x_BTD, places, reading.memory, remember=True)
            states.append(reading.h_BTD)  # of a thought that nobody takes, the head reads nothing
        return Read(torch.stack(states, dim=2), log_mass_BTK, kept_BTK, reading.memory)

    def _in_sweeps(self, n_sweeps: int) -> Read:
        x_BTKD, log_mass_BTK = self.x_BTD[:, :, None], certain(self.x_BTD, 1)
        for _ in range(self.way.n_thoughts + n_sweeps):
            h_BTKD, _ = self._sweep(x_BTKD, log_mass_BTK, remember=False)
            fed_BTND = h_BTKD[:, :, : self.way.n_thoughts] * self.way.feed_scale
            x_BTKD = torch.cat([self.x_BTD[:, :, None], fed_BTND], dim=2)
            log_mass_BTK = self._foreseen(h_BTKD[:, :, 0])
        h_BTKD, memory = self._sweep(x_BTKD, log_mass_BTK, remember=self.past is not None)
        log_mass_BTK = self._foreseen(h_BTKD[:, :, 0])
        kept_BTK = log_mass_BTK.exp() >= self.way.prune
        settled = None if memory is None else self._settled(memory, log_mass_BTK, kept_BTK)
        return Read(h_BTKD, log_mass_BTK, kept_BTK, settled)

    def _sweep(self, x_BTKD: Tensor, log_mass_BTK: Tensor, *, remember: bool) -> tuple[Tensor, Memory | None]:
        """All slots once; in the staged start there are fewer than masses."""
        n_slots = x_BTKD.shape[2]
        places = self._places(0, log_mass_BTK[..., :n_slots])
        reading = self.reader.read_once(x_BTKD.flatten(1, 2), places, self._before, remember=remember)
        return reading.h_BTD.unflatten(1, (-1, n_slots)), reading.memory

    def _settled(self, memory: Memory, log_mass_BTK: Tensor, kept_BTK: Tensor) -> Memory:
        """The same keys, seen by what was foreseen last."""
        places = self._places(0, log_mass_BTK).without(~kept_BTK.flatten(1))
        return Memory(places if self._before is None else self._before.layout.then(places), memory.keys)

    def _places(self, first: int, log_mass_BTK: Tensor) -> Layout:
        """Where slots stand, for each token from its slot number `first` on."""
        places = self.layout.repeat(log_mass_BTK.shape[-1], first=first, most=self.way.n_thoughts + 1)
        return replace(places, log_mass_BT=None if self.way.foresee is None else log_mass_BTK.flatten(1))

    def _foreseen(self, h_BTD: Tensor) -> Tensor:
        """The log of how likely each thought is taken."""
        return certain(h_BTD, self.way.n_thoughts + 1) if self.way.foresee is None else self.way.foresee(h_BTD)

    @property
    def _before(self) -> Memory | None:
        return self.past[0] if self.past else None


def certain(x_BTD: Tensor, n_slots: int) -> Tensor:
    """The log of a probability of 1 for each of so many slots, [B, T, K]."""
    return torch.zeros(*x_BTD.shape[:2], n_slots, dtype=wide(x_BTD.dtype), device=x_BTD.device)

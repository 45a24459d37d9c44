"""What a decoder does with a text beyond reading it once: the terms that all ways of thinking share.

A way of thinking is a config that builds a module. The module is called with a `Reader` (one pass over all blocks), the
embedded slots and what is remembered; it returns what the head reads. It knows nothing of what blocks are made of.

Shape suffixes: B batch, T slots, D model, K steps, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from .layers import Layout
from .memory import Memories, Memory
from .spec import Spec


@dataclass(frozen=True)
class Reading:
    """One pass over the blocks.

    h_BTD: hidden states after the final norm. memory: what was read by now, if that is asked for. stream_BTD: what the
    last block wrote, which the norm was given.
    """

    h_BTD: Tensor
    memory: Memory | None
    stream_BTD: Tensor


class Reader(Protocol):
    """A decoder as a way of thinking sees it."""

    def read_once(self, x_BTD: Tensor, layout: Layout, past: Memory | None, *, remember: bool) -> Reading:
        """Pass slots through all blocks and the final norm, after what is remembered in `past`."""
        ...

    @property
    def embedding_VD(self) -> Tensor:
        """What stands for each token at the input, before it is multiplied by `embed_scale`."""
        ...

    @property
    def embed_scale(self) -> float:
        """What embedded tokens are multiplied by."""
        ...

    @property
    def head_VD(self) -> Tensor:
        """What gives each token's logit."""
        ...

    @property
    def in_step(self) -> bool:
        """Whether other processes read at the same time and all must read equally often, whatever their texts."""
        ...


@dataclass(frozen=True)
class Moment:
    """When a text is read: `done` is the share of the training that lies behind, `seed` the same on all processes.

    A text that nothing is learnt from has no seed.
    """

    done: float = 1.0
    seed: int | None = None

    def grown(self, over: float) -> float:
        """What grows from 0 to 1 over this share of the training."""
        return 1.0 if self.done >= over else self.done / over


@dataclass(frozen=True)
class Thought:
    """What came of thinking about a text.

    h_BTD: what the head reads. memories: what is remembered now, in as many parts as the way of thinking keeps.
    passes_BT: how many passes over all blocks each token took, or takes when it is spoken, where texts that are only
    scored are read otherwise. onward_KBT: for each step but the last, how much of a token went on, if it is the model
    that decides.
    """

    h_BTD: Tensor
    memories: Memories
    passes_BT: Tensor
    onward_KBT: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Held(Spec):
    """What a training step holds of thinking until its backward pass, against a decoder that only reads, at most.

    passes, attended: as in `Effort`. widest: how many slots of each token one pass reads at once. between: numbers kept
    of a token from one pass to the next beside what blocks keep, for each number of the model's width; measured.
    """

    passes: float = 1.0
    attended: float = 1.0
    widest: float = 1.0
    between: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Effort(Spec):
    """What thinking costs, against a decoder that only reads.

    passes: how often one token passes all blocks forward, in training, and when it is spoken, at most. mixes: how
    often logits become an expected embedding then. attended: how many slots all passes of one token look at, against
    the slots that one pass looks at in a decoder that only reads. kept: slots remembered for each token, and
    kept_least, for one that takes a single pass. mixed: how many tokens' embeddings an expected one is the mean of, all
    if None. held: what a training step holds of it.
    """

    training_passes: float = 1.0
    training_mixes: float = 0.0
    training_attended: float = 1.0
    speaking_passes: float = 1.0
    speaking_mixes: float = 0.0
    speaking_attended: float = 1.0
    kept: float = 1.0
    kept_least: float = 1.0
    mixed: int | None = None
    held: Held = field(default_factory=Held)


class Thinking(Protocol):
    """A way of thinking, as a module of its own parameters."""

    def __call__(self, reader: Reader, x_BTD: Tensor, layout: Layout, past: Memories | None, moment: Moment) -> Thought:
        """Think about embedded slots, after what is remembered; None if nothing is, nor will be."""
        ...

    def penalty(self, thought: Thought, hit_BT: Tensor, counts_BT: Tensor, moment: Moment) -> Tensor:
        """What is added to the loss, summed over the slots that count; `hit` is the probability of the true token."""
        ...

    def reset(self, generator: torch.Generator) -> None:
        """Give the own parameters the values that training starts from."""
        ...


class Thinker(nn.Module):
    """What most ways of thinking have: no penalty, and no parameters to set."""

    def penalty(self, thought: Thought, hit_BT: Tensor, counts_BT: Tensor, moment: Moment) -> Tensor:
        """Nothing is added to the loss."""
        return hit_BT.new_zeros(())

    def reset(self, generator: torch.Generator) -> None:
        """There is nothing to set."""


@dataclass(frozen=True, kw_only=True)
class PlainConfig(Spec):
    """Read once, and speak."""

    kind: Literal["plain"] = "plain"

    def effort(self) -> Effort:
        return Effort()

    def build(self, dim: int) -> Plain:
        return Plain()


class Plain(Thinker):
    """One pass."""

    def forward(self, reader: Reader, x_BTD: Tensor, layout: Layout, past: Memories | None, moment: Moment) -> Thought:
        reading = reader.read_once(x_BTD, layout, past[0] if past else None, remember=past is not None)
        return Thought(reading.h_BTD, memories(reading), torch.ones_like(layout.position_BT))


def memories(*readings: Reading) -> Memories:
    """What readings remember, one part each."""
    return tuple(reading.memory for reading in readings if reading.memory is not None)

"""Thinking on in latent steps, each token for as many as it decides (arXiv 2602.08220).

A token's state after the final norm is fed back as its next slot, at the same position and one deeper. A slot sees the
slots of earlier tokens and its own that lie no deeper than itself, so step k of all tokens is one pass, and speaking
token by token comes to the same. What no longer goes on leaves the computation, in training too.

Shape suffixes: B batch, T tokens, A slots of the row where most tokens go on, D model, K steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Layout, at_slots, wide
from .memory import Memories, Memory
from .spec import Spec
from .thinking import Effort, Held, Moment, Plain, Reader, Thought


@dataclass(frozen=True, kw_only=True)
class LatentCoTConfig(Spec):
    """Adaptive latent chain of thought (arXiv 2602.08220): at most `n_steps` steps after the first reading.

    From its state a token goes on with a probability; the product of these by now is its reach. Below a reach of `tau`
    it goes no further. The head reads each step's state by the share of the token that ends there. penalty: nats for
    going on, by the reach, times the probability (to the power `beta`) that the true token has already.

    The paper's own numbers for n_steps are 3 and 5. Its tau, its penalty's form and numbers, and whether steps share a
    router are not known to us: these are ours, and each step has its own router. Ours are also:
    bias_start: routers start at weight 0 and this bias; if its sigmoid is below `tau`, no step is ever taken, none can
    be learnt, and the model stays what it was. feed_scale: what a state is multiplied by when it is fed back.
    gain_warmup: over this share of the training the steps come in, their penalty with them: at its start a model is
    exactly the one it was, whatever its routers.
    """

    n_steps: int = 3
    tau: float = 0.1
    penalty: float = 0.05
    beta: float = 1.0
    bias_start: float = 1.0
    feed_scale: float = 1.0
    gain_warmup: float = 0.0
    kind: Literal["latent-cot"] = "latent-cot"

    def __post_init__(self) -> None:
        if self.n_steps < 0:
            raise ValueError(f"n_steps={self.n_steps} must be at least 0")
        if not 0 <= self.tau < 1:
            raise ValueError(f"tau={self.tau} must lie in 0..1, below 1: no token's reach is above 1")
        if self.penalty < 0 or self.beta < 0:
            raise ValueError(f"penalty={self.penalty} and beta={self.beta} must be at least 0")
        if self.feed_scale <= 0:
            raise ValueError(f"feed_scale={self.feed_scale} must be above 0")
        if not 0 <= self.gain_warmup <= 1:
            raise ValueError(f"gain_warmup={self.gain_warmup} is a share of the training: give 0 to 1")

    def gain(self, moment: Moment) -> float:
        """How much of what the steps change is told to the head."""
        return moment.grown(self.gain_warmup)

    def effort(self) -> Effort:
        passes = self.n_steps + 1.0
        attended = passes * (passes + 1) / 2
        return Effort(
            training_passes=passes,
            training_attended=attended,
            speaking_passes=passes,
            speaking_attended=attended,
            kept=passes,
            held=Held(passes=passes, attended=attended, between=14.0),
        )

    def build(self, dim: int) -> LatentCoT | Plain:
        return LatentCoT(dim, self) if self.n_steps else Plain()


@dataclass(frozen=True)
class Frontier:
    """Where the tokens of a text have come to.

    h_BTD: each one's newest state. reach_BT: how much of it has come so far, 0 where it has ended. said_BTD: what the
    head would read if all ended here. memory: all slots by now; None if no step will look at them.
    """

    h_BTD: Tensor
    reach_BT: Tensor
    said_BTD: Tensor
    passes_BT: Tensor
    memory: Memory | None


class LatentCoT(nn.Module):
    """One pass over all tokens, then one for each step over those that go on; over none only in step with others."""

    def __init__(self, dim: int, config: LatentCoTConfig) -> None:
        super().__init__()
        self.config = config
        self.router = StepRouter(dim, config.n_steps, config.bias_start)

    def reset(self, generator: torch.Generator) -> None:
        """Set the values that a training starts from; none is drawn."""
        self.router.reset()

    def forward(self, reader: Reader, x_BTD: Tensor, layout: Layout, past: Memories | None, moment: Moment) -> Thought:
        front = _first(reader, x_BTD, layout, past)
        onward: list[Tensor] = []
        for step in range(self.config.n_steps):
            onward_BT = front.reach_BT * self.router(front.h_BTD, step)
            onward.append(onward_BT)
            reach_BT = torch.where(onward_BT >= self.config.tau, onward_BT, 0.0)
            if not reader.in_step and not (reach_BT > 0).any():
                break
            remember = past is not None or step + 1 < self.config.n_steps
            front = self._step(reader, front, reach_BT, _deeper(layout, step + 1), moment, remember=remember)
        none_BT = torch.zeros_like(front.reach_BT)
        onward_KBT = torch.stack([*onward, *[none_BT] * (self.config.n_steps - len(onward))])
        memories = () if past is None or front.memory is None else (front.memory.held(),)
        return Thought(front.said_BTD.type_as(x_BTD), memories, front.passes_BT, onward_KBT)

    def penalty(self, thought: Thought, hit_BT: Tensor, counts_BT: Tensor, moment: Moment) -> Tensor:
        assert thought.onward_KBT is not None
        idle_BT = hit_BT**self.config.beta * thought.onward_KBT.sum(dim=0)
        return self.config.penalty * self.config.gain(moment) * (idle_BT * counts_BT).sum()

    def _step(
        self, reader: Reader, front: Frontier, reach_BT: Tensor, layout: Layout, moment: Moment, *, remember: bool
    ) -> Frontier:
        """Read on with what is left of each token; ending at a step or going on from it telescopes to its change."""
        goes_BT = reach_BT > 0
        slot_BA = _flush_left(goes_BT)
        x_BAD = at_slots(front.h_BTD, slot_BA) * self.config.feed_scale
        own = layout.without(~goes_BT).at(slot_BA)
        reading = reader.read_once(x_BAD, own, front.memory, remember=remember)
        h_BTD = front.h_BTD.scatter(1, slot_BA[..., None].expand_as(x_BAD), reading.h_BTD)
        change_BTD = h_BTD.type_as(front.said_BTD) - front.h_BTD.type_as(front.said_BTD)
        said_BTD = front.said_BTD + self.config.gain(moment) * reach_BT[..., None] * change_BTD
        return Frontier(h_BTD, reach_BT, said_BTD, front.passes_BT + goes_BT, reading.memory)


class StepRouter(nn.Module):
    """For each step the probability that a token goes on from its state; fp32 at least."""

    def __init__(self, dim: int, n_steps: int, bias_start: float) -> None:
        super().__init__()
        self.bias_start = bias_start
        self.weight = nn.Parameter(torch.zeros(n_steps, dim))
        self.bias = nn.Parameter(torch.full((n_steps,), bias_start))

    def forward(self, h_BTD: Tensor, step: int) -> Tensor:
        with torch.autocast(h_BTD.device.type, enabled=False):
            dtype = wide(h_BTD.dtype)
            logit_BT = F.linear(h_BTD.to(dtype), self.weight[step].to(dtype)) + self.bias[step].to(dtype)
        return logit_BT.sigmoid()

    @torch.no_grad()
    def reset(self) -> None:
        """Every token goes on with the same probability."""
        self.weight.zero_()
        self.bias.fill_(self.bias_start)


def _first(reader: Reader, x_BTD: Tensor, layout: Layout, past: Memories | None) -> Frontier:
    """What a plain reading makes of a text: all of every token."""
    reading = reader.read_once(x_BTD, _deeper(layout, 0), past[0] if past else None, remember=True)
    said_BTD = reading.h_BTD.to(wide(reading.h_BTD.dtype))
    passes_BT = torch.ones_like(layout.position_BT)
    return Frontier(reading.h_BTD, layout.is_text().type_as(said_BTD), said_BTD, passes_BT, reading.memory)


def _deeper(layout: Layout, depth: int) -> Layout:
    """The same places at this depth."""
    return replace(layout, depth_BT=torch.full_like(layout.position_BT, depth))


def _flush_left(chosen_BT: Tensor) -> Tensor:
    """Numbers of the chosen slots [B, A], followed by others where a row has fewer than the longest; one at least.

    One, because all processes must pass the blocks together, also one where no token goes on.
    """
    n_longest = max(1, int(chosen_BT.sum(dim=1).max()))
    return chosen_BT.int().argsort(dim=1, descending=True, stable=True)[:, :n_longest]

"""Thoughts in slots of their own, which all later slots see: PonderLM-2 (arXiv 2509.23184), PonderLM-3 (2603.02023).

A token's first thought is fed the state that its own slot came to, each further one that of the thought before. How
they are read is said in slots.py.

Shape suffixes: B batch, T tokens, K slots of a token (its own, then its thoughts), D model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Layout, RMSNormConfig, wide
from .memory import Memories
from .slots import Slots, Way, certain
from .spec import Spec
from .thinking import Effort, Held, Moment, Plain, Reader, Thinker, Thought


@dataclass(frozen=True, kw_only=True)
class LatentConfig(Spec):
    """What both ways have in common: at most `n_thoughts` for each token, read in sweeps after a staged start.

    train_sweeps: from these each training pass draws how many. eval_sweeps: how many otherwise. A token that is read
    alone after others needs none, and is exact. Ours: feed_scale: what a state is multiplied by when it is fed back, in
    a trained model best the size of its embeddings against that of its states. gain_warmup: over this share of the
    training thoughts come in: at its start none is seen, and a model is exactly the one it was.
    """

    n_thoughts: int = 1
    train_sweeps: tuple[int, ...] = (2, 3)
    eval_sweeps: int = 3
    feed_scale: float = 1.0
    gain_warmup: float = 0.0

    def __post_init__(self) -> None:
        if self.n_thoughts < 0:
            raise ValueError(f"n_thoughts={self.n_thoughts} must be at least 0")
        if not self.train_sweeps or min(self.train_sweeps) < 0:
            raise ValueError(f"train_sweeps={self.train_sweeps}: give one number or more, none below 0")
        if self.eval_sweeps < 0:
            raise ValueError(f"eval_sweeps={self.eval_sweeps} must be at least 0")
        if self.feed_scale <= 0:
            raise ValueError(f"feed_scale={self.feed_scale} must be above 0")
        if not 0 <= self.gain_warmup <= 1:
            raise ValueError(f"gain_warmup={self.gain_warmup} is a share of the training: give 0 to 1")

    def gain(self, moment: Moment) -> float:
        """How much of its thoughts a token has by now."""
        return moment.grown(self.gain_warmup)

    def sweeps(self, moment: Moment) -> int:
        """How many sweeps this time; the same on all processes."""
        if moment.seed is None:
            return self.eval_sweeps
        generator = torch.Generator().manual_seed(moment.seed)
        return self.train_sweeps[int(torch.randint(len(self.train_sweeps), (), generator=generator))]

    def effort(self) -> Effort:
        if not self.n_thoughts:
            return Effort()
        n_slots, n_mean, n_most = self.n_thoughts + 1, fmean(self.train_sweeps), max(self.train_sweeps)
        staged, staged_attended = sum(range(n_slots)), sum(n**2 for n in range(n_slots))
        return Effort(
            training_passes=staged + (1 + n_mean) * n_slots,
            training_attended=staged_attended + (1 + n_mean) * n_slots**2,
            speaking_passes=n_slots,
            speaking_attended=n_slots**2,
            kept=n_slots,
            held=Held(
                passes=staged + (1 + n_most) * n_slots,
                attended=staged_attended + (1 + n_most) * n_slots**2,
                widest=n_slots,
                between=4.0,
            ),
        )


@dataclass(frozen=True, kw_only=True)
class PonderLM2Config(LatentConfig):
    """PonderLM-2 (arXiv 2509.23184): every token has `n_thoughts`, and the head reads the last."""

    kind: Literal["ponderlm-2"] = "ponderlm-2"

    def build(self, dim: int) -> PonderLM2 | Plain:
        return PonderLM2(self) if self.n_thoughts else Plain()


@dataclass(frozen=True, kw_only=True)
class PonderLM3Config(LatentConfig):
    """PonderLM-3 (arXiv 2603.02023): from its own slot's state a token foresees how many thoughts it takes.

    All slots are read; the head gets their states by the probability that just so many thoughts are taken, attention
    looks at a thought by the probability that it is. When speaking, thoughts less probable than `prune` are neither
    seen nor remembered; 0 keeps all.

    The paper's are n_thoughts and prune. Not known to us, so ours: the sweeps; a norm and one matrix as router, which
    starts without a weight and with biases 0, 1, 2, ... times `bias_slope`: above 0, more thoughts are likelier.
    penalty: nats for each thought that a token takes, from 0 on over the share `penalty_warmup` of the training.
    """

    n_thoughts: int = 3
    train_sweeps: tuple[int, ...] = (4, 5)
    eval_sweeps: int = 4
    prune: float = 1e-4
    bias_slope: float = 1.0
    penalty: float = 3e-3
    penalty_warmup: float = 0.1
    kind: Literal["ponderlm-3"] = "ponderlm-3"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.prune < 1:
            raise ValueError(f"prune={self.prune} is compared with probabilities: give 0 to 1, below 1")
        if not math.isfinite(self.bias_slope):
            raise ValueError(f"bias_slope={self.bias_slope} is not a finite number")
        if self.penalty < 0:
            raise ValueError(f"penalty={self.penalty} must be at least 0")
        if not 0 <= self.penalty_warmup <= 1:
            raise ValueError(f"penalty_warmup={self.penalty_warmup} is a share of the training: give 0 to 1")

    def build(self, dim: int) -> PonderLM3 | Plain:
        return PonderLM3(dim, self) if self.n_thoughts else Plain()


class PonderLM2(Thinker):
    """The same number of thoughts for every token."""

    def __init__(self, config: PonderLM2Config) -> None:
        super().__init__()
        self.config = config

    def forward(self, reader: Reader, x_BTD: Tensor, layout: Layout, past: Memories | None, moment: Moment) -> Thought:
        gain, n_thoughts = self.config.gain(moment), self.config.n_thoughts

        def foresee(h_BTD: Tensor) -> Tensor:
            return _faded(certain(h_BTD, n_thoughts + 1), gain)

        way = Way(n_thoughts, self.config.feed_scale, None if gain == 1 else foresee)
        read = Slots(reader, x_BTD, layout, past, way).read(self.config.sweeps(moment))
        return Thought(read.said(), () if read.memory is None else (read.memory,), read.kept_BTK.sum(dim=-1))


class PonderLM3(nn.Module):
    """As many thoughts for each token as its router foresees."""

    def __init__(self, dim: int, config: PonderLM3Config) -> None:
        super().__init__()
        self.config = config
        self.router = StepRouter(dim, config.n_thoughts, config.bias_slope)

    def reset(self, generator: torch.Generator) -> None:
        """Set the values that a training starts from; none is drawn."""
        self.router.reset()

    def forward(self, reader: Reader, x_BTD: Tensor, layout: Layout, past: Memories | None, moment: Moment) -> Thought:
        gain = self.config.gain(moment)

        def foresee(h_BTD: Tensor) -> Tensor:
            return _faded(self.router(h_BTD), gain)

        prune = 0.0 if past is None else self.config.prune
        way = Way(self.config.n_thoughts, self.config.feed_scale, foresee, prune)
        read = Slots(reader, x_BTD, layout, past, way).read(self.config.sweeps(moment))
        memories = () if read.memory is None else (read.memory.held(),)
        mass_BTK = read.log_mass_BTK.exp()
        passes_BT = (mass_BTK >= self.config.prune).sum(dim=-1)  # as spoken: to score, all slots are read
        return Thought(read.said(), memories, passes_BT, mass_BTK[..., 1:].permute(2, 0, 1))

    def penalty(self, thought: Thought, hit_BT: Tensor, counts_BT: Tensor, moment: Moment) -> Tensor:
        assert thought.onward_KBT is not None
        weight = self.config.penalty * moment.grown(self.config.penalty_warmup)
        return weight * (thought.onward_KBT * counts_BT).sum()


class StepRouter(nn.Module):
    """For each k the log of the probability that a token takes k thoughts at least, [B, T, K]; fp32 at least."""

    def __init__(self, dim: int, n_thoughts: int, bias_slope: float) -> None:
        super().__init__()
        self.bias_slope = bias_slope
        self.norm = RMSNormConfig().build(dim)
        self.weight = nn.Parameter(torch.zeros(n_thoughts + 1, dim))
        self.bias = nn.Parameter(torch.arange(n_thoughts + 1.0) * bias_slope)

    def forward(self, h_BTD: Tensor) -> Tensor:
        with torch.autocast(h_BTD.device.type, enabled=False):
            dtype = wide(h_BTD.dtype)
            logit_BTK = F.linear(self.norm(h_BTD.to(dtype)), self.weight.to(dtype), self.bias.to(dtype))
        return logit_BTK.log_softmax(dim=-1).flip(-1).logcumsumexp(dim=-1).flip(-1)

    @torch.no_grad()
    def reset(self) -> None:
        """One thought more is e to the slope times as likely, for all tokens."""
        self.norm.weight.fill_(1.0)
        self.weight.zero_()
        self.bias.copy_(torch.arange(len(self.bias)) * self.bias_slope)


def _faded(log_mass_BTK: Tensor, gain: float) -> Tensor:
    """Thoughts `gain` times as likely; a token's own slot is certain."""
    thought_BTN = log_mass_BTK[..., 1:] + (math.log(gain) if gain else -math.inf)
    return F.pad(thought_BTN, (1, 0))

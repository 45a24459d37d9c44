"""Pondering: read, mix what the head expects to follow into the input of each token, and read again.

Every pass remembers its own keys: pass i of a token looks at pass i of the tokens before it. So what is spoken token by
token is what was trained in parallel.

Shape suffixes: B batch, T slots, A slots that are read again, D model, K steps, N gates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .going import Going
from .layers import Layout, wide
from .memory import Memories, Memory
from .mix import expected_embedding
from .spec import Spec
from .thinking import Effort, Held, Moment, Plain, Reader, Thinker, Thought, memories


@dataclass(frozen=True, kw_only=True)
class PonderLMConfig(Spec):
    """PonderLM (arXiv 2505.20674): `n_steps` times, the expected embedding is added to each token's input.

    top_k: how many most probable words are expected (all if None). accumulate: whether it is added to the last input
    or to the first. multiply_first: the first input times n_steps, as the larger official recipes do.
    gain_warmup (ours): the share of training over which what is added grows from nothing. At its beginning the model is
    exactly the one that it came from, without multiply_first.
    """

    n_steps: int = 3
    top_k: int | None = 100
    accumulate: bool = True
    multiply_first: bool = False
    gain_warmup: float = 0.0
    kind: Literal["ponderlm"] = "ponderlm"

    def __post_init__(self) -> None:
        _check(self.n_steps, self.top_k, self.gain_warmup)

    def effort(self) -> Effort:
        return _effort(self.n_steps, self.top_k, between=6.0)

    def build(self, dim: int) -> PonderLM:
        return PonderLM(self)


@dataclass(frozen=True, kw_only=True)
class AdaPonderLMConfig(Spec):
    """AdaPonderLM (arXiv 2603.01914): PonderLM whose tokens halt, each after as many steps as it needs.

    A gate after each pass says how much of what is expected is added; below `threshold` the token halts, its output is
    that of its last pass, and later passes of others see that pass's keys. The `weight`ed penalty is the mean of the
    smallest gates; which share of them grows from 0 to `share` between `share_from` and `share_to` of the training.

    Ours, where the paper is not known: share_from, share_to; gates of two layers with ReLU, halted tokens counting as
    gates of 0; bias_start, of which the sigmoid is where gates start, about 0.88, and start_std, the spread of their
    weights; gain_warmup as in PonderLM; and that each row's smallest gates are taken, so that the loss does not depend
    on how rows are dealt out.
    """

    n_steps: int = 3
    top_k: int | None = 100
    threshold: float = 1e-4
    weight: float = 0.1
    share: float = 0.1
    share_from: float = 0.2
    share_to: float = 0.6
    bias_start: float = 2.0
    start_std: float = 0.02
    gain_warmup: float = 0.0
    kind: Literal["adaponderlm"] = "adaponderlm"

    def __post_init__(self) -> None:
        _check(self.n_steps, self.top_k, self.gain_warmup)
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} must lie above 0 and at most at 1, as gates do")
        if self.weight < 0:
            raise ValueError(f"weight={self.weight} of the penalty must be at least 0")
        if self.start_std <= 0:
            raise ValueError(f"start_std={self.start_std} must be above 0, or nothing is learnt through gates")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share={self.share} of the gates must lie in 0..1")
        if not 0 <= self.share_from < self.share_to <= 1:
            raise ValueError(f"share_from={self.share_from} must lie before share_to={self.share_to}, both in 0..1")

    def effort(self) -> Effort:
        return _effort(self.n_steps, self.top_k, between=13.0)

    def build(self, dim: int) -> AdaPonderLM | Plain:
        return AdaPonderLM(dim, self) if self.n_steps else Plain()

    def share_at(self, done: float) -> float:
        """Which share of the gates is penalised when `done` of the training lies behind."""
        risen = (done - self.share_from) / (self.share_to - self.share_from)
        return self.share * min(1.0, max(0.0, risen))


class PonderLM(Thinker):
    """Every token takes every pass."""

    def __init__(self, config: PonderLMConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, reader: Reader, x_BTD: Tensor, layout: Layout, past: Memories | None, moment: Moment) -> Thought:
        config = self.config
        if config.multiply_first and config.n_steps:
            x_BTD = x_BTD * config.n_steps
        first, *others = _parts(past, config.n_steps)
        reading = reader.read_once(x_BTD, layout, first, remember=past is not None)
        kept = memories(reading)
        input_BTD = x_BTD
        for part in others:
            added_BTD = _expected(reader, reading.h_BTD, config.top_k, moment.grown(config.gain_warmup))
            input_BTD = (input_BTD if config.accumulate else x_BTD) + added_BTD
            reading = reader.read_once(input_BTD, layout, part, remember=past is not None)
            kept += memories(reading)
        return Thought(reading.h_BTD, kept, torch.full_like(layout.position_BT, 1 + config.n_steps))


class AdaPonderLM(nn.Module):
    """A pass reads only the tokens that go on; in step with others there are as many passes whatever the tokens."""

    def __init__(self, dim: int, config: AdaPonderLMConfig) -> None:
        super().__init__()
        self.config = config
        self.gates = nn.ModuleList(Gate(dim) for _ in range(config.n_steps))

    def forward(self, reader: Reader, x_BTD: Tensor, layout: Layout, past: Memories | None, moment: Moment) -> Thought:
        first, *others = _parts(past, self.config.n_steps)
        reading = reader.read_once(x_BTD, layout, first, remember=True)
        (read,) = memories(reading)
        state = State(x_BTD, reading.h_BTD, read, Going.of(layout.is_text()))
        kept, gates = [read], []
        passes_BT = torch.ones_like(layout.position_BT)
        for gate, part in zip(self.gates, others, strict=True):
            gate_BT = state.going.put(gate(state.going.take(state.h_BTD)))
            state = self._again(reader, state, gate_BT, part, moment)
            kept.append(state.read)
            gates.append(gate_BT)
            passes_BT = passes_BT + state.going.active_BT
        return Thought(state.h_BTD, () if past is None else tuple(kept), passes_BT, torch.stack(gates))

    def _again(self, reader: Reader, state: State, gate_BT: Tensor, part: Memory | None, moment: Moment) -> State:
        """Another pass of the tokens whose gates are open, which see what the halted ones were."""
        going = Going.of(gate_BT >= self.config.threshold)
        if not reader.in_step and not going.active_BT.any():
            return replace(state, read=_behind(part, state.own), going=going)
        grown = moment.grown(self.config.gain_warmup)
        added_BAD = _expected(reader, going.take(state.h_BTD), self.config.top_k, grown)
        x_BTD = state.x_BTD + going.put(added_BAD * going.take(gate_BT)[..., None].type_as(added_BAD))
        before = part if going.everywhere else _behind(part, going.halted(state.own))
        reading = reader.read_once(going.take(x_BTD), going.layout(state.own.layout), before, remember=True)
        (read,) = memories(reading)
        h_BTD = torch.where(going.active_BT[..., None], going.put(reading.h_BTD), state.h_BTD)
        return State(x_BTD, h_BTD, read if going.everywhere else _behind(part, going.in_order(read)), going)

    def penalty(self, thought: Thought, hit_BT: Tensor, counts_BT: Tensor, moment: Moment) -> Tensor:
        assert thought.onward_KBT is not None
        gate_BX = thought.onward_KBT.masked_fill(~counts_BT, torch.inf).transpose(0, 1).flatten(1)
        n_counts_B = counts_BT.sum(dim=1)
        n_lowest_B = (self.config.share_at(moment.done) * len(thought.onward_KBT) * n_counts_B).int()
        rank_X = torch.arange(gate_BX.shape[1], device=gate_BX.device)
        lowest_BX = gate_BX.sort(dim=1).values.where(rank_X < n_lowest_B[:, None], 0)
        return self.config.weight * (lowest_BX.sum(dim=1) / n_lowest_B.clamp(min=1) * n_counts_B).sum()

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Small weights and open gates: about equally much is added to all tokens."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(self.config.bias_start if name.endswith("outer.bias") else 0.0)
            else:
                parameter.normal_(std=self.config.start_std, generator=generator)


class Gate(nn.Module):
    """How much of what is expected is added to each token, in 0..1; in fp32 at least."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, 4 * dim)
        self.outer = nn.Linear(4 * dim, 1)

    def forward(self, h_BAD: Tensor) -> Tensor:
        with torch.autocast(h_BAD.device.type, enabled=False):
            return _wide_linear(self.outer, _wide_linear(self.inner, h_BAD).relu())[..., 0].sigmoid()


@dataclass(frozen=True)
class State:
    """Tokens between two passes: their last input, what each came to in its last pass, who went on.

    read: what the next tokens' pass of the same number will look at, of which these tokens' keys are the last.
    """

    x_BTD: Tensor
    h_BTD: Tensor
    read: Memory
    going: Going

    @property
    def own(self) -> Memory:
        """Each token's keys in its last pass."""
        return self.read.last(self.x_BTD.shape[1])


def _parts(past: Memories | None, n_steps: int) -> list[Memory | None]:
    """What each pass remembers."""
    return [None] * (1 + n_steps) if not past else list(past)


def _behind(part: Memory | None, own: Memory) -> Memory:
    """Tokens' keys, behind what the pass remembers."""
    return own if part is None else part.then(own)


def _expected(reader: Reader, h_BTD: Tensor, top_k: int | None, gain: float) -> Tensor:
    """The mean of the inputs that may follow each slot, times `gain`."""
    mixed_SD = expected_embedding(h_BTD.flatten(0, 1), reader.head_VD, reader.embedding_VD, top_k)
    return mixed_SD.view_as(h_BTD) * (reader.embed_scale * gain)


def _wide_linear(linear: nn.Linear, x: Tensor) -> Tensor:
    dtype = wide(x.dtype)
    return F.linear(x.to(dtype), linear.weight.to(dtype), linear.bias.to(dtype))


def _effort(n_steps: int, top_k: int | None, between: float) -> Effort:
    """Of every token taking every pass; one that halts is remembered in the passes that it does not take, too."""
    passes, mixes = 1.0 + n_steps, float(n_steps)
    return Effort(
        training_passes=passes,
        training_mixes=mixes,
        training_attended=passes,
        speaking_passes=passes,
        speaking_mixes=mixes,
        speaking_attended=passes,
        kept=passes,
        kept_least=passes,
        mixed=top_k,
        held=Held(passes=passes, attended=passes, between=between),
    )


def _check(n_steps: int, top_k: int | None, gain_warmup: float) -> None:
    if n_steps < 0:
        raise ValueError(f"n_steps={n_steps} must not be negative")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} must be at least 1, or null for all words")
    if not 0 <= gain_warmup <= 1:
        raise ValueError(f"gain_warmup={gain_warmup} is a share of the training: it must lie in 0..1")

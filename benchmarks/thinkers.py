"""Every way of thinking beside a decoder that only reads: the time of a training step and of speaking, and the FLOPs.

python benchmarks/thinkers.py [--device cuda] [--shape wide] [--seconds 12] [--out FOLDER] [--quick]

Shape suffixes: B prompts, T slots.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from lessons import own_lesson
from machine import Scale, Setting, asked
from measure import Contestant, Goal, Race, Ratio, Timing, race, times_as_long
from shapes import random_text
from tables import publish
from torch import Tensor

from innovator.models.attention import AttentionConfig
from innovator.models.cost import cost
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.depth import DepthAttention
from innovator.models.latent import PonderLM2Config, PonderLM3Config
from innovator.models.latent_cot import LatentCoTConfig
from innovator.models.layers import Layout, SwiGLUConfig
from innovator.models.loops import LoopConfig, PauseConfig
from innovator.models.memory import Memories
from innovator.models.ponder import AdaPonderLMConfig, PonderLMConfig
from innovator.models.ways import ThinkingConfig

PLAIN, ARITHMETIC = "plain", "wide"
OVERHEAD = Goal("<=", 1.15)
# A training step draws no number of sweeps here, so that all rounds do the same.
WAYS: dict[str, ThinkingConfig] = {
    "loop": LoopConfig(n_loops=4),
    "pause": PauseConfig(n_pauses=3),
    "ponderlm": PonderLMConfig(n_steps=3),
    "adaponderlm": AdaPonderLMConfig(n_steps=3),
    "ponderlm-2": PonderLM2Config(n_thoughts=1, train_sweeps=(3,), eval_sweeps=3),
    "ponderlm-3": PonderLM3Config(n_thoughts=3, train_sweeps=(4,), eval_sweeps=4),
    "latent-cot": LatentCoTConfig(n_steps=3),
}
DEPTH = "depth-attention"


@dataclass(frozen=True)
class ThinkerShape:
    """A decoder, the batch of a training step, and how many tokens are spoken after prompts of `seq_len`."""

    config: DecoderConfig
    rows: int
    seq_len: int
    n_new: int
    prompts: tuple[int, ...]

    def configs(self) -> dict[str, DecoderConfig]:
        """The decoder with each way of thinking, and with Depth-Attention."""
        depth = DepthAttention(stride=max(1, self.config.n_layers // 2))
        return {
            PLAIN: self.config,
            **{name: replace(self.config, thinking=way) for name, way in WAYS.items()},
            DEPTH: replace(self.config, attention=replace(self.config.attention, depth=depth)),
        }


def decoder(vocab_size: int, dim: int, n_layers: int, n_heads: int, hidden: int) -> DecoderConfig:
    """A dense decoder."""
    attention = AttentionConfig(n_heads=n_heads, n_kv_heads=n_heads, head_dim=dim // n_heads)
    ffn = SwiGLUConfig(hidden=hidden)
    return DecoderConfig(vocab_size=vocab_size, dim=dim, n_layers=n_layers, attention=attention, ffn=ffn)


TINY = ThinkerShape(decoder(128, 32, 2, 2, 32), rows=2, seq_len=16, n_new=3, prompts=(1, 3))
PONDER = ThinkerShape(decoder(1024, 64, 4, 2, 128), rows=8, seq_len=128, n_new=16, prompts=(1, 16))
WIDE = ThinkerShape(decoder(1024, 192, 6, 3, 512), rows=2, seq_len=128, n_new=16, prompts=(1, 16))
LARGE = ThinkerShape(decoder(32_000, 1024, 12, 16, 2816), rows=8, seq_len=512, n_new=16, prompts=(1, 16))
SHAPES: dict[Scale, dict[str, ThinkerShape]] = {
    "quick": {"tiny": TINY},
    "cpu": {"ponder": PONDER, ARITHMETIC: WIDE},
    "cuda": {ARITHMETIC: LARGE},
}


@dataclass(frozen=True)
class Begun:
    """Prompts that have been read: what is remembered of them, and the tokens that follow."""

    model: Decoder
    memories: Memories
    token_B1: Tensor
    layout: Layout

    @classmethod
    def of(cls, model: Decoder, tokens_BT: Tensor) -> Begun:
        """Read all but the last token of each prompt."""
        layout = Layout.of(tokens_BT)
        with torch.inference_mode():
            thought = model.read(tokens_BT[:, :-1], Layout.of(tokens_BT[:, :-1]), ())
        return cls(model, thought.memories, tokens_BT[:, -1:], layout.last(1))

    @torch.inference_mode()
    def speak(self, n_new: int) -> tuple[Tensor, Tensor]:
        """What comes next, greedily, and how many passes each token took; both [B, T]."""
        token_B1, layout, memories = self.token_B1, self.layout, self.memories
        spoken, passes = [], []
        for _ in range(n_new):
            thought = self.model.read(token_B1, layout, memories)
            memories = thought.memories
            token_B1 = self.model.unembed(thought.h_BTD[:, -1]).argmax(dim=-1, keepdim=True)
            layout = replace(layout, position_BT=layout.position_BT + 1)
            spoken.append(token_B1)
            passes.append(thought.passes_BT)
        return torch.cat(spoken, dim=1), torch.cat(passes, dim=1)


def measured(shape: ThinkerShape, name: str, setting: Setting) -> Iterator[Race]:
    """One size: training, then speaking with fewer and with more prompts at once."""
    models = {who: fresh(config, setting) for who, config in shape.configs().items()}
    goal = OVERHEAD if name == ARITHMETIC else None
    batch = random_text(shape, setting)
    lessons = [trained(who, model.train(), shape, batch) for who, model in models.items()]
    yield compared(f"{name}: a training step of {shape.rows} x {shape.seq_len} tokens", lessons, goal, setting)
    del lessons
    for n_prompts in shape.prompts:
        tokens_BT, _ = random_text(replace(shape, rows=n_prompts), setting)
        speakers = [spoken(who, model.eval(), shape, tokens_BT) for who, model in models.items()]
        title = (
            f"{name}: prompts: {n_prompts}, of {shape.seq_len} tokens that are read before, continued by {shape.n_new}"
        )
        yield compared(title, speakers, goal, setting)


def fresh(config: DecoderConfig, setting: Setting) -> Decoder:
    """A model as training starts from it: gates and routers are open, and every token takes all passes."""
    with setting.device:
        model = Decoder(config).to(setting.dtype)
    model.to("cpu").initialize(seed=0)
    return model.to(setting.device)


def trained(who: str, model: Decoder, shape: ThinkerShape, batch: tuple[Tensor, Tensor]) -> Contestant:
    """A whole training step."""
    n_tokens = batch[0].numel()
    flops = cost(model.config, shape.seq_len).training * n_tokens
    return Contestant(who, own_lesson(model, batch).step, flops, n_tokens)


def spoken(who: str, model: Decoder, shape: ThinkerShape, tokens_BT: Tensor) -> Contestant:
    """New tokens; the FLOPs are those of the passes that they take."""
    begun, n_tokens = Begun.of(model, tokens_BT), len(tokens_BT) * shape.n_new
    _, passes_BT = begun.speak(shape.n_new)
    seen = shape.seq_len + shape.n_new / 2
    flops = cost(model.config, round(2 * seen)).speaking(passes_BT.float().mean().item()) * n_tokens
    return Contestant(who, partial(begun.speak, shape.n_new), flops, n_tokens)


def compared(title: str, contestants: Sequence[Contestant], goal: Goal | None, setting: Setting) -> Race:
    """Everybody against who only reads."""
    timings = race(contestants, setting)
    return Race(title, timings, [overhead(timings, it.name, goal) for it in contestants if it.name != PLAIN])


def overhead(timings: Mapping[str, Timing], who: str, goal: Goal | None) -> Ratio:
    """How much longer it takes than its FLOPs say."""
    time = times_as_long(timings, who, PLAIN)
    flops = timings[who].flops / timings[PLAIN].flops
    return Ratio(
        f"{who}: {time:.3g} times the time, {flops:.3g} times the FLOPs of plain: overhead", time / flops, goal
    )


def main() -> None:
    """All shapes that were asked for."""
    setting, names = asked(__doc__, {scale: tuple(shapes) for scale, shapes in SHAPES.items()})
    shapes = SHAPES[setting.scale]
    publish("thinkers", (it for name in names for it in measured(shapes[name], name, setting)), setting)


if __name__ == "__main__":
    main()

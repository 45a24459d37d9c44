"""A mixture in a feed-forward's place, forward and backward, beside a dense one of equal active FLOPs and transformers.

python benchmarks/layer.py [--device cuda] [--shape fine] [--seconds 12] [--out FOLDER] [--quick]

Shape suffixes: B rows, T slots, S = B*T tokens, D model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from machine import Setting, asked
from measure import Contestant, Goal, Race, Ratio, Timing, agree, limit, race, share_of_limit, sketch, times_as_long
from shapes import LAYERS, LayerShape, draw
from tables import publish
from theirs import TheirLayer, able, named
from torch import Tensor, nn

from innovator.models.layers import Layout, SwiGLU
from innovator.models.moe import MoE

DENSE, OURS, TRAINED = "dense SwiGLU", "ours", "ours, with its losses"
ROWS = 8
TILT, SEED = 0.5, 1000
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-2}  # batched_mm sums gradients of weights in bf16: 3e-2
WITHIN = Goal("<=", 1.30)
OF_LIMIT = Goal(">=", 0.55)
FASTER = Goal(">=", 2.0)


@dataclass(frozen=True)
class Feed:
    """What passes the layer, and the gradient that comes back."""

    x_SD: Tensor
    dy_SD: Tensor

    @classmethod
    def draw(cls, shape: LayerShape, setting: Setting) -> Feed:
        """Tokens that lean to one side, as hidden states do, so that the router favours some experts."""
        generator = torch.Generator().manual_seed(SEED)
        tilt_D = TILT * torch.randn(shape.dim, generator=generator)
        x_SD, dy_SD = torch.randn(2, shape.n_tokens, shape.dim, generator=generator)
        x_SD = (x_SD + tilt_D).to(setting.device, setting.dtype).requires_grad_()
        return cls(x_SD, dy_SD.to(setting.device, setting.dtype))

    def go(self, forward: Callable[[Tensor], Tensor], module: nn.Module) -> None:
        """Forward and backward, and let go of the gradients."""
        forward(self.x_SD).backward(self.dy_SD)
        self.clear(module)

    def clear(self, module: nn.Module) -> None:
        """Let go of the gradients."""
        self.x_SD.grad = None
        module.zero_grad(set_to_none=True)

    def outcome(self, forward: Callable[[Tensor], Tensor], module: nn.Module) -> dict[str, Tensor]:
        """Sketches of the output and of all gradients."""
        y_SD = forward(self.x_SD)
        y_SD.backward(self.dy_SD)
        gradients = {name: it.grad for name, it in (("input", self.x_SD), *module.named_parameters())}
        found = sketch({"output": y_SD, **{name: it for name, it in gradients.items() if it is not None}})
        self.clear(module)
        return found


def measured(shape: LayerShape, name: str, setting: Setting) -> Race:
    """One shape."""
    feed = Feed.draw(shape, setting)
    with setting.device:
        moe = MoE(shape.dim, shape.config, layer=0).to(setting.dtype).eval()
        dense = SwiGLU(shape.dim, shape.config.dense.hidden).to(setting.dtype)
    for module in (moe, dense):
        draw(module, shape.dim**-0.5)
    ways, notes = forwards(moe, shape, setting)
    agreement = agreed(feed, ways, moe, setting)
    ways[TRAINED] = lambda x_SD: with_losses(moe, x_SD)
    contestants = [limit(setting), contestant(DENSE, dense.mix, feed, dense, shape)]
    contestants += [contestant(it, forward, feed, moe, shape) for it, forward in ways.items()]
    timings = race(contestants, setting)
    title = f"{name}: {shape.dim}-{shape.n_experts}-{shape.width}-{shape.top_k}, {shape.n_tokens} tokens"
    return Race(title, timings, ratios(timings, setting), (agreement, imbalance(moe, feed), *notes))


def forwards(
    moe: MoE, shape: LayerShape, setting: Setting
) -> tuple[dict[str, Callable[[Tensor], Tensor]], tuple[str, ...]]:
    """Every way to compute the mixture, and notes on those left out."""
    theirs = TheirLayer(moe)
    setups, notes = able(shape.config, shape.dim, shape.n_tokens, setting)
    ways: dict[str, Callable[[Tensor], Tensor]] = {OURS: lambda x_SD: alone(moe, x_SD)}
    for setup in setups:
        ways[named(setup)] = partial(theirs, setup=setup)
    return ways, notes


def agreed(feed: Feed, ways: Mapping[str, Callable[[Tensor], Tensor]], moe: MoE, setting: Setting) -> str:
    """Hold every way to what ours computes."""
    ours = feed.outcome(ways[OURS], moe)
    others = {name: feed.outcome(forward, moe) for name, forward in ways.items() if name != OURS}
    return agree(ours, others, TOLERANCE[setting.dtype], "outputs and gradients")


def contestant(
    name: str, forward: Callable[[Tensor], Tensor], feed: Feed, module: nn.Module, shape: LayerShape
) -> Contestant:
    """A way to compute it, as it is timed."""
    return Contestant(name, lambda: feed.go(forward, module), shape.flops, shape.n_tokens)


def alone(moe: MoE, x_SD: Tensor) -> Tensor:
    """The mixture without its router's losses: the same work as transformers' layer."""
    moe.eval()
    return through(moe, x_SD)


def with_losses(moe: MoE, x_SD: Tensor) -> Tensor:
    """The mixture as it stands in a training step."""
    moe.train()
    return through(moe, x_SD)


def through(moe: MoE, x_SD: Tensor) -> Tensor:
    """The mixture, whose losses ask for rows, over tokens in rows."""
    x_BTD = x_SD.unflatten(0, (ROWS, -1))
    y_BTD: Tensor = moe(x_BTD, Layout.of(x_BTD[..., 0]))
    return y_BTD.flatten(0, 1)


@torch.no_grad()
def imbalance(moe: MoE, feed: Feed) -> str:
    """One sentence on how unevenly the router deals."""
    load_E = moe.router(feed.x_SD).load(torch.ones(len(feed.x_SD), dtype=torch.bool, device=feed.x_SD.device))
    return f"the busiest expert has {float(load_E.max() / load_E.mean()):.1f} times the mean of the tokens"


def ratios(timings: Mapping[str, Timing], setting: Setting) -> tuple[Ratio, ...]:
    """Ours against everybody; the goals are those of whole layers, on the device they were set for."""
    gpu = setting.device.type == "cuda"
    found = [
        Ratio(f"{it}: time, times the dense layer's", times_as_long(timings, it, DENSE), None if gpu else WITHIN)
        for it in (OURS, TRAINED)
    ]
    found.append(Ratio("ours: share of the limit", share_of_limit(timings, OURS), OF_LIMIT if gpu else None))
    for name in timings:
        if name.startswith("transformers"):
            goal = FASTER if gpu and "grouped_mm" in name else None
            found.append(Ratio(f"ours: speed, times {name}", times_as_long(timings, name, OURS), goal))
    return tuple(found)


def main() -> None:
    """All shapes that were asked for."""
    setting, names = asked(__doc__, {scale: tuple(shapes) for scale, shapes in LAYERS.items()})
    publish("layer", (measured(LAYERS[setting.scale][name], name, setting) for name in names), setting)


if __name__ == "__main__":
    main()

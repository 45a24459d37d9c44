"""How the time of a step grows with the number of experts, with the length of rows, with the number of disciplines.

python benchmarks/growth.py [--device cuda] [--shape experts] [--seconds 12] [--out FOLDER] [--quick]

Shape suffixes: B rows, T slots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from lessons import Lesson, own_lesson
from machine import Scale, Setting, asked
from measure import Contestant, Goal, Race, Ratio, limit, race, times_as_long
from shapes import ModelShape, build, dense_model, random_text, upcycled
from tables import publish

from innovator.models.layers import Layout
from innovator.models.moe import MoEConfig

FLAT, FLAT_UP_TO = Goal("<=", 1.15), 128
WITH_OPTIMIZER = ", with the optimizer"


@dataclass(frozen=True)
class Ground:
    """What does not grow: a model of 32 experts, and the numbers tried along each axis."""

    shape: ModelShape
    n_experts: tuple[int, ...]
    seq_lens: tuple[int, ...]
    n_disciplines: tuple[int, ...]


def ground(dim: int, n_heads: int, hidden: int, width: int, n_layers: int, rows: int) -> ModelShape:
    """A model whose experts have a given width, four of them chosen, and rows of 512 tokens."""
    dense = dense_model(4096, dim, n_layers, n_heads, n_heads // 2, hidden)
    config = upcycled(dense, n_sources=4, n_parts=hidden // width, top_k=4)
    return ModelShape(config, rows, seq_len=512)


SMALL = ground(dim=32, n_heads=2, hidden=64, width=16, n_layers=1, rows=1)
MIDDLE = ground(dim=256, n_heads=4, hidden=704, width=88, n_layers=2, rows=8)
LARGE = ground(dim=896, n_heads=14, hidden=4864, width=608, n_layers=4, rows=32)
GROUNDS: dict[Scale, Ground] = {
    "quick": Ground(SMALL, n_experts=(8, 16), seq_lens=(64, 128), n_disciplines=(2, 4)),
    "cpu": Ground(MIDDLE, (8, 16, 32, 64, 128, 256), (128, 256, 512, 1024, 2048), (2, 4, 8, 16, 32)),
    "cuda": Ground(LARGE, (8, 16, 32, 64, 128, 256), (512, 1024, 2048, 4096, 8192), (2, 4, 8, 16, 32)),
}


def by_experts(base: Ground, setting: Setting) -> Race:
    """More experts of the same width, four chosen of each: the same active FLOPs, and more weights to move."""
    moe = base.shape.mixture
    shapes = {f"{n} experts": mixed(base.shape, replace(moe, n_experts=n)) for n in base.n_experts}
    lessons = {name: lesson(shape, setting) for name, shape in shapes.items()}
    contestants = [limit(setting)]
    for name, it in lessons.items():
        contestants.append(contestant(name, it.forth_and_back, shapes[name]))
        contestants.append(contestant(name + WITH_OPTIMIZER, it.step, shapes[name]))
    timings = race(contestants, setting)
    first, *more = lessons
    ratios = [
        Ratio(f"{name}: time, times that of {first}", times_as_long(timings, name, first), flat(name)) for name in more
    ]
    return Race("number of experts, forward and backward", timings, ratios)


def by_length(base: Ground, setting: Setting) -> Race:
    """The same tokens in fewer and longer rows, each one document."""
    shapes = {f"rows of {length} tokens": in_rows(base.shape, length) for length in base.seq_lens}
    return steps("length of rows, a training step", shapes, setting)


def by_disciplines(base: Ground, setting: Setting) -> Race:
    """The same experts dealt out to more disciplines, each of which the router's losses look at."""
    moe = base.shape.mixture
    shapes = {f"{n} disciplines": mixed(base.shape, replace(moe, n_disciplines=n)) for n in base.n_disciplines}
    return steps("number of disciplines, a training step", shapes, setting)


def steps(title: str, shapes: dict[str, ModelShape], setting: Setting) -> Race:
    """Whole steps, each compared with the first."""
    contestants = [limit(setting)]
    contestants += [contestant(name, lesson(shape, setting).step, shape) for name, shape in shapes.items()]
    timings = race(contestants, setting)
    first, *more = shapes
    ratios = [Ratio(f"{name}: time, times that of {first}", times_as_long(timings, name, first)) for name in more]
    return Race(title, timings, ratios)


def mixed(shape: ModelShape, moe: MoEConfig) -> ModelShape:
    """The same model with another mixture in every layer."""
    return replace(shape, config=replace(shape.config, ffn=moe))


def in_rows(shape: ModelShape, seq_len: int) -> ModelShape:
    """The same number of tokens in rows of this length."""
    return replace(shape, rows=shape.n_tokens // seq_len, seq_len=seq_len)


def lesson(shape: ModelShape, setting: Setting) -> Lesson:
    """Rows of all disciplines in turn, so that every loss of the router has work."""
    tokens_BT, target_BT = random_text(shape, setting)
    plain = Layout.of(tokens_BT)
    label_B = torch.arange(shape.rows, device=setting.device) % shape.mixture.n_disciplines
    layout = replace(plain, label_BT=label_B[:, None].expand_as(tokens_BT))
    return own_lesson(build(shape.config, setting), (tokens_BT, target_BT), layout)


def contestant(name: str, go: Callable[[], None], shape: ModelShape) -> Contestant:
    """A step as it is timed."""
    return Contestant(name, go, shape.step_flops(shape.config), shape.n_tokens)


def flat(name: str) -> Goal | None:
    """Up to so many experts their number should not matter."""
    return FLAT if int(name.split()[0]) <= FLAT_UP_TO else None


AXES = {"experts": by_experts, "length": by_length, "disciplines": by_disciplines}


def main() -> None:
    """All axes that were asked for."""
    setting, names = asked(__doc__, dict.fromkeys(("quick", "cpu", "cuda"), tuple(AXES)))
    publish("growth", (AXES[name](GROUNDS[setting.scale], setting) for name in names), setting)


if __name__ == "__main__":
    main()

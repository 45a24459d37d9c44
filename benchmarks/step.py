"""A training step of a mixture, beside transformers with the same weights and a dense model of equal active FLOPs.

python benchmarks/step.py [--device cuda] [--shape fine] [--seconds 12] [--out FOLDER] [--quick]

Shape suffixes: B rows, T slots.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from lessons import Lesson, optimizer, own_lesson
from machine import Setting, asked
from measure import (
    Contestant,
    Goal,
    Race,
    Ratio,
    Timing,
    agree,
    fastest,
    limit,
    more_memory,
    race,
    share_of_limit,
    sketch,
    times_as_long,
)
from shapes import MODELS, ModelShape, build, random_text
from tables import publish
from theirs import Setup, TheirModel, able, named
from torch import Tensor, nn
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeDecoderLayer

from innovator.models.decoder import Block, Decoder

DENSE, OURS, THEIRS = "our dense model", "ours", "transformers"
USUAL: Setup = "grouped_mm"
COMPILED = (DENSE, OURS, named(USUAL))
EXACT = 1e-4
TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.5}  # where two experts nearly tie, either may be chosen
FASTER = {"cpu": Goal(">=", 1.4), "cuda": Goal(">=", 2.0)}
OF_DENSE = {"cuda": Goal(">=", 0.8)}
NO_MORE = Goal("<=", 1.0)


def measured(shape: ModelShape, name: str, setting: Setting) -> Race:
    """One shape."""
    ours, dense = build(shape.config, setting), build(shape.dense, setting)
    theirs = TheirModel(ours, setting)
    batch = random_text(shape, setting)
    setups, notes = able(shape.mixture, shape.config.dim, shape.n_tokens, setting)
    agreements = proof(shape, setting), agreed(ours, theirs, setups, batch, TOLERANCE[setting.dtype])
    lessons = {DENSE: own_lesson(dense, batch), OURS: own_lesson(ours, batch), **their_lessons(theirs, setups, batch)}
    contestants = [limit(setting), *(contestant(who, it.eager_step, shape) for who, it in lessons.items())]
    contestants += compiled(lessons, shape, setting)
    timings = race(contestants, setting)
    title = f"{name}: {shape.rows} rows of {shape.seq_len} tokens, a training step"
    return Race(title, timings, tuple(ratios(timings, setting)), (*agreements, *sizes(shape), *notes))


def their_lessons(theirs: TheirModel, setups: Sequence[Setup], batch: tuple[Tensor, Tensor]) -> dict[str, Lesson]:
    """Every way that transformers knows, on one and the same model and optimizer."""
    moved_by = optimizer(theirs.model)

    def loss(setup: Setup) -> Tensor:
        theirs.use(setup)
        return theirs.loss(*batch)

    return {named(it): Lesson(theirs.model, partial(loss, it), moved_by) for it in setups}


def proof(shape: ModelShape, setting: Setting) -> str:
    """Hold transformers to our loss and gradients where rounding is fine: two layers, few tokens, fp32 on the CPU."""
    config = replace(shape.config, n_layers=2, vocab_size=128)
    few, careful = ModelShape(config, rows=1, seq_len=32), replace(setting, device=torch.device("cpu"))
    ours = build(config, careful)
    agreement = agreed(ours, TheirModel(ours, careful), (USUAL,), random_text(few, careful), EXACT)
    return f"two layers, {few.n_tokens} tokens, fp32: {agreement}"


def agreed(
    ours: Decoder, theirs: TheirModel, setups: Sequence[Setup], batch: tuple[Tensor, Tensor], tolerance: float
) -> str:
    """Hold transformers to our loss and gradients."""
    lesson = own_lesson(ours, batch)
    reference = outcome(lesson, lambda: {name: grad(it) for name, it in ours.named_parameters()})
    found = {
        who: outcome(it, lambda: theirs.gradients(ours)) for who, it in their_lessons(theirs, setups, batch).items()
    }
    return agree(reference, found, tolerance, "loss and gradients")


def outcome(lesson: Lesson, gradients: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Sketches of the loss and of all gradients under our names."""
    loss = lesson.loss()
    loss.backward()
    found = sketch({"loss": loss.detach()[None], **gradients()})
    lesson.optimizer.zero_grad(set_to_none=True)
    return found


def grad(parameter: nn.Parameter) -> Tensor:
    """Its gradient, which is there."""
    assert parameter.grad is not None
    return parameter.grad


def compiled(lessons: Mapping[str, Lesson], shape: ModelShape, setting: Setting) -> Iterator[Contestant]:
    """Some of them with each layer compiled, as our engine does it; takes a while, and a C++ compiler."""
    if setting.quick or shutil.which("c++") is None:
        return
    for who in COMPILED:
        for part in lessons[who].model.modules():
            if isinstance(part, Block | Qwen2MoeDecoderLayer):
                part.compile()
        yield contestant(f"{who}, compiled", lessons[who].step, shape)


def contestant(name: str, step: Callable[[], None], shape: ModelShape) -> Contestant:
    """A step as it is timed."""
    config = shape.dense if name.startswith(DENSE) else shape.config
    return Contestant(name, step, shape.step_flops(config), shape.n_tokens)


def sizes(shape: ModelShape) -> Iterator[str]:
    """One sentence on each model's parameters."""
    for what, config in (("the mixture", shape.config), ("the dense model", shape.dense)):
        count = shape.count(config)
        yield f"{what} has {count.total / 1e6:,.1f} million parameters, {count.active / 1e6:,.1f} of them active"


def ratios(timings: Mapping[str, Timing], setting: Setting) -> Iterator[Ratio]:
    """The faster of ours, plain or compiled, against everybody of theirs, and against the faster dense model."""
    ours, dense, theirs = (fastest(timings, who) for who in (OURS, DENSE, THEIRS))
    for name in timings:
        if name.startswith(THEIRS):
            goal = FASTER[setting.device.type] if name == theirs else None
            yield Ratio(f"{ours}: speed, times {name}", times_as_long(timings, name, ours), goal)
    of_dense = share_of_limit(timings, ours) / share_of_limit(timings, dense)
    yield Ratio(f"{ours}: share of the FLOP utilisation of {dense}", of_dense, OF_DENSE.get(setting.device.type))
    if (memory := more_memory(timings, ours, theirs)) is not None:
        yield Ratio(f"{ours}: peak memory beside weights and optimizer, times {theirs}", memory, NO_MORE)


def loss_alone(shape: ModelShape, name: str, setting: Setting) -> Race:
    """A model without layers: embedding, norm, head and loss, forward and backward."""
    bare = replace(shape, config=replace(shape.config, n_layers=0))
    ours = build(bare.config, setting)
    theirs, batch = TheirModel(ours, setting), random_text(bare, setting)
    agreement = agreed(ours, theirs, (USUAL,), batch, TOLERANCE[setting.dtype])
    lessons = {OURS: own_lesson(ours, batch), THEIRS: their_lessons(theirs, (USUAL,), batch)[named(USUAL)]}
    contestants = [Contestant(who, it.forth_and_back, n_tokens=bare.n_tokens) for who, it in lessons.items()]
    timings = race(contestants, setting)
    memory = more_memory(timings, OURS, THEIRS)
    found = () if memory is None else (Ratio("ours: peak memory, times transformers", memory, NO_MORE),)
    title = f"{name}: the loss alone, {bare.n_tokens} tokens, vocabulary {bare.config.vocab_size}"
    return Race(title, timings, found, (agreement,))


def races(shape: ModelShape, name: str, setting: Setting) -> Iterator[Race]:
    """The step, and the loss alone where the device tells how much memory it takes."""
    yield measured(shape, name, setting)
    if setting.scale != "cpu":
        yield loss_alone(shape, name, setting)


def main() -> None:
    """All shapes that were asked for."""
    setting, names = asked(__doc__, {scale: tuple(shapes) for scale, shapes in MODELS.items()})
    publish("step", (it for name in names for it in races(MODELS[setting.scale][name], name, setting)), setting)


if __name__ == "__main__":
    main()

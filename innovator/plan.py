"""What a run will take, before anything is launched: parameters, tokens, arithmetic, time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.table import Table

from innovator.export.subject import Subject
from innovator.export.targets import outlook
from innovator.graph import OURS, Found, Graph
from innovator.kinds import AnyRecipe, steps_of
from innovator.models.cost import cost
from innovator.models.decoder import DecoderConfig
from innovator.pipeline import Step
from innovator.recipe import Recipe
from innovator.say import say, show
from innovator.stages import FreshSpec, SplitSpec, ThinkSpec
from innovator.study import Study
from innovator.train.mesh import GIB, Job, Machines, Placement, best, common, shortage
from innovator.train.spec import TrainSpec

UTILISATION = 0.4
PROBE_SIZE, PROBE_SECONDS = 1024, 0.3
FP32_ON_GPUS = (
    "warning: precision is fp32: on GPUs, attention that takes a mask and shares its keys among heads is fused in bf16 "
    "only; in fp32 it also keeps all its scores, which are not counted here"
)
SECONDS = {"min": 60, "h": 3600, "days": 86400, "years": 365 * 86400}


def print_plan(recipe: AnyRecipe, root: Path, tflops: float | None, machines: Machines | None = None) -> None:
    """Print the models and the steps of a recipe, and what stands in the way of running it.

    tflops: what the machines that will run it reach together; without it, this machine at its usual utilisation.
    machines: the GPUs that are to run it; adds what each training step takes of them.
    """
    problems = recipe.problems()
    graph = steps_of(recipe, Found.nothing(recipe) if problems else Found.look(recipe))
    show(models_table(recipe, graph))
    show(steps_table(recipe, graph, root, reached(tflops, machines)))
    if machines is not None:
        print_spread(recipe, graph, machines)
    if isinstance(recipe, Recipe):
        say(outlook(Subject.planned(graph.models[OURS].config, recipe.split)))
    for problem in problems:
        say(f"not ready: {problem}")


def reached(tflops: float | None, machines: Machines | None) -> float:
    """FLOPs per second to work out times with."""
    if machines is not None:
        return machines.flops_per_second
    return machine_flops() * UTILISATION if tflops is None else tflops * 1e12


def models_table(recipe: Study, graph: Graph) -> Table:
    """One row per model: its size, what it is taught with since the base, and what a token takes when it speaks."""
    table = Table(title=recipe.title, title_justify="left")
    for column in ("model", "parameters", "active", "tokens since base", "training FLOPs", "passes", "FLOPs a token"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, model in graph.models.items():
        counts = cost(model.config, recipe.batch.seq_len)
        style = "bold" if name == OURS else ""
        sizes = count(counts.total), count(counts.active)
        spoken = f"{counts.effort.speaking_passes:g}", f"{counts.forward:.2e}"
        table.add_row(name, *sizes, count(model.tokens), f"{model.flops:.2e}", *spoken, style=style)
    return table


def steps_table(recipe: Study, graph: Graph, root: Path, flops_per_second: float) -> Table:
    """One row per step, in the order they are made: found or not, and how long its training takes here."""
    table = Table(title=f"steps in {root}; times at {count(flops_per_second)}FLOP/s", title_justify="left")
    for column in ("step", "state", "tokens", "FLOPs", "time"):
        table.add_column(column, justify="left" if column in ("step", "state") else "right")
    for step in graph.goal.upstream():
        state = "found" if step.found(root) else "to make"
        if not isinstance(step.spec, TrainSpec):
            table.add_row(step.folder(root).name, state, "", "", "")
            continue
        tokens = step.spec.n_steps * step.spec.batch.tokens
        flops = tokens * cost(shape(step, recipe), step.spec.batch.seq_len, step.spec.trainable).training
        seconds = flops / flops_per_second
        table.add_row(step.folder(root).name, state, count(tokens), f"{flops:.2e}", duration(seconds))
    return table


def print_spread(recipe: Study, graph: Graph, machines: Machines) -> None:
    """Print how each training step is best spread over these GPUs, what it takes there, and what does not fit."""
    jobs = alike(recipe, graph)
    placed = [(job, len(names), best(job, machines)) for job, names in jobs]
    fitting = [(job, n_runs, placement) for job, n_runs, placement in placed if placement is not None]
    if fitting:
        show(spread_table(fitting, machines))
        show(memory_table(fitting, machines))
    for job, _, placement in placed:
        if placement is None:
            say(shortage(job, machines))
    if any(job.spec.precision == "fp32" for job, _ in jobs):
        say(FP32_ON_GPUS)
    if len(fitting) == len(placed) and (engine := common([job for job, _ in jobs], machines)):
        say(
            f"for all steps: torchrun (on {machines.n_gpus} GPUs) -m innovator run RECIPE "
            f"--replicate {engine.replicate} --experts {engine.experts} --recompute {engine.recompute}"
        )


def alike(recipe: Study, graph: Graph) -> list[tuple[Job, list[str]]]:
    """The training steps of a recipe, those that differ in nothing but what they read taken together."""
    found: dict[str, list[Job]] = {}
    for step in graph.goal.upstream():
        if isinstance(step.spec, TrainSpec):
            job = Job(step.name, step.spec, shape(step, recipe))
            same = replace(step.spec, mixture={}, phases=())
            found.setdefault(f"{same} {job.config} {step.name.partition('-')[0]}", []).append(job)
    groups = ([job.name for job in jobs] for jobs in found.values())
    firsts = (jobs[0] for jobs in found.values())
    return [(replace(job, name=together(names)), names) for job, names in zip(firsts, groups, strict=True)]


def together(names: Sequence[str]) -> str:
    """One name for several: the verb they begin with, and how many they are."""
    return names[0] if len(names) == 1 else f"{names[0].partition('-')[0]}-... ({len(names)})"


def spread_table(placed: Sequence[tuple[Job, int, Placement]], machines: Machines) -> Table:
    """One row per kind of training step: its size, its mesh, its work; FLOPs and time of all its runs."""
    rate = f"{machines.tflops:g} TFLOP/s at {machines.utilisation:.0%}"
    title = f"{machines.n_gpus} GPUs of {machines.memory:g} GiB, {rate}; mesh: replicate x shard x experts"
    table = _table(title, "training step", "parameters", "trained", "mesh", "recompute", "rows", "in", "FLOPs", "time")
    for job, n_runs, placement in placed:
        lesson = job.lesson(placement.micro_rows)
        tokens = job.spec.n_steps * job.spec.batch.tokens
        flops = n_runs * tokens * cost(job.config, job.spec.batch.seq_len, job.spec.trainable).training
        table.add_row(
            job.name,
            count(sum(lesson.sizes.values())),
            count(sum(lesson.sizes[name] for name in lesson.trained)),
            placement.mesh,
            placement.engine.recompute,
            str(placement.micro_rows),
            job.spec.precision,
            f"{flops:.2e}",
            duration(flops / machines.flops_per_second),
        )
    return table


def memory_table(placed: Sequence[tuple[Job, int, Placement]], machines: Machines) -> Table:
    """One row per kind of training step: GiB on each GPU at the peak."""
    title = f"GiB on each GPU, of {machines.room / GIB:.0f} that can be used"
    table = _table(title, "training step", "weights", "gradients", "optimizer", "gathered", "activations", "together")
    for job, _, placement in placed:
        it = placement.footprint
        parts = (it.weights, it.gradients, it.optimizer, it.gathered, it.activations, it.total)
        table.add_row(job.name, *(f"{part / GIB:.2f}" for part in parts))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def shape(step: Step, recipe: Study) -> DecoderConfig:
    """The configuration of the weights that a step will make."""
    inputs = dict(step.inputs)
    if isinstance(step.spec, FreshSpec):
        return step.spec.decoder
    if isinstance(step.spec, ThinkSpec):
        return step.spec.config(shape(inputs["init"], recipe))
    if isinstance(step.spec, SplitSpec):
        return step.spec.upcycle.config(shape(inputs["base"], recipe), len(step.spec.sources))
    return shape(inputs["init"], recipe) if "init" in inputs else recipe.base.config()


def machine_flops() -> float:
    """fp32 matrix products per second on this machine's device, measured for a moment."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    x = torch.randn(PROBE_SIZE, PROBE_SIZE, device=device)
    products, start = 0, time.monotonic()
    while (seconds := time.monotonic() - start) < PROBE_SECONDS:
        float((x @ x)[0, 0])
        products += 1
    return products * 2.0 * PROBE_SIZE**3 / seconds


def count(n: float) -> str:
    """A number with the unit that a person would use: 53.25 B, 1.20 M, 300.00 k."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:,.2f} {unit}"
    return f"{n:,.0f}"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    for size, unit in ((365 * 86400, "years"), (2 * 86400, "days"), (5400, "h"), (90, "min")):
        if seconds >= size:
            return f"{seconds / SECONDS[unit]:,.1f} {unit}"
    return f"{seconds:.0f} s"

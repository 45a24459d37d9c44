"""What a run will take, before anything is launched: parameters, tokens, arithmetic, time."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rich.table import Table

from innovator.export.subject import Subject
from innovator.export.targets import outlook
from innovator.graph import OURS, Found, Graph
from innovator.models.cost import cost
from innovator.models.decoder import DecoderConfig
from innovator.pipeline import Step
from innovator.recipe import Recipe
from innovator.say import say, show
from innovator.stages import SplitSpec
from innovator.train.spec import TrainSpec

UTILISATION = 0.4
PROBE_SIZE, PROBE_SECONDS = 1024, 0.3
SECONDS = {"min": 60, "h": 3600, "days": 86400, "years": 365 * 86400}


def print_plan(recipe: Recipe, root: Path, tflops: float | None) -> None:
    """Print the models and the steps of a recipe, and what stands in the way of running it.

    tflops: what the machines that will run it reach together; without it, this machine at its usual utilisation.
    """
    problems = recipe.problems()
    graph = Graph.of(recipe, Found.nothing(recipe) if problems else Found.look(recipe))
    show(models_table(recipe, graph))
    reached = machine_flops() * UTILISATION if tflops is None else tflops * 1e12
    show(steps_table(recipe, graph, root, reached))
    config = recipe.split.config(recipe.base.config(), len(recipe.disciplines))
    say(outlook(Subject.planned(config, recipe.split)))
    for problem in problems:
        say(f"not ready: {problem}")


def models_table(recipe: Recipe, graph: Graph) -> Table:
    """One row per model: its size, and what it is taught with since the base."""
    table = Table(title=recipe.title, title_justify="left")
    for column in ("model", "parameters", "active", "tokens since base", "training FLOPs"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, model in graph.models.items():
        counts = cost(model.config, recipe.batch.seq_len)
        style = "bold" if name == OURS else ""
        sizes = (count(counts.total), count(counts.active), count(model.tokens), f"{model.flops:.2e}")
        table.add_row(name, *sizes, style=style)
    return table


def steps_table(recipe: Recipe, graph: Graph, root: Path, flops_per_second: float) -> Table:
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


def shape(step: Step, recipe: Recipe) -> DecoderConfig:
    """The configuration of the weights that a step will make."""
    inputs = dict(step.inputs)
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

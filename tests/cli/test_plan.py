"""A plan for given GPUs shows what each training step takes of them, and says in words what does not fit."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from pico_recipe import Command, write_recipe

from innovator.document import read
from innovator.engine.parallel import Engine
from innovator.graph import Found, Graph
from innovator.models.moe import MoEConfig
from innovator.plan import alike
from innovator.recipe import Recipe
from innovator.train.mesh import Job, Machines, best, common, engines, place, shortage

RECIPE = Path(__file__).parents[2] / "recipes" / "innovator-qwen2.5-7b.yaml"


@pytest.fixture(scope="module")
def jobs() -> dict[str, Job]:
    """The stages of the 7B recipe, in bf16."""
    recipe = read(RECIPE, [], Recipe)
    found = alike(recipe, Graph.of(recipe, Found.nothing(recipe)))
    return {job.name.partition("-")[0]: replace(job, spec=replace(job.spec, precision="bf16")) for job, _ in found}


def test_a_plan_for_gpus_shows_memory_and_a_command(tmp_path: Path, innovator: Command) -> None:
    answer = innovator("plan", write_recipe(tmp_path), "--gpus", "4", "--gpu-memory", "16", "--root", tmp_path / "runs")
    assert answer.code == 0 and not (tmp_path / "runs").exists()
    assert "4 GPUs of 16 GiB, 400 TFLOP/s at 40%" in answer.err
    assert all(column in answer.err for column in ("weights", "gradients", "optimizer", "gathered", "activations"))
    assert re.search(r"--replicate 4 --experts 1 --recompute none", answer.err)


def test_runs_that_differ_in_what_they_read_stand_in_one_row(jobs: dict[str, Job]) -> None:
    assert jobs.keys() >= {"induce", "warm", "integrate"} and jobs["induce"].name == "induce-... (8)"


def test_as_little_is_computed_again_and_as_many_replicas_stand_as_fit(jobs: dict[str, Job]) -> None:
    machines = Machines(n_gpus=64, memory=80)
    chosen = best(jobs["integrate"], machines)
    assert chosen is not None and chosen.footprint.total <= machines.room
    before = list(engines(machines, jobs["integrate"].config))
    before = before[: before.index(chosen.engine)]
    assert before and all(place(jobs["integrate"], engine, machines) is None for engine in before)


def test_one_command_runs_all_steps(jobs: dict[str, Job]) -> None:
    machines = Machines(n_gpus=64, memory=80)
    engine = common(jobs.values(), machines)
    assert engine is not None and all(place(job, engine, machines) is not None for job in jobs.values())


def test_no_engine_cuts_an_experts_matrix_unevenly(jobs: dict[str, Job]) -> None:
    """3584 is 7 x 512 and 2 x 2368 is 37 x 128: 112 GPUs with experts on 8 would cut those among 14."""
    config = jobs["integrate"].config
    assert isinstance(config.ffn, MoEConfig)
    tried = list(engines(Machines(n_gpus=112, memory=80, per_node=8), config))
    assert any(it.experts > 1 for it in tried)
    for it in tried:
        rows = 112 // it.replicate // it.experts
        assert it.experts == 1 or (config.dim % rows == 0 and 2 * config.ffn.expert.hidden % rows == 0)
    assert Engine(replicate=1, experts=8) not in tried


def test_experts_that_do_not_divide_are_not_planned_as_divided(jobs: dict[str, Job]) -> None:
    job, machines = jobs["integrate"], Machines(n_gpus=64, memory=1e6)
    assert isinstance(job.config.ffn, MoEConfig)
    uneven = replace(job, config=replace(job.config, ffn=replace(job.config.ffn, n_experts=60, n_disciplines=4)))
    apart, together = place(uneven, Engine(experts=8), machines), place(uneven, Engine(), machines)
    assert apart is not None and together is not None and apart.footprint == together.footprint


def test_what_does_not_fit_is_said_with_what_would(jobs: dict[str, Job]) -> None:
    small = Machines(n_gpus=4, memory=40)
    assert best(jobs["integrate"], small) is None
    said = re.fullmatch(
        r"integrate does not fit: needs at least (\d+) GPUs of 40 GiB, or GPUs of (\d+) GiB",
        shortage(jobs["integrate"], small),
    )
    assert said is not None
    assert best(jobs["integrate"], replace(small, n_gpus=int(said[1]))) is not None
    assert best(jobs["integrate"], replace(small, memory=float(said[2]) + 1)) is not None


def test_rows_that_do_not_divide_are_said(jobs: dict[str, Job]) -> None:
    assert "batch.rows=2048 do not divide among 48 GPUs" in shortage(jobs["integrate"], Machines(n_gpus=48, memory=80))

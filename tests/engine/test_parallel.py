"""However a run is spread over processes, it is the same run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from pico import World, figures, weights
from spread import LESSONS, N_STEPS, launch, make

from innovator.engine.parallel import Engine, Spread, join
from innovator.engine.processes import leave

TOLERANCE = 1e-5  # sums of the same numbers in another order; seen: 3e-7
SCRIPT = Path(__file__).with_name("spread.py")
OF_TWO: dict[str, dict[str, object]] = {
    "fsdp": {},
    "hsdp": {"replicate": 2, "recompute": "full"},
    "ep": {"experts": 2, "recompute": "ffn"},
}
OF_FOUR: dict[str, dict[str, object]] = {"ep-fsdp": {"experts": 2}, "ep-hsdp": {"experts": 2, "replicate": 2}}
HALF = {"stop_at": 0.0}
CASES = [*product(OF_TWO, LESSONS), *product(OF_FOUR, LESSONS)]


def run(name: str, lesson: str, engine: dict[str, object], **more: object) -> dict[str, object]:
    return {"name": f"{name}/{lesson}", "lesson": lesson, "engine": engine, **more}


@pytest.fixture(scope="module")
def made(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs of this module: alone, on two processes, on four, and begun on one number to be ended on another."""
    out, home = tmp_path_factory.mktemp("spread"), world.base.parent
    for lesson in LESSONS:
        make(home, out / "alone" / lesson, lesson, {})
    make(home, out / "from-1" / "stage-4", "stage-4", HALF)
    two = [run(name, lesson, engine) for (name, engine), lesson in product(OF_TWO.items(), LESSONS)]
    launch(
        SCRIPT,
        2,
        home,
        out,
        [*two, run("from-2", "stage-4", {**HALF, "experts": 2}), run("bf16", "stage-4", {}, precision="bf16")],
    )
    for half in ("from-2-to-4", "from-2-to-1"):
        shutil.copytree(out / "from-2", out / half)
    shutil.copytree(out / "from-1", out / "from-1-to-4")
    four = [run(name, lesson, engine) for (name, engine), lesson in product(OF_FOUR.items(), LESSONS)]
    launch(
        SCRIPT, 4, home, out, [*four, run("from-2-to-4", "stage-4", {}), run("from-1-to-4", "stage-4", {"experts": 4})]
    )
    make(home, out / "from-2-to-1" / "stage-4", "stage-4", {})
    return out


@pytest.mark.parametrize(("name", "lesson"), CASES)
def test_every_step_s_loss_and_gradient_are_those_of_one_process(made: Path, name: str, lesson: str) -> None:
    alone, spread = figures(made / "alone" / lesson), figures(made / name / lesson)
    assert [line["step"] for line in spread] == list(range(1, N_STEPS + 1))
    for ours, theirs in zip(alone, spread, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=TOLERANCE)
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=TOLERANCE)


@pytest.mark.parametrize(("name", "lesson"), CASES)
def test_the_weights_learnt_are_those_of_one_process(made: Path, name: str, lesson: str) -> None:
    alone, spread = weights(made / "alone" / lesson), weights(made / name / lesson)
    assert alone.keys() == spread.keys()
    for tensor_name, tensor in alone.items():
        torch.testing.assert_close(spread[tensor_name], tensor, rtol=0, atol=TOLERANCE, msg=tensor_name)


@pytest.mark.parametrize("name", ["from-2-to-4", "from-2-to-1", "from-1-to-4"])
def test_a_run_goes_on_with_another_number_of_processes(made: Path, name: str) -> None:
    """Half of it was made by as many as the name says first; the whole is what one process makes."""
    alone, ended = figures(made / "alone" / "stage-4"), figures(made / name / "stage-4")
    assert [line["step"] for line in ended] == list(range(1, N_STEPS + 1))
    assert [line["loss"] for line in ended] == pytest.approx([line["loss"] for line in alone], rel=TOLERANCE)
    for tensor_name, tensor in weights(made / "alone" / "stage-4").items():
        torch.testing.assert_close(weights(made / name / "stage-4")[tensor_name], tensor, rtol=0, atol=TOLERANCE)


def test_what_is_half_done_has_no_weights_yet(made: Path) -> None:
    for half in ("from-1", "from-2"):
        assert (made / half / "stage-4" / "checkpoints").is_dir() and not (made / half / "stage-4" / "weights").exists()


def test_half_precision_learns_alike(made: Path) -> None:
    """bf16 rounds to 8 bits: the losses agree to a thousandth, the weights stay fp32."""
    alone, half = figures(made / "alone" / "stage-4"), figures(made / "bf16" / "stage-4")
    assert [line["loss"] for line in half] == pytest.approx([line["loss"] for line in alone], rel=1e-3)
    assert [line["loss"] for line in half] != [line["loss"] for line in alone]
    assert {tensor.dtype for tensor in weights(made / "bf16" / "stage-4").values()} == {torch.float32}


def test_frozen_parts_are_checked_on_every_number_of_processes(made: Path) -> None:
    for name in ("alone", *OF_TWO, *OF_FOUR):
        report = json.loads((made / name / "stage-3" / "frozen.json").read_text(encoding="utf8"))
        assert report["changed"] == [] and all(".router." in learnt for learnt in report["trained"])


def test_rows_that_do_not_divide_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"batch\.rows=8 do not divide among 3 processes"):
        launch(SCRIPT, 3, world.base.parent, tmp_path, [run("uneven", "dense", {})])


@pytest.fixture
def parted() -> Iterator[None]:
    """The process is alone again afterwards."""
    yield
    leave()


def test_an_engine_that_does_not_divide_the_processes_is_refused(parted: None) -> None:
    with pytest.raises(ValueError, match="1 processes do not divide into replicate=2 groups by experts=1"):
        Spread.start(Engine(replicate=2))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_blocks_learn_alike(world: World, made: Path, tmp_path: Path, parted: None) -> None:
    """Router losses too, whose gradient a compiled graph would drop."""
    make(world.base.parent, tmp_path / "stage-4", "stage-4", {"compile": True})
    alone, compiled = figures(made / "alone" / "stage-4"), figures(tmp_path / "stage-4")
    for ours, theirs in zip(alone, compiled, strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=TOLERANCE)
        assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=TOLERANCE)


def test_one_process_can_be_spread_too(parted: None) -> None:
    """As a single GPU is, for the sake of bf16 and recomputation."""
    world = join(Engine(recompute="full"), "fp32")
    assert isinstance(world, Spread) and (world.rank, world.size) == (0, 1)

"""However many processes score a model or aim its routers, the figures are those of one."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import pytest
import torch
from pico import DISCIPLINES, SPLIT, World, folder, weights
from scoring import AIMING, IDLE, MODELS, SCORING, make
from spread import launch
from torch.distributed.tensor import DTensor

from innovator.data.mixture import rows_of
from innovator.data.tokens import TokenFile
from innovator.engine.parallel import Alone, Engine, Spread, nothing
from innovator.engine.processes import leave
from innovator.engine.share import turns
from innovator.evaluate.bits import EvaluateSpec
from innovator.models.layers import Layout
from innovator.stages import SplitSpec
from innovator.weights.folder import Folder

BITS = 1e-6  # sums of the same numbers in another order; seen: 4e-8
MASS = 1e-5
SCRIPT = Path(__file__).with_name("scoring.py")
ENGINES: dict[str, dict[str, object]] = {
    "fsdp": {"recompute": "full", "compile": True},
    "hsdp": {"replicate": 2},
    "ep": {"experts": 2},
}
CASES = [*product(ENGINES, SCORING, MODELS)]


@dataclass(frozen=True)
class Made:
    """The folder of what was made, by engine, and what two processes have said meanwhile."""

    out: Path
    said: str

    def scores(self, engine: str, name: str, model: str) -> dict[str, object]:
        path = self.out / engine / name / model / "scores.json"
        found: dict[str, object] = json.loads(path.read_text(encoding="utf8"))
        return found


@pytest.fixture(scope="module")
def home(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pico world with aimed routers in its mixture, and another of three experts."""
    home = tmp_path_factory.mktemp("home")
    AIMING["aimed"].run(folder(home / "mixture"), world.inputs(world.mixture))
    thirds = SplitSpec(upcycle=replace(SPLIT, n_parts=1), sources=MODELS["thirds"])
    thirds.run(folder(home / "thirds"), dict.fromkeys(("base", *DISCIPLINES), world.base))
    for path in (world.base, *world.corpora.values()):
        (home / path.name).symlink_to(path)
    return home


@pytest.fixture(scope="module")
def made(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """All aimings and scores, alone and on two processes under every engine."""
    out = tmp_path_factory.mktemp("made")
    make(home, out / "alone", Engine())
    return Made(out, launch(SCRIPT, 2, home, out, ENGINES))


@pytest.mark.parametrize(("engine", "name", "model"), CASES)
def test_bits_per_byte_are_those_of_one_process(made: Made, engine: str, name: str, model: str) -> None:
    alone, spread = made.scores("alone", name, model), made.scores(engine, name, model)
    assert spread["bits_per_byte"] == pytest.approx(alone["bits_per_byte"], rel=BITS)
    same = alone.keys() - {"bits_per_byte", "routing"}
    assert {key: spread[key] for key in same} == {key: alone[key] for key in same}


@pytest.mark.parametrize(("engine", "name", "model"), CASES)
def test_routing_is_that_of_one_process(made: Made, engine: str, name: str, model: str) -> None:
    alone, spread = made.scores("alone", name, model)["routing"], made.scores(engine, name, model)["routing"]
    if model == "base":
        assert alone is None and spread is None
        return
    assert isinstance(alone, dict) and isinstance(spread, dict)
    assert (spread["load"], spread["accuracy"]) == (alone["load"], alone["accuracy"])
    torch.testing.assert_close(torch.tensor(spread["mass"]), torch.tensor(alone["mass"]), rtol=0, atol=MASS)


@pytest.mark.parametrize(("engine", "name"), [*product(ENGINES, AIMING)])
def test_aimed_weights_are_those_of_one_process(made: Made, engine: str, name: str) -> None:
    alone, spread = weights(made.out / "alone" / name), weights(made.out / engine / name)
    assert alone.keys() == spread.keys()
    for tensor_name, tensor in alone.items():
        tolerance = 1e-5 * float(tensor.abs().max()) if ".router." in tensor_name else 0.0
        torch.testing.assert_close(spread[tensor_name], tensor, rtol=0, atol=tolerance, msg=tensor_name)


def test_the_cases_hold_rows_that_do_not_divide(world: World) -> None:
    """Odd numbers of them, and one row for two processes."""

    def n_rows(spec: EvaluateSpec) -> set[int]:
        files = [TokenFile.open(world.corpora[corpus], "test") for corpus in spec.corpora]
        return {len(rows_of(file, spec.tokens, spec.seq_len).batch.tokens_BT) for file in files}

    assert {number % 2 for number in n_rows(SCORING["scores"])} == {0, 1}
    assert n_rows(SCORING[IDLE]) == {1}


def test_experts_that_do_not_divide_are_named_once_for_each_model(made: Made) -> None:
    assert made.said.count("3 experts do not divide among 2 processes") == len(SCORING)
    assert "8 experts do not divide" not in made.said and "1 experts do not divide" not in made.said


@pytest.mark.parametrize(("n_rows", "at_a_time", "size"), [(7, 2, 1), (7, 2, 2), (8, 3, 2), (1, 1, 4), (10, 4, 3)])
def test_every_row_is_read_once_in_as_many_passes_on_every_process(n_rows: int, at_a_time: int, size: int) -> None:
    worlds = [Alone(torch.device("cpu"), rank, size) for rank in range(size)]
    read = [[*turns(n_rows, at_a_time, world)] for world in worlds]
    assert [row for passes in read for turn in passes for row in turn] == [*range(n_rows)]
    assert len({len(passes) for passes in read}) == 1
    assert max(len(turn) for passes in read for turn in passes) <= at_a_time


@pytest.fixture
def parted() -> Iterator[None]:
    """The process is alone again afterwards."""
    yield
    leave()


@torch.no_grad()
def test_one_block_at_a_time_holds_whole_weights(home: Path, parted: None) -> None:
    """While a layer computes, those before it are parts again."""
    model = Spread.start(Engine()).place(Folder.open(home / "mixture" / "weights"), nothing, "fp32").eval()
    tokens_BT = torch.arange(16).view(2, 8)
    whole: list[list[bool]] = []

    def look(*_: object) -> None:
        whole.append([not isinstance(parameter, DTensor) for parameter in model.layers.parameters()])

    model.layers[1].ffn_norm.register_forward_hook(look)
    model.loss(tokens_BT, tokens_BT, Layout.of(tokens_BT))
    first = len([*model.layers[0].parameters()])
    assert not any(whole[0][:first]) and any(whole[0][first:])
    assert all(isinstance(parameter, DTensor) for parameter in model.layers.parameters())


def test_the_model_of_one_step_is_gone_when_the_next_is_placed(home: Path, parted: None) -> None:
    world, source = Spread.start(Engine()), Folder.open(home / "mixture" / "weights")
    first = weakref.ref(world.place(source, nothing, "fp32"))
    assert world.place(source, nothing, "fp32") is not None and first() is None


def test_equal_engines_share_their_groups_until_the_processes_part(parted: None) -> None:
    first = Spread.start(Engine()).groups
    assert Spread.start(Engine(recompute="full")).groups is first
    leave()
    assert Spread.start(Engine()).groups is not first

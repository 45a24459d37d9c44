"""However many processes a model thinks on, and however unequally they have to, it learns what it would on one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pico import World, figures, weights
from spread import N_STEPS, launch, make
from thinking import MOMENT, WAYS, slopes, text, write_worlds
from torch import Tensor

from innovator.engine.parallel import Alone, Engine, Spread, deciding, nothing
from innovator.engine.processes import leave
from innovator.models.decoder import Decoder
from innovator.weights.folder import Folder

TOLERANCE = 1e-5  # sums of the same numbers in another order; seen: 2e-6
SCRIPT = Path(__file__).with_name("thinking.py")
ONE = Alone(torch.device("cpu"))
RESUMED, FROZEN, HALF = "ponderlm-3", "adaponderlm", "ponderlm-3"


@dataclass(frozen=True)
class Slopes:
    """The gradient of one way of thinking, as one engine takes it."""

    way: str
    init: str
    engine: dict[str, object]
    idle: bool = False

    def __str__(self) -> str:
        return "-".join([self.way, self.init, *self.engine, *(["idle"] if self.idle else [])])

    def case(self, **more: str) -> dict[str, object]:
        idle = {"idle": ""} if self.idle else {}
        return {"name": str(self), "way": self.way, "init": self.init, "engine": self.engine, **idle, **more}


SLOPES = [
    *(Slopes(way, "mixture", {}) for way in WAYS),
    Slopes("latent-cot", "mixture", {"experts": 2}),
    Slopes("ponderlm-2", "mixture", {"experts": 2}),
    Slopes("ponderlm-3", "base", {"recompute": "full"}),
    Slopes("adaponderlm", "mixture", {"replicate": 2, "recompute": "full"}, idle=True),
    Slopes("latent-cot", "mixture", {"recompute": "ffn"}, idle=True),
]


@pytest.fixture(scope="module")
def home(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pico world for each way of thinking."""
    home = tmp_path_factory.mktemp("home")
    write_worlds(world, home)
    return home


@pytest.fixture(scope="module")
def made(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All gradients and runs of two processes, and the runs of one that they are compared with."""
    out = tmp_path_factory.mktemp("made")
    cut = {"way": RESUMED, "name": "cut", "lesson": "stage-4", "engine": {"experts": 2, "stop_at": 0.0}}
    frozen = {"way": FROZEN, "name": "frozen", "lesson": "stage-3", "engine": {}}
    half = Slopes(HALF, "mixture", {}).case(name="half", half="")
    launch(SCRIPT, 2, home, out, [*(one.case() for one in SLOPES), cut, frozen, half])
    make(home / RESUMED, out / "alone", "stage-4", {})
    make(home / FROZEN, out / "alone-frozen", "stage-3", {})
    return out


def weights_of(home: Path, way: str, init: str = "mixture") -> Folder:
    return Folder.open(home / way / init / "weights")


@pytest.mark.parametrize("case", SLOPES, ids=str)
def test_loss_and_gradients_are_those_of_one_process(home: Path, made: Path, case: Slopes) -> None:
    alone = slopes(ONE, weights_of(home, case.way, case.init), "fp32", idle=case.idle)
    spread: dict[str, Tensor] = torch.load(made / str(case))
    assert alone.keys() == spread.keys()
    for name, slope in alone.items():
        tolerance = TOLERANCE * float(slope.abs().max())
        assert tolerance > 0
        torch.testing.assert_close(spread[name], slope, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("case", [one for one in SLOPES if one.way in ("adaponderlm", "latent-cot")], ids=str)
def test_the_two_processes_of_a_case_think_unequally(home: Path, case: Slopes) -> None:
    """In each pass they read other numbers of slots; one that has nothing to say stops at the first."""
    model, whole = ONE.place(weights_of(home, case.way), nothing, "fp32"), text(idle=case.idle)
    halves = [model.read(part.tokens_BT, part.layout, None, MOMENT) for part in whole.portions(2)]
    width_PK = [[int((half.passes_BT > step).sum(dim=1).max()) for step in (1, 2)] for half in halves]
    assert width_PK[0] != width_PK[1]
    assert (width_PK[1] == [0, 0]) == case.idle


def test_half_precision_learns_in_the_same_direction(home: Path, made: Path) -> None:
    """bf16 rounds to 8 bits; what comes back is fp32."""
    alone = slopes(ONE, weights_of(home, HALF), "fp32", idle=False)
    half: dict[str, Tensor] = torch.load(made / "half")
    assert {slope.dtype for slope in half.values()} == {torch.float32}
    assert float(half["loss"]) == pytest.approx(float(alone["loss"]), rel=1e-2) and half["loss"] != alone["loss"]
    for name in alone:
        assert torch.cosine_similarity(half[name].flatten(), alone[name].flatten(), dim=0) > 0.99, name


def test_a_run_begun_on_two_processes_goes_on_alone(home: Path, made: Path) -> None:
    """With the number of sweeps drawn anew in each step, and a router that learns."""
    alone, ended = figures(made / "alone"), made / "resumed"
    shutil.copytree(made / "cut", ended)
    assert not (ended / "weights").exists()
    make(home / RESUMED, ended, "stage-4", {})
    assert [line["step"] for line in figures(ended)] == [*range(1, N_STEPS + 1)]
    assert [line["loss"] for line in figures(ended)] == pytest.approx([line["loss"] for line in alone], rel=TOLERANCE)
    learnt, before = weights(made / "alone"), dict(weights_of(home, RESUMED).tensors())
    for name, tensor in weights(ended).items():
        torch.testing.assert_close(tensor, learnt[name], rtol=0, atol=TOLERANCE, msg=name)
    assert not torch.equal(learnt["thinking.router.weight"], before["thinking.router.weight"])


def test_thinking_that_is_not_to_learn_stays_as_it_was(home: Path, made: Path) -> None:
    alone, spread = figures(made / "alone-frozen"), figures(made / "frozen")
    report = json.loads((made / "frozen" / "frozen.json").read_text(encoding="utf8"))
    assert report["changed"] == [] and all(".ffn.router." in name for name in report["trained"])
    assert [line["loss"] for line in spread] == pytest.approx([line["loss"] for line in alone], rel=TOLERANCE)
    assert [line["loss"] for line in spread] != [spread[0]["loss"]] * N_STEPS


@pytest.fixture
def parted() -> Iterator[None]:
    """The process is alone again afterwards."""
    yield
    leave()


@pytest.mark.parametrize("way", ["ponderlm-3", "adaponderlm", "latent-cot"])
@torch.no_grad()
def test_what_decides_keeps_its_precision_in_a_half_precise_run(home: Path, parted: None, way: str) -> None:
    model = Spread.start(Engine()).place(weights_of(home, way), nothing, "bf16")
    seen = seen_types(model)
    batch = text(idle=False)
    model.loss(batch.tokens_BT, batch.target_BT, batch.layout, MOMENT)
    assert seen["deciding"] == {torch.float32} and seen["blocks"] == {torch.bfloat16}


def seen_types(model: Decoder) -> dict[str, set[torch.dtype]]:
    """What weights are while they compute, noted as the model reads."""
    seen: dict[str, set[torch.dtype]] = {"deciding": set(), "blocks": set()}

    def note(into: str, module: torch.nn.Module, *_: object) -> None:
        seen[into] |= {weight.dtype for weight in module.parameters(recurse=into == "deciding")}

    for part in deciding(model.thinking):
        part.register_forward_pre_hook(lambda module, args: note("deciding", module))
    for block in model.layers:
        block.get_submodule("attn_norm").register_forward_pre_hook(lambda module, args: note("blocks", module))
    return seen

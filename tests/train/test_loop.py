"""A run does what its spec says, no more, and gives the same weights however often it is interrupted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pico import CORPORA, World, figures, folder, in_portions, lesson, weights

from innovator.data.tokenizer import Tokenizer
from innovator.engine.parallel import Alone
from innovator.models.moe import RouterLosses
from innovator.say import Advance
from innovator.train import loop
from innovator.train.checkpoint import saved
from innovator.train.loop import Run, parameter_groups, train
from innovator.train.spec import Cosine, TrainSpec
from innovator.weights.folder import Folder, save_folder

ALL = {"*": 1.0}
ROUTERS = {"layers.*.ffn.router.*": 1.0}
ALONE = Alone(torch.device("cpu"))
FEED_FORWARDS = {"layers.*.ffn.*": 1.0}
LOSSES = RouterLosses(balance=1e-2, z=1e-3, label=1.0, general=0.1)
STARTS = ("base", "mixture")
every_start = pytest.mark.parametrize("start", STARTS)
Progress = Callable[[str, int, str], AbstractContextManager[Advance]]


class PowerCut(Exception):
    """What happens to a machine."""


def cut_the_power() -> None:
    raise PowerCut


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def happening(event: Callable[[], None], after_steps: int) -> Progress:
    """A terminal at which something happens when so many steps have been shown."""

    @contextmanager
    def progress(description: str, total: int, unit: str) -> Iterator[Advance]:
        done = 0

        def advance(n: int, **figures: float) -> None:
            nonlocal done
            done += n
            if done == after_steps:
                event()

        yield advance

    return progress


def trained(spec: TrainSpec, world: World, start: str, out: Path) -> Path:
    train(spec, folder(out), world.inputs({"base": world.base, "mixture": world.mixture}[start]))
    return out


def interrupted(spec: TrainSpec, world: World, start: str, out: Path, progress: Progress) -> Path:
    """The run stopped by what happens at the terminal, its second step being saved, then started once more."""
    inputs = world.inputs({"base": world.base, "mixture": world.mixture}[start])
    with pytest.MonkeyPatch.context() as terminal:
        terminal.setattr(loop, "progress", progress)
        with pytest.raises((KeyboardInterrupt, PowerCut)):
            train(spec, folder(out), inputs)
    assert saved(out / "checkpoints")[-1].name == "00000002" and not (out / "weights").exists()
    train(spec, out, inputs)
    return out


def stored(step: Path) -> bytes:
    return (step / "weights" / "model.safetensors").read_bytes()


def damaged(world: World, tmp_path: Path) -> Path:
    """The base with a token that is not a number in every document."""
    source = Folder.open(world.base / "weights")
    tensors = weights(world.base)
    tensors["embed.weight"][Tokenizer.open(world.tokenizer).prefix_id] = torch.nan
    save_folder(folder(tmp_path / "damaged") / "weights", source.config, tensors.items(), source.path)
    return tmp_path / "damaged"


@every_start
def test_a_stopped_run_gives_the_bits_of_one_that_was_not(world: World, tmp_path: Path, start: str) -> None:
    spec = replace(lesson(4, ALL), losses=LOSSES, course=replace(lesson(4, ALL).course, schedule=Cosine()))
    whole = trained(spec, world, start, tmp_path / "whole")
    stopped = interrupted(spec, world, start, tmp_path / "stopped", happening(press_ctrl_c, 2))
    assert stored(stopped) == stored(whole)


@every_start
def test_a_run_that_dies_goes_on_from_its_checkpoint(world: World, tmp_path: Path, start: str) -> None:
    spec = replace(lesson(4, ALL), losses=LOSSES, checkpoint_every=2)
    whole = trained(spec, world, start, tmp_path / "whole")
    died = interrupted(spec, world, start, tmp_path / "died", happening(cut_the_power, 3))
    assert stored(died) == stored(whole)
    assert [line["step"] for line in figures(died)] == [1, 2, 3, 4]


def test_what_went_on_logs_what_would_have_been_logged(world: World, tmp_path: Path) -> None:
    whole = trained(lesson(4, ALL), world, "base", tmp_path / "whole")
    stopped = interrupted(lesson(4, ALL), world, "base", tmp_path / "stopped", happening(press_ctrl_c, 2))
    speeds = {"tokens_per_second": 0.0}
    assert [line | speeds for line in figures(stopped)] == [line | speeds for line in figures(whole)]


def test_the_selection_bias_moves_and_is_restored(world: World, tmp_path: Path) -> None:
    """All of an untaught mixture's tokens go to one discipline, so that the biases move at once."""
    name = "layers.0.ffn.router.selection_bias"
    whole = trained(lesson(4, ALL), world, "mixture", tmp_path / "whole")
    stopped = interrupted(lesson(4, ALL), world, "mixture", tmp_path / "stopped", happening(press_ctrl_c, 2))
    assert not torch.equal(weights(whole)[name], weights(world.mixture)[name])
    assert torch.equal(weights(stopped)[name], weights(whole)[name])


def test_a_finished_run_leaves_no_checkpoints(world: World, tmp_path: Path) -> None:
    out = trained(replace(lesson(4, ALL), checkpoint_every=1), world, "base", tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {"epochs.json", "frozen.json", "metrics.jsonl", "weights"}


def test_the_signals_are_given_back(world: World, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    trained(lesson(1, ALL), world, "base", tmp_path / "out")
    assert signal.getsignal(signal.SIGINT) is before


@every_start
def test_micro_batches_do_not_change_the_weights(world: World, tmp_path: Path, start: str) -> None:
    """Equal up to the order of fp32 sums, which Adam's division makes visible where a gradient is almost zero."""
    spec = replace(lesson(2, ALL, lr=1e-4), losses=LOSSES)
    whole = trained(spec, world, start, tmp_path / "whole")
    portions = trained(in_portions(spec, 2), world, start, tmp_path / "portions")
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(portions)[name], tensor, rtol=0, atol=1e-5)
    for one, other in zip(figures(whole), figures(portions), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("start", "trainable", "part"),
    [("mixture", ROUTERS, ".ffn.router."), ("base", FEED_FORWARDS, ".ffn."), ("mixture", FEED_FORWARDS, ".ffn.")],
)
def test_only_what_is_to_learn_changes(
    world: World, tmp_path: Path, start: str, trainable: dict[str, float], part: str
) -> None:
    spec = replace(lesson(3, trainable), losses=LOSSES)
    out = trained(spec, world, start, tmp_path / "out")
    before, after = weights({"base": world.base, "mixture": world.mixture}[start]), weights(out)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = json.loads((out / "frozen.json").read_text(encoding="utf8"))
    assert changed == {name for name in before if part in name} == set(frozen["trained"])
    assert frozen["changed"] == [] and frozen["frozen"] == len(before) - len(changed)


def test_a_frozen_tensor_that_changed_is_found_out(world: World, tmp_path: Path) -> None:
    source = Folder.open(world.base / "weights")
    run = Run.start(lesson(1, FEED_FORWARDS), source, world.inputs(world.base), ALONE)
    with torch.no_grad():
        run.model.norm.weight[0] += 1e-3
    with pytest.raises(RuntimeError, match=r"frozen tensors changed: norm\.weight"):
        loop.check_frozen(run, source, tmp_path)


def test_the_loss_falls(world: World, tmp_path: Path) -> None:
    lines = figures(trained(lesson(15, ALL, lr=1e-2), world, "base", tmp_path / "out"))
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    assert [line["tokens"] for line in lines] == [128 * step for step in range(1, 16)]


def test_a_loss_that_is_not_finite_changes_nothing(world: World, tmp_path: Path) -> None:
    start = damaged(world, tmp_path)
    run = Run.start(lesson(3, ALL), Folder.open(start / "weights"), world.inputs(start), ALONE)
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    assert run.step(1)["skipped"] == 1
    for name, tensor in run.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


def test_too_many_losses_that_are_not_finite_end_the_run(world: World, tmp_path: Path) -> None:
    spec = replace(lesson(10, ALL), max_skipped=2)
    with pytest.raises(ValueError, match=r"^3 steps were not finite; lower optim\.lr \(now 0\.001\), or look at"):
        train(spec, folder(tmp_path / "out"), world.inputs(damaged(world, tmp_path)))
    assert not (tmp_path / "out" / "weights").exists()
    lines = (tmp_path / "out" / "skipped.jsonl").read_text(encoding="utf8").splitlines()
    skipped = [json.loads(line) for line in lines]
    assert [line["step"] for line in skipped] == [1, 2, 3] and skipped[0]["loss"] == "nan"
    assert {document["corpus"] for document in skipped[0]["documents"]} == set(spec.mixture)
    assert all(f"{document['corpus']}.jsonl:" in document["id"] for document in skipped[0]["documents"])


def test_a_factor_is_a_share_of_the_learning_rate(world: World, tmp_path: Path) -> None:
    """Adam's first step moves the weights with a gradient by the learning rate, whatever the gradient is."""
    spec = lesson(1, {"layers.*.ffn.*": 0.1, "*": 1.0})
    spec = replace(spec, course=replace(spec.course, optim=replace(spec.course.optim, weight_decay=0.0)))
    before, after = weights(world.base), weights(trained(spec, world, "base", tmp_path / "out"))
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    for name, distance in moved.items():
        assert distance == pytest.approx(1e-4 if ".ffn." in name else 1e-3, rel=0.02), name


def test_the_first_pattern_that_matches_counts(world: World) -> None:
    spec = lesson(1, {"layers.0.*": 0.0, "layers.*": 0.5, "*": 1.0})
    run = Run.start(spec, Folder.open(world.base / "weights"), world.inputs(world.base), ALONE)
    groups = parameter_groups(run.model, spec)
    assert {(group["factor"], group["weight_decay"]) for group in groups} == {
        (f, d) for f in (0.5, 1.0) for d in (0.1, 0.0)
    }
    assert not any(p.requires_grad for p in run.model.layers[0].parameters())


def test_a_pattern_that_matches_nothing_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="matches no parameter"):
        Run.start(lesson(1, {"layer.*": 1.0}), Folder.open(world.base / "weights"), world.inputs(world.base), ALONE)


def test_the_router_terms_are_per_token(world: World, tmp_path: Path) -> None:
    """The terms do not depend on how many rows are in memory: each is summed over tokens and divided once."""
    spec = replace(lesson(1, ROUTERS), mixture=dict.fromkeys(CORPORA[1:], 1.0), losses=LOSSES)
    line = figures(trained(spec, world, "mixture", tmp_path / "out"))[0]
    assert line["label_loss"] == pytest.approx(1.386, abs=0.05)  # -log(1/4): the routers begin undecided
    assert line["general_loss"] == 0.0 and line["balance_loss"] >= 1.0


@pytest.mark.parametrize("tied", [True, False])
def test_a_warm_up_keeps_the_function_exactly_while_rows_are_tied(world: World, tmp_path: Path, tied: bool) -> None:
    """All disciplines are the base here, so whoever takes whole disciplines is the base; untied rows mix parts."""
    spec = replace(lesson(20, ROUTERS, lr=0.05), losses=RouterLosses(label=1.0), lm=0.0, tied_rows=tied)
    out = folder(tmp_path / "warm")
    train(spec, out, world.inputs(world.mixture))
    tokens_BT = torch.arange(64).view(2, 32)
    base, warm = (Folder.open(step / "weights").load()(tokens_BT).detach() for step in (world.base, out))
    difference = float((warm - base).abs().max() / base.abs().max())
    assert (difference <= 1e-5) == tied  # fp32 rounding of a sum in another order, as in the proof

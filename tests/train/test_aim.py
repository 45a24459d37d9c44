"""Routers that are pointed by means, or asked for the label, send a discipline to its own experts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from pico import BATCH, CORPORA, DISCIPLINES, World, folder, lesson, weights

from innovator.data.tokens import TokenFile
from innovator.engine.parallel import Alone
from innovator.evaluate.bits import EvaluateSpec, read_corpus
from innovator.models.moe import RouterLosses
from innovator.train.aim import AimSpec
from innovator.train.loop import train
from innovator.weights.folder import Folder

CHANCE = 1 / len(DISCIPLINES)
ROUTERS = {"layers.*.ffn.router.*": 1.0}


def accuracy(step: Path, world: World) -> float:
    """Share of test tokens that the routers, over layers and disciplines, give most mass at home."""
    spec = EvaluateSpec(
        model="m",
        corpora=CORPORA,
        disciplines=DISCIPLINES,
        tokens=400,
        seq_len=BATCH.seq_len,
        rows=BATCH.rows,
        train_tokens=0,
        train_flops=0.0,
    )
    model = Folder.open(step / "weights").load().eval()
    shares = []
    for home, name in enumerate(DISCIPLINES):
        reading = read_corpus(model, TokenFile.open(world.corpora[name], "test"), spec, Alone(torch.device("cpu")))
        shares += [float(layer.first_C[home] / layer.first_C.sum()) for layer in reading.layers]
    return sum(shares) / len(shares)


def aimed(world: World, out: Path, sharpness: float = 1.0) -> Path:
    spec = AimSpec(disciplines=DISCIPLINES, tokens=600, seq_len=BATCH.seq_len, rows=BATCH.rows, sharpness=sharpness)
    spec.run(folder(out), world.inputs(world.mixture))
    return out


def test_aimed_routers_know_the_disciplines(world: World, tmp_path: Path) -> None:
    """The sciences share some words' letters, so that not every token tells; chance is a quarter."""
    assert accuracy(aimed(world, tmp_path / "aimed"), world) > 2 * CHANCE
    assert accuracy(world.mixture, world) < 1.5 * CHANCE


def test_the_experts_of_a_discipline_are_aimed_alike(world: World, tmp_path: Path) -> None:
    tensors = weights(aimed(world, tmp_path / "aimed"))
    for layer in range(2):
        row_CMD = tensors[f"layers.{layer}.ffn.router.weight"].unflatten(0, (len(DISCIPLINES), -1))
        assert torch.equal(row_CMD, row_CMD[:, :1].expand_as(row_CMD))


def test_aiming_changes_nothing_but_the_routers(world: World, tmp_path: Path) -> None:
    before, after = weights(world.mixture), weights(aimed(world, tmp_path / "aimed"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"layers.{layer}.ffn.router.weight" for layer in range(2)}


def test_sharpness_scales_the_rows(world: World, tmp_path: Path) -> None:
    name = "layers.1.ffn.router.weight"
    blunt, sharp = aimed(world, tmp_path / "blunt"), aimed(world, tmp_path / "sharp", sharpness=3.0)
    torch.testing.assert_close(weights(sharp)[name], 3.0 * weights(blunt)[name])


def test_asking_for_the_label_teaches_the_routers_the_disciplines(world: World, tmp_path: Path) -> None:
    spec = replace(lesson(50, ROUTERS, lr=3e-2), lm=0.0, losses=RouterLosses(label=1.0, general=0.1))
    train(spec, folder(tmp_path / "warm"), world.inputs(world.mixture))
    assert accuracy(tmp_path / "warm", world) > accuracy(world.mixture, world) + CHANCE

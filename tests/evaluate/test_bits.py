"""Bits per byte are the model's code length, and a routing map counts every token that is predicted once."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from pico import CORPORA, DISCIPLINES, World, folder

from innovator.data.tokens import TokenFile
from innovator.engine.parallel import Alone
from innovator.evaluate.bits import EvaluateSpec, read_corpus
from innovator.models.cost import cost
from innovator.weights.folder import Folder

LONG_ENOUGH = 4096
ALONE = Alone(torch.device("cpu"))


def spec(seq_len: int, tokens: int = 10_000, rows: int = 4) -> EvaluateSpec:
    return EvaluateSpec(
        model="mine",
        corpora=CORPORA,
        disciplines=DISCIPLINES,
        tokens=tokens,
        seq_len=seq_len,
        rows=rows,
        train_tokens=7,
        train_flops=8.0,
    )


def scores(world: World, model: Path, out: Path) -> dict[str, object]:
    spec(16).run(folder(out), {"model": model, **world.corpora})
    found: dict[str, object] = json.loads((out / "scores.json").read_text(encoding="utf8"))
    return found


@torch.no_grad()
def bits_one_document_at_a_time(model_folder: Path, file: TokenFile) -> float:
    model = Folder.open(model_folder / "weights").load().eval()
    nats = 0.0
    for start, stop in zip(file.offsets, file.offsets[1:], strict=False):
        tokens_T = torch.from_numpy(file.tokens[start:stop].astype("int64"))
        log_p_TV = model(tokens_T[None, :-1])[0].log_softmax(dim=-1)
        nats -= float(log_p_TV.gather(-1, tokens_T[1:, None]).sum())
    return nats / math.log(2) / int(file.n_bytes.sum())


@pytest.mark.parametrize("model", ["base", "mixture"])
def test_bits_are_those_of_the_documents_read_one_by_one(world: World, model: str) -> None:
    """In rows so long that no document is cut; fp32 sums in another order."""
    file = TokenFile.open(world.corpora["botany"], "test")
    path = {"base": world.base, "mixture": world.mixture}[model]
    reading = read_corpus(Folder.open(path / "weights").load().eval(), file, spec(LONG_ENOUGH), ALONE)
    assert reading.bits_per_byte == pytest.approx(bits_one_document_at_a_time(path, file), rel=1e-5)


@pytest.mark.parametrize("seq_len", [8, 16, 100])
def test_every_token_but_the_first_of_a_document_is_predicted_once(world: World, seq_len: int) -> None:
    file = TokenFile.open(world.corpora["dance"], "test")
    reading = read_corpus(Folder.open(world.base / "weights").load().eval(), file, spec(seq_len), ALONE)
    assert reading.n_targets == len(file.tokens) - file.n_documents


def test_how_many_rows_are_read_at_a_time_does_not_matter(world: World) -> None:
    file = TokenFile.open(world.corpora["dance"], "test")
    model = Folder.open(world.mixture / "weights").load().eval()
    few, many = (read_corpus(model, file, spec(16, rows=rows), ALONE) for rows in (1, 64))
    assert few.bits_per_byte == pytest.approx(many.bits_per_byte, rel=1e-5)
    assert [layer.load_E.tolist() for layer in few.layers] == [layer.load_E.tolist() for layer in many.layers]


def test_the_shares_of_a_routing_map_sum_to_one(world: World, tmp_path: Path) -> None:
    routing = scores(world, world.mixture, tmp_path / "out")["routing"]
    assert isinstance(routing, dict)
    assert routing["corpora"] == list(CORPORA) and routing["disciplines"] == list(DISCIPLINES)
    for kind, width in (("load", 8), ("mass", 4)):
        shares = torch.tensor(routing[kind])
        assert shares.shape == (2, len(CORPORA), width)
        torch.testing.assert_close(shares.sum(dim=-1), torch.ones(2, len(CORPORA)))


def test_only_disciplines_have_a_home(world: World, tmp_path: Path) -> None:
    routing = scores(world, world.mixture, tmp_path / "out")["routing"]
    assert isinstance(routing, dict)
    for general, *homes in routing["accuracy"]:
        assert general is None and all(0.0 <= share <= 1.0 for share in homes)


def test_a_dense_model_has_no_routing_and_all_its_parameters_are_active(world: World, tmp_path: Path) -> None:
    found = scores(world, world.base, tmp_path / "out")
    total = cost(Folder.open(world.base / "weights").config, 16).total
    assert found["routing"] is None and found["parameters"] == {"total": total, "active": total}


def test_what_training_took_is_handed_on(world: World, tmp_path: Path) -> None:
    found = scores(world, world.base, tmp_path / "out")
    assert (found["model"], found["train_tokens"], found["train_flops"]) == ("mine", 7, 8.0)

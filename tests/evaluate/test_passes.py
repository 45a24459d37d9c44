"""Passes are counted over the tokens that are scored, and a passage is the text itself, token by token."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pico import CORPORA, DECODER, DISCIPLINES, World, folder

from innovator.data.tokenizer import Tokenizer
from innovator.data.tokens import TokenFile
from innovator.engine.parallel import Alone
from innovator.evaluate.bits import EvaluateSpec, read_corpus
from innovator.evaluate.passes import overheard, pieces
from innovator.models.cost import cost
from innovator.models.decoder import Decoder
from innovator.models.latent_cot import LatentCoTConfig
from innovator.models.loops import LoopConfig, PauseConfig
from innovator.models.ways import ThinkingConfig
from innovator.stages import ThinkSpec
from innovator.weights.folder import Folder

ALONE = Alone(torch.device("cpu"))
UNEVEN = LatentCoTConfig(n_steps=2, tau=0.4, bias_start=0.0)


def spec(rows: int = 4) -> EvaluateSpec:
    return EvaluateSpec(
        model="mine",
        corpora=CORPORA,
        disciplines=DISCIPLINES,
        tokens=600,
        seq_len=16,
        rows=rows,
        train_tokens=7,
        train_flops=8.0,
    )


def thinking(world: World, way: ThinkingConfig, out: Path, init: str = "base") -> Path:
    """A model of the world that thinks so."""
    ThinkSpec(thinking=way).run(folder(out), {"init": {"base": world.base, "mixture": world.mixture}[init]})
    return out


def effort(model: Path, world: World, out: Path) -> dict[str, object]:
    spec().run(folder(out), {"model": model, **world.corpora})
    found: dict[str, object] = json.loads((out / "scores.json").read_text(encoding="utf8"))["effort"]
    return found


def parted(model: Decoder) -> Decoder:
    """The same model, with a router by which some tokens go on and others do not."""
    torch.nn.init.normal_(model.thinking.get_parameter("router.weight"), generator=torch.Generator().manual_seed(1))
    return model.eval()


def test_a_model_that_only_reads_takes_one_pass_and_has_no_passage(world: World, tmp_path: Path) -> None:
    found = effort(world.base, world, tmp_path / "out")
    assert found["passes"] == 1.0 and found["passages"] == {}


@pytest.mark.parametrize(("way", "passes"), [(LoopConfig(n_loops=3), 3.0), (PauseConfig(n_pauses=1), 2.0)])
def test_speaking_costs_what_so_many_passes_cost(
    world: World, tmp_path: Path, way: ThinkingConfig, passes: float
) -> None:
    model = thinking(world, way, tmp_path / "model")
    found, counted = effort(model, world, tmp_path / "out"), cost(Folder.open(model / "weights").config, 16)
    assert found["passes"] == passes and found["flops_per_token"] == counted.forward
    assert found["bytes_per_token"] == counted.memory(passes) == counted.slot_bytes * passes


def test_passes_are_summed_over_scored_tokens_whatever_is_read_at_a_time(world: World) -> None:
    file, model = TokenFile.open(world.corpora["botany"], "test"), Decoder(replace(DECODER, thinking=UNEVEN))
    model.initialize(seed=0)
    parted(model)
    few, many = (read_corpus(model, file, spec(rows), ALONE) for rows in (1, 64))
    assert few.n_passes == many.n_passes and few.passage.passes[:16] == many.passage.passes[:16]
    assert 1.1 * few.n_targets < few.n_passes < 2.9 * few.n_targets and many.passage.varies
    tokens_BT = torch.from_numpy(file.tokens[:16].astype("int64"))[None]
    with overheard(model) as thoughts:
        model(tokens_BT)
    assert thoughts[0].passes_BT[0, :8].tolist() == list(many.passage.passes[:8])


@pytest.mark.parametrize(("way", "slots"), [(UNEVEN, 1), (PauseConfig(n_pauses=1), 2)], ids=["uneven", "pause"])
def test_a_mixture_that_thinks_counts_where_its_first_pass_goes(
    world: World, tmp_path: Path, way: ThinkingConfig, slots: int
) -> None:
    model = Folder.open(thinking(world, way, tmp_path / "model", "mixture") / "weights").load().eval()
    if way == UNEVEN:
        parted(model)
    reading = read_corpus(model, TokenFile.open(world.corpora["dance"], "test"), spec(), ALONE)
    for layer in reading.layers:
        assert int(layer.load_E.sum()) == slots * 2 * reading.n_targets  # two experts for each slot


def test_pieces_are_the_text_and_no_letter_is_cut(world: World) -> None:
    tokenizer = Tokenizer.open(world.tokenizer)
    (tokens,) = tokenizer.encode_batch(["a\N{LATIN SMALL LETTER O WITH DIAERESIS} 3 \N{SNOWMAN}s"])
    found = pieces(tokenizer, tokens)
    assert "".join(found) == "a\N{LATIN SMALL LETTER O WITH DIAERESIS} 3 \N{SNOWMAN}s" and len(found) == len(tokens)
    assert found.count("") >= 2 and "\N{REPLACEMENT CHARACTER}" not in "".join(found)

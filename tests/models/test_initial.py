"""Fresh weights are drawn as their spec says, and by default as GPT-2's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pico import DECODER, World, folder, weights

from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.initial import GPT2Init, Init, PonderInit
from innovator.models.ponder import AdaPonderLMConfig, PonderLMConfig
from innovator.stages import FreshSpec

FEW_PERCENT = 0.06  # thousands of numbers each, whose spread is known so well


def drawn(config: DecoderConfig, init: Init) -> dict[str, torch.Tensor]:
    model = Decoder(config)
    model.initialize(7, init)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def spreads(config: DecoderConfig, init: Init) -> dict[str, float]:
    """The standard deviation of each matrix of a model 64 wide and two layers deep."""
    wide = replace(config, dim=64, n_layers=2)
    return {name: float(tensor.std()) for name, tensor in drawn(wide, init).items() if tensor.dim() > 1}


def writes(name: str) -> bool:
    return "o_proj" in name or "down_proj" in name


def test_the_default_draws_number_by_number_what_gpt2_would(mixture: DecoderConfig) -> None:
    model, generator = Decoder(mixture), torch.Generator().manual_seed(7)
    model.initialize(7)
    for name, parameter in model.named_parameters():
        std = 0.02 * (0.5 if writes(name) else 1.0)
        expected = torch.empty_like(parameter)
        expected.fill_(1.0) if name.endswith("norm.weight") else expected.normal_(std=std, generator=generator)
        assert torch.equal(parameter, expected), name


def test_gpt2_weights_spread_as_their_field_says(mixture: DecoderConfig) -> None:
    for name, spread in spreads(mixture, GPT2Init(std=0.3)).items():
        assert spread == pytest.approx(0.15 if writes(name) else 0.3, rel=FEW_PERCENT), name


@pytest.mark.parametrize(("init", "n_passes"), [(PonderInit(), 1), (PonderInit(per_step=True), 4)])
def test_ponder_weights_spread_by_width_depth_and_passes(
    mixture: DecoderConfig, init: PonderInit, n_passes: int
) -> None:
    """What writes is added by two parts of each of two layers, in every pass; cut tails cost 1.3 percent."""
    thinking = replace(mixture, thinking=PonderLMConfig(n_steps=3))
    std = (2 / (5 * 64)) ** 0.5
    for name, spread in spreads(thinking, init).items():
        expected = std * (4 * n_passes) ** -0.5 if writes(name) else std
        assert spread == pytest.approx(expected, rel=FEW_PERCENT), name


def test_no_ponder_weight_is_beyond_three_deviations(dense: DecoderConfig) -> None:
    std = (2 / (5 * 64)) ** 0.5
    tensors = drawn(replace(dense, dim=64, vocab_size=500), PonderInit())
    embedding_VD = tensors["embed.weight"].abs()
    assert 2.9 * std < embedding_VD.max() <= 3 * std
    assert tensors["layers.0.attn.o_proj.weight"].abs().max() <= 3 * std / 2
    assert tensors["layers.0.attn_norm.weight"].eq(1).all()


@pytest.mark.parametrize("init", [GPT2Init(), PonderInit()])
def test_what_thinks_does_not_change_what_else_is_drawn_and_sets_its_own(dense: DecoderConfig, init: Init) -> None:
    plain, thinking = (drawn(it, init) for it in (dense, replace(dense, thinking=AdaPonderLMConfig())))
    for name, tensor in plain.items():
        assert torch.equal(tensor, thinking.pop(name)), name
    assert {name.split(".")[0] for name in thinking} == {"thinking"}
    assert [float(it) for name, it in thinking.items() if name.endswith("outer.bias")] == [2.0] * 3
    assert all(0 < float(it.std()) < 0.05 for name, it in thinking.items() if name.endswith("weight"))


def test_a_fresh_folder_is_drawn_as_its_spec_says(world: World, tmp_path: Path) -> None:
    out = folder(tmp_path / "fresh")
    FreshSpec(decoder=DECODER, seed=7, init=PonderInit()).run(out, {"tokenizer": world.tokenizer})
    expected = drawn(DECODER, PonderInit())
    for name, tensor in weights(out).items():
        assert torch.equal(tensor, expected[name]), name


def test_weights_without_a_spread_are_refused() -> None:
    with pytest.raises(ValueError, match=r"std=0\.0 of fresh weights must be above 0"):
        GPT2Init(std=0.0)

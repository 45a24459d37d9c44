"""Names go to Hugging Face and come back, and the bytes behind them stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from innovator.models.attention import AttentionConfig
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.layers import GELUConfig
from innovator.models.moe import MoEConfig
from innovator.weights.folder import Folder
from innovator.weights.names import LLAMA, FusedHeads, Renamed, pieces, stacked

Draw = Callable[[DecoderConfig, str], Decoder]
Write = Callable[[DecoderConfig, str], Folder]


def on_disk(folder: Path) -> dict[str, Tensor]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) and tensor.dtype == other[name].dtype for name, tensor in one.items())


@pytest.fixture(params=["swiglu", "gelu"])
def either(request: pytest.FixtureRequest, mixture: DecoderConfig, neox: DecoderConfig) -> DecoderConfig:
    """A mixture of either kind of expert."""
    if request.param == "swiglu":
        return mixture
    assert isinstance(mixture.ffn, MoEConfig)
    ffn = replace(mixture.ffn, expert=GELUConfig(hidden=12), shared=None, dense=GELUConfig(hidden=24))
    return replace(neox, ffn=ffn, tied=False)


def test_a_mixture_comes_back_as_it_was(either: DecoderConfig, draw: Draw, write: Write) -> None:
    folder = write(either, "model")
    assert folder.config == either
    assert_same(dict(folder.tensors()), draw(either, "model").state_dict())


def test_pieces_come_one_by_one_as_they_stand_on_disk(either: DecoderConfig, write: Write) -> None:
    folder = write(either, "model")
    there = dict(folder.pieces())
    assert_same(dict(Renamed(LLAMA).write(there.items())), on_disk(folder.path))
    name = "layers.1.ffn.experts.5.down_proj.weight"
    assert torch.equal(folder.piece(name), there[name]) and there[name].shape == (16, 12)


def test_heads_are_fused_in_whatever_order_their_parts_come(neox: DecoderConfig, draw: Draw) -> None:
    state = draw(neox, "model").state_dict()
    naming = FusedHeads(neox.attention.n_heads)
    forwards, backwards = dict(naming.write(state.items())), dict(naming.write(reversed(state.items())))
    assert_same(forwards, backwards)
    assert_same({name: naming.read(name, forwards.__getitem__) for name in state}, state)


def test_every_expert_has_three_matrices_of_its_own_on_disk(mixture: DecoderConfig, write: Write) -> None:
    folder = write(mixture, "model")
    names = on_disk(folder.path).keys()
    for expert in range(6):
        for part in ("gate", "up", "down"):
            assert f"model.layers.1.mlp.experts.{expert}.{part}_proj.weight" in names
    assert "model.layers.1.mlp.gate.e_score_correction_bias" in names
    assert "model.layers.1.mlp.shared_experts.up_proj.weight" in names
    assert "model.layers.0.mlp.up_proj.weight" in names


def test_no_two_tensors_share_a_name(mixture: DecoderConfig) -> None:
    attention = AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=6, qkv_bias=True, qk_norm=True)
    state = Decoder(replace(mixture, attention=attention, n_layers=12)).state_dict()
    in_pieces = [piece for name, tensor in state.items() for piece in pieces(name, tensor)]
    names = [name for name, _ in Renamed(LLAMA).write(in_pieces)]
    assert len(set(names)) == len(names)


def test_every_tensor_is_put_together_from_what_it_was_taken_apart_into(either: DecoderConfig, draw: Draw) -> None:
    for name, tensor in draw(either, "model").state_dict().items():
        assert torch.equal(stacked(name, 6, dict(pieces(name, tensor)).__getitem__), tensor)

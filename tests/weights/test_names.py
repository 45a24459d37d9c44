"""Names go to Hugging Face and come back, and the bytes behind them stay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from innovator.models.attention import AttentionConfig
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.moe import MoEConfig
from innovator.weights.folder import Folder, save_folder
from innovator.weights.names import LLAMA, Renamed, piece_names, pieces, stacked


def on_disk(folder: Path) -> dict[str, Tensor]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) and tensor.dtype == other[name].dtype for name, tensor in one.items())


def test_what_transformers_saved_is_saved_again_as_it_was(stock: Path, tmp_path: Path) -> None:
    folder = Folder.open(stock)
    save_folder(tmp_path / "again", folder.config, folder.tensors(), tokenizer=None, facts=folder.facts)
    assert_same(on_disk(tmp_path / "again"), on_disk(stock))
    assert Folder.open(tmp_path / "again").config == folder.config


def test_a_mixture_comes_back_as_it_was(
    mixture: DecoderConfig,
    draw: Callable[[DecoderConfig, str], Decoder],
    write: Callable[[DecoderConfig, str], Folder],
) -> None:
    folder = write(mixture, "model")
    assert folder.config == mixture
    assert_same(dict(folder.tensors()), draw(mixture, "model").state_dict())


def test_every_expert_has_three_matrices_of_its_own_on_disk(
    mixture: DecoderConfig, write: Callable[[DecoderConfig, str], Folder]
) -> None:
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


def test_every_tensor_is_put_together_from_what_it_was_taken_apart_into(
    mixture: DecoderConfig, draw: Callable[[DecoderConfig, str], Decoder]
) -> None:
    assert isinstance(mixture.ffn, MoEConfig)
    for name, tensor in draw(mixture, "model").state_dict().items():
        there = dict(pieces(name, tensor))
        assert tuple(there) == tuple(piece_names(name, mixture.ffn.n_experts))
        assert torch.equal(stacked(name, mixture.ffn.n_experts, there.__getitem__), tensor)

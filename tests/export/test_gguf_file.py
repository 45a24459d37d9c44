"""A GGUF file holds the model under llama.cpp's names, and is there whole or not at all."""

from __future__ import annotations

import resource
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from gguf_models import ATTENTIONS, GRANITES, MIXED, PICO, PLAIN, Made

from innovator.export.gguf import write_gguf
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.layers import SwiGLUConfig
from innovator.weights.folder import Folder, save_folder


@pytest.fixture
def make(tmp_path: Path, draw: Callable[[DecoderConfig, str], Decoder], tokenizer_folder: Path) -> Made:
    return Made(tmp_path, draw, tokenizer_folder)


def said(file: Path) -> dict[str, object]:
    """The metadata of a file."""
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


def shapes(file: Path) -> dict[str, list[int]]:
    """Shapes as torch has them; GGUF counts from the last dimension."""
    return {tensor.name: tensor.shape.tolist()[::-1] for tensor in GGUFReader(file).tensors}


def test_a_glm4moe_file_names_every_tensor(make: Made, tmp_path: Path) -> None:
    attention = replace(PLAIN, qkv_bias=True, qk_norm=True)
    _, folder = make(replace(PICO, attention=attention, ffn=replace(MIXED, dense_layers=(0,))))
    write_gguf(folder, tmp_path / "model.gguf", "glm4moe", "f32")
    same = {
        "attn_norm.weight": [32],
        "attn_q.weight": [32, 32],
        "attn_q.bias": [32],
        "attn_k.weight": [16, 32],
        "attn_k.bias": [16],
        "attn_v.weight": [16, 32],
        "attn_v.bias": [16],
        "attn_output.weight": [32, 32],
        "attn_q_norm.weight": [8],
        "attn_k_norm.weight": [8],
        "post_attention_norm.weight": [32],
    }
    dense = {"ffn_gate.weight": [20, 32], "ffn_up.weight": [20, 32], "ffn_down.weight": [32, 20]}
    mixed = {
        "ffn_gate_inp.weight": [6, 32],
        "exp_probs_b.bias": [6],
        "ffn_gate_exps.weight": [6, 12, 32],
        "ffn_up_exps.weight": [6, 12, 32],
        "ffn_down_exps.weight": [6, 32, 12],
        "ffn_gate_shexp.weight": [24, 32],
        "ffn_up_shexp.weight": [24, 32],
        "ffn_down_shexp.weight": [32, 24],
    }
    assert shapes(tmp_path / "model.gguf") == {
        "token_embd.weight": [288, 32],
        "output_norm.weight": [32],
        "output.weight": [288, 32],
        **{f"blk.0.{name}": shape for name, shape in (same | dense).items()},
        **{f"blk.1.{name}": shape for name, shape in (same | mixed).items()},
    }


def test_a_glm4moe_file_says_what_the_mixture_is(make: Made, tmp_path: Path) -> None:
    config = replace(PICO, ffn=replace(MIXED, dense_layers=(0,)), attention=ATTENTIONS["linearly scaled"])
    _, folder = make(config, max_position_embeddings=512)
    write_gguf(folder, tmp_path / "gauss.gguf", "glm4moe", "bf16")
    assert {
        "general.architecture": "glm4moe",
        "general.name": "gauss",
        "general.file_type": 32,
        "general.quantization_version": 2,
        "glm4moe.vocab_size": 288,
        "glm4moe.context_length": 512,
        "glm4moe.embedding_length": 32,
        "glm4moe.block_count": 2,
        "glm4moe.feed_forward_length": 20,
        "glm4moe.attention.head_count": 4,
        "glm4moe.attention.head_count_kv": 2,
        "glm4moe.attention.key_length": 8,
        "glm4moe.attention.value_length": 8,
        "glm4moe.rope.dimension_count": 8,
        "glm4moe.rope.freq_base": 10_000.0,
        "glm4moe.rope.scaling.type": "linear",
        "glm4moe.rope.scaling.factor": 4.0,
        "glm4moe.expert_count": 6,
        "glm4moe.expert_used_count": 2,
        "glm4moe.expert_feed_forward_length": 12,
        "glm4moe.expert_shared_count": 2,
        "glm4moe.leading_dense_block_count": 1,
        "glm4moe.expert_gating_func": 2,
        "glm4moe.expert_weights_norm": True,
        "glm4moe.expert_weights_scale": 2.5,
    }.items() <= said(tmp_path / "gauss.gguf").items()


def test_granitemoe_turns_neighbours_and_scales_what_experts_say(make: Made, tmp_path: Path) -> None:
    model, folder = make(GRANITES["llama 3.1"], biased=False)
    write_gguf(folder, tmp_path / "model.gguf", "granitemoe", "f32")
    held = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "model.gguf").tensors}
    block = model.layers[0]
    keys_GHD = block.attn.k_proj.weight.detach().numpy().reshape(2, 8, 32)
    assert np.array_equal(held["blk.0.attn_k.weight"].reshape(2, 8, 32)[:, ::2], keys_GHD[:, :4])
    assert np.array_equal(held["blk.0.attn_k.weight"].reshape(2, 8, 32)[:, 1::2], keys_GHD[:, 4:])
    assert np.array_equal(held["blk.0.ffn_down_exps.weight"], block.ffn.experts.down_proj.detach().numpy() * 1.7)
    assert held["rope_freqs.weight"][0] == 1 and held["rope_freqs.weight"][-1] == 8
    assert said(tmp_path / "model.gguf")["granitemoe.attention.scale"] == pytest.approx(8**-0.5)


def test_q8_0_is_off_by_half_a_step_where_its_blocks_fit(make: Made, tmp_path: Path) -> None:
    _, folder = make(PICO)
    write_gguf(folder, tmp_path / "model.gguf", "glm4moe", "q8_0")
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "model.gguf").tensors}
    kinds = {name.split(".", 2)[-1]: tensor.tensor_type for name, tensor in tensors.items()}
    assert {kinds[name] for name in ("attn_q.weight", "ffn_gate_exps.weight")} == {GGMLQuantizationType.Q8_0}
    assert {kinds[name] for name in ("ffn_down_exps.weight", "ffn_down_shexp.weight")} == {GGMLQuantizationType.F16}
    fp32 = ("attn_norm.weight", "ffn_gate_inp.weight", "exp_probs_b.bias")
    assert {kinds[name] for name in fp32} == {GGMLQuantizationType.F32}
    gate = tensors["blk.1.ffn_gate_exps.weight"]
    stored = dequantize(gate.data, gate.tensor_type).reshape(6, 12, 32)
    own = folder.tensor("layers.1.ffn.experts.gate_up_proj")[:, :12].numpy()
    step = np.abs(own).max(axis=-1, keepdims=True) / 127
    assert (np.abs(stored - own) <= step * (0.5 + 127 * 2**-11)).all()  # the step itself is stored in fp16


def test_folders_of_any_type_are_read(make: Made, tmp_path: Path) -> None:
    model, folder = make(PICO)
    state = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    save_folder(tmp_path / "short", PICO, state.items(), folder.path)
    write_gguf(Folder.open(tmp_path / "short"), tmp_path / "model.gguf", "glm4moe", "bf16")
    held = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "model.gguf").tensors}["output.weight"]
    assert np.array_equal(
        dequantize(held.data, held.tensor_type).reshape(288, 32), state["unembed.weight"].float().numpy()
    )


@contextmanager
def files_of_at_most(n_bytes: int) -> Iterator[None]:
    """As on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_no_file(make: Made, tmp_path: Path) -> None:
    _, folder = make(PICO)
    with files_of_at_most(60_000), pytest.raises(OSError):
        write_gguf(folder, tmp_path / "model.gguf", "glm4moe", "f32")
    assert not (tmp_path / "model.gguf").exists()


def test_a_damaged_folder_leaves_the_file_before_it(make: Made, tmp_path: Path) -> None:
    _, folder = make(PICO)
    write_gguf(folder, tmp_path / "model.gguf", "glm4moe", "f16")
    before = (tmp_path / "model.gguf").read_bytes()
    lost = "model.layers.1.mlp.experts.3.up_proj.weight"
    damaged = replace(folder, files={name: file for name, file in folder.files.items() if name != lost})
    with pytest.raises(ValueError, match=lost):
        write_gguf(damaged, tmp_path / "model.gguf", "glm4moe", "f32")
    assert (tmp_path / "model.gguf").read_bytes() == before


def test_one_stack_of_experts_is_in_memory(make: Made, tmp_path: Path) -> None:
    wide = replace(MIXED, n_experts=32, n_disciplines=2, expert=SwiGLUConfig(hidden=256))
    _, folder = make(replace(PICO, n_layers=4, ffn=wide))
    tracemalloc.start()
    write_gguf(folder, tmp_path / "model.gguf", "glm4moe", "f32")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    stack = 4 * 32 * 256 * 32
    assert stack < peak < 2 * stack < (tmp_path / "model.gguf").stat().st_size / 5


def test_numbers_beyond_fp16_are_refused_in_words(make: Made, tmp_path: Path) -> None:
    model, folder = make(PICO)
    state = model.state_dict()
    state["layers.1.attn.v_proj.weight"][3, 5] = 70_000
    save_folder(tmp_path / "large", PICO, state.items(), folder.path)
    with pytest.raises(ValueError, match=r"blk.1.attn_v.weight holds numbers beyond 65504: store bf16 or f32"):
        write_gguf(Folder.open(tmp_path / "large"), tmp_path / "model.gguf", "glm4moe", "f16")
    write_gguf(Folder.open(tmp_path / "large"), tmp_path / "model.gguf", "glm4moe", "bf16")

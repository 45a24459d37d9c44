"""A mixture as one GGUF file for llama.cpp, which computes ours exactly as one of two architectures.

llama.cpp's own converter writes neither from our folders: it takes only the routers that each was published with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, Protocol

import torch
from gguf import GGML_QUANT_VERSION, ExpertGatingFuncType, GGUFWriter, LlamaFileType, RopeScalingType
from torch import Tensor

from innovator.export import gguf_tensors as take
from innovator.export.gguf_tensors import FileTensor, Stored, shared_hidden
from innovator.export.gguf_tokenizer import write_tokenizer
from innovator.export.subject import Subject, mixture
from innovator.models.attention import LinearRope, Llama3Rope, PlainRope
from innovator.models.decoder import DecoderConfig
from innovator.models.layers import RMSNormConfig, SwiGLUConfig
from innovator.models.moe import MoEConfig, SigmoidRouter, SoftmaxRouter
from innovator.weights.families import only_ours
from innovator.weights.folder import Folder

ArchitectureName = Literal["glm4moe", "granitemoe"]

FILE_TYPES: dict[Stored, LlamaFileType] = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}
CONTEXT = 4096  # what a folder is taken to have been trained on that does not say


def write_gguf(
    folder: Folder, out: Path, arch: ArchitectureName, stored: Stored, pre_tokenizer: str | None = None
) -> None:
    """Write a mixture and its tokenizer to the file `out`, which appears only when it is whole.

    stored: the type of the matrices. pre_tokenizer: llama.cpp's name of the rule by which the tokenizer cuts a text
    before it merges, where `tokenizer.json` has one that we do not know.
    """
    architecture = ARCHITECTURES[arch]
    reason = architecture.why_not(folder.config, Subject.of(folder).biased)
    if reason is not None:
        raise ValueError(f"{folder.path}: {reason}")
    beside = out.with_name(out.name + ".partial")
    writer = GGUFWriter(beside, arch)
    writer.add_type("model")
    writer.add_name(out.stem)
    writer.add_file_type(FILE_TYPES[stored])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    _describe(writer, folder)
    architecture.describe(writer, folder.config)
    write_tokenizer(writer, folder.path, folder.config.vocab_size, pre_tokenizer)
    try:
        take.write_tensors(writer, list(architecture.tensors(folder)), stored)
    finally:
        writer.close()
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, out)


class Architecture(Protocol):
    """One of llama.cpp's architectures, as far as it can be one of our mixtures."""

    def why_not(self, config: DecoderConfig, selection_bias: bool) -> str | None:
        """One sentence that says why it cannot be this decoder, or None if it can."""
        ...

    def describe(self, writer: GGUFWriter, config: DecoderConfig) -> None:
        """Write what it must know beside what all architectures are told."""
        ...

    def tensors(self, folder: Folder) -> Iterator[FileTensor]:
        """The tensors of its file, in order."""
        ...


@dataclass(frozen=True)
class Glm4Moe:
    """GLM-4.5's architecture (arXiv 2508.06471), which takes every router of ours."""

    def why_not(self, config: DecoderConfig, selection_bias: bool) -> str | None:
        return next(chain(_obstacles("glm4moe", config), self._obstacles(config)), None)

    def describe(self, writer: GGUFWriter, config: DecoderConfig) -> None:
        ffn = mixture(config)
        is_sigmoid = isinstance(ffn.router, SigmoidRouter)
        writer.add_feed_forward_length(ffn.dense.hidden)
        writer.add_expert_feed_forward_length(ffn.expert.hidden)
        writer.add_expert_shared_count(self._n_shared(ffn))
        writer.add_leading_dense_block_count(len(_dense_layers(config)))
        writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID if is_sigmoid else ExpertGatingFuncType.SOFTMAX)
        writer.add_expert_weights_norm(not isinstance(ffn.router, SoftmaxRouter) or ffn.router.normalized)
        writer.add_expert_weights_scale(ffn.router.scale)

    def tensors(self, folder: Folder) -> Iterator[FileTensor]:
        ffn, dense_layers = mixture(folder.config), _dense_layers(folder.config)
        yield from take.ends(folder)
        for layer in range(folder.config.n_layers):
            ours, theirs = f"layers.{layer}", f"blk.{layer}"
            yield from take.attention(folder, layer)
            yield take.same(folder, f"{ours}.ffn_norm.weight", f"{theirs}.post_attention_norm.weight")
            if layer in dense_layers:
                yield from take.dense(folder, layer)
                continue
            yield take.same(folder, f"{ours}.ffn.router.weight", f"{theirs}.ffn_gate_inp.weight")
            yield take.same(folder, f"{ours}.ffn.router.selection_bias", f"{theirs}.exp_probs_b.bias")
            yield from take.experts(folder, layer)
            yield from take.shared(folder, layer, self._n_shared(ffn) * ffn.expert.hidden)

    def _obstacles(self, config: DecoderConfig) -> Iterator[str]:
        if config.attention.o_bias:
            yield "glm4moe has no bias on the output of attention"
        if isinstance(config.attention.rope, Llama3Rope):
            yield "glm4moe cannot scale rotary positions as Llama 3 does"
        if (layers := _dense_layers(config)) != list(range(len(layers))):
            yield f"glm4moe has dense layers only before all mixtures, not at {layers}"

    @staticmethod
    def _n_shared(ffn: MoEConfig) -> int:
        """How many shared experts, each as wide as a routed one, hold ours; there must be at least one."""
        return max(1, -(-shared_hidden(ffn) // ffn.expert.hidden))


@dataclass(frozen=True)
class GraniteMoe:
    """Granite 3's architecture: Llama 3's rotary positions and biases, but only a normalised softmax router."""

    def why_not(self, config: DecoderConfig, selection_bias: bool) -> str | None:
        return next(chain(_obstacles("granitemoe", config), self._obstacles(config, selection_bias)), None)

    def describe(self, writer: GGUFWriter, config: DecoderConfig) -> None:
        ffn = mixture(config)
        writer.add_feed_forward_length(ffn.expert.hidden)
        writer.add_expert_shared_feed_forward_length(shared_hidden(ffn))
        writer.add_attention_scale(config.attention.head_dim**-0.5)
        writer.add_embedding_scale(1.0)
        writer.add_residual_scale(1.0)
        writer.add_logit_scale(1.0)

    def tensors(self, folder: Folder) -> Iterator[FileTensor]:
        ffn, attention = mixture(folder.config), folder.config.attention
        changes = {
            "attn.q_proj": partial(take.interleaved, n_heads=attention.n_heads),
            "attn.k_proj": partial(take.interleaved, n_heads=attention.n_kv_heads),
        }
        yield from take.ends(folder)
        if isinstance(attention.rope, Llama3Rope):
            slower_P = _slower(attention.rope, attention.head_dim)
            yield FileTensor("rope_freqs.weight", tuple(slower_P.shape), lambda: [slower_P])
        for layer in range(folder.config.n_layers):
            ours, theirs = f"layers.{layer}", f"blk.{layer}"
            yield from take.attention(folder, layer, changes)
            yield take.same(folder, f"{ours}.ffn_norm.weight", f"{theirs}.ffn_norm.weight")
            yield take.same(folder, f"{ours}.ffn.router.weight", f"{theirs}.ffn_gate_inp.weight")
            yield from take.experts(folder, layer, ffn.router.scale)
            if ffn.shared is not None:
                yield from take.shared(folder, layer, ffn.shared.hidden)

    def _obstacles(self, config: DecoderConfig, selection_bias: bool) -> Iterator[str]:
        attention, router = config.attention, mixture(config).router
        if not (isinstance(router, SoftmaxRouter) and router.normalized):
            yield "granitemoe routes by a normalised softmax only"
        if selection_bias:
            yield "granitemoe has no selection bias"
        if attention.qk_norm:
            yield "granitemoe has no norm on queries and keys"
        if attention.rotated != attention.head_dim:
            yield f"granitemoe rotates whole heads, not {attention.rotated} of a head's {attention.head_dim} numbers"
        if layers := _dense_layers(config):
            yield f"granitemoe has no dense layers, and {layers} are"


ARCHITECTURES: dict[ArchitectureName, Architecture] = {
    "glm4moe": Glm4Moe(),
    "granitemoe": GraniteMoe(),
}


def _obstacles(name: str, config: DecoderConfig) -> Iterator[str]:
    """What neither architecture can be."""
    ffn = config.ffn
    yield from only_ours(config)
    if not isinstance(ffn, MoEConfig):
        yield f"{name} is a mixture; llama.cpp's own converter takes dense models"
    elif not all(isinstance(part, SwiGLUConfig) for part in (ffn.expert, ffn.dense, ffn.shared or ffn.expert)):
        yield f"{name} has only SwiGLU feed-forwards"
    if not isinstance(config.norm, RMSNormConfig):
        yield f"{name} has only RMSNorm"
    if config.residual != "sequential":
        yield f"{name} has no parallel residual"
    if config.attention.window is not None:
        yield f"{name} lets a token see all earlier ones, not the last {config.attention.window}"


def _describe(writer: GGUFWriter, folder: Folder) -> None:
    """What every architecture is told."""
    config, attention, ffn = folder.config, folder.config.attention, mixture(folder.config)
    context = folder.facts.get("max_position_embeddings")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(context if isinstance(context, int) else CONTEXT)
    writer.add_embedding_length(config.dim)
    writer.add_block_count(config.n_layers)
    writer.add_head_count(attention.n_heads)
    writer.add_head_count_kv(attention.n_kv_heads)
    writer.add_key_length(attention.head_dim)
    writer.add_value_length(attention.head_dim)
    writer.add_layer_norm_rms_eps(config.norm.eps)
    writer.add_rope_dimension_count(attention.rotated)
    writer.add_rope_freq_base(attention.rope.theta)
    if isinstance(attention.rope, LinearRope):
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(attention.rope.factor)
    writer.add_expert_count(ffn.n_experts)
    writer.add_expert_used_count(ffn.top_k)


def _dense_layers(config: DecoderConfig) -> list[int]:
    return [layer for layer in range(config.n_layers) if layer in mixture(config).dense_layers]


def _slower(rope: Llama3Rope, width: int) -> Tensor:
    """How many times slower than plain rotary positions each pair turns."""
    cpu = torch.device("cpu")
    return PlainRope(theta=rope.theta).frequencies(width, cpu) / rope.frequencies(width, cpu)

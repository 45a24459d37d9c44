"""Names of tensors: in a decoder, in pieces as they stream by, and on disk in each family's checkpoints.

A decoder holds all experts of a layer stacked; what streams from folder to folder are pieces, one matrix of one
expert at a time (`layers.0.ffn.experts.5.gate_proj.weight`), which is also how every loader expects them on disk.

Shape suffixes: N heads, H head width, D model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

Named = Iterator[tuple[str, Tensor]]
STACKS = {
    "gate_up_proj": ("gate_proj.weight", "up_proj.weight"),
    "up_proj": ("up_proj.weight",),
    "up_bias": ("up_proj.bias",),
    "down_proj": ("down_proj.weight",),
    "down_bias": ("down_proj.bias",),
}
STACK = re.compile(rf"(.*\.experts)\.({'|'.join(STACKS)})")
LLAMA = (
    ("embed.weight", "model.embed_tokens.weight"),
    ("unembed.weight", "lm_head.weight"),
    ("norm.{}", "model.norm.{}"),
    ("thinking.{}", "thinking.{}"),
    ("layers.{}.attn_norm.{}", "model.layers.{}.input_layernorm.{}"),
    ("layers.{}.ffn_norm.{}", "model.layers.{}.post_attention_layernorm.{}"),
    ("layers.{}.attn.{}", "model.layers.{}.self_attn.{}"),
    ("layers.{}.ffn.router.weight", "model.layers.{}.mlp.gate.weight"),
    ("layers.{}.ffn.router.selection_bias", "model.layers.{}.mlp.gate.e_score_correction_bias"),
    ("layers.{}.ffn.shared.{}", "model.layers.{}.mlp.shared_experts.{}"),
    ("layers.{}.ffn.{}", "model.layers.{}.mlp.{}"),
)
NEOX = (
    ("embed.weight", "gpt_neox.embed_in.weight"),
    ("unembed.weight", "embed_out.weight"),
    ("norm.{}", "gpt_neox.final_layer_norm.{}"),
    ("layers.{}.attn_norm.{}", "gpt_neox.layers.{}.input_layernorm.{}"),
    ("layers.{}.ffn_norm.{}", "gpt_neox.layers.{}.post_attention_layernorm.{}"),
    ("layers.{}.attn.o_proj.{}", "gpt_neox.layers.{}.attention.dense.{}"),
    ("layers.{}.ffn.up_proj.{}", "gpt_neox.layers.{}.mlp.dense_h_to_4h.{}"),
    ("layers.{}.ffn.down_proj.{}", "gpt_neox.layers.{}.mlp.dense_4h_to_h.{}"),
)
QKV = re.compile(r"layers\.(\d+)\.attn\.([qkv])_proj\.(weight|bias)")
FUSED_QKV = "gpt_neox.layers.{}.attention.query_key_value.{}"


class Naming(Protocol):
    """How a family's checkpoints call the pieces of a decoder."""

    def read(self, piece: str, file: Callable[[str], Tensor]) -> Tensor:
        """One piece, from the tensors that `file` gives by their name on disk."""
        ...

    def write(self, pieces: Iterable[tuple[str, Tensor]]) -> Named:
        """Pieces as they stand on disk, in the order they come."""
        ...


@dataclass(frozen=True)
class Renamed:
    """One tensor on disk for every piece."""

    table: tuple[tuple[str, str], ...]

    def read(self, piece: str, file: Callable[[str], Tensor]) -> Tensor:
        return file(self.on_disk(piece))

    def write(self, pieces: Iterable[tuple[str, Tensor]]) -> Named:
        return ((self.on_disk(piece), tensor) for piece, tensor in pieces)

    def on_disk(self, piece: str) -> str:
        """What a piece is called on disk."""
        for ours, theirs in self.table:
            if match := re.fullmatch(re.escape(ours).replace(r"\{\}", "(.+?)"), piece):
                return theirs.format(*match.groups())
        raise AssertionError(f"no name on disk is known for {piece}")


@dataclass(frozen=True)
class FusedHeads:
    """GPT-NeoX: query, key and value are one matrix, head by head."""

    n_heads: int
    rest: Renamed = Renamed(NEOX)

    def read(self, piece: str, file: Callable[[str], Tensor]) -> Tensor:
        match = QKV.fullmatch(piece)
        if match is None:
            return self.rest.read(piece, file)
        fused = file(FUSED_QKV.format(match[1], match[3]))
        if fused.shape[0] % (3 * self.n_heads):
            raise ValueError(f"{FUSED_QKV.format(match[1], match[3])} does not divide into {self.n_heads} heads")
        return fused.unflatten(0, (self.n_heads, 3, -1))[:, "qkv".index(match[2])].flatten(0, 1)

    def write(self, pieces: Iterable[tuple[str, Tensor]]) -> Named:
        waiting: dict[str, dict[str, Tensor]] = {}
        for piece, tensor in pieces:
            if (match := QKV.fullmatch(piece)) is None:
                yield self.rest.on_disk(piece), tensor
                continue
            name = FUSED_QKV.format(match[1], match[3])
            parts = waiting.setdefault(name, {})
            parts[match[2]] = tensor.unflatten(0, (self.n_heads, -1))
            if len(parts) == 3:
                del waiting[name]
                yield name, torch.stack([parts[part] for part in "qkv"], dim=1).flatten(0, 2)


def pieces(name: str, tensor: Tensor) -> Named:
    """One of a decoder's tensors as it streams: itself, or each expert's matrices."""
    match = STACK.fullmatch(name)
    if match is None:
        yield name, tensor
        return
    parts = STACKS[match[2]]
    for expert, stacked in enumerate(tensor.unbind()):
        for part, piece in zip(parts, stacked.chunk(len(parts)), strict=True):
            yield f"{match[1]}.{expert}.{part}", piece


def stacked(name: str, n_experts: int, piece: Callable[[str], Tensor]) -> Tensor:
    """One of a decoder's tensors, put together from its pieces; no more than it and one expert are in memory."""
    match = STACK.fullmatch(name)
    if match is None:
        return piece(name)
    experts = (
        torch.cat([piece(f"{match[1]}.{expert}.{part}") for part in STACKS[match[2]]]) for expert in range(n_experts)
    )
    first = next(experts)
    whole = first.new_empty(n_experts, *first.shape)
    for expert, matrix in enumerate(chain([first], experts)):
        whole[expert] = matrix
    return whole

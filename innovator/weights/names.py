"""Names in Hugging Face checkpoints and names in ours: one table, read both ways, one tensor at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

EXPERTS = re.compile(r"layers\.(\d+)\.ffn\.experts\.(gate_up|down)_proj")
TABLE = (
    ("embed.weight", "model.embed_tokens.weight"),
    ("unembed.weight", "lm_head.weight"),
    ("norm.weight", "model.norm.weight"),
    ("layers.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight"),
    ("layers.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    ("layers.{}.attn.{}", "model.layers.{}.self_attn.{}"),
    ("layers.{}.ffn.router.weight", "model.layers.{}.mlp.gate.weight"),
    ("layers.{}.ffn.router.selection_bias", "model.layers.{}.mlp.gate.e_score_correction_bias"),
    ("layers.{}.ffn.shared.{}", "model.layers.{}.mlp.shared_experts.{}"),
    ("layers.{}.ffn.{}", "model.layers.{}.mlp.{}"),
)


def hf_name(ours: str) -> str:
    """The Hugging Face name of one of our tensors (stacked experts have one per expert: see `to_hf`)."""
    for pattern, target in TABLE:
        if match := re.fullmatch(re.escape(pattern).replace(r"\{\}", "(.+?)"), ours):
            return target.format(*match.groups())
    raise AssertionError(f"no Hugging Face name is known for {ours}")


def to_hf(ours: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """One of our tensors as it stands on disk: itself, or each expert's matrices."""
    match = EXPERTS.fullmatch(ours)
    if match is None:
        yield hf_name(ours), tensor
        return
    layer, kind = match.groups()
    for expert, matrix in enumerate(tensor.unbind()):
        for part, piece in zip(_parts(kind), matrix.chunk(len(_parts(kind))), strict=True):
            yield _expert_name(layer, expert, part), piece


def from_hf(ours: str, n_experts: int, read: Callable[[str], Tensor]) -> Tensor:
    """One of our tensors, read from disk by the Hugging Face names it is made of."""
    match = EXPERTS.fullmatch(ours)
    if match is None:
        return read(hf_name(ours))
    layer, kind = match.groups()
    experts = (
        torch.cat([read(_expert_name(layer, expert, part)) for part in _parts(kind)]) for expert in range(n_experts)
    )
    return torch.stack(list(experts))


def _parts(kind: str) -> tuple[str, ...]:
    return tuple(kind.split("_"))


def _expert_name(layer: str, expert: int, part: str) -> str:
    return f"model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight"

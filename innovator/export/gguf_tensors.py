"""The tensors of a GGUF file: their names and types there, taken from one of our folders part by part.

A file holds the experts of a layer stacked; one such stack, in the type it is stored in, is the most in memory.

Shape suffixes: D model, H head width, N heads, R rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from numpy.typing import NDArray
from torch import Tensor

from innovator.export.subject import mixture
from innovator.models.moe import MoEConfig
from innovator.weights.folder import Folder

Stored = Literal["f32", "f16", "bf16", "q8_0"]
Change = Callable[[Tensor], Tensor]

TYPES: dict[Stored, GGMLQuantizationType] = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "bf16": GGMLQuantizationType.BF16,
    "q8_0": GGMLQuantizationType.Q8_0,
}
DTYPES = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
}
ATTENTION = {
    "attn_norm": "attn_norm",
    "attn.q_proj": "attn_q",
    "attn.k_proj": "attn_k",
    "attn.v_proj": "attn_v",
    "attn.o_proj": "attn_output",
    "attn.q_norm": "attn_q_norm",
    "attn.k_norm": "attn_k_norm",
}
PARTS = ("gate", "up", "down")
ROWS = 4096
NO_CHANGES: Mapping[str, Change] = {}


@dataclass(frozen=True)
class FileTensor:
    """One tensor of a file; its parts, which follow each other in it, are read when its turn has come."""

    name: str
    shape: tuple[int, ...]
    parts: Callable[[], Iterable[Tensor]]

    def type(self, stored: Stored) -> GGMLQuantizationType:
        """As llama.cpp's own converter has it: vectors and routers fp32, Q8_0 only where its blocks divide a row."""
        if len(self.shape) == 1 or self.name.endswith("ffn_gate_inp.weight"):
            return GGMLQuantizationType.F32
        per_block, _ = GGML_QUANT_SIZES[TYPES[stored]]
        return TYPES[stored] if self.shape[-1] % per_block == 0 else GGMLQuantizationType.F16

    def n_bytes(self, stored: Stored) -> int:
        """How many bytes it takes in the file."""
        per_block, block_bytes = GGML_QUANT_SIZES[self.type(stored)]
        return math.prod(self.shape) // per_block * block_bytes

    def read(self, stored: Stored) -> NDArray[np.uint8]:
        """Its bytes in the file."""
        data, at = np.empty(self.n_bytes(stored), np.uint8), 0
        for part in self.parts():
            for some_RD in part.view(-1, self.shape[-1]).split(ROWS):
                piece = _bytes(some_RD.float(), self.type(stored), self.name)
                data[at : at + piece.size] = piece
                at += piece.size
        assert at == data.size, f"{self.name} has {at} bytes where {data.size} are foreseen"
        return data


def write_tensors(writer: GGUFWriter, tensors: Sequence[FileTensor], stored: Stored) -> None:
    """Write a whole file: what the writer has been told, then the tensors, one after the other."""
    for tensor in tensors:
        dtype = np.dtype(np.float32)
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, tensor.n_bytes(stored), tensor.type(stored))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.read(stored))


def same(folder: Folder, ours: str, theirs: str, change: Change = Tensor.contiguous) -> FileTensor:
    """One of our tensors under its name in the file, perhaps with its rows in another order."""
    return FileTensor(theirs, tuple(folder.shapes[ours]), lambda: [change(folder.piece(ours))])


def ends(folder: Folder) -> Iterator[FileTensor]:
    """What stands before and after the layers."""
    yield same(folder, "embed.weight", "token_embd.weight")
    yield same(folder, "norm.weight", "output_norm.weight")
    if not folder.config.tied:
        yield same(folder, "unembed.weight", "output.weight")


def attention(folder: Folder, layer: int, changes: Mapping[str, Change] = NO_CHANGES) -> Iterator[FileTensor]:
    """A layer's attention and the norm before it; `changes` says what happens to some of its parts."""
    for ours, theirs in ATTENTION.items():
        for kind in ("weight", "bias"):
            if (name := f"layers.{layer}.{ours}.{kind}") in folder.shapes:
                yield same(folder, name, f"blk.{layer}.{theirs}.{kind}", changes.get(ours, Tensor.contiguous))


def dense(folder: Folder, layer: int) -> Iterator[FileTensor]:
    """A layer's plain feed-forward."""
    for part in PARTS:
        yield same(folder, f"layers.{layer}.ffn.{part}_proj.weight", f"blk.{layer}.ffn_{part}.weight")


def experts(folder: Folder, layer: int, scale: float = 1.0) -> Iterator[FileTensor]:
    """A layer's routed experts, their outputs multiplied by `scale`."""
    ffn = mixture(folder.config)

    def scaled(part: str) -> Iterator[Tensor]:
        for expert in range(ffn.n_experts):
            matrix = folder.piece(f"layers.{layer}.ffn.experts.{expert}.{part}_proj.weight")
            yield matrix.float() * scale if part == "down" else matrix

    for part in PARTS:
        shape = (ffn.n_experts, *_matrix_shape(part, ffn.expert.hidden, folder.config.dim))
        yield FileTensor(f"blk.{layer}.ffn_{part}_exps.weight", shape, partial(scaled, part))


def shared(folder: Folder, layer: int, hidden: int) -> Iterator[FileTensor]:
    """A layer's shared expert, if it has one, filled up to `hidden` neurons with some that do nothing."""
    own = shared_hidden(mixture(folder.config))

    def filled(part: str) -> list[Tensor]:
        name = f"layers.{layer}.ffn.shared.{part}_proj.weight"
        matrix = folder.piece(name) if own else torch.zeros(_matrix_shape(part, 0, folder.config.dim))
        return [F.pad(matrix, (0, hidden - own) if part == "down" else (0, 0, 0, hidden - own))]

    for part in PARTS:
        shape = _matrix_shape(part, hidden, folder.config.dim)
        yield FileTensor(f"blk.{layer}.ffn_{part}_shexp.weight", shape, partial(filled, part))


def shared_hidden(ffn: MoEConfig) -> int:
    """Width of the shared expert, 0 if there is none."""
    return 0 if ffn.shared is None else ffn.shared.hidden


def interleaved(rows: Tensor, n_heads: int) -> Tensor:
    """Rows of queries or keys for rotary positions that turn neighbours, not a head's first half against its second."""
    return rows.unflatten(0, (n_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _matrix_shape(part: str, hidden: int, dim: int) -> tuple[int, int]:
    return (dim, hidden) if part == "down" else (hidden, dim)


def _bytes(some_RD: Tensor, kind: GGMLQuantizationType, name: str) -> NDArray[np.uint8]:
    if kind not in DTYPES:
        return quantize(some_RD.numpy(), kind).view(np.uint8).reshape(-1)
    typed_RD = some_RD.to(DTYPES[kind])
    if kind is GGMLQuantizationType.F16 and not typed_RD.isfinite().all():
        raise ValueError(f"{name} holds numbers beyond {torch.finfo(torch.float16).max:.0f}: store bf16 or f32")
    return typed_RD.flatten().view(torch.uint8).numpy()

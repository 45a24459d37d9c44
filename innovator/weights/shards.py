"""Writing safetensors one tensor at a time, so that no more than one is in memory.

The format (https://github.com/huggingface/safetensors#format) puts a JSON header, which may end in spaces, before
the data. Each file leaves room for its header, and the next one begins when the room or the file is full.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from innovator.files import write_json

SHARD_BYTES = 4 << 30
HEADER_BYTES = 1 << 16
LENGTH_BYTES = 8
ENTRY_BYTES = 96  # of a header's line beside the name: type, shape, offsets
CODES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass
class _Shard:
    """One file in the making."""

    path: Path

    def __post_init__(self) -> None:
        self.header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        self.header_bytes, self.n_bytes = ENTRY_BYTES, 0
        self.file = self.path.open("wb")
        self.file.seek(LENGTH_BYTES + HEADER_BYTES)

    def has_room(self, name: str, tensor: Tensor) -> bool:
        return (
            self.header_bytes + len(name) + ENTRY_BYTES <= HEADER_BYTES and self.n_bytes + tensor.nbytes <= SHARD_BYTES
        )

    def add(self, name: str, tensor: Tensor) -> None:
        end = self.n_bytes + tensor.nbytes
        self.header[name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self.n_bytes, end],
        }
        self.header_bytes += len(name) + ENTRY_BYTES
        self.n_bytes = end
        self.file.write(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data)

    def close(self) -> None:
        self.file.seek(0)
        self.file.write(HEADER_BYTES.to_bytes(LENGTH_BYTES, "little"))
        self.file.write(json.dumps(self.header, separators=(",", ":")).encode().ljust(HEADER_BYTES))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def write_shards(out: Path, tensors: Iterable[tuple[str, Tensor]]) -> torch.dtype:
    """Write `model.safetensors`, or several and their index, into a folder; returns the first tensor's type."""
    shards: list[_Shard] = []
    where: dict[str, int] = {}
    dtype = torch.float32
    for name, tensor in tensors:
        dtype = dtype if where else tensor.dtype
        if not shards or (len(shards[-1].header) > 1 and not shards[-1].has_room(name, tensor)):
            if shards:
                shards[-1].close()
            shards.append(_Shard(out / f"shard-{len(shards)}.draft"))
        shards[-1].add(name, tensor)
        where[name] = len(shards) - 1
    shards[-1].close()
    files = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = ["model.safetensors"]
    for shard, file in zip(shards, files, strict=True):
        os.replace(shard.path, out / file)
    if len(shards) > 1:
        size = sum(shard.n_bytes for shard in shards)
        weight_map = {name: files[number] for name, number in where.items()}
        write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})
    return dtype

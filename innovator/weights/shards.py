"""Writing safetensors one tensor at a time, so that no more than one is in memory.

The format (https://github.com/huggingface/safetensors#format) puts a JSON header, which may end in spaces, before
the data. Each file leaves room for its header, and the next one begins when the room or the file is full.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from innovator.files import write_json

SHARD_BYTES = 4 << 30
LENGTH_BYTES = 8
HEADER_BYTES = (1 << 16) - LENGTH_BYTES  # so that data begins on a page, where mapped tensors are computed with alike
CODES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_shards(out: Path, tensors: Iterable[tuple[str, Tensor]]) -> torch.dtype:
    """Write `model.safetensors`, or several and their index, into a folder; returns the first tensor's type."""
    shards = [Shard(out / "shard-1.draft")]
    dtypes: list[torch.dtype] = []
    for name, tensor in tensors:
        if not shards[-1].has_room(name, tensor):
            shards.append(Shard(out / f"shard-{len(shards) + 1}.draft"))
        shards[-1].add(name, tensor)
        dtypes.append(tensor.dtype)
    _publish(out, shards)
    return dtypes[0] if dtypes else torch.float32


class Shard:
    """One file in the making: the data so far, and the header that will describe it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header = '{"__metadata__":{"format":"pt"}'
        self.names: list[str] = []
        self.n_bytes = 0
        self.file = path.open("wb")
        self.file.write(bytes(LENGTH_BYTES + HEADER_BYTES))

    def has_room(self, name: str, tensor: Tensor) -> bool:
        """Whether a tensor may be added; the first always may, however large it is."""
        header_bytes = len(self.header + self._entry(name, tensor) + "}")
        return not self.names or (self.n_bytes + tensor.nbytes <= SHARD_BYTES and header_bytes <= HEADER_BYTES)

    def add(self, name: str, tensor: Tensor) -> None:
        """Append a tensor's bytes, whatever its type and strides."""
        self.header += self._entry(name, tensor)
        self.names.append(name)
        self.n_bytes += tensor.nbytes
        self.file.write(tensor.detach().flatten().view(torch.uint8).numpy().data)

    def finish(self, path: Path) -> None:
        """Fill in the header, and give the file its name when all of it is on the disk."""
        with self.file as file:
            file.seek(0)
            file.write(HEADER_BYTES.to_bytes(LENGTH_BYTES, "little"))
            file.write(f"{self.header}}}".encode("ascii").ljust(HEADER_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.path, path)

    def _entry(self, name: str, tensor: Tensor) -> str:
        where = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [self.n_bytes, self.n_bytes + tensor.nbytes],
        }
        return f",{json.dumps(name)}:{json.dumps(where, separators=(',', ':'))}"


def _publish(out: Path, shards: list[Shard]) -> None:
    """Give the files the names that loaders look for, and write an index if there are several."""
    files = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = ["model.safetensors"]
    for shard, file in zip(shards, files, strict=True):
        shard.finish(out / file)
    if len(shards) > 1:
        size = sum(shard.n_bytes for shard in shards)
        weight_map = {name: file for shard, file in zip(shards, files, strict=True) for name in shard.names}
        write_json(out / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})

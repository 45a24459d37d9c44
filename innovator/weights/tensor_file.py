"""Reading safetensors one tensor at a time: nothing is mapped, and other threads go on meanwhile.

Mapped files count as resident memory as they are read, and the safetensors package keeps Python's lock while it reads.
It says whether a file is whole.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from innovator.weights.shards import CODES, LENGTH_BYTES

DTYPES = {code: dtype for dtype, code in CODES.items()}


class TensorFile:
    """One file; ValueError if it is damaged."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, framework="pt", backend="pread"), path.open("rb") as file:
                n_bytes = int.from_bytes(file.read(LENGTH_BYTES), "little")
                self.entries = json.loads(file.read(n_bytes))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
        self.entries.pop("__metadata__", None)
        self.data_start = LENGTH_BYTES + n_bytes

    def names(self) -> Collection[str]:
        """What its tensors are called."""
        return self.entries.keys()

    def tensor(self, name: str) -> Tensor:
        """One tensor as it is stored; ValueError if it is not there, or of a type that models are not stored in."""
        if name not in self.entries:
            raise ValueError(f"{self.path}: lacks {name}")
        entry = self.entries[name]
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{self.path}: {name} is {entry['dtype']}, not one of {', '.join(DTYPES)}")
        tensor = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
        left = tensor.flatten().view(torch.uint8).numpy().data
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.data_start + entry["data_offsets"][0])
            while left:
                n_read = file.readinto(left)
                if not n_read:
                    raise ValueError(f"{self.path}: ends within {name}; it was cut while it was read")
                left = left[n_read:]
        return tensor

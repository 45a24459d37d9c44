"""An export read again by its own loader, in a process that cannot import ours, against our logits."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from innovator.export import reread, reread_gguf
from innovator.export.gguf_tensors import Stored
from innovator.export.verdict import Checked
from innovator.weights.blockwise import logits
from innovator.weights.families import only_ours
from innovator.weights.folder import Folder

# A sum in another order; some tens of roundings of 11, 8 and 7 bits.
TOLERANCES: dict[Stored, float] = {"f32": 1e-5, "f16": 1e-2, "bf16": 5e-2, "q8_0": 1e-1}
SHARES: dict[Stored, float] = {"f32": 1.0, "f16": 0.5, "bf16": 0.5, "q8_0": 0.5}
DTYPES: dict[Stored, torch.dtype] = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
N_SEQUENCES, N_SLOTS = 2, 48
ERROR_LINES = 15


def compare_folder(folder: Folder, written: Path, stored: Stored, *kernel: str) -> Checked:
    """A Hugging Face folder, loaded by transformers, against our decoder in the same type.

    kernel: which of transformers' kernels is to compute the experts.
    """
    dtype = DTYPES[stored]
    name = str(dtype).removeprefix("torch.")
    theirs_BTV = _reread(Path(reread.__file__), written, _tokens(folder), name, *kernel)
    ours_BTV = _whole(folder, dtype) if any(only_ours(folder.config)) else logits(folder, _tokens(folder), dtype)
    return _compared(ours_BTV, theirs_BTV, stored, f"transformers {version('transformers')}")


def compare_gguf(folder: Folder, written: Path, stored: Stored) -> Checked | None:
    """A GGUF file, loaded by llama.cpp, against our decoder in fp32; None where llama-cpp-python is not installed."""
    if find_spec("llama_cpp") is None:
        return None
    theirs_BTV = _reread(Path(reread_gguf.__file__), written, _tokens(folder))
    ours_BTV = logits(folder, _tokens(folder), torch.float32)
    return _compared(ours_BTV, theirs_BTV, stored, f"llama-cpp-python {version('llama-cpp-python')}")


@torch.no_grad()
def _whole(folder: Folder, dtype: torch.dtype) -> Tensor:
    """Logits of a decoder that does more than pass each block once, so that all of it must be in memory."""
    logits_BTV: Tensor = folder.load(dtype).eval()(_tokens(folder))
    return logits_BTV.float()


def _tokens(folder: Folder) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(folder.config.vocab_size, (N_SEQUENCES, N_SLOTS), generator=generator)


def _reread(script: Path, written: Path, tokens_BT: Tensor, *more: str) -> Tensor:
    """The logits that a script finds in a fresh, isolated process; ValueError shows the end of what it said."""
    with tempfile.TemporaryDirectory() as scratch:
        tokens, out = Path(scratch) / "tokens.json", Path(scratch) / "logits.npy"
        tokens.write_text(json.dumps(tokens_BT.tolist()), encoding="utf8")
        command = [sys.executable, "-I", str(script), str(written), str(tokens), str(out), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = "\n".join(done.stderr.splitlines()[-ERROR_LINES:])
            raise ValueError(f"{written}: its own loader cannot read it again:\n{said}")
        return torch.from_numpy(np.load(out))


def _compared(ours_BTV: Tensor, theirs_BTV: Tensor, stored: Stored, loader: str) -> Checked:
    error_S = (ours_BTV - theirs_BTV).abs().amax(dim=-1).flatten() / ours_BTV.abs().max()
    return Checked(
        logits_error=float(error_S.quantile(SHARES[stored])),
        share=SHARES[stored],
        identical=torch.equal(ours_BTV, theirs_BTV),
        tolerance=TOLERANCES[stored],
        n_tokens=N_SEQUENCES * N_SLOTS,
        loader=loader,
    )

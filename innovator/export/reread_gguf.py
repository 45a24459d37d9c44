"""What llama.cpp computes from a GGUF file, for comparison: `python -I reread_gguf.py FILE TOKENS.json OUT.npy`.

TOKENS.json holds rows of token numbers of one length; OUT.npy receives their logits, fp32 [rows, slots, vocabulary].
A script of its own, so that the file is read in a process that has none of ours in memory. llama_cpp is imported where
it is used, so that this module can be named where that is not installed.

Shape suffixes: R rows, T slots, V vocabulary.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import llama_cpp


def main(file: str, tokens: str, out: str) -> None:
    """Read the files, write the logits."""
    np.save(out, logits(Path(file), json.loads(Path(tokens).read_text(encoding="utf-8"))))


def logits(file: Path, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Logits [R, T, V] after every token of every row; each row is read with an empty memory, on the CPU."""
    n_slots = len(rows[0])
    if any(len(row) != n_slots for row in rows):
        raise ValueError("rows of tokens should all have one length")
    with _context(file, n_slots) as (context, n_vocab):
        return np.stack([_read_row(context, row, n_vocab) for row in rows])


@contextmanager
def _context(file: Path, n_slots: int) -> Iterator[tuple[llama_cpp.llama_context_p, int]]:
    """A model in memory, its attention plain and in fp32, and the size of its vocabulary."""
    import llama_cpp

    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)
    where = llama_cpp.llama_model_default_params()
    where.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(file).encode(), where)
    if not model:
        raise ValueError(f"{file}: llama.cpp cannot load it")
    how = llama_cpp.llama_context_default_params()
    how.n_ctx = how.n_batch = how.n_ubatch = n_slots
    how.n_threads = how.n_threads_batch = max(1, (os.cpu_count() or 1) // 2)
    how.type_k = how.type_v = llama_cpp.GGML_TYPE_F32
    how.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = llama_cpp.llama_init_from_model(model, how)
    if not context:
        raise ValueError(f"{file}: llama.cpp has no room for {n_slots} tokens")
    try:
        yield context, llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    finally:
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)


def _read_row(context: llama_cpp.llama_context_p, row: Sequence[int], n_vocab: int) -> NDArray[np.float32]:
    import llama_cpp

    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
    batch = llama_cpp.llama_batch_init(len(row), 0, 1)
    batch.n_tokens = len(row)
    for slot, token in enumerate(row):
        batch.token[slot], batch.pos[slot], batch.logits[slot] = token, slot, True
        batch.n_seq_id[slot], batch.seq_id[slot][0] = 1, 0
    status = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_batch_free(batch)
    if status != 0:
        raise ValueError(f"llama.cpp cannot read {len(row)} tokens: llama_decode returns {status}")
    return np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (len(row), n_vocab)).copy()


if __name__ == "__main__":
    main(*sys.argv[1:])

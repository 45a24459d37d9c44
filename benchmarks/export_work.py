"""The tasks that `export.py` measures, one to a process; each prints how many seconds its work took.

python benchmarks/export_work.py TASK ARGUMENT...
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import tokenizers
import torch
from torch import Tensor

from innovator.export.export import export
from innovator.export.targets import TARGETS
from innovator.models.attention import AttentionConfig, PlainRope
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.layers import SwiGLUConfig
from innovator.models.moe import RouterConfig, SigmoidRouter, SoftmaxRouter
from innovator.stages import SplitSpec
from innovator.weights.ahead import ahead
from innovator.weights.folder import Folder, save_folder
from innovator.weights.upcycle import UpcycleSpec, upcycle

QWEN = DecoderConfig(
    vocab_size=151_936,
    dim=896,
    n_layers=24,
    attention=AttentionConfig(n_heads=14, n_kv_heads=2, head_dim=64, qkv_bias=True, rope=PlainRope(theta=1e6)),
    ffn=SwiGLUConfig(hidden=4864),
    tied=True,
)
SHAPES = {
    "qwen2.5-0.5b": QWEN,
    "tiny": replace(
        QWEN,
        vocab_size=4096,
        dim=128,
        n_layers=2,
        attention=replace(QWEN.attention, n_heads=2, n_kv_heads=1),
        ffn=SwiGLUConfig(hidden=512),
    ),
}
ROUTERS: dict[str, RouterConfig] = {"sigmoid": SigmoidRouter(scale=2.5), "softmax": SoftmaxRouter()}
BLOCK = 1 << 20  # the fastest of 256 KiB to 16 MiB; with 16 MiB the copy took two to four times as long
END = "<|endoftext|>"


def make_inputs(inputs: Path, shape: str, n_sources: str) -> None:
    """A base of random numbers, and copies of it whose feed-forwards differ, each in a step's folder."""
    config = SHAPES[shape]
    base, facts = inputs / "base" / "weights", {"model_type": "qwen2", "max_position_embeddings": 32768}
    save_folder(base, config, random_tensors(config), None, {**facts, "eos_token_id": 0})
    write_tokenizer(base)
    folder = Folder.open(base)
    for number in range(1, int(n_sources) + 1):
        save_folder(inputs / f"taught-{number}" / "weights", config, taught(folder, number), base, folder.facts)


def copy(out: Path, n_bytes: str, *files: str) -> None:
    """The limit: read `n_bytes`, from every file the same share of it, and write them into one file, to the disk."""
    sizes = [Path(file).stat().st_size for file in files]
    share = min(1.0, int(n_bytes) / sum(sizes))
    block = memoryview(bytearray(BLOCK))
    with (out / "copy").open("wb", buffering=0) as target:
        for file, size in zip(files, sizes, strict=True):
            with Path(file).open("rb", buffering=0) as source:
                left = int(size * share)
                while left:
                    n_read = source.readinto(block[: min(left, BLOCK)])
                    left -= target.write(block[:n_read])
        os.fsync(target.fileno())


def upcycle_only(out: Path, inputs: str, router: str, n_parts: str, top_k: str) -> None:
    """Upcycling from folder to folder, nothing proved."""
    base, *sources = (Folder.open(folder / "weights") for folder in steps(Path(inputs)))
    spec = UpcycleSpec(n_parts=int(n_parts), top_k=int(top_k), router=ROUTERS[router])
    tensors = upcycle(base, sources, spec, seed=0)
    save_folder(out / "weights", spec.config(base.config, len(sources)), ahead(tensors), base.path, base.facts)


def split(out: Path, inputs: str, router: str, n_parts: str, top_k: str) -> None:
    """The whole step of a recipe: the proof, how far every discipline moved, and the upcycling."""
    spec = UpcycleSpec(n_parts=int(n_parts), top_k=int(top_k), router=ROUTERS[router])
    folders = {folder.name: folder for folder in steps(Path(inputs))}
    SplitSpec(upcycle=spec, sources=tuple(folders)[1:]).run(out, folders)


def export_to(out: Path, mixture: str, target: str) -> None:
    """Export in bf16, not read again."""
    chosen = next(it for it in TARGETS if it.name == target)
    export(Folder.open(Path(mixture)), out / "exported", chosen, "bf16", check=False)


def steps(inputs: Path) -> list[Path]:
    """The base's folder, then the taught ones'."""
    return sorted(inputs.iterdir())


def random_tensors(config: DecoderConfig) -> Iterator[tuple[str, Tensor]]:
    """A decoder's tensors in bf16, made one by one."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        state = Decoder(config).state_dict()
    for name, tensor in state.items():
        if name != "unembed.weight":
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.bfloat16).mul_(0.02)
            yield name, noise + 1 if "norm" in name else noise


def taught(base: Folder, number: int) -> Iterator[tuple[str, Tensor]]:
    """The base's tensors, the neurons of its feed-forwards turned by `number`."""
    for name, tensor in base.tensors():
        yield name, tensor.roll(number, dims=0) if ".ffn." in name else tensor


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of one word, for programs that insist on one."""
    tokenizers.Tokenizer(tokenizers.models.WordLevel({END: 0}, unk_token=END)).save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


TASKS: dict[str, Callable[..., None]] = {
    "inputs": make_inputs,
    "copy": copy,
    "upcycle": upcycle_only,
    "split": split,
    "export": export_to,
}

if __name__ == "__main__":
    task, into, *arguments = sys.argv[1:]
    shutil.rmtree(into, ignore_errors=True)
    Path(into).mkdir(parents=True)
    start = time.perf_counter()
    TASKS[task](Path(into), *arguments)
    print(time.perf_counter() - start)

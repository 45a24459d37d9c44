"""What is written tensor by tensor is what safetensors reads, in as many files as it takes."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from innovator.models.decoder import DecoderConfig
from innovator.weights import shards as shards_module
from innovator.weights.folder import save_folder
from innovator.weights.shards import CODES, write_shards


def files(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Every safetensors file of a folder."""
    return {file.name: load_file(file) for file in sorted(folder.glob("*.safetensors"))}


def assert_reads_back(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    there = {name: tensor for file in files(folder).values() for name, tensor in file.items()}
    assert there.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert there[name].dtype == tensor.dtype and torch.equal(there[name], tensor)


def assert_the_index_tells_the_truth(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    there = files(folder)
    assert index["weight_map"] == {name: file for file, tensors in there.items() for name in tensors}
    size = sum(tensor.nbytes for tensors in there.values() for tensor in tensors.values())
    assert index["metadata"]["total_size"] == size


@contextmanager
def a_disk_of(n_bytes: int) -> Iterator[None]:
    """No file grows beyond this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_tensors_of_every_type_and_shape_read_back(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.arange(3).to(dtype) for dtype in CODES}  # of odd sizes: what follows is unaligned
    tensors |= {"scalar": torch.tensor(2.5), "nothing": torch.empty(0, 4), "strided": torch.rand(4, 6)[:, ::2].T}
    assert write_shards(tmp_path, tensors.items()) == next(iter(CODES))
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert_reads_back(tmp_path, tensors)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}  # transformers asks for it


def test_the_first_tensor_says_what_type_the_model_is(tmp_path: Path) -> None:
    tensors = {"weight": torch.zeros(3, dtype=torch.bfloat16), "selection_bias": torch.zeros(2)}
    assert write_shards(tmp_path, tensors.items()) == torch.bfloat16


def test_a_file_is_filled_before_the_next_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "SHARD_BYTES", 100)
    sizes = (30, 15, 10, 1, 40, 5, 20)
    tensors = {f"t{number}": torch.rand(size) for number, size in enumerate(sizes)}
    write_shards(tmp_path, tensors.items())
    assert [list(file) for file in files(tmp_path).values()] == [["t0"], ["t1", "t2"], ["t3"], ["t4"], ["t5", "t6"]]
    assert_reads_back(tmp_path, tensors)
    assert_the_index_tells_the_truth(tmp_path)


def test_a_header_that_is_full_begins_another_file(tmp_path: Path) -> None:
    tensors = {f"{number}{'a long name ' * 200}": torch.rand(2) for number in range(60)}
    tensors |= {'"quoted" \\ \u00e9': torch.rand(3)}
    write_shards(tmp_path, tensors.items())
    assert len(files(tmp_path)) == 3
    assert_reads_back(tmp_path, tensors)
    assert_the_index_tells_the_truth(tmp_path)


def test_a_model_of_no_tensors_is_a_file_of_none(tmp_path: Path) -> None:
    write_shards(tmp_path, [])
    assert files(tmp_path) == {"model.safetensors": {}}


def test_a_full_disk_leaves_nothing_and_what_stood_there_stands(dense: DecoderConfig, tmp_path: Path) -> None:
    save_folder(tmp_path / "kept", dense, [("embed.weight", torch.ones(2))], tokenizer=None)
    too_much = [("embed.weight", torch.zeros(1_000)), ("unembed.weight", torch.zeros(100_000))]
    for name in ("kept", "fresh"):
        with a_disk_of(200_000), pytest.raises(OSError, match="File too large"):
            save_folder(tmp_path / name, replace(dense, tied=True), too_much, tokenizer=None)
    assert not (tmp_path / "fresh").exists()
    assert json.loads((tmp_path / "kept" / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"] is False
    assert_reads_back(tmp_path / "kept", {"model.embed_tokens.weight": torch.ones(2)})

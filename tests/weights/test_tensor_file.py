"""Reading tensor by tensor gives what safetensors wrote, and says what is wrong with a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from innovator.weights.shards import CODES
from innovator.weights.tensor_file import TensorFile


def test_tensors_of_every_type_and_shape_are_read_as_they_were_written(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.arange(7).to(dtype) for dtype in CODES}
    tensors |= {"scalar": torch.tensor(2.5), "nothing": torch.empty(0, 4), "matrix": torch.rand(4, 6)}
    save_file(tensors, tmp_path / "all.safetensors", metadata={"format": "pt"})
    file = TensorFile(tmp_path / "all.safetensors")
    assert set(file.names()) == tensors.keys()
    for name, tensor in tensors.items():
        there = file.tensor(name)
        assert there.dtype == tensor.dtype and torch.equal(there, tensor)


def test_a_type_that_no_model_is_stored_in_is_named(tmp_path: Path) -> None:
    save_file({"scale": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "fp8.safetensors")
    with pytest.raises(ValueError, match=r"fp8.safetensors: scale is F8_E4M3, not one of F32, F16, BF16"):
        TensorFile(tmp_path / "fp8.safetensors").tensor("scale")


def test_what_it_lacks_is_named(tmp_path: Path) -> None:
    save_file({"here": torch.ones(2)}, tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match=r"one.safetensors: lacks there"):
        TensorFile(tmp_path / "one.safetensors").tensor("there")


def test_a_file_that_is_cut_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_file({"first": torch.ones(1000)}, path)
    file = TensorFile(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"cut.safetensors: ends within first"):
        file.tensor("first")

"""The one format that stages exchange: a Hugging Face folder, read lazily and written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from innovator.files import fingerprint, write_json
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.moe import MoEConfig
from innovator.weights.families import naming_of, read_config, read_facts, write_config
from innovator.weights.fields import Json
from innovator.weights.names import Naming, pieces, stacked
from innovator.weights.shards import write_shards
from innovator.weights.tensor_file import TensorFile

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "generation_config.json",
)  # fmt: skip
NO_FACTS: Json = {}


@dataclass(frozen=True)
class Folder:
    """A model on disk, its tensors read one by one under our names.

    facts: what its `config.json` says beside the decoder: the family it came from, special tokens, context length.
    files: which file holds each tensor, by the tensor's name on disk.
    """

    path: Path
    config: DecoderConfig
    facts: Json
    files: Mapping[str, str]

    @classmethod
    def open(cls, path: Path) -> Folder:
        """Look at a folder without reading a weight; ValueError says what is missing or damaged."""
        config = read_folder_config(path)
        facts = read_facts(_read_json(path / "config.json"))
        if (path / "model.safetensors.index.json").is_file():
            return cls(path, config, facts, _read_weight_map(path / "model.safetensors.index.json"))
        if (path / "model.safetensors").is_file():
            names = TensorFile(path / "model.safetensors").names()
            return cls(path, config, facts, dict.fromkeys(names, "model.safetensors"))
        if any(path.glob("*.bin")):
            raise ValueError(
                f"{path}: only pickled weights; convert them with transformers: "
                "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, safe_serialization=True)"
            )
        raise ValueError(f"{path}: no model.safetensors and no model.safetensors.index.json")

    @cached_property
    def shapes(self) -> Mapping[str, torch.Size]:
        """Our name and shape of every tensor that the config asks for."""
        return {name: tensor.shape for name, tensor in self._asked.items()}

    @property
    def fingerprint(self) -> str:
        """Changes with what the folder holds."""
        return fingerprint(
            [self.path / "config.json", *(self.path / f for f in sorted(set(self.files.values())))], self.path
        )

    @property
    def n_experts(self) -> int:
        """Routed experts per layer; 0 for a dense model."""
        return self.config.ffn.n_experts if isinstance(self.config.ffn, MoEConfig) else 0

    def tensor(self, name: str) -> Tensor:
        """One of the decoder's tensors, in the type it is stored in."""
        return stacked(name, self.n_experts, self.piece)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the decoder, one after the other."""
        for name in self.shapes:
            yield name, self.tensor(name)

    def piece(self, name: str) -> Tensor:
        """One tensor, of an expert one matrix; ValueError unless it has the shape that the config asks for."""
        tensor, shape = self._naming.read(name, self._read), self._piece_shapes[name]
        if tensor.shape != shape:
            raise ValueError(f"{self.path}: {name} is {list(tensor.shape)}, config.json asks for {list(shape)}")
        return tensor

    def pieces(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, the experts' matrices one by one: what a stream from folder to folder is made of."""
        for name in self._piece_shapes:
            yield name, self.piece(name)

    def load(self, dtype: torch.dtype = torch.float32) -> Decoder:
        """The decoder in memory; selection biases and routers stay fp32."""
        with torch.device("meta"):
            model = Decoder(self.config).to(dtype)
        for mixture in model.mixtures():
            mixture.router.float()
        model.to_empty(device="cpu")
        model.tie()
        state = model.state_dict()
        for name, tensor in self.tensors():
            state[name].copy_(tensor)
        for mixture in model.mixtures():
            mixture.router.load.zero_()
        return model

    @cached_property
    def _asked(self) -> dict[str, Tensor]:
        """Every tensor that the config asks for, without its numbers."""
        with torch.device("meta"):
            state = Decoder(self.config).state_dict()
        if self.config.tied:
            del state["unembed.weight"]
        return state

    @cached_property
    def _piece_shapes(self) -> dict[str, torch.Size]:
        return {piece: part.shape for name, tensor in self._asked.items() for piece, part in pieces(name, tensor)}

    @cached_property
    def _naming(self) -> Naming:
        return naming_of(self.config, self.facts)

    def _read(self, on_disk: str) -> Tensor:
        if on_disk not in self.files:
            raise ValueError(f"{self.path}: the weights lack {on_disk}")
        file = self._open_files.get(self.files[on_disk])
        if file is None:
            file = self._open_files[self.files[on_disk]] = TensorFile(self.path / self.files[on_disk])
        return file.tensor(on_disk)

    @cached_property
    def _open_files(self) -> dict[str, TensorFile]:
        return {}


def read_folder_config(path: Path) -> DecoderConfig:
    """What the folder's `config.json` describes."""
    if not (path / "config.json").is_file():
        raise ValueError(f"{path}: no config.json; is this a Hugging Face model folder?")
    return read_config(_read_json(path / "config.json"), path / "config.json")


def save_folder(
    out: Path,
    config: DecoderConfig,
    tensors: Iterable[tuple[str, Tensor]],
    tokenizer: Path | None,
    facts: Json = NO_FACTS,
) -> None:
    """Stream tensors under our names, whole or in pieces, into a folder `out`, which appears only when it is whole."""
    beside = out.with_name(out.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    in_pieces = (piece for name, tensor in tensors for piece in pieces(name, tensor))
    dtype = write_shards(beside, naming_of(config, facts).write(in_pieces))
    write_json(beside / "config.json", write_config(config, str(dtype).removeprefix("torch."), facts))
    if tokenizer is not None:
        copy_tokenizer(tokenizer, beside)
    shutil.rmtree(out, ignore_errors=True)
    os.replace(beside, out)


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy whatever of a tokenizer stands in a folder."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _read_json(path: Path) -> Json:
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: should hold a JSON object")
    return content


def _read_weight_map(path: Path) -> dict[str, str]:
    names = _read_json(path).get("weight_map")
    if not isinstance(names, dict):
        raise ValueError(f"{path}: has no weight_map")
    for file in names.values():
        if Path(str(file)).name != file or Path(file).suffix != ".safetensors":
            raise ValueError(f"{path}: the weight_map names {file!r}, which is no safetensors file of this folder")
    return {str(name): str(file) for name, file in names.items()}

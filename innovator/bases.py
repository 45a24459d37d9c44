"""Where a recipe starts from: a base of its own making, a folder, or the Hub; and the tokenizer that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from innovator.data.tokenizer import FolderTokenizer, Tokenizer, TrainTokenizer
from innovator.models.decoder import DecoderConfig
from innovator.models.initial import GPT2Init, Init
from innovator.models.spec import Spec
from innovator.stages import check_vocabulary
from innovator.train.spec import Course
from innovator.weights.folder import Folder, read_folder_config

MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "tokenizer.model", "*.jinja")


@dataclass(frozen=True, kw_only=True)
class BaseTokenizer(Spec):
    """The tokenizer that the base came with."""

    kind: Literal["base"] = "base"


TokenizerChoice = TrainTokenizer | FolderTokenizer | BaseTokenizer


@dataclass(frozen=True, kw_only=True)
class FreshBase(Spec):
    """A base that this recipe trains itself on the general corpus, for want of one; `init` draws its first weights."""

    decoder: DecoderConfig
    course: Course
    init: Init = field(default_factory=GPT2Init)
    kind: Literal["fresh"] = "fresh"

    def config(self) -> DecoderConfig:
        """The shape that training starts from."""
        return self.decoder

    def tokenizer(self, choice: TokenizerChoice) -> TrainTokenizer | FolderTokenizer:
        """The tokenizer to use; ValueError if it does not fit."""
        if isinstance(choice, BaseTokenizer):
            raise ValueError("a fresh base comes with no tokenizer: set tokenizer to kind train or folder")
        if isinstance(choice, FolderTokenizer):
            check_vocabulary(Tokenizer.open(Path(choice.path)), self.decoder)
        elif choice.vocab_size > self.decoder.vocab_size:
            raise ValueError(f"decoder.vocab_size is below tokenizer.vocab_size={choice.vocab_size}")
        return choice


@dataclass(frozen=True, kw_only=True)
class FolderBase(Spec):
    """A dense Hugging Face folder. `decoder` declares its shape, so that a plan can be made where the folder is not."""

    path: str
    decoder: DecoderConfig | None = None
    kind: Literal["folder"] = "folder"

    def folder(self) -> Path:
        """Where the folder stands."""
        return Path(self.path).expanduser()

    def config(self) -> DecoderConfig:
        """The folder's shape, or the declared one where there is no folder; ValueError if they contradict."""
        if self.decoder is not None and not self.folder().is_dir():
            return self.decoder
        found = read_folder_config(self.folder())
        if self.decoder not in (None, found):
            raise ValueError(f"base.decoder does not describe {self.path}: its config.json says {found}")
        return found

    def tokenizer(self, choice: TokenizerChoice) -> FolderTokenizer:
        """The folder's tokenizer; ValueError if the folder cannot be read or another tokenizer is asked for."""
        return _own_tokenizer(self.folder(), choice)


@dataclass(frozen=True, kw_only=True)
class HubBase(Spec):
    """A dense model of the Hugging Face Hub, kept in the Hub's own cache; `decoder` as in a folder base."""

    name: str
    revision: str = "main"
    decoder: DecoderConfig | None = None
    kind: Literal["hub"] = "hub"

    def folder(self) -> Path:
        """The model's files on this machine, fetched if they are not here yet."""
        try:
            return Path(snapshot_download(self.name, revision=self.revision, allow_patterns=list(MODEL_FILES)))
        except (LocalEntryNotFoundError, HfHubHTTPError) as error:
            raise ValueError(f"{self.name} is neither in the Hub's cache nor to be fetched: {_first(error)}") from error

    def config(self) -> DecoderConfig:
        """The shape of the model, declared or looked up at the Hub."""
        if self.decoder is not None:
            return self.decoder
        try:
            file = hf_hub_download(self.name, "config.json", revision=self.revision)
        except (LocalEntryNotFoundError, HfHubHTTPError) as error:
            raise ValueError(f"{self.name} is neither in the Hub's cache nor to be fetched: {_first(error)}") from error
        return read_folder_config(Path(file).parent)

    def tokenizer(self, choice: TokenizerChoice) -> FolderTokenizer:
        """The model's tokenizer; ValueError if it cannot be had, or `decoder` does not describe the model."""
        if self.decoder not in (None, read_folder_config(self.folder())):
            raise ValueError(f"base.decoder does not describe {self.name}")
        return _own_tokenizer(self.folder(), choice)


Base = FreshBase | FolderBase | HubBase


def _own_tokenizer(folder: Path, choice: TokenizerChoice) -> FolderTokenizer:
    opened = Folder.open(folder)
    if isinstance(choice, TrainTokenizer):
        raise ValueError("a base that exists needs its own tokenizer: set tokenizer to {kind: base}")
    named = choice if isinstance(choice, FolderTokenizer) else FolderTokenizer(path=str(folder))
    tokenizer = Tokenizer.open(Path(named.path))
    check_vocabulary(tokenizer, opened.config)
    if tokenizer.digest != Tokenizer.open(folder).digest:
        raise ValueError(f"the tokenizer in {named.path} is not the one that {folder} came with")
    return named


def _first(error: Exception) -> str:
    lines: Sequence[str] = str(error).splitlines()
    return lines[0] if lines else type(error).__name__

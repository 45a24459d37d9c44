"""Texts to token numbers and back: a tokenizer trained on the corpora, or the one a base model came with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from innovator.data.records import Rejects
from innovator.data.sources import Source
from innovator.models.spec import Spec
from innovator.say import say

END_OF_TEXT = "<|endoftext|>"
N_BYTES = 256
TRAINING_CHARACTERS = 200_000_000
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "chat_template*",
)


@dataclass(frozen=True)
class Tokenizer:
    """Encodes every document of a run; what looks like a special token inside a text is read as text."""

    prefix_id: int
    eos_id: int
    vocab_size: int
    digest: str
    backend: tokenizers.Tokenizer

    @classmethod
    def open(cls, folder: Path) -> Tokenizer:
        """The tokenizer of a Hugging Face folder; documents begin with its bos token, or with eos."""
        file = _tokenizer_file(folder)
        backend = tokenizers.Tokenizer.from_file(str(file))
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        eos_id = _special_id(folder, backend, "eos_token")
        if eos_id is None:
            raise ValueError(f"{folder / 'tokenizer_config.json'} names no eos_token: a document needs an end")
        bos_id = _special_id(folder, backend, "bos_token")
        return cls(
            prefix_id=eos_id if bos_id is None else bos_id,
            eos_id=eos_id,
            vocab_size=max(backend.get_vocab(with_added_tokens=True).values()) + 1,
            digest=hashlib.sha256(file.read_bytes()).hexdigest()[:16],
            backend=backend,
        )

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token numbers of each text, without marks at its ends."""
        return [encoding.ids for encoding in self.backend.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token numbers."""
        return self.backend.decode(list(ids), skip_special_tokens=False)


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(Spec):
    """Byte-level BPE learned from the named corpora; each digit is a token, and no text is unknown."""

    kind: Literal["train"] = "train"
    vocab_size: int
    corpora: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.vocab_size <= N_BYTES:
            raise ValueError(f"vocab_size is {self.vocab_size}: it must exceed the {N_BYTES} bytes and one end of text")
        if not self.corpora:
            raise ValueError("a tokenizer is trained on at least one corpus: corpora is empty")

    def at(self, root: Path | None) -> TrainTokenizer:
        """The same choice with relative paths taken from `root`."""
        return self

    def check(self) -> None:
        """Nothing outside the recipe is needed."""

    def fingerprint(self) -> str:
        """What it learns from are the sources, which have fingerprints of their own."""
        return ""

    def write(self, out: Path, sources: Sequence[Source]) -> None:
        """Make the tokenizer folder `out`."""
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        backend.decoder = decoders.ByteLevel()
        backend.train_from_iterator(_texts(sources, Rejects(out / "rejects.jsonl")), self._trainer())
        backend.save(str(out / "tokenizer.json"))
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_OF_TEXT,
            "clean_up_tokenization_spaces": False,
        }
        (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def _trainer(self) -> trainers.BpeTrainer:
        return trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )


@dataclass(frozen=True, kw_only=True)
class FolderTokenizer(Spec):
    """The tokenizer of a Hugging Face folder, copied as it is."""

    kind: Literal["folder"] = "folder"
    path: str

    def at(self, root: Path | None) -> FolderTokenizer:
        """The same choice with relative paths taken from `root`."""
        return replace(self, path=str((root or Path()) / Path(self.path).expanduser()))

    def check(self) -> None:
        """ValueError if there is no tokenizer."""
        Tokenizer.open(Path(self.path))

    def fingerprint(self) -> str:
        """What the folder holds now."""
        return Tokenizer.open(Path(self.path)).digest

    def write(self, out: Path, sources: Sequence[Source]) -> None:
        """Make the tokenizer folder `out`."""
        self.check()
        for pattern in TOKENIZER_FILES:
            for file in Path(self.path).glob(pattern):
                shutil.copyfile(file, out / file.name)


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec(Spec):
    """Makes the tokenizer folder of a run; the fingerprints stand for what the sources held."""

    tokenizer: TrainTokenizer | FolderTokenizer
    sources: tuple[Source, ...]
    fingerprints: tuple[str, ...]

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        """Write the tokenizer folder into `out`."""
        self.tokenizer.write(out, self.sources)
        tokenizer = Tokenizer.open(out)
        say(f"  tokenizer of {tokenizer.vocab_size:,} tokens")


def _texts(sources: Sequence[Source], rejects: Rejects) -> Iterator[str]:
    """The texts to learn from; of a long source, its first characters say all that BPE can use."""
    for source in sources:
        left = TRAINING_CHARACTERS
        for document in source.documents(rejects):
            yield document.text
            left -= len(document.text)
            if left <= 0:
                break


def _tokenizer_file(folder: Path) -> Path:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} has no tokenizer.json; transformers can write one beside the other files: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}, use_fast=True).save_pretrained({str(folder)!r})"
        )
    return file


def _special_id(folder: Path, backend: tokenizers.Tokenizer, role: str) -> int | None:
    """The number of the folder's bos or eos token, or None where the folder has no such token."""
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        raise ValueError(f"{folder} has no tokenizer_config.json, which names the token that ends a document")
    named = json.loads(config.read_text(encoding="utf-8")).get(role)
    content = named["content"] if isinstance(named, dict) else named
    if content is None:
        return None
    number = backend.token_to_id(content)
    if number is None:
        raise ValueError(f"{config} names {content!r} as its {role}, but tokenizer.json has no such token")
    return number

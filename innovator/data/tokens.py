"""A corpus as flat files of token numbers: train, validation and test, which training maps into memory."""

from __future__ import annotations

import hashlib
import json
import time
from array import array
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from innovator.data.records import Rejects
from innovator.data.sources import Document, Source
from innovator.data.tokenizer import Tokenizer
from innovator.files import write_json
from innovator.models.spec import Spec
from innovator.say import say

SPLITS = ("train", "validation", "test")
BATCH_CHARACTERS = 4_000_000
SECONDS_BETWEEN_LINES = 15.0


@dataclass(frozen=True, kw_only=True)
class TokensSpec(Spec):
    """Tokenizes a source and splits it by the hash of each text, so that equal texts stay together."""

    source: Source
    source_fingerprint: str
    validation: float = 0.05
    test: float = 0.1

    def __post_init__(self) -> None:
        if self.validation < 0 or self.test <= 0 or self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation} and test {self.test} are shares of the documents: "
                "test must be above 0, and together they must leave some for training"
            )

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        """Write the token files of all splits and their manifest."""
        tokenizer = Tokenizer.open(inputs["tokenizer"])
        dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
        rejects = Rejects(out / "rejects.jsonl")
        with ExitStack() as stack:
            writers = {split: stack.enter_context(_Writer(out, split, dtype)) for split in SPLITS}
            self._write(writers, tokenizer, rejects)
            self._check(writers)
        manifest = {
            "tokenizer": tokenizer.digest,
            "source": self.source_fingerprint,
            "account": self.source.account(),
            "dtype": dtype,
            "splits": {split: writer.counts() for split, writer in writers.items()},
            "rejected": rejects.n,
        }
        write_json(out / "manifest.json", manifest)

    def split_of(self, text: str) -> str:
        """Where a text belongs, whatever else the corpus holds."""
        share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
        if share < self.test:
            return "test"
        return "validation" if share < self.test + self.validation else "train"

    def _write(self, writers: Mapping[str, _Writer], tokenizer: Tokenizer, rejects: Rejects) -> None:
        start = said = time.monotonic()
        for documents in _batches(self.source.documents(rejects)):
            texts = [document.text for document in documents]
            for document, ids in zip(documents, tokenizer.encode_batch(texts), strict=True):
                writers[self.split_of(document.text)].add([tokenizer.prefix_id, *ids, tokenizer.eos_id], document)
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                _say_how_far(writers, said - start)
        _say_how_far(writers, time.monotonic() - start)

    def _check(self, writers: Mapping[str, _Writer]) -> None:
        n_documents = sum(len(writer.n_bytes) for writer in writers.values())
        if n_documents == 0:
            raise ValueError("the corpus holds no documents (if it is read from files: does `where` match any record?)")
        for split in ("train", "test"):
            if not writers[split].n_bytes:
                raise ValueError(
                    f"of {n_documents} documents none fell into the {split} split: give more documents or another share"
                )


@dataclass
class TokenFile:
    """One split of a corpus: the documents' tokens end to end, where each begins, and its length as UTF-8.

    names: a file of the documents' ids as JSON strings, a line each; read only when somebody asks which one it was.
    """

    tokens: npt.NDArray[np.unsignedinteger]
    offsets: npt.NDArray[np.int64]
    n_bytes: npt.NDArray[np.int64]
    names: Path | None = None

    @classmethod
    def open(cls, folder: Path, split: str) -> TokenFile:
        """Map one split of a finished tokens folder into memory; ValueError if it is empty."""
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if split not in manifest["splits"] or manifest["splits"][split]["documents"] == 0:
            raise ValueError(f"{folder} holds no {split} documents")
        return cls(
            tokens=np.memmap(folder / f"{split}.bin", dtype=manifest["dtype"], mode="r"),
            offsets=np.load(folder / f"{split}.offsets.npy"),
            n_bytes=np.load(folder / f"{split}.bytes.npy"),
            names=names if (names := folder / f"{split}.ids.jsonl").is_file() else None,
        )

    @property
    def n_documents(self) -> int:
        """How many documents the split holds."""
        return len(self.n_bytes)

    def ids(self, numbers: Collection[int]) -> dict[int, str]:
        """The ids that the source gave to these documents, by their numbers; nothing if they were not stored."""
        if self.names is None:
            return {}
        wanted = set(numbers)
        with self.names.open(encoding="utf-8") as lines:
            return {number: json.loads(line) for number, line in enumerate(lines) if number in wanted}


class _Writer:
    """Appends the documents of one split to files that get their names only when all is written."""

    def __init__(self, folder: Path, split: str, dtype: str) -> None:
        self.folder, self.split, self.dtype = folder, split, dtype
        self.offsets, self.n_bytes = array("q", [0]), array("q")
        self.partial = folder / f"{split}.bin.partial"
        self.partial_names = folder / f"{split}.ids.jsonl.partial"

    def __enter__(self) -> _Writer:
        self.stream: IO[bytes] = self.partial.open("wb")
        self.names: IO[str] = self.partial_names.open("w", encoding="utf-8")
        return self

    def add(self, ids: list[int], document: Document) -> None:
        self.stream.write(np.array(ids, dtype=self.dtype).tobytes())
        self.names.write(json.dumps(document.id) + "\n")
        self.offsets.append(self.offsets[-1] + len(ids))
        self.n_bytes.append(len(document.text.encode()))

    def counts(self) -> dict[str, int]:
        return {"documents": len(self.n_bytes), "tokens": self.offsets[-1], "bytes": sum(self.n_bytes)}

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stream.close()
        self.names.close()
        if kind is None:
            np.save(self.folder / f"{self.split}.offsets.npy", np.array(self.offsets, dtype=np.int64))
            np.save(self.folder / f"{self.split}.bytes.npy", np.array(self.n_bytes, dtype=np.int64))
            self.partial_names.rename(self.folder / f"{self.split}.ids.jsonl")
            self.partial.rename(self.folder / f"{self.split}.bin")


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """Documents in groups of a few million characters, which is what is held in memory at a time."""
    batch: list[Document] = []
    n_characters = 0
    for document in documents:
        batch.append(document)
        n_characters += len(document.text)
        if n_characters >= BATCH_CHARACTERS:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def _say_how_far(writers: Mapping[str, _Writer], seconds: float) -> None:
    n_documents = sum(len(writer.n_bytes) for writer in writers.values())
    n_tokens = sum(writer.offsets[-1] for writer in writers.values())
    say(f"  {n_documents:,} documents, {n_tokens:,} tokens, {n_tokens / max(seconds, 1e-9):,.0f} tokens/s")

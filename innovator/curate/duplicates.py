"""Of documents that are the same or nearly so, one is kept, and none that is near to somebody's held-out texts."""

from __future__ import annotations

import hashlib
import json
import shutil
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.dedup.minhash import MinhashDedupBuckets

from innovator.curate.account import Account
from innovator.curate.executors import HERE, Executor
from innovator.curate.flow import Incoming, carry_out, rule_all
from innovator.curate.near import Likeness, Near, Number, Sign
from innovator.curate.rule import Dropped, Facts, Kept, Outcome
from innovator.curate.staying import DIGEST, Alike, Decision, Fate, NobodyAlike
from innovator.data.records import Rejects
from innovator.data.sources import Source
from innovator.models.spec import Spec

FACT, OF = "duplicate", "duplicate_of"


@dataclass(frozen=True, kw_only=True)
class Deduplicate(Spec):
    """Keeps one of documents that are alike: the longest, and of equally long ones the first by its id.

    exact: equal but for spacing and Unicode form. near: alike in most of their words; a document is dropped only if it
    is near to one that is kept. held_out: texts of others' tests that no document may be equal or near to. After it,
    no two documents that are alike can fall on two sides of a split.
    """

    exact: bool = True
    near: Near | None = field(default_factory=Near)
    held_out: tuple[Source, ...] = ()

    def at(self, root: Path | None) -> Deduplicate:
        """The same with relative paths of held-out texts taken from `root`."""
        held_out = tuple(source.at(root) for source in self.held_out)
        return Deduplicate(exact=self.exact, near=self.near, held_out=held_out)


@dataclass(frozen=True, kw_only=True)
class DeduplicateWork(Spec):
    """Finds duplicates over all documents and drops them. fingerprints: of the held-out sources, in their order."""

    deduplicate: Deduplicate
    fingerprints: tuple[str, ...]
    n_tasks: int

    def run(self, out: Path, inputs: Mapping[str, Path], executor: Executor = HERE) -> None:
        """Write documents, rejects (`duplicate_of` says of what) and the account."""
        folders = list(inputs.values())
        total = sum(Account.open(folder / "account.json").documents for folder in folders)
        fates = out / "fates"
        if not fates.is_dir():
            self._decide(folders, out, executor, fates)
        reader = Mark(Incoming(folders), fates)
        rule_all(reader, (DropMarked(),), self.n_tasks, out, executor, total)

    def _decide(self, folders: Sequence[Path], out: Path, executor: Executor, fates: Path) -> None:
        """Find out which documents are duplicates; what is needed only for that is removed."""
        notes, signatures, pairs = out / "notes", out / "signatures", out / "pairs"
        reader = WithHeldOut(Incoming(folders), self.deduplicate.held_out, out)
        near, n_tasks = self.deduplicate.near, self.n_tasks + 1
        signing = [Sign(signatures, near)] if near else []
        carry_out([reader, Note(notes), *signing], n_tasks, out, executor, 0, "tasks-notes")
        alike: Alike = NobodyAlike()
        if near:
            buckets = MinhashDedupBuckets(
                str(signatures), str(pairs), config=near.config, only_dedup_in_index=False, lines_to_buffer=1000
            )
            carry_out([buckets], near.buckets, out, executor, 0, "tasks-pairs")
            alike = Likeness(pairs, signatures, n_tasks, near)
        _write(Decision(notes, n_tasks).fates(self.deduplicate.exact, alike), n_tasks, fates)
        for folder in (notes, signatures, pairs):
            shutil.rmtree(folder, ignore_errors=True)


class WithHeldOut(PipelineStep):
    """Incoming documents, and as one more task, the last, the held-out ones."""

    type, name = "reader", "with held-out"

    def __init__(self, documents: Incoming, held_out: Sequence[Source], out: Path) -> None:
        super().__init__()
        self.documents, self.held_out, self.out = documents, tuple(held_out), out

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield this task's documents."""
        if rank < world_size - 1:
            yield from self.documents.run(None, rank, world_size - 1)
            return
        rejects = Rejects(self.out / "held-out-rejects.jsonl")
        for source in self.held_out:
            for document in source.documents(rejects):
                yield Document(text=document.text, id=document.id)


class Note(PipelineStep):
    """Passes documents on, and notes of each its id, its length and what its text is equal to."""

    type, name = "notes", "note"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield this task's documents."""
        self.folder.mkdir(parents=True, exist_ok=True)
        digests, ids = self.folder / f"{rank:05d}.digests", self.folder / f"{rank:05d}.jsonl"
        with digests.open("wb") as equal, ids.open("w", encoding="utf-8") as lines:
            for document in data:
                equal.write(digest(document.text))
                lines.write(json.dumps([-len(document.text), document.id]) + "\n")
                yield document


class Mark(PipelineStep):
    """Documents, with the fact that they are duplicates, and of what, where they are."""

    type, name = "reader", "mark"

    def __init__(self, documents: Incoming, fates: Path) -> None:
        super().__init__()
        self.documents, self.fates = documents, fates

    def run(self, data: Iterable[Document] | None = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield this task's documents."""
        lines = (self.fates / f"{rank:05d}.jsonl").read_text(encoding="utf-8").splitlines()
        fates = {place: (reason, of) for place, reason, of in map(json.loads, lines)}
        for place, document in enumerate(self.documents.run(None, rank, world_size)):
            if place in fates:
                document.metadata[FACT], document.metadata[OF] = fates[place]
            yield document


@dataclass(frozen=True, kw_only=True)
class DropMarked(Spec):
    """The rule: drops what `Mark` has found to be a duplicate."""

    @property
    def name(self) -> str:
        """What the account calls it."""
        return "deduplicate"

    def apply(self, text: str, facts: Facts) -> Outcome:
        """Keep or drop a document by its facts."""
        return Dropped(str(facts[FACT])) if FACT in facts else Kept(text)


def digest(text: str) -> bytes:
    """Sixteen bytes that texts share which differ at most in spacing and Unicode form."""
    same = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(same.encode("utf-8", "surrogatepass")).digest()[:DIGEST]


def _write(fates: Mapping[Number, Fate], n_tasks: int, folder: Path) -> None:
    """A file for each task, all of them or none."""
    draft = folder.with_name(f"{folder.name}.draft")
    draft.mkdir(parents=True, exist_ok=True)
    lines: dict[int, list[str]] = {rank: [] for rank in range(n_tasks)}
    for (rank, place), fate in sorted(fates.items()):
        lines[rank].append(json.dumps([place, fate.reason, fate.of]) + "\n")
    for rank, those in lines.items():
        (draft / f"{rank:05d}.jsonl").write_text("".join(those), encoding="utf-8")
    draft.rename(folder)

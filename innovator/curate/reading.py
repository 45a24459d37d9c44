"""The first step of a curation: the documents of a source, each with what is known of it, and a list of what is none.

What could not be read stands in `malformed/`, a file for each task, with file, line, reason and its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from innovator.curate.formats.sandbox import Sandbox
from innovator.curate.formats.table import holds_records
from innovator.curate.raw import RawFiles
from innovator.data.records import Malformed, Rejects
from innovator.data.sources import Source
from innovator.files import write_json

MALFORMED, NOTES = "malformed", "tasks/read"


class Read(PipelineStep):
    """The documents of a source. Task i of n takes every n-th of raw files; of other sources the first takes all.

    Where there are fewer files than tasks, several tasks share a file of records, and each takes every so many-th.

    facts: what is known of all documents. out: the step's folder. ValueError if nothing at all can be read.
    """

    type, name = "reader", "read"

    def __init__(self, source: RawFiles | Source, name: str, facts: Mapping[str, str], out: Path) -> None:
        super().__init__()
        self.source, self.source_name, self.facts, self.out = source, name, dict(facts), out

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield this task's documents; what is malformed is listed when the task is over."""
        malformed = self.out / MALFORMED / f"{rank:05d}.jsonl"
        malformed.parent.mkdir(parents=True, exist_ok=True)
        rejects = Rejects(malformed.with_name(f"{malformed.name}.draft"))
        n = 0
        for document in self._documents(rejects, rank, world_size):
            n += 1
            yield document
        if rejects.n:
            rejects.path.replace(malformed)
        notes = self.out / NOTES
        notes.mkdir(parents=True, exist_ok=True)
        write_json(notes / f"{rank:05d}.json", {"documents": n, "malformed": rejects.n})
        self._refuse_nothing(world_size)

    def _documents(self, rejects: Rejects, rank: int, world_size: int) -> Iterator[Document]:
        if isinstance(self.source, RawFiles):
            yield from self._raw(self.source, rejects, rank, world_size)
        elif rank == 0:
            for one in self.source.documents(rejects):
                facts = {"source": self.source_name, **self.facts}
                yield Document(text=one.text, id=f"{self.source_name}/{one.id}", metadata=facts)

    def _raw(self, source: RawFiles, rejects: Rejects, rank: int, world_size: int) -> Iterator[Document]:
        with Sandbox() as sandbox:
            for file, turn, n_turns in _shares(source.files(), rank, world_size):
                name = source.name_of(file)
                for found in islice(source.read(file, sandbox), turn, None, n_turns):
                    if isinstance(found, Malformed):
                        rejects.add(name, found)
                        continue
                    place = {"file": name, "line": found.line}
                    facts = {"source": self.source_name, **self.facts, **found.fields, **place}
                    yield Document(text=found.text, id=f"{self.source_name}/{name}:{found.line}", metadata=facts)

    def _refuse_nothing(self, world_size: int) -> None:
        """ValueError from the task that ends last if none has read anything."""
        notes = [self.out / NOTES / f"{rank:05d}.json" for rank in range(world_size)]
        if not all(note.is_file() for note in notes):
            return
        if any(json.loads(note.read_text(encoding="utf-8"))["documents"] for note in notes):
            return
        first = _first(self.out / MALFORMED)
        told = f"{first['file']}, line {first['line']}: {first['reason']}" if first else "it is empty"
        raise ValueError(f"nothing could be read of the source {self.source_name}: {told}")


def _shares(files: Sequence[Path], rank: int, world_size: int) -> Iterator[tuple[Path, int, int]]:
    """A task's files, and of each on which document it begins and how far on the next one is."""
    largest_first = sorted(files, key=lambda file: (-file.stat().st_size, file))
    if len(files) >= world_size:
        yield from ((file, 0, 1) for file in largest_first[rank::world_size])
        return
    turn, place = divmod(rank, len(files))
    if holds_records(largest_first[place]):
        yield largest_first[place], turn, len(range(place, world_size, len(files)))
    elif turn == 0:
        yield largest_first[place], 0, 1


def _first(folder: Path) -> dict[str, object] | None:
    """Of what each task found malformed first, that of the first file."""
    entries: list[dict[str, object]] = []
    for file in folder.glob("*.jsonl"):
        with file.open(encoding="utf-8") as lines:
            entries.append(json.loads(next(lines)))
    return min(entries, key=lambda entry: str(entry["file"]), default=None)

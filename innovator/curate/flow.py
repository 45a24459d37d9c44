"""Documents through rules, as tasks of datatrove: read from earlier steps, ruled, counted and written, by any executor.

A step's folder holds `documents/` (JSON Lines, zstd: id, text and facts), `rejects/` (the same with the rule and its
reason), `account.json`, and `tasks/`, where datatrove notes which tasks are done: a step that was stopped goes on with
the tasks that are left.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from datatrove.data import Document, DocumentsPipeline
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.writers import JsonlWriter

from innovator.curate.account import Account
from innovator.curate.executors import Executor
from innovator.curate.rule import Dropped, Rule, count_tokens
from innovator.data.records import Malformed, read_records
from innovator.say import progress

LARGEST_FILE = 4 << 20  # compressed; what later tasks share is files
SECONDS_BETWEEN_NOTES = 0.5
DOCUMENTS, REJECTS, TASKS = "documents", "rejects", "tasks"


class Incoming(PipelineStep):
    """The documents of earlier steps, from the first folder to the last; task i takes every n-th file."""

    type, name = "reader", "incoming"

    def __init__(self, folders: Sequence[Path]) -> None:
        super().__init__()
        self.folders = tuple(folders)

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield this task's documents."""
        files = [file for folder in self.folders for file in sorted((folder / DOCUMENTS).glob("*.jsonl.zst"))]
        for file in files[rank::world_size]:
            yield from documents_in(file)


class Apply(PipelineStep):
    """Every rule in turn; what is dropped is written aside with the rule and its reason, and all is accounted for."""

    type, name = "rules", "apply"

    def __init__(self, rules: Sequence[Rule], out: Path) -> None:
        super().__init__()
        self.rules, self.out = tuple(rules), out

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield what the rules keep of the documents."""
        account, notes = Account(), Notes(self.out, rank)
        with writer(self.out / REJECTS) as rejects:
            for document in data:
                if dropped := self._judge(document, account):
                    document.metadata |= dropped
                    rejects.write(document, rank)
                else:
                    yield document
                notes.note()
        (self.out / TASKS / "accounts").mkdir(parents=True, exist_ok=True)
        account.write(self.out / TASKS / "accounts" / f"{rank:05d}.json")
        notes.note(last=True)

    def _judge(self, document: Document, account: Account) -> dict[str, str]:
        """Mend the document in place; the rule that drops it, and its reason, or nothing."""
        tokens = document.metadata.get("tokens", 0) or count_tokens(document.text)
        for rule in self.rules:
            before = tokens
            outcome = rule.apply(document.text, {**document.metadata, "id": document.id})
            if isinstance(outcome, Dropped):
                account.note(rule.name, document.id, document.metadata, document.text, outcome, (before, 0))
                return {"rule": rule.name, "reason": outcome.reason}
            if outcome.text != document.text:
                tokens = count_tokens(outcome.text)
            document.metadata |= outcome.facts
            account.note(rule.name, document.id, document.metadata, document.text, outcome, (before, tokens))
            document.text = outcome.text
        document.metadata["tokens"] = tokens
        return {}


class Notes:
    """How many documents a task has seen so far, for whoever waits for it."""

    def __init__(self, out: Path, rank: int) -> None:
        self.file = out / TASKS / "seen" / f"{rank:05d}"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.n, self.noted = 0, 0.0

    def note(self, last: bool = False) -> None:
        """Count one document, or say that there are no more."""
        self.n += not last
        now = time.monotonic()
        if last or now - self.noted > SECONDS_BETWEEN_NOTES:
            self.noted = now
            self.file.write_text(str(self.n), encoding="utf-8")


def writer(folder: Path, name: str = "${rank}.jsonl.zst") -> JsonlWriter:
    """Writes documents as JSON Lines, a file or a few for each task; a name may also hold a fact, as ${discipline}."""
    return JsonlWriter(
        str(folder),
        name,
        compression="zstd",
        adapter=_flat,
        max_file_size=LARGEST_FILE,
    )


def _flat(writer: JsonlWriter, document: Document) -> dict[str, object]:
    """Text and facts side by side, so that a recipe's `where` can choose by facts."""
    return {"id": document.id, "text": document.text, **document.metadata}


def documents_in(file: Path) -> Iterator[Document]:
    """The documents of one file that a step wrote; ValueError if it is damaged."""
    for record in read_records(file, frozenset()):
        if isinstance(record, Malformed):
            raise ValueError(f"{file}, line {record.line}: {record.reason}; delete the step's folder to make it again")
        facts = dict(record.fields)
        yield Document(text=str(facts.pop("text")), id=str(facts.pop("id")), metadata=facts)


def all_documents(folder: Path) -> Iterator[Document]:
    """Every document of a finished step."""
    for file in sorted((folder / DOCUMENTS).glob("*.jsonl.zst")):
        yield from documents_in(file)


def carry_out(
    blocks: Sequence[PipelineStep], n_tasks: int, out: Path, executor: Executor, total: int, name: str = TASKS
) -> None:
    """Run a pipeline's tasks that are not done yet, showing how far they are.

    total: documents that go in, if known, else 0. name: where datatrove's notes stand in `out`, for steps that
    consist of several pipelines.
    """
    with _watched(out, out / name, n_tasks, total):
        executor.carry_out(list(blocks), n_tasks, out / name)


def rule_all(
    reader: PipelineStep, rules: Sequence[Rule], n_tasks: int, out: Path, executor: Executor, total: int
) -> None:
    """What most steps are: read, apply the rules, write what is kept, and add up the tasks' accounts."""
    carry_out([reader, Apply(rules, out), writer(out / DOCUMENTS)], n_tasks, out, executor, total)
    close(out)


def close(out: Path) -> None:
    """Add up what a step's tasks noted."""
    whole = Account.sum(sorted((out / TASKS / "accounts").glob("*.json")))
    whole.write(out / "account.json")


@contextmanager
def _watched(out: Path, notes: Path, n_tasks: int, total: int) -> Iterator[None]:
    """Show how many documents the tasks have seen, while they work; where no total is known, how many are done."""
    over = threading.Event()
    with progress(out.name, total or n_tasks, "documents" if total else "tasks") as advance:

        def watch() -> None:
            shown = 0
            while not over.wait(SECONDS_BETWEEN_NOTES):
                seen = sum(int(file.read_text() or 0) for file in (out / TASKS / "seen").glob("*"))
                now = seen if total else sum(1 for _ in (notes / "completions").glob("*"))
                figures = {} if total or not seen else {"documents": float(seen)}
                advance(now - shown, **figures)
                shown = now

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()

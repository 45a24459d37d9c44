"""What a model will be judged by, as texts: the items that no corpus it learns from may hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from innovator.data.records import Malformed, Record, read_records
from innovator.data.sources import FilesSource
from innovator.models.spec import Spec


@dataclass(frozen=True)
class Item:
    """One question of a benchmark, and the answer that is held against a model's."""

    id: str
    question: str
    answer: str

    @property
    def text(self) -> str:
        """All of it."""
        return f"{self.question}\n{self.answer}" if self.answer else self.question


@dataclass(frozen=True, kw_only=True)
class FilesBenchmark(Spec):
    """JSON Lines or Parquet: a file, a folder, or a pattern. fields, answer: what an item's question and answer are.

    A field may hold a text, a number, or a list or mapping of them (the choices of a question); null is no text.
    """

    kind: Literal["files"] = "files"
    path: str
    fields: tuple[str, ...] = ("question",)
    answer: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.fields:
            raise ValueError("fields is empty: name the fields that make up an item's question")

    def at(self, root: Path | None) -> FilesBenchmark:
        """The same benchmark with relative paths taken from `root`."""
        return replace(self, path=self._source.at(root).path)

    def items(self) -> Iterator[Item]:
        """Every item; ValueError if the files are not there, or a line lacks a field."""
        self._source.check()
        for file in self._source.files():
            for record in read_records(file, frozenset({*self.fields, *self.answer})):
                if isinstance(record, Malformed):
                    raise ValueError(f"{file}, line {record.line}: {record.reason}")
                question, answer = (self._read(file, record, names) for names in (self.fields, self.answer))
                yield Item(f"{file.name}:{record.line}", question, answer)

    def fingerprint(self) -> str:
        """Sixteen digits that tell the items apart from any others, whatever their order."""
        return fingerprint(self.items())

    @property
    def _source(self) -> FilesSource:
        return FilesSource(path=self.path)

    def _read(self, file: Path, record: Record, names: Sequence[str]) -> str:
        for name in names:
            if name not in record.fields:
                present = ", ".join(sorted(record.fields))
                raise ValueError(f"{file}, line {record.line}: there is no field {name!r}; the fields are: {present}")
        return "\n".join(text for name in names for text in _texts(record.fields[name]))


@dataclass(frozen=True, kw_only=True)
class LmEvalBenchmark(Spec):
    """A task (or group) of lm-evaluation-harness by its name, or by the path of its YAML file: what it is scored on.

    An item's answer is all choices where the task has them, else the target.
    """

    kind: Literal["lm-eval"] = "lm-eval"
    task: str

    def at(self, root: Path | None) -> LmEvalBenchmark:
        """The same benchmark with relative paths taken from `root`."""
        local = (root or Path()) / self.task
        return replace(self, task=str(local)) if self._is_file() else self

    def items(self) -> Iterator[Item]:
        """Every item; ValueError if lm-eval, the task or its data is not there."""
        for name, task in self._tasks():
            for number, document in enumerate(task.eval_docs):
                yield _item(f"{name}:{number}", task, document)

    def fingerprint(self) -> str:
        """Sixteen digits that tell the items apart from any others, whatever their order."""
        return fingerprint(self.items())

    def _tasks(self) -> Iterator[tuple[str, _Task]]:
        try:
            from lm_eval.tasks import TaskManager  # here because it is optional, and slow to load
        except ImportError:
            raise ValueError(f"the task {self.task} needs lm-evaluation-harness: run `pip install lm-eval`") from None
        try:
            loaded = TaskManager(include_defaults=not self._is_file()).load([self.task])
        except (OSError, KeyError, ValueError, ImportError) as error:
            raise ValueError(f"lm-eval cannot load the task {self.task}: {error}") from error
        yield from loaded["tasks"].items()

    def _is_file(self) -> bool:
        return self.task.endswith((".yaml", ".yml"))


Benchmark = FilesBenchmark | LmEvalBenchmark


def fingerprint(items: Iterable[Item]) -> str:
    """Sixteen digits that tell items apart from any others, whatever their order and names."""
    digests = sorted(hashlib.sha256(item.text.encode("utf-8", "surrogatepass")).digest() for item in items)
    return hashlib.sha256(b"".join(digests)).hexdigest()[:16]


class _Task(Protocol):
    """What is used of a task of lm-eval."""

    config: _TaskConfig

    @property
    def eval_docs(self) -> Iterable[Mapping[str, object]]: ...
    def doc_to_text(self, doc: Mapping[str, object]) -> str | int: ...
    def doc_to_target(self, doc: Mapping[str, object]) -> object: ...
    def doc_to_choice(self, doc: Mapping[str, object]) -> list[str]: ...


class _TaskConfig(Protocol):
    doc_to_choice: object


def _item(id: str, task: _Task, document: Mapping[str, object]) -> Item:
    """A document of a task; the question is a number where a task (Winogrande) gives its texts as choices."""
    question, target = task.doc_to_text(document), task.doc_to_target(document)
    choices = "" if task.config.doc_to_choice is None else "\n".join(task.doc_to_choice(document))
    if not isinstance(question, str):
        return Item(id, choices, "\n".join(_texts(target)))
    return Item(id, question, choices or "\n".join(_texts(target)))


def _texts(value: object) -> Iterator[str]:
    """The texts and numbers in a field, whatever it is made of."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
    elif value is not None:
        yield str(value)

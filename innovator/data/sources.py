"""Where documents come from: files, a saved dataset, the Hub, manuals of installed packages, or a curation.

Every source can be put `at` a root (which its relative path then starts from), `check` that it is there, give
a cheap `fingerprint` of what it holds, `account` for the versions it reads, and yield its `documents`.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Literal

from innovator.data.curated import CuratedSource
from innovator.data.installed import harvest, version_of
from innovator.data.records import SUFFIXES, Malformed, Record, Rejects, read_records
from innovator.files import fingerprint
from innovator.models.spec import Spec

READABLE = ", ".join(SUFFIXES)


@dataclass(frozen=True)
class Document:
    """One text, and where it was found."""

    id: str
    text: str


@dataclass(frozen=True, kw_only=True)
class FilesSource(Spec):
    """JSON Lines or Parquet: a file, a folder, or a pattern; only records for which all of `where` holds."""

    kind: Literal["files"] = "files"
    path: str
    text_field: str = "text"
    where: dict[str, str] = field(default_factory=dict)
    on_bad_line: Literal["stop", "set-aside"] = "stop"

    def at(self, root: Path | None) -> FilesSource:
        """The same source with relative paths taken from `root`."""
        return replace(self, path=_resolved(self.path, root))

    def check(self) -> None:
        """ValueError, in one sentence, if the source is not there."""
        files = self.files()
        if not files:
            raise ValueError(f"no corpus at {self.path}: give a file, a folder or a pattern of {READABLE}")
        for file in files:
            if not file.name.endswith(SUFFIXES):
                raise ValueError(f"{file} is not a corpus file: its name must end in {READABLE}")

    def fingerprint(self) -> str:
        """What the source holds now, in a few digits; cheap."""
        return fingerprint(self.files(), self._base())

    def account(self) -> dict[str, str]:
        """Versions of what the text comes from, for the manifest."""
        return {}

    def documents(self, rejects: Rejects) -> Iterator[Document]:
        """Every text, in a fixed order; what is malformed goes to `rejects` or raises ValueError."""
        columns = frozenset({self.text_field, *self.where})
        for file in self.files():
            name = file.relative_to(self._base()).as_posix()
            for record in read_records(file, columns):
                found = record if isinstance(record, Malformed) else self._read(name, record)
                if isinstance(found, Document):
                    yield found
                elif found is not None and self.on_bad_line == "set-aside":
                    rejects.add(str(file), found)
                elif found is not None:
                    raise ValueError(f"{file}, line {found.line}: {found.reason}")

    def files(self) -> list[Path]:
        """The files it is read from, in order."""
        path = Path(self.path)
        if path.is_dir():
            return sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
        if path.is_file():
            return [path]
        return sorted(Path(file) for file in glob.glob(self.path, recursive=True) if Path(file).is_file())

    def _read(self, name: str, record: Record) -> Document | Malformed | None:
        if any(_written(record.fields, key) != value for key, value in self.where.items()):
            return None
        return _document(f"{name}:{record.line}", record, self.text_field)

    def _base(self) -> Path:
        """The folder that names are relative to, so that a corpus may move without becoming another."""
        path = Path(self.path)
        if path.is_dir():
            return path
        return Path(*takewhile(lambda part: not glob.has_magic(part), path.parent.parts))


@dataclass(frozen=True, kw_only=True)
class DatasetFolderSource(Spec):
    """A folder that `save_to_disk` of the datasets library wrote; `split` where it holds several."""

    kind: Literal["dataset-folder"] = "dataset-folder"
    path: str
    split: str | None = None
    text_field: str = "text"

    def at(self, root: Path | None) -> DatasetFolderSource:
        """The same source with relative paths taken from `root`."""
        return replace(self, path=_resolved(self.path, root))

    def check(self) -> None:
        """ValueError, in one sentence, if the source is not there."""
        splits = self._splits()
        if splits and self.split not in splits:
            raise ValueError(f"{self.path} has the splits {', '.join(splits)}: name one of them as `split`")
        if not splits and self.split is not None:
            raise ValueError(f"{self.path} has no splits: leave out `split: {self.split}`")

    def fingerprint(self) -> str:
        """What the source holds now, in a few digits; cheap."""
        return fingerprint(_all_files(Path(self.path)), Path(self.path))

    def account(self) -> dict[str, str]:
        """Versions of what the text comes from, for the manifest."""
        return {}

    def documents(self, rejects: Rejects) -> Iterator[Document]:
        """Every text, in a fixed order; what is malformed goes to `rejects` or raises ValueError."""
        import datasets  # here because the other sources do without it, and it is slow to load

        self.check()
        rows = datasets.load_from_disk(str(Path(self.path) / self.split if self.split else self.path))
        return _of_rows(rows, self.path, self.text_field, rejects)

    def _splits(self) -> list[str]:
        listing = Path(self.path) / "dataset_dict.json"
        if listing.is_file():
            return sorted(json.loads(listing.read_text(encoding="utf-8"))["splits"])
        if not (Path(self.path) / "state.json").is_file():
            raise ValueError(f"{self.path} is not a dataset folder: it has neither dataset_dict.json nor state.json")
        return []


@dataclass(frozen=True, kw_only=True)
class HubSource(Spec):
    """A dataset of the Hugging Face Hub, or a folder laid out like one, streamed up to `max_documents`."""

    kind: Literal["hub"] = "hub"
    name: str
    config: str | None = None
    split: str = "train"
    text_field: str = "text"
    max_documents: int | None = None

    def __post_init__(self) -> None:
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"max_documents is {self.max_documents}: it must be at least 1")

    def at(self, root: Path | None) -> HubSource:
        """The same source with relative paths taken from `root`."""
        local = _resolved(self.name, root)
        return replace(self, name=local) if Path(local).is_dir() else self

    def check(self) -> None:
        """ValueError, in one sentence, if the source is not there."""
        if not self._is_local() and (self.name.startswith((".", "/", "~")) or self.name.count("/") > 1):
            raise ValueError(f"no dataset folder at {self.name}, and a dataset of the Hub is named OWNER/NAME")

    def fingerprint(self) -> str:
        """What the source holds now, in a few digits; cheap."""
        return fingerprint(_all_files(Path(self.name)), Path(self.name)) if self._is_local() else self.name

    def account(self) -> dict[str, str]:
        """Versions of what the text comes from, for the manifest."""
        if self._is_local():
            return {}
        from huggingface_hub import dataset_info  # here because only the Hub needs it, and it is slow to load

        return {self.name: str(dataset_info(self.name).sha)}

    def documents(self, rejects: Rejects) -> Iterator[Document]:
        """Every text, in a fixed order; what is malformed goes to `rejects` or raises ValueError."""
        import datasets  # here because the other sources do without it, and it is slow to load

        try:
            rows = datasets.load_dataset(self.name, self.config, split=self.split, streaming=True)
        except OSError as error:
            raise ValueError(f"the dataset {self.name} cannot be opened: {error}") from error
        kept = rows if self.max_documents is None else rows.take(self.max_documents)
        return _of_rows(kept, self.name, self.text_field, rejects)

    def _is_local(self) -> bool:
        return Path(self.name).is_dir()


@dataclass(frozen=True, kw_only=True)
class InstalledDocsSource(Spec):
    """The docstrings and manuals of installed distributions; `python` is Python itself with its reference."""

    kind: Literal["installed-docs"] = "installed-docs"
    distributions: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.distributions:
            raise ValueError("installed-docs names no distributions")

    def at(self, root: Path | None) -> InstalledDocsSource:
        """The same source with relative paths taken from `root`."""
        return self

    def check(self) -> None:
        """ValueError, in one sentence, if the source is not there."""
        self.account()

    def fingerprint(self) -> str:
        """What the source holds now, in a few digits; cheap."""
        return ",".join(f"{name}=={version}" for name, version in self.account().items())

    def account(self) -> dict[str, str]:
        """Versions of what the text comes from, for the manifest."""
        return {name: version_of(name) for name in self.distributions}

    def documents(self, rejects: Rejects) -> Iterator[Document]:
        """Every text, in a fixed order; what is malformed goes to `rejects` or raises ValueError."""
        for distribution in self.distributions:
            for passage in harvest(distribution):
                yield Document(f"{distribution}:{passage.origin}", passage.text)


Source = FilesSource | DatasetFolderSource | HubSource | InstalledDocsSource | CuratedSource


def _document(name: str, record: Record, text_field: str) -> Document | Malformed | None:
    """The record's document, None where its text is blank, or what is wrong with it."""
    if text_field not in record.fields:
        present = ", ".join(sorted(record.fields)) or "none"
        return Malformed(record.line, f"there is no field {text_field!r}; the fields are: {present}", "")
    text = record.fields[text_field]
    if not isinstance(text, str):
        return Malformed(record.line, f"the field {text_field!r} holds a {type(text).__name__}, not a text", "")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Malformed(record.line, f"the field {text_field!r} holds half of a surrogate pair", ascii(text))
    return Document(name, text) if text.strip() else None


def _of_rows(rows: Iterable[Mapping[str, object]], name: str, text_field: str, rejects: Rejects) -> Iterator[Document]:
    """A dataset's documents; a row whose text is null is set aside, but the column must exist."""
    for number, row in enumerate(rows, start=1):
        found = _document(f"{name}:{number}", Record(number, dict(row)), text_field)
        if isinstance(found, Document):
            yield found
        elif found is not None and text_field not in row:
            raise ValueError(f"{name}, row {number}: {found.reason}")
        elif found is not None:
            rejects.add(name, found)


def _written(fields: Mapping[str, object], key: str) -> str | None:
    """A field as a recipe would write it: texts as they are, numbers and booleans as in JSON."""
    value = fields.get(key)
    return value if isinstance(value, str) or value is None else json.dumps(value, default=str)


def _resolved(path: str, root: Path | None) -> str:
    return str((root or Path()) / Path(path).expanduser())


def _all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())

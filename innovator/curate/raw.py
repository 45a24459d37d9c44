"""Raw documents in files of every format that we read, as a source."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from typing import Literal

from innovator.curate.formats.sandbox import Sandbox
from innovator.curate.formats.table import EXTRACTED_BY, SUFFIXES, form_of, read
from innovator.data.records import Malformed, Record
from innovator.files import fingerprint
from innovator.models.spec import Spec

READABLE = ", ".join(name for name in SUFFIXES if not name.endswith((".gz", ".zst")))
RESERVED = """id text source licence file line tokens rank media rule reason language language_score discipline
    discipline_score scripts captions references rewrite duplicate duplicate_of leaks grade tier"""
OURS = frozenset(RESERVED.split())  # facts that steps state, or that datatrove's writer has another use for


@dataclass(frozen=True)
class RawDocument:
    """A text, the line, row or record of its file that it was found in, and the fields that are kept of it."""

    line: int
    text: str
    fields: dict[str, object]


@dataclass(frozen=True, kw_only=True)
class RawFiles(Spec):
    """A file, a folder or a pattern of records (JSON Lines, Parquet), web archives, or text, LaTeX, HTML and PDF.

    text_field: where a record has its text. where: only records for which all of it holds. keep_fields: what of a
    record becomes facts of the document; pages and PDFs have a `title`, records of web archives a `url` and a `date`.
    Files of a folder whose names end otherwise are not of the source.
    """

    kind: Literal["raw"] = "raw"
    path: str
    text_field: str = "text"
    where: dict[str, str] = field(default_factory=dict)
    keep_fields: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if taken := sorted(OURS & set(self.keep_fields)):
            raise ValueError(f"keep_fields: {taken[0]!r} is a fact that curation states itself")

    def at(self, root: Path | None) -> RawFiles:
        """The same source with relative paths taken from `root`."""
        return replace(self, path=str((root or Path()) / Path(self.path).expanduser()))

    def check(self) -> None:
        """ValueError, in one sentence, if the source is not there or what reads it is not installed."""
        files = self.files()
        if not files:
            raise ValueError(f"no documents at {self.path}: give a file, a folder or a pattern of {READABLE}")
        if odd := [file for file in files if not file.name.endswith(SUFFIXES)]:
            raise ValueError(f"{odd[0]} is not read: its name must end in {READABLE}, perhaps with .gz or .zst")
        self.account()

    def fingerprint(self) -> str:
        """What the source holds now, in a few digits; cheap."""
        return fingerprint(self.files(), self._base())

    def account(self) -> dict[str, str]:
        """Versions of the libraries that extract its text; ValueError if one is not installed."""
        needed = sorted({EXTRACTED_BY[form] for form in map(form_of, self.files()) if form in EXTRACTED_BY})
        try:
            return {name: version(name) for name in needed}
        except PackageNotFoundError as error:
            raise ValueError(f"{self.path} is read with {error.name}: pip install {error.name}") from error

    def files(self) -> list[Path]:
        """Its files, in the order of their names."""
        path = Path(self.path)
        if path.is_dir():
            return sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
        if path.is_file():
            return [path]
        return sorted(Path(file) for file in glob.glob(self.path, recursive=True) if Path(file).is_file())

    def name_of(self, file: Path) -> str:
        """A file's path from where the source starts, so that documents keep their names where it moves."""
        return file.relative_to(self._base()).as_posix().encode("utf-8", "backslashreplace").decode()

    def read(self, file: Path, sandbox: Sandbox) -> Iterator[RawDocument | Malformed]:
        """Every document of a file, and everything in it that is none; a file that gives nothing is malformed."""
        columns = frozenset((self.text_field, *self.where, *self.keep_fields))
        line = 0
        try:
            for record in read(file, self.text_field, columns, sandbox):
                line = record.line
                if isinstance(record, Malformed):
                    yield record
                elif all(_written(record.fields, key) == value for key, value in self.where.items()):
                    yield self._document(record)
        except OSError as error:
            yield Malformed(line + 1, f"cannot be read ({error.strerror})", "")
        else:
            if line == 0:
                yield Malformed(1, "the file holds no documents", "")

    def _document(self, record: Record) -> RawDocument | Malformed:
        import orjson  # here because it comes with the extra `curate`

        if self.text_field not in record.fields:
            present = ", ".join(sorted(record.fields)) or "none"
            return Malformed(record.line, f"there is no field {self.text_field!r}; the fields are: {present}", "")
        text = record.fields[self.text_field]
        if not isinstance(text, str):
            return Malformed(
                record.line, f"the field {self.text_field!r} holds a {type(text).__name__}, not a text", ""
            )
        if not text.strip():
            return Malformed(record.line, "the text is blank", text)
        try:
            text.encode("utf-8")
            kept = {key: record.fields[key] for key in self.keep_fields if key in record.fields}
            return RawDocument(record.line, text, orjson.loads(orjson.dumps(kept, default=str)))
        except UnicodeEncodeError:
            return Malformed(record.line, f"the field {self.text_field!r} holds half of a surrogate pair", ascii(text))
        except orjson.JSONEncodeError as error:
            return Malformed(record.line, f"the fields to keep cannot be written as JSON ({error})", "")

    def _base(self) -> Path:
        path = Path(self.path)
        if path.is_dir():
            return path
        return Path(*takewhile(lambda part: not glob.has_magic(part), path.parent.parts))


def _written(fields: Mapping[str, object], key: str) -> str | None:
    """A field as a recipe would write it: texts as they are, numbers and booleans as in JSON."""
    value = fields.get(key)
    return value if isinstance(value, str) or value is None else json.dumps(value, default=str)

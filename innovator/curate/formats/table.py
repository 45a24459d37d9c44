"""Which files are read, by the end of their names, and how."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from innovator.curate.formats.sandbox import Sandbox
from innovator.curate.formats.text import Unreadable
from innovator.curate.formats.warc import archive
from innovator.data import records
from innovator.data.records import DAMAGE, RAW_KEPT, Malformed, Record, chunks, read_records

FORMS = {
    **dict.fromkeys((".txt", ".text", ".md", ".markdown", ".rst"), "text"),
    ".tex": "tex",
    **dict.fromkeys((".html", ".htm", ".xhtml"), "html"),
    ".pdf": "pdf",
}
ARCHIVES = (".warc", ".warc.gz", ".wet", ".wet.gz")
WHOLE = tuple(name + packed for name in FORMS for packed in ("", ".gz", ".zst"))
SUFFIXES = (*records.SUFFIXES, *ARCHIVES, *WHOLE)
EXTRACTED_BY = {"tex": "pylatexenc", "html": "trafilatura", "pdf": "pypdfium2"}


def form_of(file: Path) -> str | None:
    """In which form a file is one document; None if it holds records."""
    name = file.name.removesuffix(".gz").removesuffix(".zst")
    return FORMS.get(Path(name).suffix)


def holds_records(file: Path) -> bool:
    """Whether a file holds many documents that cost little to pass over."""
    return form_of(file) is None and not file.name.endswith(ARCHIVES)


def read(file: Path, text_field: str, columns: frozenset[str], sandbox: Sandbox) -> Iterator[Record | Malformed]:
    """Every record of a file, or the file as one, with its text in `text_field`; columns: what of Parquet is read."""
    if form := form_of(file):
        yield _whole(file, form, text_field, sandbox)
    elif file.name.endswith(ARCHIVES):
        yield from archive(file, text_field, sandbox)
    else:
        yield from read_records(file, columns)


def _whole(file: Path, form: str, text_field: str, sandbox: Sandbox) -> Record | Malformed:
    data = bytearray()
    try:
        for chunk in chunks(file):
            data += chunk
            if len(data) > records.LONGEST:
                raise Unreadable(f"longer than {records.LONGEST:,} bytes")
        text = sandbox.extract(form, bytes(data))
    except Unreadable as error:
        return Malformed(1, str(error), data[: 4 * RAW_KEPT].decode("utf-8", "replace"))
    except DAMAGE as error:
        return Malformed(1, f"the compressed data breaks off or is damaged ({error})", "")
    return Record(1, {**text.facts, text_field: text.text})

"""The pages of a web archive (WARC, WET), each extracted by what its server called it; through warcio."""

from __future__ import annotations

import io
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING

from innovator.curate.formats.sandbox import Sandbox
from innovator.curate.formats.text import Unreadable
from innovator.data import records
from innovator.data.records import DAMAGE, Malformed, Record, chunks

if TYPE_CHECKING:
    from warcio.recordloader import ArcWarcRecord

FORMS = {
    "text/html": "html",
    "application/xhtml+xml": "html",
    "text/plain": "text",
    "text/markdown": "text",
    "application/pdf": "pdf",
    "application/x-tex": "tex",
    "text/x-tex": "tex",
}
PAGES = ("response", "resource", "conversion")


def archive(path: Path, text_field: str, sandbox: Sandbox) -> Iterator[Record | Malformed]:
    """Every page as a record with its `url` and `date`; line is the number of the archive's record, from one."""
    from warcio.archiveiterator import ArchiveIterator  # here because only archives need it
    from warcio.exceptions import ArchiveLoadFailed

    number = 0
    try:
        for number, record in enumerate(ArchiveIterator(io.BufferedReader(_Unpacked(path))), start=1):
            if record.rec_type in PAGES:
                yield _page(number, record, text_field, sandbox)
    except DAMAGE as error:
        yield Malformed(number + 1, f"the compressed data breaks off or is damaged here ({error})", "")
    except (ArchiveLoadFailed, ValueError, LookupError, AttributeError, TypeError) as error:
        # warcio parses headers without checking them, so damaged ones raise whatever they meet.
        yield Malformed(number + 1, f"not readable as WARC ({error})", "")


def _page(number: int, record: ArcWarcRecord, text_field: str, sandbox: Sandbox) -> Record | Malformed:
    url = record.rec_headers.get_header("WARC-Target-URI") or ""
    try:
        form, charset = _served(record)
        data = _content(record)
        text = sandbox.extract(form, data, charset)
    except Unreadable as error:
        return Malformed(number, str(error), url)
    date = record.rec_headers.get_header("WARC-Date") or ""
    return Record(number, {**text.facts, "url": url, "date": date, text_field: text.text})


def _served(record: ArcWarcRecord) -> tuple[str, str | None]:
    """In which form a page was served, and in which encoding, if that was said."""
    headers = record.http_headers or record.rec_headers
    if record.http_headers and record.http_headers.get_statuscode() != "200":
        raise Unreadable(f"served with the status {record.http_headers.get_statuscode()}")
    served = Message()
    served["content-type"] = (headers.get_header("Content-Type") or "text/html").replace("\n", " ").replace("\r", " ")
    if served.get_content_type() not in FORMS:
        raise Unreadable(f"the content type {served.get_content_type()} is not one of {', '.join(FORMS)}")
    return FORMS[served.get_content_type()], served.get_content_charset()


def _content(record: ArcWarcRecord) -> bytes:
    data: bytes = record.content_stream().read(records.LONGEST + 1)
    if len(data) > records.LONGEST:
        raise Unreadable(f"longer than {records.LONGEST:,} bytes")
    if record.raw_stream.limit > 0:
        raise Unreadable(f"the record breaks off {record.raw_stream.limit:,} bytes before its end")
    return data


class _Unpacked(io.RawIOBase):
    """A file's unpacked bytes as a stream that says where they break off, which warcio's own does not."""

    def __init__(self, path: Path) -> None:
        self.chunks, self.rest = chunks(path), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self.rest:
            chunk = next(self.chunks, None)
            if chunk is None:
                return 0
            self.rest = memoryview(chunk)
        n = min(len(buffer), len(self.rest))
        buffer[:n], self.rest = self.rest[:n], self.rest[n:]
        return n

"""Extraction in a process of its own, so that no file can hang, crash or exhaust the one that reads."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from datatrove.pipeline.extractors.base import ExtractorSandbox

from innovator.curate.formats.html import page
from innovator.curate.formats.pdf import pages
from innovator.curate.formats.tex import body
from innovator.curate.formats.text import Text, Unreadable, plain

SECONDS = 120.0
EXTRACTORS: dict[str, Callable[[bytes, str | None], Text]] = {"text": plain, "tex": body, "html": page, "pdf": pages}


class Sandbox:
    """Extracts text, one document after the other, each within `seconds`; a context manager."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds = seconds
        self._process = ExtractorSandbox(seconds, ("text", b"", None))

    def extract(self, form: str, data: bytes, declared: str | None = None) -> Text:
        """The text of a document in one of EXTRACTORS' forms; Unreadable, with the reason, if there is none."""
        if form == "text":
            return plain(data, declared)
        try:
            text: Text = self._process.process_document((form, data, declared), extracted)
        except TimeoutError as error:
            raise Unreadable(f"extraction took longer than {self.seconds:g} seconds") from error
        except (EOFError, OSError) as error:
            raise Unreadable("extraction ended its process") from error
        return text

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.__exit__(kind, error, at)


def extracted(form: str, data: bytes, declared: str | None) -> Text | Unreadable:
    """What the process answers: a text, or why there is none."""
    try:
        return EXTRACTORS[form](data, declared)
    except Unreadable as error:
        return error
    except Exception as error:  # whatever a parser meets in a damaged file, the file is named with it
        return Unreadable(f"not readable as {form.upper()} ({type(error).__name__}: {str(error)[:200]})")

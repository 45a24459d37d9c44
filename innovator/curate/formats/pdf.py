"""The text of a PDF, its pages separated by form feeds, through pypdfium2.

On the same pages pypdf gives the same lines, ten to twenty times slower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from innovator.curate.formats.text import Text, Unreadable

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

HYPHEN_AT_LINE_END = "\ufffe"


def pages(data: bytes, declared: str | None) -> Text:
    """All pages; Unreadable if it is no PDF, is encrypted, or holds images only."""
    try:
        import pypdfium2  # here because it is an optional extra
    except ImportError as error:
        raise Unreadable("PDF needs the extra: pip install innovator[pdf]") from error

    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        wants_password = "password" in str(error).lower()
        raise Unreadable("encrypted" if wants_password else f"not readable as PDF ({error})") from error
    with document:
        text = "\f".join(_page(document, number) for number in range(len(document)))
        title = document.get_metadata_value("Title").strip()
    if not text.strip():
        raise Unreadable("its pages hold no text, perhaps images of it")
    return Text(text, {"title": title} if title else {})


def _page(document: PdfDocument, number: int) -> str:
    page = document[number]
    text: str = page.get_textpage().get_text_bounded()
    page.close()
    return text.replace("\r\n", "\n").replace("\f", "\n").replace(HYPHEN_AT_LINE_END, "-")

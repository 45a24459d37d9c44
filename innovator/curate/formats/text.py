"""What every extractor gives back, and bytes as characters: UTF-8, or what the document itself declares."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field

# Pages that declare the first are written in the second (WHATWG Encoding Standard, section 4.2), by Python's names.
MEANT = {
    "ascii": "cp1252",
    "iso8859-1": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}


@dataclass(frozen=True)
class Text:
    """A document's text, and what the document says of itself, such as its title."""

    text: str
    facts: dict[str, str] = field(default_factory=dict)


class Unreadable(ValueError):
    """There is no text to be had from these bytes; the message is the reason."""


def decoded(data: bytes, declared: str | None = None) -> str:
    """The characters of a document. declared: the encoding that it, or who served it, names; Unreadable if not so."""
    encoding = _encoding(declared)
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        told = "" if declared else ", and no other encoding is declared"
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"not {encoding.upper()} at byte {error.start + 1}, in line {line}{told}") from error
    if "\0" in text:
        raise Unreadable(f"not a text: there is a NUL at character {text.index(chr(0)) + 1}")
    return text.replace("\r\n", "\n")


def plain(data: bytes, declared: str | None) -> Text:
    """Text and Markdown are what they are."""
    return Text(decoded(data, declared))


def _encoding(declared: str | None) -> str:
    if declared is None:
        return "utf-8"
    try:
        name = codecs.lookup(declared).name
        "".encode(name)  # some codecs of Python do not encode text
    except (LookupError, ValueError) as error:
        raise Unreadable(f"the encoding {declared!r}, which is declared, is not known") from error
    return MEANT.get(name, name)

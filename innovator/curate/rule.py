"""What curation does to a document: a rule keeps it, perhaps mended and with new facts, or drops it for a reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

Facts = Mapping[str, object]
TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Kept:
    """The document goes on with this text.

    count: how many places of the text the rule mended. facts: what it adds to the document's facts.
    """

    text: str
    count: int = 0
    facts: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """The document goes no further. reason: a short phrase, the same for all documents that it is true of."""

    reason: str


Outcome = Kept | Dropped


class Rule(Protocol):
    """One thing that is done to every document alike; picklable, and a function of the document alone."""

    @property
    def name(self) -> str:
        """What the account calls it."""
        ...

    def apply(self, text: str, facts: Facts) -> Outcome:
        """What becomes of a document. facts: what is known of it, such as `source`, `language` or `discipline`."""
        ...


def count_tokens(text: str) -> int:
    """Words and marks: a tokenizer's count within a factor that hardly depends on the text, and cheap."""
    return len(TOKEN.findall(text))

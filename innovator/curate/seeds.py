"""Pairs without experts: real texts, and the same texts with constructed damage of known kind and severity.

What is learned from them is how much damage of these kinds a text has. That is no human opinion of its worth, and
agreement with such pairs says nothing about agreement with experts; it lets the whole chain run, be measured and fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from innovator.curate.damage import DAMAGES
from innovator.curate.pairs import Pair, Pairs, apart
from innovator.data.sources import Document
from innovator.models.spec import Spec


@dataclass(frozen=True)
class Variant:
    """A passage of a document with damage of one kind, or with none (severity 0)."""

    name: str
    document: str
    kind: str
    severity: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Seeds(Spec):
    """Passages of documents, each also with every kind of damage at every severity, from 0 to 1.

    longest: characters of a passage, which is cut between paragraphs. across: for each pair within a document, how
    many are drawn between documents. held_out: share of the documents.
    """

    n_documents: int = 1000
    damages: tuple[str, ...] = (
        "shuffled-sentences",
        "shuffled-words",
        "ocr-noise",
        "boilerplate",
        "truncated-formulas",
        "repeated-lines",
    )
    severities: tuple[float, ...] = (0.1, 0.3, 0.9)
    longest: int = 2000
    across: float = 0.5
    held_out: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.damages or not set(self.damages) <= set(DAMAGES):
            raise ValueError(
                f"damages: name some of {', '.join(DAMAGES)}; here are {', '.join(self.damages) or 'none'}"
            )
        if not self.severities or any(not 0 < severity <= 1 for severity in self.severities):
            raise ValueError(f"severities: {list(self.severities)} must be numbers above 0 and at most 1")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}: it must be between 0 and 1")

    def pairs(self, documents: Sequence[Document]) -> Pairs:
        """Less damage is better: within a document by severity, and between two documents of one part.

        ValueError if there are too few documents.
        """
        rng = Random(self.seed)
        drawn = rng.sample(documents, min(self.n_documents, len(documents)))
        families = [self._variants(document, rng) for document in drawn]
        by_name = {variant.name: variant for family in families for variant in family}
        within = [pair for family in families for pair in _within(family)]
        parts = apart(
            {name: variant.text for name, variant in by_name.items()},
            within,
            self.held_out,
            self.seed,
            lambda name: by_name[name].document,
        )
        train = self._with_across(parts.train, by_name, rng)
        return Pairs(parts.texts, train, self._with_across(parts.held_out, by_name, rng))

    def _variants(self, document: Document, rng: Random) -> list[Variant]:
        """The passage as it is, then with damage; damage that finds no place in it is left out."""
        text = passage(document.text, self.longest, rng)
        made = [Variant(document.id, document.id, "none", 0.0, text)]
        for kind in self.damages:
            for severity in self.severities:
                damaged, n_places = DAMAGES[kind].plant(text, severity, rng)
                if n_places and damaged != text:
                    made.append(Variant(f"{document.id} {kind} {severity}", document.id, kind, severity, damaged))
        return made

    def _with_across(self, pairs: Sequence[Pair], by_name: dict[str, Variant], rng: Random) -> list[Pair]:
        """The pairs, each perhaps followed by one whose worse text is of another document of the same part."""
        worse = [by_name[pair.worse] for pair in pairs]
        out = []
        for pair in pairs:
            out.append(pair)
            other, better = rng.choice(worse), by_name[pair.better]
            if rng.random() < self.across and _comparable(better, other):
                out.append(_pair(better, other))
        return out


def passage(text: str, longest: int, rng: Random) -> str:
    """A run of whole paragraphs, from a random one on, or the beginning of one paragraph that is too long."""
    paragraphs = text.strip().split("\n\n")
    first = rng.randrange(len(paragraphs)) if len(text) > longest else 0
    while first and sum(len(part) + 2 for part in paragraphs[first:]) < longest:
        first -= 1
    out = paragraphs[first][:longest]
    for part in paragraphs[first + 1 :]:
        if len(out) + 2 + len(part) > longest:
            break
        out = f"{out}\n\n{part}"
    return out


def _within(family: Sequence[Variant]) -> Iterator[Pair]:
    for one, other in combinations(family, 2):
        better, worse = (one, other) if one.severity < other.severity else (other, one)
        if _comparable(better, worse):
            yield _pair(better, worse)


def _comparable(better: Variant, worse: Variant) -> bool:
    """Severities compare within a kind, and with no damage at all."""
    return better.severity < worse.severity and better.kind in ("none", worse.kind)


def _pair(better: Variant, worse: Variant) -> Pair:
    return Pair(better.name, worse.name, about=worse.kind, gap=round(worse.severity - better.severity, 6))

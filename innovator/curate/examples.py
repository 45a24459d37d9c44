"""Documents of known discipline, divided so that no book is on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from innovator.data.records import Rejects
from innovator.data.sources import DatasetFolderSource, FilesSource, HubSource, Source


@dataclass(frozen=True)
class Examples:
    """Texts, the discipline of each, and the group (a book, or the document itself) of each."""

    texts: Sequence[str]
    labels: Sequence[str]
    groups: Sequence[str]

    @classmethod
    def read(cls, seeds: Mapping[str, Source], group_field: str | None, out: Path) -> Examples:
        """All documents of seed corpora; what is malformed in them is written to `out`. ValueError if one is empty."""
        rejects = Rejects(out / "rejects.jsonl")
        rows: list[tuple[str, str, str]] = []
        for label, source in seeds.items():
            groups = _groups(source, group_field, rejects)
            read = [
                (document.text, label, groups.get(document.id, f"{label} {document.id}"))
                for document in source.documents(rejects)
            ]
            if not read:
                raise ValueError(f"seeds.{label}: there is no document")
            rows += read
        texts, labels, names = zip(*rows, strict=True)
        return cls(texts, labels, names)

    def apart(self, share: float, seed: int) -> tuple[Examples, Examples]:
        """Hold out whole groups until a share of each discipline's documents is held out; the rest comes first.

        ValueError if a discipline would be missing on either side.
        """
        held_out: set[str] = set()
        for label in sorted(set(self.labels)):
            held_out |= self._drawn(label, share, Random(f"{seed} {label}"), held_out)
        train, test = self._where(held_out, False), self._where(held_out, True)
        for part, name in ((train, "left to learn from"), (test, "held out")):
            if missing := sorted(set(self.labels) - set(part.labels)):
                raise ValueError(f"seeds.{missing[0]}: its documents are of too few groups, none could be {name}")
        return train, test

    def _drawn(self, label: str, share: float, rng: Random, held_out: set[str]) -> set[str]:
        """Groups in random order, as long as they do not hold more than the share of the discipline's documents."""
        sizes: dict[str, int] = {}
        for one, group in zip(self.labels, self.groups, strict=True):
            if one == label:
                sizes[group] = sizes.get(group, 0) + 1
        n, drawn = sum(size for group, size in sizes.items() if group in held_out), set[str]()
        for group in rng.sample(sorted(sizes), len(sizes)):
            if group not in held_out and n + sizes[group] / 2 <= share * sum(sizes.values()):
                drawn.add(group)
                n += sizes[group]
        return drawn

    def _where(self, held_out: set[str], inside: bool) -> Examples:
        chosen = [number for number, group in enumerate(self.groups) if (group in held_out) == inside]
        return Examples(*([column[number] for number in chosen] for column in (self.texts, self.labels, self.groups)))


def _groups(source: Source, group_field: str | None, rejects: Rejects) -> dict[str, str]:
    """The group of each document by its id: another field of the same records, read as if it were the text."""
    if group_field is None or not isinstance(source, FilesSource | DatasetFolderSource | HubSource):
        return {}
    return {document.id: document.text for document in replace(source, text_field=group_field).documents(rejects)}

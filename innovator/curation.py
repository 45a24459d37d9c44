"""A recipe of another kind: raw documents become corpora by discipline whose every document passed every rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from innovator.curate.clean.spec import Clean
from innovator.curate.contamination import Decontaminate
from innovator.curate.disciplines import ByClassifier, BySource, Labels
from innovator.curate.duplicates import Deduplicate
from innovator.curate.executors import Executor, Local
from innovator.curate.language import IdentifyLanguage
from innovator.curate.quality import Quality
from innovator.curate.raw import RawFiles
from innovator.curate.screen import Screen
from innovator.curate.unicode import RepairUnicode
from innovator.data.sources import Source
from innovator.models.spec import Spec

NAME = re.compile(r"\w[\w.+-]*")
TAKEN = ("documents", "rejects", "tasks")


@dataclass(frozen=True, kw_only=True)
class Origin(Spec):
    """Where documents come from. discipline: of all of them, if it is known. clean: whether rules may mend them."""

    documents: RawFiles | Source
    licence: str
    discipline: str | None = None
    clean: bool = True

    def facts(self) -> dict[str, str]:
        """What is known of every document."""
        known = {"licence": self.licence}
        return known if self.discipline is None else {**known, "discipline": self.discipline}


@dataclass(frozen=True, kw_only=True)
class Curation(Spec):
    """Read, clean, deduplicate, screen, label, grade, decontaminate, publish; what is not asked for is left out.

    sources_root: what relative paths of sources are relative to. n_tasks: into how many tasks each step is cut; the
    result does not depend on how many of them run at once. executor: who runs them; no result depends on it.
    """

    kind: Literal["curation"]
    title: str
    sources: dict[str, Origin]
    general: str = "general"
    repair: RepairUnicode = field(default_factory=RepairUnicode)
    languages: IdentifyLanguage = field(default_factory=IdentifyLanguage)
    clean: Clean | None = field(default_factory=Clean)
    deduplicate: Deduplicate | None = field(default_factory=Deduplicate)
    screens: tuple[Screen, ...] = ()
    labels: Labels = field(default_factory=BySource)
    quality: Quality | None = None
    decontaminate: Decontaminate | None = None
    executor: Executor = field(default_factory=Local)
    n_tasks: int = 8
    sources_root: str | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources: name at least one")
        for name in (*self.sources, self.general, *self.disciplines):
            if not NAME.fullmatch(name) or name in TAKEN:
                raise ValueError(
                    f"{name!r} cannot name a folder: use letters, digits and -_.+, but not {', '.join(TAKEN)}"
                )
        if not isinstance(self.labels, BySource) and self.labels.general != self.general:
            raise ValueError(
                f"labels.general is {self.labels.general!r}, general is {self.general!r}: they are one corpus"
            )
        if len({screen.kind for screen in self.screens}) < len(self.screens):
            raise ValueError("screens: name each kind once, with all its settings")
        if self.n_tasks < 1:
            raise ValueError(f"n_tasks is {self.n_tasks}: it must be at least 1")

    @property
    def disciplines(self) -> tuple[str, ...]:
        """Every corpus that documents can be given to, but the general one."""
        named = [origin.discipline for origin in self.sources.values() if origin.discipline is not None]
        return tuple(name for name in dict.fromkeys([*named, *self.labels.disciplines]) if name != self.general)

    @property
    def root(self) -> Path | None:
        """What relative paths start from."""
        return None if self.sources_root is None else Path(self.sources_root)

    def origin(self, name: str) -> Origin:
        """A source with its paths made absolute."""
        return replace(self.sources[name], documents=self.sources[name].documents.at(self.root))

    def problems(self) -> list[str]:
        """What stands in the way of running, found without doing any work: one sentence each."""
        return list(self._problems())

    def _problems(self) -> Iterator[str]:
        for place, look in self._looks():
            try:
                look()
            except ValueError as error:
                root = "" if self.sources_root else " (sources_root is not set; relative paths start from it)"
                yield f"{place}: {error}{root}"

    def _looks(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """Everything that must be there, by its place in the recipe, and a look at it that raises ValueError."""
        for name in self.sources:
            yield f"sources.{name}", self.origin(name).documents.check
        if isinstance(self.labels, ByClassifier):
            seeds = self.labels.at(self.root).seeds
            yield from ((f"labels.seeds.{name}", source.check) for name, source in seeds.items())
        if self.deduplicate is not None:
            held_out = self.deduplicate.at(self.root).held_out
            yield from ((f"deduplicate.held_out.{i}", source.check) for i, source in enumerate(held_out))
        if self.decontaminate is not None:
            benchmarks = self.decontaminate.at(self.root).benchmarks
            yield from ((f"decontaminate.benchmarks.{name}", it.fingerprint) for name, it in benchmarks.items())
        if self.quality is not None:
            yield "quality.rubric", self.quality.open_rubric
            yield "quality.judgements", self.quality.judgements.at(self.root).fingerprint
            yield "quality.assessor", self.quality.assessor.at(self.root).fingerprint

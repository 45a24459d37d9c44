"""The heuristic filters of datatrove as rules: those of Gopher, C4 and FineWeb, with the settings of their papers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
)
from datatrove.pipeline.filters.base_filter import BaseFilter, get_filter_result

from innovator.curate.rule import Dropped, Facts, Kept, Outcome
from innovator.models.spec import Spec

FILTERS: dict[str, type[BaseFilter]] = {
    "gopher-quality": GopherQualityFilter,
    "gopher-repetition": GopherRepetitionFilter,
    "c4-quality": C4QualityFilter,
    "fineweb-quality": FineWebQualityFilter,
}
NOT_SETTINGS = ("self", "exclusion_writer", "language")


@dataclass(frozen=True, kw_only=True)
class Screen(Spec):
    """One of datatrove's filters by name; settings: those of its thresholds that differ from the paper's.

    Gopher: arXiv 2112.11446, table A1. C4: arXiv 1910.10683, section 2.2 (only its rules for whole documents drop;
    its rules for lines cut them out). FineWeb: arXiv 2406.17557, section 3.6.
    """

    kind: Literal["gopher-quality", "gopher-repetition", "c4-quality", "fineweb-quality"]
    settings: dict[str, float | bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = [name for name in inspect.signature(FILTERS[self.kind]).parameters if name not in NOT_SETTINGS]
        if unknown := [name for name in self.settings if name not in known]:
            raise ValueError(f"settings: {self.kind} has no {unknown[0]!r}; there are {', '.join(known)}")

    @property
    def name(self) -> str:
        """What the account calls it."""
        return self.kind

    def apply(self, text: str, facts: Facts) -> Outcome:
        """Keep the document, perhaps without some lines, or drop it for the filter's reason."""
        document = Document(text=text, id="")
        kept, reason = get_filter_result(self._filter.filter(document))
        if not kept:
            return Dropped(str(reason).replace("_", " "))
        return Kept(document.text, text.count("\n") - document.text.count("\n"))

    @cached_property
    def _filter(self) -> BaseFilter:
        return FILTERS[self.kind](**self.settings)

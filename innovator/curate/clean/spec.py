"""How documents are cleaned: which rules, in which order, and whether a model helps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from innovator.curate.clean.captions import Captions
from innovator.curate.clean.formulas import Formulas
from innovator.curate.clean.irrelevant import Irrelevant
from innovator.curate.clean.ocr import Ocr
from innovator.curate.clean.references import References
from innovator.curate.clean.scripts import Scripts
from innovator.curate.clean.structure import Structure
from innovator.curate.clean.windows import Windows
from innovator.curate.rewrite import Rewrite
from innovator.curate.rule import Rule
from innovator.models.spec import Spec

CleanRule = Scripts | Irrelevant | Ocr | Formulas | Captions | References | Structure
SEVEN: tuple[CleanRule, ...] = (
    Scripts(),
    Irrelevant(),
    Ocr(),
    Formulas(),
    Captions(),
    References(),
    Structure(),
)


@dataclass(frozen=True, kw_only=True)
class Clean(Spec):
    """The rules in the order in which they meet a document; words are mended before the lines they broke are joined.

    A rule mends one block at a time by what the whole document says, so only the model needs the windows.
    """

    kind: Literal["clean"] = "clean"
    windows: Windows = field(default_factory=Windows)
    rules: tuple[CleanRule, ...] = SEVEN
    rewrite: Rewrite | None = None

    def build(self) -> tuple[Rule, ...]:
        """The rules to apply, the model last."""
        return self.rules if self.rewrite is None else (*self.rules, self.rewrite.over(self.windows))

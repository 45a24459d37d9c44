"""Characters that were decoded wrongly once are set right, and nothing that science writes is flattened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from innovator.curate.rule import Facts, Kept, Outcome
from innovator.models.spec import Spec

if TYPE_CHECKING:
    from ftfy import TextFixerConfig

# A line of printable ASCII without & (which may begin an HTML entity) is as it should be.
MAY_NEED_REPAIR = re.compile(r"[^\t\f\x20-\x25\x27-\x7e]")


@dataclass(frozen=True, kw_only=True)
class RepairUnicode(Spec):
    """Mojibake, entities, control characters and line ends, through ftfy, and NFC.

    Superscripts, ligatures, full-width letters and curly quotes stay: NFKC would turn 10² into 102.
    """

    @property
    def name(self) -> str:
        """What the account calls it."""
        return "repair-unicode"

    def apply(self, text: str, facts: Facts) -> Outcome:
        """The text repaired; it counts words that changed, and not line ends."""
        import ftfy.fixes  # here because only this rule needs it

        lines = ftfy.fixes.fix_line_breaks(text).split("\n")
        repaired = [_repaired(line) if MAY_NEED_REPAIR.search(line) else line for line in lines]
        count = sum(_places(old, new) for old, new in zip(lines, repaired, strict=True) if old != new)
        return Kept("\n".join(repaired), count)


def _repaired(line: str) -> str:
    import ftfy

    return ftfy.fix_text(line, _settings())


@cache
def _settings() -> TextFixerConfig:
    from ftfy import TextFixerConfig

    return TextFixerConfig(
        fix_latin_ligatures=False, fix_character_width=False, uncurl_quotes=False, normalization="NFC", explain=False
    )


def _places(old: str, new: str) -> int:
    before, after = old.split(), new.split()
    return max(1, sum(one != other for one, other in zip(before, after, strict=False)))

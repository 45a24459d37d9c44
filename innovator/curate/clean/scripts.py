"""Letters of every script stay; what no reader sees goes: control, bidirectional and private-use characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from innovator.curate.clean.base import BlockRule, Mend, cleaned
from innovator.curate.clean.blocks import Block, Kind
from innovator.curate.rule import Facts, Outcome

# Scripts that join letters need the joiners, those that write no spaces mark where a line may break, and so do emoji.
JOINING, UNSPACED = (
    "\u0590-\u0eff\u1000-\u109f\u1780-\u18af\u2600-\u27bf\ufe0f\U0001f000-\U0001faff",
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff",
)
JUNK = re.compile(
    rf"(?<![{JOINING}])[\u200c\u200d]|(?<![{UNSPACED}])\u200b"
    r"|[\x00-\x08\x0e-\x1f\x7f-\x9f\u180e\u200e\u200f\u202a-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff"
    r"\ue000-\uf8ff\U000f0000-\U0010ffff]"
)
# The encoding of the font Symbol, whose signs extraction leaves 0xF000 higher.
SYMBOLS = {0xF0B7: "•", 0xF0A7: "▪"} | {
    0xF000 + ord(key): sign
    for key, sign in zip("abcdefghiklmnopqrstuwxyzDFGLPQSWXY", "αβχδεφγηικλμνοπθρστυωξψζΔΦΓΛΠΘΣΩΞΨ", strict=True)
}
# What a careless reader made of the signs of Windows-1252: quotes, dashes, and minus signs that a number needs.
WINDOWS = {code: sign for code in range(0x80, 0xA0) if (sign := bytes([code]).decode("cp1252", "ignore"))}
MEANT = SYMBOLS | WINDOWS
SUSPECT = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\ue000-\uf8ff\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff\U000f0000-\U0010ffff]"
)
LETTER = re.compile(r"(?!MODIFIER)([A-Z]+) .*(?:LETTER|SYLLABLE|IDEOGRAPH|CHARACTER)")


@dataclass(frozen=True, kw_only=True)
class Scripts(BlockRule):
    """Removes invisible characters and names the scripts of a text in the fact `scripts`."""

    kind: Literal["scripts"] = "scripts"
    touches: ClassVar[frozenset[Kind]] = frozenset(
        ("heading", "paragraph", "list", "table", "code", "formula", "caption", "reference")
    )

    def apply(self, text: str, facts: Facts) -> Outcome:
        """The text without junk."""
        return cleaned(self, text, {"scripts": scripts_of(text)})

    def mender(self, blocks: Sequence[Block]) -> Mend | None:
        """Takes the junk out of a block."""
        return _mend if any(SUSPECT.search(block.text) for block in blocks) else None


def scripts_of(text: str) -> list[str]:
    """The scripts that a text has letters of, by their Unicode names, such as latin or greek."""
    letters = [unicodedata.name(sign, "") for sign in set(text) if sign.isalpha()]
    return sorted({match[1].lower() for name in letters if (match := LETTER.match(name))})


def _mend(block: Block) -> Block:
    if not SUSPECT.search(block.text):
        return block
    return block.mended(*JUNK.subn(lambda match: MEANT.get(ord(match[0]), ""), block.text))

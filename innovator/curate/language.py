"""The language that a document is written in, told from samples of its prose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from innovator.curate.rule import Dropped, Facts, Kept, Outcome
from innovator.models.spec import Spec

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

N_SAMPLES, SAMPLE, PROSE = 3, 2000, 600
FEWEST_LETTERS = 20
UNDETERMINED = "und"
CODE = re.compile(r"[a-z]{2,3}")
NOT_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`"
    r"|\$\$.*?\$\$|\$(?=\S)[^$\n]*(?<=\S)\$|\\\[.*?\\\]|\\\(.*?\\\)"
    r"|\\begin\{(equation|align|gather|multline|eqnarray|verbatim|lstlisting)\*?\}.*?\\end\{\1\*?\}"
    r"|\\[a-zA-Z]+|<[^<>\n]{1,200}>|\b(?:https?://|www\.)\S+|[!-~]*[_={}\[\]|/\\@#][!-~]*|\d+",
    re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class IdentifyLanguage(Spec):
    """States `language` (ISO 639, `und` if there is hardly any prose) and `language_score`, by py3langid.

    keep: languages whose documents go on; none named keeps all. least: the lowest score, from 0 to 1, at which a
    document is believed to be in one of them.
    """

    keep: tuple[str, ...] = ()
    least: float = 0.0

    def __post_init__(self) -> None:
        if odd := [code for code in self.keep if not CODE.fullmatch(code)]:
            raise ValueError(f"keep: {odd[0]!r} is not a language's code; write `en`, `de`, `zh`, ...")
        if not 0 <= self.least <= 1:
            raise ValueError(f"least is {self.least}: a score is from 0 to 1")

    @property
    def name(self) -> str:
        """What the account calls it."""
        return "identify-language"

    def apply(self, text: str, facts: Facts) -> Outcome:
        """Keep the document with its language, or drop it for that."""
        language, score = identified(text)
        if self.keep and (language not in self.keep or score < self.least):
            return Dropped("language")
        return Kept(text, facts={"language": language, "language_score": round(score, 4)})


def identified(text: str) -> tuple[str, float]:
    """A text's language and the probability of it; `und` and 0 where there are hardly any letters beside formulas."""
    samples = list(_samples(text))
    most = N_SAMPLES * PROSE // len(samples)
    prose = " ".join(" ".join(NOT_PROSE.sub(" ", sample).split())[:most] for sample in samples)
    if sum(map(str.isalpha, prose)) < FEWEST_LETTERS:
        return UNDETERMINED, 0.0
    language, score = _identifier().classify(prose)
    return str(language), float(score)


def _samples(text: str) -> Iterator[str]:
    """The whole of a short text; parts from its beginning, middle and end if it is long, from a line's start on."""
    if len(text) <= N_SAMPLES * SAMPLE:
        yield text
        return
    for i in range(N_SAMPLES):
        start = i * (len(text) - SAMPLE) // (N_SAMPLES - 1)
        start = text.find("\n", start, start + SAMPLE // 2) + 1 or start
        yield text[start : start + SAMPLE]


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # here because it is slow to load

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

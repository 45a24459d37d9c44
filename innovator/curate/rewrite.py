"""Cleaning by a language model, window by window, believed only where what must not change has not changed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from innovator.curate.clean.blocks import Block, parse, render
from innovator.curate.clean.windows import Windows
from innovator.curate.endpoint import Absent, Endpoint
from innovator.curate.rule import Facts, Kept, Outcome, count_tokens
from innovator.models.spec import Spec

NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
FORMULA = re.compile(
    r"\$\$.+?\$\$|(?<!\\)\$(?:[^$\\]|\\.)+\$|\\\(.+?\\\)|\\\[.+?\\\]|\\begin\{.+?\\end\{\w+\*?\}", re.DOTALL
)
CITATION = re.compile(r"\[\d+(?:[,;\u2013-] ?\d+)*\]|\\cite\w*\{[^}]*\}|\([A-Z][^()]*,? \d{4}[a-z]?\)")
HEADING = re.compile(r"(?m)^#{1,6} .+$|^(?:References|Bibliography)$")
BLANK = re.compile(r"\s+")

INSTRUCTION = """You repair text that was extracted from scientific documents. Return the same text with errors of
optical recognition, broken words, broken lines and broken LaTeX mended, and nothing else changed: do not summarise,
translate, reorder, comment, or leave anything out. Keep every number, formula, heading, citation mark, reference,
table and line of code. Answer with the text alone."""


@dataclass(frozen=True, kw_only=True)
class Rewrite(Spec):
    """What a model may do. shortest, longest: bounds of an answer's tokens, as shares of those that it was given.

    An answer that leaves these bounds, or changes numbers, formulas, citations or headings, is refused, and the text
    stands as the rules left it. Without an endpoint that answers nothing is cleaned: the step stops, and goes on later.
    """

    endpoint: Endpoint
    instruction: str = INSTRUCTION
    shortest: float = 0.8
    longest: float = 1.1

    def __post_init__(self) -> None:
        if not 0 <= self.shortest <= 1 <= self.longest:
            raise ValueError(f"shortest is {self.shortest} and longest {self.longest}: give bounds around 1")

    def over(self, windows: Windows) -> Rewriting:
        """The rule that asks the model about every window."""
        return Rewriting(rewrite=self, windows=windows)

    def refusal(self, before: str, after: str) -> str | None:
        """Why an answer is refused; None if it is accepted."""
        share = count_tokens(after) / max(1, count_tokens(before))
        if not self.shortest <= share <= self.longest:
            return "length"
        return next((what for what, found in MUST_STAY.items() if found(before) != found(after)), None)


@dataclass(frozen=True, kw_only=True)
class Rewriting:
    """The rule: facts `rewrite` say how many windows were accepted, and how many refused for which reason."""

    rewrite: Rewrite
    windows: Windows
    name: str = field(default="rewrite", init=False)

    def apply(self, text: str, facts: Facts) -> Outcome:
        """The text as the model mended it, where it is believed."""
        outcomes: Counter[str] = Counter()

        def process(blocks: Sequence[Block]) -> Sequence[Block]:
            outcome, answer = self._answer(render(blocks))
            outcomes[outcome] += 1
            return blocks if answer is None else parse(answer)

        made = render(self.windows.through(parse(text), process))
        if reason := self.rewrite.refusal(text, made):  # what became of neighbours may not fit together
            outcomes = Counter({f"refused: {reason} at a seam": sum(outcomes.values())})
            made = text
        return Kept(made, outcomes["accepted"] if made != text else 0, {"rewrite": dict(outcomes)})

    def _answer(self, text: str) -> tuple[str, str | None]:
        """How asking about a window went, and what it is replaced by; blank space around it is not the model's."""
        body = text.strip()
        if count_tokens(body) > 2 * self.windows.size:
            return "refused: window too long", None
        try:
            answer = self.rewrite.endpoint.ask(self.rewrite.instruction, body).strip()
        except Absent:
            raise
        except ValueError:
            return "refused: no answer", None
        if reason := self.rewrite.refusal(body, answer):
            return f"refused: {reason}", None
        start = text.index(body)
        return "accepted", text[:start] + answer + text[start + len(body) :]


def _formulas(text: str) -> Counter[str]:
    """Formulas without their blank space, which a model may mend."""
    return Counter(BLANK.sub("", match[0]) for match in FORMULA.finditer(text))


MUST_STAY: dict[str, Callable[[str], Counter[str]]] = {
    "numbers": lambda text: Counter(NUMBER.findall(text)),
    "formulas": _formulas,
    "citations": lambda text: Counter(CITATION.findall(text)),
    "headings": lambda text: Counter(HEADING.findall(text)),
}

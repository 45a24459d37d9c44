"""Formulas in LaTeX: delimiters and braces balanced and torn commands joined where only one reading is left."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from innovator.curate.clean.base import Mend, cleaned
from innovator.curate.clean.blocks import Block, Kind
from innovator.curate.rule import Facts, Outcome
from innovator.models.spec import Spec

COMMANDS = frozenset(
    (
        "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau "
        "upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega frac dfrac tfrac "
        "sqrt sum prod int iint oint lim sup inf max min log ln exp sin cos tan sec csc cot arcsin arccos arctan sinh "
        "cosh tanh det dim ker arg gcd deg cdot cdots ldots dots vdots ddots times div pm mp leq geq neq approx equiv "
        "sim simeq cong propto infty partial nabla forall exists subset supset subseteq supseteq cup cap setminus "
        "emptyset langle rangle lfloor rfloor lceil rceil lvert rvert lVert rVert rightarrow leftarrow Rightarrow "
        "Leftarrow leftrightarrow Leftrightarrow longrightarrow rightleftharpoons mapsto implies iff text textbf textit "
        "textrm mathrm mathbf mathit mathcal mathbb mathfrak mathsf mathscr operatorname boldsymbol overline underline "
        "overset underset overbrace underbrace widehat widetilde hat bar vec dot ddot tilde begin end left right big "
        "bigg quad qquad circ bullet otimes oplus wedge vee prime ell hbar angle perp parallel mid land lor neg "
        "displaystyle ce"
    ).split()
)
FORMULA = re.compile(r"\$\$.+?\$\$|(?<!\\)\$(?:[^$\\]|\\.)+\$|\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL)
TORN = re.compile(r"(?<!\\)\\[ \n]([A-Za-z]{2,})(?![A-Za-z])")
CUT = re.compile(r"(?<!\\)\\([A-Za-z]{1,8})[ \n]([a-z]{1,10})(?=\{)")
DOLLAR = re.compile(r"(?<!\\)\$\$?")
HIDDEN = re.compile(r"\\(?:text|math|operatorname|ce|label|tag|begin|end)[a-z]*\*? ?\{[^{}]*\}|\\[a-zA-Z]+|`[^`]*`")
PROSE = re.compile(r"(?<![A-Za-z\\])(?:[A-Za-z]{2,},? [a-z]{2,}|[a-z]{4,}\b)(?![{])")
MATH = re.compile(r"[\\_^=<>+]|^\(?[A-Za-z](?:\([A-Za-z]\))?'?$")
WORDS = "is|of|in|to|we|by|as|at|on|or|if|an|be|it|so|do|no|up|us|my|he|is"
STEP = re.compile(
    rf"\\[A-Za-z]+\*?|\\.|(?!(?:{WORDS})\b)[A-Za-z]{{1,2}}(?![A-Za-z])|[^A-Za-z\\${{}}\n]|\n(?!\n)", re.DOTALL
)
ARTICLE = re.compile(r"(?:\s+(?:[aAI]|\d+\.)|[\s.,;:!?]|[-–—](?=\s)|\s[-–—(\[“]+)+$|(?<=\s)[(\[“]+$")


@dataclass(frozen=True, kw_only=True)
class Formulas(Spec):
    """Joins torn commands and gives formulas the delimiter or brace that they have lost."""

    kind: Literal["formulas"] = "formulas"
    touches: ClassVar[frozenset[Kind]] = frozenset(("paragraph", "list", "formula", "caption", "table"))

    @property
    def name(self) -> str:
        """What the account calls it."""
        return self.kind

    def apply(self, text: str, facts: Facts) -> Outcome:
        """The text with its formulas whole."""
        return cleaned(self, text)

    def mender(self, blocks: Sequence[Block]) -> Mend | None:
        """Mends the formulas of a block."""
        return _mend if any("$" in block.text or "\\" in block.text for block in blocks) else None


def _mend(block: Block) -> Block:
    if "$" not in block.text and "\\" not in block.text:
        return block
    text, n_commands = _with_commands(block.text)
    text, n_ends = _closed(text)
    text, n_braces = _with_braces(text)
    return block.mended(text, n_commands + n_ends + n_braces)


def _with_commands(text: str) -> tuple[str, int]:
    """Join commands that a space or line break tore."""
    n = 0

    def torn(match: re.Match[str]) -> str:
        nonlocal n
        known = match[1] in COMMANDS
        n += known
        return f"\\{match[1]}" if known else match[0]

    def cut(match: re.Match[str]) -> str:
        nonlocal n
        known = match[1] not in COMMANDS and match[1] + match[2] in COMMANDS
        n += known
        return f"\\{match[1]}{match[2]}" if known else match[0]

    return CUT.sub(cut, TORN.sub(torn, text)), n


def _closed(text: str) -> tuple[str, int]:
    """Close the formulas whose closing dollars are missing, each where its signs end and words begin."""
    out, done, n = [], 0, 0
    while opening := DOLLAR.search(text, done):
        sign, start = opening[0], opening.end()
        closing = _closing(text, start, sign)
        if closing >= 0 and (sign == "$$" or not _is_prose(text[start:closing])):
            end = closing
        else:
            limit = closing if closing >= 0 else len(text)
            end = _math_end(text, start, limit)
            before, after = text[opening.start() - 1 : opening.start()], text[end : end + 1]
            lost = end < limit and _is_math(text[start:end]) and not before.isalnum() and after != "\n"
            n += lost
            text = text[:end] + sign * lost + text[end:]
            sign = sign * lost
        out.append(text[done : end + len(sign)])
        done = end + len(sign)
    return "".join([*out, text[done:]]), n


def _closing(text: str, start: int, sign: str) -> int:
    """Where the delimiter stands that closes a formula; -1 if nowhere."""
    at = text.find(sign, start)
    while at > 0 and text[at - 1] == "\\":
        at = text.find(sign, at + 1)
    return at


def _is_math(math: str) -> bool:
    """Whether what follows a dollar is a formula for certain, and no price or name."""
    return MATH.search(math) is not None and not math.startswith(" ")


def _is_prose(math: str) -> bool:
    """Whether what stands between two dollars cannot be one formula."""
    if not math.strip() or (math[0].isspace() and math[-1].isspace() and not MATH.search(math)):
        return True
    return PROSE.search(HIDDEN.sub(" ", math)) is not None if " " in math else False


def _math_end(text: str, start: int, limit: int) -> int:
    """Where the formula that starts here ends, if it ends where words begin."""
    at = start
    while at < limit:
        if text[at] == "{":
            at = _group_end(text, at, limit)
        elif step := STEP.match(text, at, limit):
            at = step.end()
        else:
            break
    math = text[start:at]
    return start + len(ARTICLE.sub("", math))


def _group_end(text: str, start: int, limit: int) -> int:
    depth = 0
    for at in range(start, limit):
        if text[at - 1] != "\\":
            depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return at + 1
    return limit


def _with_braces(text: str) -> tuple[str, int]:
    """Give each formula that lacks one closing brace that brace at its end."""
    n = 0

    def whole(match: re.Match[str]) -> str:
        nonlocal n
        formula = match[0]
        width = 1 if formula[0] == "$" and formula[1] != "$" else 2
        if not _lacks_last_brace(formula):
            return formula
        n += 1
        return f"{formula[:-width]}}}{formula[-width:]}"

    return FORMULA.sub(whole, text), n


def _lacks_last_brace(formula: str) -> bool:
    opened = []
    for sign in re.finditer(r"\\.|[{}]", formula, re.DOTALL):
        if sign[0] == "{":
            opened.append(sign.end())
        elif sign[0] == "}":
            if not opened:
                return False
            opened.pop()
    inside = formula[opened[0] :].strip("$") if len(opened) == 1 else ""
    return bool(inside) and "=" not in inside and "\\end" not in formula

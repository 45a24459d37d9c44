"""Formulas in LaTeX: delimiters and braces balanced and torn commands joined where only one reading is left."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from innovator.curate.clean.base import BlockRule, Mend
from innovator.curate.clean.blocks import Block, Kind

COMMANDS = frozenset(
    """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi pi rho sigma tau
    upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega frac dfrac tfrac
    sqrt sum prod int iint oint lim sup inf max min log ln exp sin cos tan sec csc cot arcsin arccos arctan sinh
    cosh tanh det dim ker arg gcd deg cdot cdots ldots dots vdots ddots times div pm mp leq geq neq approx equiv sim
    simeq cong propto infty partial nabla forall exists subset supset subseteq supseteq cup cap setminus emptyset
    langle rangle lfloor rfloor lceil rceil lvert rvert lVert rVert rightarrow leftarrow Rightarrow Leftarrow
    leftrightarrow Leftrightarrow longrightarrow rightleftharpoons mapsto implies iff text textbf textit textrm
    mathrm mathbf mathit mathcal mathbb mathfrak mathsf mathscr operatorname boldsymbol overline underline overset
    underset overbrace underbrace widehat widetilde hat bar vec dot ddot tilde begin end left right big bigg quad
    qquad circ bullet otimes oplus wedge vee prime ell hbar angle perp parallel mid land lor neg displaystyle ce
    notin vDash models lnot coloneqq varnothing hookrightarrow xrightarrow colon pmod bmod limits
    """.split()  # noqa: SIM905 (a list of names reads better as text)
)
FORMULA = re.compile(r"\$\$.+?\$\$|(?<!\\)\$(?:[^$\\]|\\.)+\$|\\\(.{1,2000}?\\\)|\\\[.{1,2000}?\\\]", re.DOTALL)
COMMAND = re.compile(r"\\([A-Za-z]{2,})")
TORN = re.compile(r"(?<!\\)\\[ \n]([A-Za-z]{2,})(?![A-Za-z])")
CUT = re.compile(r"(?<!\\)\\([A-Za-z]{1,8})[ \n]([a-z]{1,10})(?=\{)")
LONGEST = 2000  # characters of a formula
DOLLAR = re.compile(r"`+[^`\n]+`+|(?<!\\)\$\$?")
SIGN = re.compile(r"(?<!\\)\$")
HIDDEN = re.compile(r"\\(?:text|math|operatorname|ce|label|tag|begin|end)[a-z]*\*? ?\{[^{}]*\}|\\[a-zA-Z]+|`[^`]*`")
WORDS = "is|of|in|to|we|by|as|at|on|or|if|an|be|it|so|do|no|up|us|my|he"
NEXT = r"(?:[.?!] +[A-Z][a-z]|[.;,] +(?:\([a-z]\)|[a-z]\.) |\n\s*(?:\(?\w{1,2}[.)]|[-*•]|[A-Z][a-z])\s?)"
PROSE = re.compile(
    rf"(?<![A-Za-z\\])(?:[A-Za-z]{{2,}},? [a-z]{{2,}}|[A-Za-z][a-z]{{3,}}\b)(?![{{])|{NEXT}|[,;.] $"
    rf"|(?:^| )(?:{WORDS}|and|the|for|are)(?=[ ,]|$)"
)
MATH = re.compile(r"[\\_^=<>+]|^\(?[A-Za-z](?:\([A-Za-z]\)|\))?'?$|^[(\[].*,.*[)\]]$|^[A-Za-z']+ ?[/|] ?[A-Za-z']+$")
STEP = re.compile(
    rf"(?!{NEXT})(?:\\[A-Za-z]+\*?|\\.|(?!(?i:{WORDS})\b)(?:[A-Za-z]{{1,2}}|[b-df-hj-np-tv-xzA-Z]{{3,4}})(?![A-Za-z])"
    r"|[^A-Za-z\\${}\n]|\n(?!\n))",
    re.DOTALL,
)
NAME = re.compile(r"[A-Za-z]+_[A-Za-z]{2}")  # of a variable of a shell or a program
OPERATOR = re.compile(
    r"(?:[=+<>]|\\(?:le|ge|leq|geq|in|notin|to|times|cdot|subset|neq|sim|approx)|(?<!\^)[-\u2013])\s*$"
)
PUNCTUATION = re.compile(r"(?:[\s.,;:!?]|\s[-\u2013—(\[“]+|(?<![\^_])[-\u2013—])+$")
ARTICLE = re.compile(r"\s+[aAI]$")


@dataclass(frozen=True, kw_only=True)
class Formulas(BlockRule):
    """Joins torn commands and gives formulas the delimiter or brace that they have lost."""

    kind: Literal["formulas"] = "formulas"
    touches: ClassVar[frozenset[Kind]] = frozenset(("paragraph", "list", "formula", "caption", "table"))

    def mender(self, blocks: Sequence[Block]) -> Mend | None:
        """Mends the formulas of a block; without a command of LaTeX, formulas cannot be told from prices and names."""
        used = Counter(name for block in blocks if "\\" in block.text for name in COMMAND.findall(block.text))
        commands = COMMANDS.union(name for name, n in used.items() if n > 1 and len(name) > 3)
        return (lambda block: _mend(block, commands)) if used else None


def _mend(block: Block, commands: frozenset[str]) -> Block:
    if "$" not in block.text and "\\" not in block.text:
        return block
    text, n_commands = _with_commands(block.text, commands)
    text, n_ends = _closed(text)
    text, n_braces = _with_braces(text)
    return block.mended(text, n_commands + n_ends + n_braces)


def _with_commands(text: str, commands: frozenset[str]) -> tuple[str, int]:
    """Join commands that a space or line break tore."""
    n = 0

    def torn(match: re.Match[str]) -> str:
        nonlocal n
        known = match[1] in commands
        n += known
        return f"\\{match[1]}" if known else match[0]

    def cut(match: re.Match[str]) -> str:
        nonlocal n
        known = match[1] not in COMMANDS and match[1] + match[2] in COMMANDS
        n += known
        return f"\\{match[1]}{match[2]}" if known else match[0]

    return CUT.sub(cut, TORN.sub(torn, text)), n


def _closed(text: str) -> tuple[str, int]:
    """Close the formulas whose closing dollars are missing, each where its signs end and words begin.

    This is believed only if it leaves the dollars of the text in pairs.
    """
    out, done, n = [], 0, 0
    while opening := DOLLAR.search(text, done):
        sign, start = opening[0], opening.end()
        end, lost = start, False
        if sign[0] == "$":
            closing = _closing(text, start, sign)
            whole = closing >= 0 and (sign == "$$" or not _is_prose(text[start:closing]))
            end = closing if whole else _math_end(text, start, closing if closing >= 0 else len(text))
            lost = end != closing and _is_math(text, opening.start(), start, end)
            end += len(sign) * (end == closing)
        out += [text[done:end], sign * lost]
        done = end
        n += lost
    mended = "".join([*out, text[done:]])
    return (mended, n) if len(SIGN.findall(mended)) % 2 == 0 else (text, 0)


def _closing(text: str, start: int, sign: str) -> int:
    """Where the delimiter stands that closes a formula; -1 if nowhere."""
    at = text.find(sign, start)
    while at > 0 and text[at - 1] == "\\":
        at = text.find(sign, at + 1)
    return at


def _is_math(text: str, dollar: int, start: int, end: int) -> bool:
    """Whether a formula stands there for certain, and no price or name; a lone letter needs words after it."""
    math = text[start:end]
    if MATH.search(math) is None or OPERATOR.search(math) or math.count("\\begin") != math.count("\\end"):
        return False
    name = NAME.match(math) is not None or math[0] in " \n" or text[dollar - 1 : dollar].isalnum()
    price = math[0].isdecimal() and not re.search(r"[\\^_]", math)
    variable = math[0] == "{" and "\\" not in math
    alone = len(math) == 1 and text[end : end + 1] in ("", "\n")
    return not (name or price or variable or alone)


def _is_prose(math: str) -> bool:
    """Whether what stands between two dollars cannot be one formula."""
    if not math.strip() or (math[0].isspace() and math[-1].isspace() and not MATH.search(math)):
        return True
    return PROSE.search(HIDDEN.sub(" ", math)) is not None if " " in math else False


def _math_end(text: str, start: int, limit: int) -> int:
    """Where the formula that starts here ends, if it ends where words begin."""
    at, limit = start, min(limit, start + LONGEST)
    while at < limit:
        if text[at] == "{":
            at = _group_end(text, at, limit)
        elif step := STEP.match(text, at, limit):
            at = step.end()
        else:
            break
    math = PUNCTUATION.sub("", text[start:at])
    if math.endswith(")") and math.count(")") > math.count("("):
        math = math[:-1]
    shorter = PUNCTUATION.sub("", ARTICLE.sub("", math))
    return start + len(math if OPERATOR.search(shorter) else shorter)


def _group_end(text: str, start: int, limit: int) -> int:
    depth = 0
    for at in range(start, limit):
        if text[at - 1] != "\\":
            depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return at + 1
    return limit


def _with_braces(text: str) -> tuple[str, int]:
    """Give each formula that lacks one closing brace that brace at its end, if the text as a whole lacks some."""
    n, n_lacking = 0, text.count("{") - text.count("}")

    def whole(match: re.Match[str]) -> str:
        nonlocal n
        formula = match[0]
        width = 1 if formula[0] == "$" and formula[1] != "$" else 2
        if n >= n_lacking or not _lacks_last_brace(formula):
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
    sets = formula.count(r"\{") != formula.count(r"\}")
    return bool(inside) and not (sets or "=" in inside or r"\end" in formula)

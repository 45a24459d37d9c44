"""The body of a LaTeX document as Markdown, through pylatexenc; formulas, citations and references stay LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from innovator.curate.formats.text import Text, Unreadable, decoded

if TYPE_CHECKING:
    from pylatexenc.latex2text import LatexNodes2Text
    from pylatexenc.latexwalker import LatexNode
    from pylatexenc.macrospec import LatexContextDb

LISTING = re.compile(
    r"\\begin\{(?P<name>verbatim\*?|lstlisting|minted)\}(?:\[[^]\n]*\])?(?:\{\w+\})?(?P<code>.*?)\\end\{(?P=name)\}",
    re.DOTALL,
)
STANDS_FOR_LISTING = re.compile(r"zqlisting(\d+)qz")
COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*(?:\n[ \t]*)?")
TITLE = re.compile(r"\\title(?:\[[^]\n]*\])?\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}")
BEGIN, END = r"\begin{document}", r"\end{document}"
HEADINGS = {"title": 1, "part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4, "paragraph": 5}
KEPT_AS_WRITTEN = ("cite", "citet", "citep", "ref", "eqref", "autoref", "cref", "Cref", "url")
RULES = frozenset(("hline", "cline", "toprule", "midrule", "bottomrule"))
FLOATS = {"figure": "Figure", "figure*": "Figure", "table": "Table", "table*": "Table"}
CAPTION = "\ue000"


def body(data: bytes, declared: str | None) -> Text:
    """The title and what stands between begin and end of the document, or all of a file that is a part of one."""
    source, listings = _listings_aside(decoded(data, declared))
    if BEGIN in source:
        preamble, source = source.split(BEGIN, 1)
        if END not in source:
            raise Unreadable(f"it breaks off: {BEGIN} has no {END}")
        source = "".join(title[0] for title in TITLE.finditer(preamble)) + source
    text: str = _converter().latex_to_text(source.split(END, 1)[0], latex_context=_grammar())
    text = re.sub(r"[ \t]+\n", "\n", text.replace(CAPTION, "Caption: "))
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    return Text(STANDS_FOR_LISTING.sub(lambda match: _listing(listings, match), text))


def _listings_aside(source: str) -> tuple[str, list[str]]:
    """The source with a mark for each listing, which no parser may touch, and without comments; the listings."""
    listings: list[str] = []

    def mark(match: re.Match[str]) -> str:
        listings.append(f"\n\n```\n{match['code'].strip(chr(10))}\n```\n\n")
        return f"zqlisting{len(listings) - 1}qz"

    marked = LISTING.sub(mark, source)
    return COMMENT.sub(r"\1", marked), listings


def _listing(listings: list[str], mark: re.Match[str]) -> str:
    number = int(mark[1])
    return listings[number] if number < len(listings) else mark[0]


@cache
def _converter() -> LatexNodes2Text:
    from pylatexenc.latex2text import (  # here because only LaTeX needs it, and it is slow to load
        EnvironmentTextSpec,
        LatexNodes2Text,
        MacroTextSpec,
        get_default_latex_context_db,
    )

    macros = [MacroTextSpec(name, simplify_repl=_heading) for name in HEADINGS]
    macros += [MacroTextSpec(name, simplify_repl=_as_written) for name in KEPT_AS_WRITTEN]
    macros += [
        MacroTextSpec("caption", simplify_repl=_caption),
        MacroTextSpec("item", simplify_repl="\n- "),
        MacroTextSpec("bibitem", simplify_repl=_bibitem),
        MacroTextSpec("multicolumn", simplify_repl=_argument),
        MacroTextSpec("includegraphics", discard=True),
    ]
    environments = [EnvironmentTextSpec(name, simplify_repl=_float) for name in FLOATS]
    environments += [EnvironmentTextSpec(name, simplify_repl=_table) for name in ("tabular", "tabular*", "tabularx")]
    environments += [
        EnvironmentTextSpec("abstract", simplify_repl="\n\n## Abstract\n\n%s\n\n"),
        EnvironmentTextSpec("thebibliography", simplify_repl="\n\n## References\n\n%s\n\n"),
    ]
    known = get_default_latex_context_db()
    known.add_context_category("markdown", macros=macros, environments=environments, prepend=True)
    return LatexNodes2Text(known, math_mode="verbatim", keep_comments=False)


@cache
def _grammar() -> LatexContextDb:
    """Which arguments commands take, beyond those that pylatexenc knows."""
    from pylatexenc.latexwalker import get_default_latex_context_db
    from pylatexenc.macrospec import EnvironmentSpec, MacroSpec

    macros = [MacroSpec(name, "*[{") for name in (*HEADINGS, "caption")]
    macros += [MacroSpec(name, "*[[{") for name in KEPT_AS_WRITTEN]
    macros += [MacroSpec("bibitem", "[{"), MacroSpec("multicolumn", "{{{")]
    environments = [EnvironmentSpec("thebibliography", "{"), EnvironmentSpec("tabularx", "{{")]
    known = get_default_latex_context_db()
    known.add_context_category("markdown", macros=macros, environments=environments, prepend=True)
    return known


def _argument(node: LatexNode, l2tobj: LatexNodes2Text) -> str:
    """The text of a command's last argument."""
    arguments = [one for one in node.nodeargd.argnlist if one is not None] if node.nodeargd else []
    return str(l2tobj.nodelist_to_text(arguments[-1:])).strip()


def _heading(node: LatexNode, l2tobj: LatexNodes2Text) -> str:
    return f"\n\n{'#' * HEADINGS[node.macroname]} {' '.join(_argument(node, l2tobj).split())}\n\n"


def _as_written(node: LatexNode) -> str:
    return str(node.latex_verbatim())


def _caption(node: LatexNode, l2tobj: LatexNodes2Text) -> str:
    return f"\n\n{CAPTION}{' '.join(_argument(node, l2tobj).split())}\n\n"


def _bibitem(node: LatexNode, l2tobj: LatexNodes2Text) -> str:
    return f"\n- [{_argument(node, l2tobj)}] "


def _float(node: LatexNode, l2tobj: LatexNodes2Text) -> str:
    text = str(l2tobj.nodelist_to_text(node.nodelist)).replace(CAPTION, f"{FLOATS[node.environmentname]}: ")
    return f"\n\n{text}\n\n"


def _table(node: LatexNode, l2tobj: LatexNodes2Text) -> str:
    rows = [row for row in _rows(node.nodelist, l2tobj) if any(row)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = [f"|{'---|' * len(rows[0])}"] if rows else []
    return "\n\n" + "\n".join([*lines[:1], *rule, *lines[1:]]) + "\n\n"


def _rows(nodes: Sequence[LatexNode], l2tobj: LatexNodes2Text) -> Iterator[list[str]]:
    """The cells of a table, row by row; rules between rows are left out."""
    row = [""]
    for node in nodes:
        name = _name(node)
        if name == "\\":
            yield [" ".join(cell.split()) for cell in row]
            row = [""]
        elif name == "&":
            row.append("")
        elif name not in RULES:
            row[-1] += str(l2tobj.nodelist_to_text([node]))
    yield [" ".join(cell.split()) for cell in row]


def _name(node: LatexNode) -> str:
    """The command or the special mark that a node is, if it is one."""
    from pylatexenc.latexwalker import LatexMacroNode, LatexSpecialsNode

    if isinstance(node, LatexMacroNode):
        return str(node.macroname)
    return str(node.specials_chars) if isinstance(node, LatexSpecialsNode) else ""

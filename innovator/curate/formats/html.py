"""The main text of a web page as Markdown, through trafilatura, with its formulas as TeX."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from innovator.curate.formats.text import Text, Unreadable, decoded

if TYPE_CHECKING:
    from lxml.html import HtmlElement

DECLARED = re.compile(rb"""<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
PRESCAN = 1024
FORMULA = re.compile(r"\$\$[^$]+\$\$|\$[^$\n]+\$|\\\(.+?\\\)|\\\[.+?\\\]", re.DOTALL)
STANDS_FOR_FORMULA = re.compile(r"zqformula(\d+)qz")
DISPLAYSTYLE = re.compile(r"^\{\\(?:display|text)style (.*)\}$", re.DOTALL)
# What renderers draw beside the source of a formula.
DRAWN_BY_KATEX = "//*[contains(@class, 'katex-html')]"
DRAWN_BY_MATHJAX = "//*[contains(@class, 'MathJax') and not(self::script)]"
TEX_SCRIPT = "//script[starts-with(@type, 'math/tex')]"


def page(data: bytes, declared: str | None) -> Text:
    """Main text and title of a page; declared: its encoding as a server named it. Unreadable if it has no main text."""
    import trafilatura  # here because only pages need it, and it is slow to load
    from lxml.html import HTMLParser, document_fromstring

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    markup = decoded(data.replace(b"\0", b""), declared or _declared(data))
    if not markup.strip():
        raise Unreadable("the page is empty")
    tree = document_fromstring(markup.encode(), parser=HTMLParser(encoding="utf-8"))
    title = " ".join((tree.findtext(".//title") or "").split())
    formulas = _set_aside_formulas(tree)
    text = trafilatura.extract(
        tree, output_format="markdown", include_comments=False, include_formatting=True, favor_recall=True
    )
    if not text:
        raise Unreadable("the page has no main text")
    text = STANDS_FOR_FORMULA.sub(lambda match: _formula(formulas, match), text)
    return Text(text, {"title": title} if title else {})


def _declared(data: bytes) -> str | None:
    """The encoding that a page names in its first bytes, as browsers look for it."""
    found = DECLARED.search(data[:PRESCAN])
    return None if data.startswith(b"\xef\xbb\xbf") or found is None else found[1].decode("ascii", "replace")


def _set_aside_formulas(tree: HtmlElement) -> list[str]:
    """Put marks where formulas are, for Markdown would escape their characters; the formulas, by the marks' numbers."""
    formulas: list[str] = []

    def mark(formula: str) -> str:
        formulas.append(formula)
        return f"zqformula{len(formulas) - 1}qz"

    for math in tree.xpath("//math"):
        if tex := _tex(math):
            _replace(math, mark(_in_dollars(tex, math.get("display") == "block")))
    scripts = tree.xpath(TEX_SCRIPT)
    for script in scripts:
        _replace(script, mark(_in_dollars(script.text or "", "display" in script.get("type"))))
    for drawn in tree.xpath(f"{DRAWN_BY_KATEX} | {DRAWN_BY_MATHJAX}" if scripts else DRAWN_BY_KATEX):
        if drawn.getparent() is not None:
            _replace(drawn, "".join(match[0] for match in STANDS_FOR_FORMULA.finditer(drawn.text_content())))
    for element in tree.iter():
        if isinstance(element.tag, str):
            element.text = element.text and FORMULA.sub(lambda match: mark(match[0]), element.text)
        element.tail = element.tail and FORMULA.sub(lambda match: mark(match[0]), element.tail)
    return formulas


def _formula(formulas: list[str], mark: re.Match[str]) -> str:
    number = int(mark[1])
    return formulas[number] if number < len(formulas) else mark[0]


def _tex(math: HtmlElement) -> str:
    """The TeX that a MathML formula was made from, if it says so."""
    notes = math.xpath(".//annotation[contains(@encoding, 'tex') or contains(@encoding, 'TeX')]")
    tex = (notes[0].text_content() if notes else math.get("alttext", "")).strip()
    return DISPLAYSTYLE.sub(r"\1", tex).strip()


def _in_dollars(tex: str, display: bool) -> str:
    return f"$${tex.strip()}$$" if display else f"${tex.strip()}$"


def _replace(element: HtmlElement, text: str) -> None:
    element.tail = text + (element.tail or "")
    element.drop_tree()

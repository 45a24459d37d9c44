"""Every format gives its text with what science needs of it: headings, lists, tables, captions, citations, formulas."""

# Letters that look alike are what is tested here.
# ruff: noqa: RUF001

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_files import FILES, PAGE, SENTENCE, pdf, tex, warc

from innovator.curate.formats.html import page
from innovator.curate.formats.pdf import pages
from innovator.curate.formats.sandbox import Sandbox
from innovator.curate.formats.tex import body
from innovator.curate.formats.text import Unreadable, decoded
from innovator.curate.raw import RawDocument, RawFiles
from innovator.data.records import Malformed


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


def found(path: Path, sandbox: Sandbox, *keep: str) -> list[RawDocument | Malformed]:
    source = RawFiles(path=str(path), keep_fields=keep)
    source.check()
    return [each for file in source.files() for each in source.read(file, sandbox)]


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_its_text(tmp_path: Path, name: str, sandbox: Sandbox) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    (document,) = found(tmp_path, sandbox)
    assert isinstance(document, RawDocument)
    assert SENTENCE in document.text


def test_formulas_of_a_page_are_tex() -> None:
    note = r'<annotation encoding="application/x-tex">{\displaystyle a_1*b_2}</annotation>'
    formulas = (
        f'<p>Here <math display="block"><semantics><mi>a</mi>{note}</semantics></math> and'
        r' <math alttext="\alpha_x"><mi>x</mi></math> and <script type="math/tex">q_1*q_2</script> and \(c_1*c_2\)'
        r" and $\frac{a}{b}_c*d_e$ and <span class='katex'><span class='katex-mathml'><math><semantics>"
        r'<annotation encoding="application/x-tex">k_3</annotation></semantics></math></span>'
        r"<span class='katex-html'>k3</span></span> stand in a sentence that is long enough.</p>"
    )
    text = page((PAGE % formulas).encode(), None).text
    for formula in ("$$a_1*b_2$$", r"$\alpha_x$", "$q_1*q_2$", r"\(c_1*c_2\)", r"$\frac{a}{b}_c*d_e$", "$k_3$"):
        assert formula in text
    assert "k3" not in text


def test_headings_lists_and_tables_of_a_page_are_markdown() -> None:
    table = "<table><tr><th>T</th><th>p</th></tr><tr><td>1</td><td>2</td></tr></table>"
    parts = f"<h2>Data</h2><ul><li>one point</li></ul>{table}"
    found = page((PAGE % parts).encode(), None)
    assert found.facts == {"title": "On heat"}
    text = [line.strip() for line in found.text.splitlines()]
    assert {"# Heat", "## Data", "- one point", "| T | p |", "| 1 | 2 |"} <= set(text)


def test_navigation_is_not_text() -> None:
    menu = "<nav><ul><li><a href='/'>Home page</a></li></ul></nav><footer>Imprint of us</footer>"
    text = page((PAGE % "").replace("<article>", f"{menu}<article>").encode(), None).text
    assert "Home page" not in text and "Imprint" not in text


@pytest.mark.parametrize(
    ("page_says", "server_says", "encoding"),
    [('<meta charset="iso-8859-1">', None, "cp1252"), ("", "windows-1251", "cp1251"), ("", None, "utf-8-sig")],
)
def test_a_page_is_decoded_as_declared(page_says: str, server_says: str | None, encoding: str) -> None:
    words = "Температура" if encoding == "cp1251" else "Wärme – “heat”"
    markup = (PAGE % f"<p>{words}, {SENTENCE}</p>").replace("<head>", f"<head>{page_says}")
    assert words in page(markup.encode(encoding), server_says).text


@pytest.mark.parametrize("declared", ["hex", "no-such", "utf-8"])
def test_bytes_that_are_not_as_declared_are_named(declared: str) -> None:
    with pytest.raises(Unreadable, match=r"declared|not UTF-8 at byte 2"):
        decoded(b"a\xff", declared)


def test_latex_keeps_formulas_headings_tables_captions_and_citations() -> None:
    source = r"""\title{On \emph{heat}} % a comment
\begin{abstract}Short.\end{abstract}
\section{Law of Fourier}\label{s} Heat flows at 50\,\% as $q = -k \nabla T$, see \cite{fourier,biot}. % hidden
\begin{equation}\label{e} a &= b \\ c % hidden
\end{equation}
\begin{itemize}\item one \item two\end{itemize}
\begin{figure}\includegraphics{x.png}\caption[short]{A \textbf{warm} body, $T_1$}\end{figure}
\begin{table}\caption{Values}\begin{tabular}{lr}\hline a & $b_1$ \\ \hline 1 & 2 \\ \end{tabular}\end{table}
\begin{verbatim}
5 % 3
\end{verbatim}
\begin{thebibliography}{9}\bibitem{fourier} J. Fourier, 1822. \end{thebibliography}"""
    text = body(tex(source), None).text
    kept = {
        "headings": ["# On heat", "## Abstract", "## Law of Fourier", "## References"],
        "formulas": [r"$q = -k \nabla T$", r"\begin{equation}\label{e} a &= b \\ c \end{equation}"],
        "citations": [r"\cite{fourier,biot}", "[fourier]", "J. Fourier, 1822."],
        "captions": ["Figure: A warm body, $T_1$", "Table: Values"],
        "the rest": ["- one\n- two", "| a | $b_1$ |\n|---|---|\n| 1 | 2 |", "```\n5 % 3\n```"],
    }
    assert [part for parts in kept.values() for part in parts if part not in text] == []
    assert "hidden" not in text and "comment" not in text and "documentclass" not in text


def test_latex_keeps_a_title_that_stands_before_the_document() -> None:
    source = tex(SENTENCE).replace(
        b"\n\\begin", b"\\title[short]{On {\\bf heat} and $T_{1}$}\n\\author{N. N.}\n\\begin", 1
    )
    assert body(source, None).text == f"# On heat and $T_{{1}}$\n\n{SENTENCE}\n"


def test_latex_that_has_no_end_breaks_off() -> None:
    with pytest.raises(Unreadable, match="breaks off"):
        body(tex(SENTENCE)[:-20], None)
    assert body(b"A part of a document.", None).text == "A part of a document.\n"


def test_pages_of_a_pdf_are_separated_by_form_feeds() -> None:
    found = pages(pdf("one", "two", "three", title="On heat"), None)
    assert (found.text, found.facts) == ("one\ftwo\fthree", {"title": "On heat"})


def test_records_of_an_archive_are_numbered_and_have_their_address(tmp_path: Path, sandbox: Sandbox) -> None:
    archive = warc(
        ("200 OK", "text/plain; charset=windows-1252", "Wärme".encode("cp1252")),
        ("404 Not Found", "text/html", (PAGE % "").encode()),
        ("200 OK", "image/png", b"\x89PNG"),
        ("200 OK", "application/pdf", pdf("one", "two")),
        ("200 OK", "text/plain", b"\xff"),
    )
    (tmp_path / "a.warc.gz").write_bytes(archive)
    one, lost, image, paper, binary = found(tmp_path, sandbox, "url", "date")
    assert isinstance(one, RawDocument) and isinstance(paper, RawDocument)
    assert (one.line, one.text, one.fields["url"]) == (2, "Wärme", "http://example.org/0")
    assert (paper.line, paper.text) == (5, "one\ftwo")
    assert isinstance(lost, Malformed) and (lost.line, lost.reason) == (3, "served with the status 404")
    assert isinstance(image, Malformed) and "image/png" in image.reason
    assert isinstance(binary, Malformed) and (binary.line, binary.raw) == (6, "http://example.org/4")


def test_extraction_that_hangs_is_ended_and_named() -> None:
    with Sandbox(seconds=1.0) as sandbox:
        assert sandbox.extract("tex", tex(SENTENCE)).text.strip() == SENTENCE
        with pytest.raises(Unreadable, match="longer than 1 seconds"):
            sandbox.extract("tex", b"{\\bf x}" * 300_000)
        assert sandbox.extract("tex", tex(SENTENCE)).text.strip() == SENTENCE


def test_a_pdf_without_text_says_so() -> None:
    with pytest.raises(Unreadable, match="no text"):
        pages(pdf(""), None)

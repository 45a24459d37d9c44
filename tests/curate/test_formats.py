"""Every format gives its text with what science needs of it: headings, lists, tables, captions, citations, formulas."""

# Letters that look alike are what is tested here.
# ruff: noqa: RUF001

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from innovator.curate.formats.html import page
from innovator.curate.formats.pdf import pages
from innovator.curate.formats.sandbox import Sandbox
from innovator.curate.formats.tex import body
from innovator.curate.formats.text import Unreadable, decoded
from innovator.curate.raw import RawDocument, RawFiles
from innovator.data.records import Malformed

SENTENCE = "Heat flows from the warm body to the cold one until both of them are equally warm, as everybody knows."
PARAGRAPHS = "".join(f"<p>{SENTENCE} That was paragraph {i} of the page.</p>" for i in range(3))
PAGE = f"<html><head><title>On heat</title></head><body><article><h1>Heat</h1>{PARAGRAPHS}%s</article></body></html>"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


def found(path: Path, sandbox: Sandbox, *keep: str) -> list[RawDocument | Malformed]:
    source = RawFiles(path=str(path), keep_fields=keep)
    source.check()
    return [each for file in source.files() for each in source.read(file, sandbox)]


def pdf(*pages: str, title: str = "") -> bytes:
    """A small PDF, a line of text on each page."""
    contents = [f"BT /F1 8 Tf 72 720 Td ({text}) Tj ET".encode() for text in pages]
    kids = " ".join(f"{5 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Title ({title}) >>".encode(),
    ]
    for i, content in enumerate(contents):
        resources = "/Resources << /Font << /F1 3 0 R >> >> /MediaBox [0 0 612 792]"
        objects.append(f"<< /Type /Page /Parent 2 0 R {resources} /Contents {6 + 2 * i} 0 R >>".encode())
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, one in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, one)
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    trailer = f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R /Info 4 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return bytes(out) + f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{trailer}".encode()


def warc(*served: tuple[str, str, bytes], packed: bool = True) -> bytes:
    """A web archive of (status, content type, content)."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=packed)
    writer.write_record(writer.create_warcinfo_record("a.warc", {"software": "test"}))
    for i, (status, content_type, content) in enumerate(served):
        headers = StatusAndHeaders(status, [("Content-Type", content_type)], protocol="HTTP/1.1")
        uri = f"http://example.org/{i}"
        writer.write_record(writer.create_warc_record(uri, "response", io.BytesIO(content), http_headers=headers))
    return out.getvalue()


def wet(*texts: str) -> bytes:
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=True)
    for i, text in enumerate(texts):
        content = io.BytesIO(text.encode())
        uri = f"http://example.org/{i}"
        record = writer.create_warc_record(uri, "conversion", content, warc_content_type="text/plain")
        writer.write_record(record)
    return out.getvalue()


def parquet(*texts: str) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": list(texts)}), out)
    return out.getvalue()


def tex(text: str) -> bytes:
    return f"\\documentclass{{article}}\n\\begin{{document}}\n{text}\n\\end{{document}}\n".encode()


ONE_LINE = (json.dumps({"text": SENTENCE}) + "\n").encode()
FILES: dict[str, bytes] = {
    "a.jsonl": ONE_LINE,
    "a.json.gz": gzip.compress(ONE_LINE),
    "a.jsonl.zst": zstandard.compress(ONE_LINE),
    "a.parquet": parquet(SENTENCE),
    "a.txt": SENTENCE.encode(),
    "a.text.gz": gzip.compress(SENTENCE.encode()),
    "a.md": SENTENCE.encode(),
    "a.rst.zst": zstandard.compress(SENTENCE.encode()),
    "a.tex": tex(SENTENCE),
    "a.html": (PAGE % "").encode(),
    "a.xhtml": b'<?xml version="1.0" encoding="utf-8"?>' + (PAGE % "").encode(),
    "a.pdf": pdf(SENTENCE),
    "a.warc.gz": warc(("200 OK", "text/html; charset=utf-8", (PAGE % "").encode())),
    "a.warc": warc(("200 OK", "text/html", (PAGE % "").encode()), packed=False),
    "a.wet.gz": wet(SENTENCE),
}


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

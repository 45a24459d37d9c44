"""Small files of every format that raw documents come in, each with the same sentence."""

from __future__ import annotations

import gzip
import io
import json

import pyarrow
import pyarrow.parquet
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

SENTENCE = "Heat flows from the warm body to the cold one until both of them are equally warm, as everybody knows."
PARAGRAPHS = "".join(f"<p>{SENTENCE} That was paragraph {i} of the page.</p>" for i in range(3))
PAGE = f"<html><head><title>On heat</title></head><body><article><h1>Heat</h1>{PARAGRAPHS}%s</article></body></html>"


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

"""Whatever the bytes: no crash, no silence, and what is malformed is named by file and line."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from raw_files import FILES, pdf

from innovator.curate.formats.sandbox import Sandbox
from innovator.curate.formats.table import SUFFIXES
from innovator.curate.raw import RawDocument, RawFiles
from innovator.data import records
from innovator.data.records import Malformed, Record, read_records

GOOD = b'{"text": "one line that is good"}\n'
N_MUTATIONS = 12


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(seconds=20) as sandbox:
        yield sandbox


def read(file: Path, sandbox: Sandbox) -> list[RawDocument | Malformed]:
    """Everything of a file, as text that can be written: what reading promises of any bytes."""
    found = list(RawFiles(path=str(file), keep_fields=("kept",)).read(file, sandbox))
    assert found, "a file was passed over in silence"
    for each in found:
        assert each.line >= 1
        if isinstance(each, RawDocument):
            assert each.text.strip() and each.text.encode()
        else:
            assert each.reason and json.dumps(each.raw)
    return found


BAD_LINES = {
    "broken UTF-8": (b'{"text": "\xff\xfe"}', "not UTF-8 at byte 11"),
    "half of a surrogate pair": (rb'{"text": "\ud800"}', "half of a surrogate pair"),
    "nested": (b'{"text": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deeply"),
    "no object": (b'["text"]', "a list"),
    "no field": (b'{"body": "x"}', "there is no field 'text'; the fields are: body"),
    "null": (b'{"text": null}', "a NoneType, not a text"),
    "number": (b'{"text": NaN}', "a float, not a text"),
    "huge number": (b'{"text": 1' + b"0" * 10_000 + b"}", "not JSON: Exceeds the limit"),
    "huge number to keep": (b'{"text": "x", "kept": 1' + b"0" * 100 + b"}", "cannot be written as JSON"),
    "nested to keep": (b'{"text": "x", "kept": ' + b"[" * 500 + b"]" * 500 + b"}", "cannot be written as JSON"),
    "surrogate to keep": (rb'{"text": "x", "kept": "\udc00"}', "cannot be written as JSON"),
    "blank": (b'{"text": " \\n"}', "blank"),
    "NULs": (b"\0" * 100, "not JSON"),
    "binary": (bytes(range(128, 256)), "not UTF-8 at byte 1"),
    "UTF-16": ('{"text": "x"}'.encode("utf-16-le"), "not JSON"),
}


@pytest.mark.parametrize("what", BAD_LINES)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_bad_line_is_named_and_its_neighbours_are_read(
    tmp_path: Path, what: str, end: bytes, sandbox: Sandbox
) -> None:
    line, reason = BAD_LINES[what]
    (tmp_path / "a.jsonl").write_bytes(GOOD + line + end + GOOD)
    before, bad, after = read(tmp_path / "a.jsonl", sandbox)
    assert isinstance(bad, Malformed) and bad.line == 2 and reason in bad.reason
    assert [type(before), type(after), after.line] == [RawDocument, RawDocument, 3]


def test_a_byte_order_mark_is_no_part_of_a_record_or_text(tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + GOOD)
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone line that is good")
    for name in ("a.jsonl", "a.txt"):
        assert read(tmp_path / name, sandbox) == [RawDocument(1, "one line that is good", {})]


def test_not_a_number_to_keep_becomes_nothing(tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x", "kept": NaN}\n')
    assert read(tmp_path / "a.jsonl", sandbox) == [RawDocument(1, "x", {"kept": None})]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("what", ["nothing", "junk", "NULs", "line feeds"])
def test_a_file_that_is_not_what_its_name_says_is_named(
    tmp_path: Path, suffix: str, what: str, sandbox: Sandbox
) -> None:
    contents = {"nothing": b"", "junk": random.Random(0).randbytes(5000), "NULs": b"\0" * 5000, "line feeds": b"\n" * 9}
    (tmp_path / f"a{suffix}").write_bytes(contents[what])
    found = read(tmp_path / f"a{suffix}", sandbox)
    assert all(isinstance(each, Malformed) for each in found)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_breaks_off_anywhere_is_read_or_named(tmp_path: Path, name: str, sandbox: Sandbox) -> None:
    generator, whole = random.Random(name), FILES[name]
    for end in [1, len(whole) - 1, *(generator.randrange(1, len(whole)) for _ in range(N_MUTATIONS))]:
        (tmp_path / name).write_bytes(whole[:end])
        read(tmp_path / name, sandbox)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".gz", ".zst"))])
def test_packed_files_that_break_off_are_never_taken_for_whole(tmp_path: Path, name: str, sandbox: Sandbox) -> None:
    for end in range(12, len(FILES[name]), max(1, len(FILES[name]) // 15)):
        (tmp_path / name).write_bytes(FILES[name][:end])
        assert any(isinstance(each, Malformed) for each in read(tmp_path / name, sandbox))


@pytest.mark.parametrize("name", FILES)
def test_bytes_changed_at_random_are_read_or_named(tmp_path: Path, name: str, sandbox: Sandbox) -> None:
    generator = random.Random(name)
    for _ in range(N_MUTATIONS):
        (tmp_path / name).write_bytes(mutated(FILES[name], generator))
        read(tmp_path / name, sandbox)


def mutated(data: bytes, generator: random.Random) -> bytes:
    """A few bytes changed, left out, doubled, or put in."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 8)):
        start = generator.randrange(len(changed))
        end = start + generator.choice((1, 1, 2, 16))
        changed[start:end] = generator.choice(
            (generator.randbytes(end - start), b"", bytes(changed[start:end]) * 2, b"\xff" * 4, b"\0", b"{[(<\\")
        )
        changed = changed or bytearray(b"\n")
    return bytes(changed)


def test_a_longer_line_than_is_read_is_named_and_its_neighbours_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    monkeypatch.setattr(records, "LONGEST", 1 << 16)
    monkeypatch.setattr(records, "CHUNK", 1 << 12)
    line = b'{"text": "%s"}\n'
    (tmp_path / "a.jsonl").write_bytes(GOOD + line % (b"x" * (1 << 16)) + line % (b"y" * (1 << 15)) + GOOD)
    found = read(tmp_path / "a.jsonl", sandbox)
    assert [type(each) for each in found] == [RawDocument, Malformed, RawDocument, RawDocument]
    assert isinstance(found[1], Malformed) and found[1].reason == "longer than 65,536 bytes"
    (tmp_path / "a.txt").write_bytes(b"x" * ((1 << 16) + 1))
    (whole,) = read(tmp_path / "a.txt", sandbox)
    assert isinstance(whole, Malformed) and whole.reason == "longer than 65,536 bytes"


def test_a_line_over_many_chunks_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "CHUNK", 64)
    generator = random.Random(0)
    texts = ["é" * generator.randrange(300) for _ in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    found = list(read_records(tmp_path / "a.jsonl", frozenset()))
    assert [each.fields["text"] for each in found if isinstance(each, Record)] == texts


def test_a_zstd_bomb_is_named_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    monkeypatch.setattr(records, "LONGEST", 1 << 20)
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b"a" * (1 << 26)))
    (bomb,) = read(tmp_path / "a.jsonl.zst", sandbox)
    assert isinstance(bomb, Malformed) and "longer than" in bomb.reason


def test_encrypted_pdf_is_named(tmp_path: Path, sandbox: Sandbox) -> None:
    locked = b"/Filter /Standard /V 1 /R 2 /O <%s> /U <%s> /P -4" % (b"41" * 32, b"42" * 32)
    identity = b"/ID [<00><00>] /Encrypt << %s >>" % locked
    (tmp_path / "a.pdf").write_bytes(pdf("secret").replace(b"/Info 4 0 R", b"/Info 4 0 R " + identity))
    (found,) = read(tmp_path / "a.pdf", sandbox)
    assert isinstance(found, Malformed) and found.reason == "encrypted"


def test_a_folder_named_like_a_file_is_a_folder(tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "x.jsonl").mkdir()
    (tmp_path / "x.jsonl" / "y.jsonl").write_bytes(GOOD)
    source = RawFiles(path=str(tmp_path))
    assert [source.name_of(file) for file in source.files()] == ["x.jsonl/y.jsonl"]
    assert RawFiles(path=str(tmp_path / "x.jsonl")).files() == source.files()


def test_a_table_without_the_column_or_without_rows_is_named(tmp_path: Path, sandbox: Sandbox) -> None:
    for name, table in {"no": {"body": ["x"]}, "empty": {"text": []}, "null": {"text": [None]}}.items():
        pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / f"{name}.parquet")
        (found,) = read(tmp_path / f"{name}.parquet", sandbox)
        assert isinstance(found, Malformed) and found.line == 1


def test_a_file_that_vanishes_is_named(tmp_path: Path, sandbox: Sandbox) -> None:
    (found,) = read(tmp_path / "gone.jsonl", sandbox)
    assert found == Malformed(1, "cannot be read (No such file or directory)", "")


def test_pages_nested_deeply_do_not_hang(tmp_path: Path, sandbox: Sandbox) -> None:
    start = time.monotonic()
    for name, opening in {"a.html": b"<div>", "b.html": b"<math>", "a.tex": b"{", "b.tex": b"\\begin{a}"}.items():
        (tmp_path / name).write_bytes(opening * 5000 + b"x")
        read(tmp_path / name, sandbox)
    assert time.monotonic() - start < 4 * sandbox.seconds


def test_gzip_of_several_members_is_one_file(tmp_path: Path, sandbox: Sandbox) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(GOOD) + gzip.compress(GOOD))
    assert [each.line for each in read(tmp_path / "a.jsonl.gz", sandbox)] == [1, 2]

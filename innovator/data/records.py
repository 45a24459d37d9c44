"""The records of JSON Lines (plain, gzip, zstd) and Parquet files, and what is malformed among them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import zstandard

JSON_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst")
SUFFIXES = (*JSON_SUFFIXES, ".parquet")
CHUNK = 1 << 20
ROWS_AT_A_TIME = 1024
DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)
RAW_KEPT = 1000
LONGEST_WINDOW = 1 << 31
LONGEST = 1 << 28
# A zstd block of 4 bytes may hold 128 KiB, so what 8 KiB unpack to still fits into memory.
ZSTD_CHUNK = 1 << 13


@dataclass(frozen=True)
class Record:
    """The fields of one line (or Parquet row), counted from one."""

    line: int
    fields: dict[str, object]


@dataclass(frozen=True)
class Malformed:
    """A line that is no record, and why."""

    line: int
    reason: str
    raw: str


class Rejects:
    """The malformed lines that a source set aside: counted, and written as JSON Lines once there are any."""

    def __init__(self, path: Path) -> None:
        self.path, self.n = path, 0

    def add(self, file: str, line: Malformed) -> None:
        entry = {"file": file, "line": line.line, "reason": line.reason, "raw": line.raw[:RAW_KEPT]}
        with self.path.open("a" if self.n else "w", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        self.n += 1


def read_records(path: Path, columns: frozenset[str]) -> Iterator[Record | Malformed]:
    """Every record of a file in order; of a Parquet file only the named columns are read."""
    return _parquet(path, columns) if path.name.endswith(".parquet") else _json_lines(path)


def record_of(line: int, raw: bytes) -> Record | Malformed:
    """What one line of a JSON Lines file holds."""
    shown = raw[: 4 * RAW_KEPT].decode("utf-8", "replace")
    if len(raw) > LONGEST:
        return Malformed(line, f"longer than {LONGEST:,} bytes", shown)
    try:
        value = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return Malformed(line, f"not UTF-8 at byte {error.start + 1}", shown)
    except ValueError as error:
        return Malformed(line, f"not JSON: {str(error).split(': line')[0]}", shown)
    except RecursionError:
        return Malformed(line, "JSON that is nested too deeply", shown)
    if not isinstance(value, dict):
        return Malformed(line, f"one JSON object per line is expected, here is a {type(value).__name__}", shown)
    return Record(line, value)


def _json_lines(path: Path) -> Iterator[Record | Malformed]:
    number = 0
    try:
        for number, raw in enumerate(_lines(chunks(path)), start=1):
            if raw.strip():
                yield record_of(number, raw)
    except DAMAGE as error:
        yield Malformed(number + 1, f"the compressed data breaks off or is damaged here ({error})", "")


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines without their ends, in linear time; of a line that is too long, one byte more than the longest."""
    rest = bytearray()
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        rest += first[: LONGEST + 1 - len(rest)]
        if others:
            yield bytes(rest)
            yield from others[:-1]
            rest = bytearray(others[-1])
    yield bytes(rest)


def chunks(path: Path) -> Iterator[bytes]:
    """What a file holds, unpacked if its name ends in .gz or .zst; one of DAMAGE is raised where it breaks off."""
    if path.name.endswith(".zst"):
        yield from _zstd_chunks(path)
    elif path.name.endswith(".gz"):
        with gzip.open(path) as unzipped:
            while chunk := unzipped.read1(CHUNK):
                yield chunk
    else:
        with path.open("rb") as plain:
            while chunk := plain.read(CHUNK):
                yield chunk


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    """Decompress frame after frame; the library's stream reader is silent about a file that breaks off."""
    frame = None
    with path.open("rb") as compressed:
        while chunk := compressed.read(ZSTD_CHUNK):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj()
                yield frame.decompress(chunk)
                chunk = frame.unused_data
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("a zstd frame has no end")


def _parquet(path: Path, columns: frozenset[str]) -> Iterator[Record | Malformed]:
    import pyarrow  # here because only Parquet files need it, and it is slow to load
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            present = sorted(columns & set(table.schema_arrow.names))
            if not present:
                yield Malformed(1, _no_column(columns, table.schema_arrow.names), "")
                return
            for batch in table.iter_batches(batch_size=ROWS_AT_A_TIME, columns=present):
                for values in zip(*batch.columns, strict=True):
                    number += 1
                    yield _row(number, dict(zip(batch.schema.names, values, strict=True)))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        yield Malformed(number + 1, f"not readable as Parquet ({error})", "")


def _no_column(columns: frozenset[str], present: Sequence[str]) -> str:
    return f"there is no column {' or '.join(sorted(columns))}; the columns are: {', '.join(present) or 'none'}"


class _Cell(Protocol):
    def as_py(self) -> object: ...


def _row(number: int, cells: dict[str, _Cell]) -> Record | Malformed:
    try:
        return Record(number, {name: cell.as_py() for name, cell in cells.items()})
    except UnicodeDecodeError as error:
        return Malformed(number, f"not UTF-8 at byte {error.start + 1}", error.object.decode("utf-8", "replace"))

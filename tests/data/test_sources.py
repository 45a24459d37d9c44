"""Every kind of source gives the same documents, and says where it is wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from innovator.data.records import Rejects
from innovator.data.sources import (
    DatasetFolderSource,
    Document,
    FilesSource,
    HubSource,
    InstalledDocsSource,
    Source,
)

TEXTS = ["Light bends.", "Zellen teilen sich \u00e4hnlich.", "Two lines\nof text.", "\U0001f52d"]


def as_lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def write_plain(path: Path) -> Source:
    path.write_bytes(as_lines(TEXTS))
    return FilesSource(path=str(path))


def write_gzip(path: Path) -> Source:
    path.write_bytes(gzip.compress(as_lines(TEXTS[:2])) + gzip.compress(as_lines(TEXTS[2:])))
    return FilesSource(path=str(path))


def write_zstd(path: Path) -> Source:
    frames = [zstandard.compress(as_lines(TEXTS[:2])), zstandard.compress(as_lines(TEXTS[2:]))]
    path.write_bytes(b"".join(frames))
    return FilesSource(path=str(path))


def write_parquet(path: Path) -> Source:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS, "other": [1, 2, 3, 4]}), path)
    return FilesSource(path=str(path))


def write_dataset(path: Path) -> Source:
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(path))
    return DatasetFolderSource(path=str(path))


def write_dataset_of_splits(path: Path) -> Source:
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": TEXTS})}).save_to_disk(str(path))
    return DatasetFolderSource(path=str(path), split="train")


def write_hub_folder(path: Path) -> Source:
    path.mkdir()
    (path / "train.jsonl").write_bytes(as_lines(TEXTS))
    return HubSource(name=str(path))


def texts_of(source: Source, folder: Path) -> list[str]:
    return [document.text for document in source.documents(Rejects(folder / "rejects.jsonl"))]


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (write_plain, "corpus.jsonl"),
        (write_gzip, "corpus.jsonl.gz"),
        (write_zstd, "corpus.jsonl.zst"),
        (write_parquet, "corpus.parquet"),
        (write_dataset, "corpus"),
        (write_dataset_of_splits, "corpus"),
        (write_hub_folder, "corpus"),
    ],
)
def test_every_format_gives_the_same_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Source], name: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = write(tmp_path / name)
    source.check()
    assert texts_of(source, tmp_path) == TEXTS
    assert texts_of(source.at(Path("/elsewhere")), tmp_path) == TEXTS  # a full path stays what it is
    assert source.fingerprint() == source.at(None).fingerprint()


def test_a_hub_source_stops_after_its_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    write_hub_folder(tmp_path / "corpus")
    assert texts_of(HubSource(name=str(tmp_path / "corpus"), max_documents=2), tmp_path) == TEXTS[:2]


def test_a_folder_and_a_pattern_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.jsonl").write_bytes(as_lines(["third"]))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(as_lines(["first", "second"])))
    (tmp_path / "notes.md").write_text("not a corpus", encoding="utf-8")
    assert texts_of(FilesSource(path=str(tmp_path)), tmp_path) == ["first", "second", "third"]
    pattern = FilesSource(path="**/*.jsonl*").at(tmp_path)
    assert list(pattern.documents(Rejects(tmp_path / "rejects.jsonl"))) == [
        Document("a.jsonl.gz:1", "first"),
        Document("a.jsonl.gz:2", "second"),
        Document("b/2.jsonl:1", "third"),
    ]


def test_only_records_that_match_everything_are_read(tmp_path: Path) -> None:
    records = [
        {"text": "yes", "field": "physics", "year": 2020},
        {"text": "wrong field", "field": "biology", "year": 2020},
        {"text": "wrong year", "field": "physics", "year": 2021},
        {"text": "no year", "field": "physics"},
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    source = FilesSource(path=str(tmp_path / "c.jsonl"), where={"field": "physics", "year": "2020"})
    assert texts_of(source, tmp_path) == ["yes"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "not JSON: Unterminated string"),
        (b'["a list"]', "one JSON object per line is expected, here is a list"),
        (b'{"body": "x"}', "there is no field 'text'; the fields are: body"),
        (b'{"text": null}', "the field 'text' holds a NoneType, not a text"),
        (b'{"text": "\xff"}', "not UTF-8 at byte 11"),
        (b'{"text": "\\ud83d"}', "the field 'text' holds half of a surrogate pair"),
    ],
)
def test_a_malformed_line_is_named_or_set_aside(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(as_lines(["before"]) + b"\n" + line + b"\n" + as_lines(["after"]))
    with pytest.raises(ValueError) as stopped:
        texts_of(FilesSource(path=str(path)), tmp_path)
    assert str(stopped.value).startswith(f"{path}, line 3: {reason}")

    rejects = Rejects(tmp_path / "rejects.jsonl")
    kept = [d.text for d in FilesSource(path=str(path), on_bad_line="set-aside").documents(rejects)]
    (entry,) = map(json.loads, rejects.path.read_text(encoding="utf-8").splitlines())
    assert kept == ["before", "after"] and rejects.n == 1
    assert entry["file"] == str(path) and entry["line"] == 3 and entry["reason"].startswith(reason)


@pytest.mark.parametrize("write", [write_gzip, write_zstd])
def test_a_compressed_file_that_breaks_off_is_malformed_after_its_last_whole_line(
    tmp_path: Path, write: Callable[[Path], Source]
) -> None:
    path = tmp_path / ("corpus.jsonl.gz" if write is write_gzip else "corpus.jsonl.zst")
    write(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"line \d: the compressed data breaks off or is damaged"):
        texts_of(FilesSource(path=str(path)), tmp_path)
    kept = texts_of(FilesSource(path=str(path), on_bad_line="set-aside"), tmp_path)
    assert kept == TEXTS[: len(kept)] and 2 <= len(kept) < 4


def test_a_parquet_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match=r"c.parquet, line 1: not readable as Parquet"):
        texts_of(FilesSource(path=str(tmp_path / "c.parquet")), tmp_path)


def test_a_null_row_of_a_dataset_is_set_aside_but_its_column_must_exist(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"text": ["a", None, "b"]}).save_to_disk(str(tmp_path / "d"))
    rejects = Rejects(tmp_path / "rejects.jsonl")
    source = DatasetFolderSource(path=str(tmp_path / "d"))
    assert [d.text for d in source.documents(rejects)] == ["a", "b"] and rejects.n == 1
    with pytest.raises(ValueError, match="row 1: there is no field 'body'; the fields are: text"):
        texts_of(DatasetFolderSource(path=str(tmp_path / "d"), text_field="body"), tmp_path)


def test_blank_lines_and_blank_texts_are_no_documents(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(b"\n" + as_lines(["", " \n", "x"]) + b"\r\n  \n")
    assert texts_of(FilesSource(path=str(tmp_path / "c.jsonl")), tmp_path) == ["x"]


def test_a_fingerprint_notices_an_edit_and_not_a_move(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "c.jsonl").write_bytes(as_lines(TEXTS))
    one, two = (FilesSource(path=name).at(tmp_path) for name in ("one", "two"))
    assert one.fingerprint() == two.fingerprint()
    (tmp_path / "two" / "c.jsonl").write_bytes(as_lines(["Light bends!", *TEXTS[1:]]))
    assert one.fingerprint() != two.fingerprint()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            FilesSource(path="missing.jsonl"),
            "no corpus at .*missing.jsonl: give a file, a folder or a pattern",
        ),
        (FilesSource(path="corpus.csv"), "corpus.csv is not a corpus file: its name must end in .jsonl"),
        (DatasetFolderSource(path="."), "is not a dataset folder: it has neither"),
        (HubSource(name="./missing"), "no dataset folder at ./missing"),
        (InstalledDocsSource(distributions=("no-such-thing",)), "run `pip install no-such-thing`"),
    ],
)
def test_a_source_that_is_not_there_is_named_in_a_sentence(tmp_path: Path, source: Source, sentence: str) -> None:
    (tmp_path / "corpus.csv").write_text("text\nhello\n", encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        source.at(tmp_path).check()


def test_a_dataset_of_several_splits_wants_one_named(tmp_path: Path) -> None:
    write_dataset_of_splits(tmp_path / "d")
    with pytest.raises(ValueError, match="has the splits train: name one"):
        DatasetFolderSource(path=str(tmp_path / "d")).check()
    write_dataset(tmp_path / "e")
    with pytest.raises(ValueError, match="has no splits: leave out `split: train`"):
        DatasetFolderSource(path=str(tmp_path / "e"), split="train").check()

"""Reading a source: every document once, named for good, whoever reads it; and nothing that is none in silence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from datatrove.data import Document

from innovator.curate.executors import Local
from innovator.curate.flow import all_documents, rule_all
from innovator.curate.formats.sandbox import Sandbox
from innovator.curate.language import IdentifyLanguage
from innovator.curate.raw import RawDocument, RawFiles
from innovator.curate.reading import Read
from innovator.curate.unicode import RepairUnicode
from innovator.data.sources import FilesSource

PROSE = "Heat flows from the warm body to the cold one until both are equally warm."


def lines(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def corpus(folder: Path) -> Path:
    """Files of several formats and sizes."""
    (folder / "deep").mkdir(parents=True)
    for i in range(5):
        (folder / f"{i}.jsonl").write_text(lines(*({"text": f"{PROSE} {i} {j}"} for j in range(i + 1))))
    (folder / "deep" / "note.md").write_text(f"# Note\n\n{PROSE}\n")
    (folder / "deep" / "note.txt").write_text(PROSE)
    (folder / "bad.jsonl").write_text('{"text": 3}\nnot JSON\n')
    return folder


def read(source: RawFiles | FilesSource, out: Path, n_tasks: int = 1) -> list[Document]:
    tasks = [Read(source, "s", {"licence": "CC0"}, out).run(rank=rank, world_size=n_tasks) for rank in range(n_tasks)]
    return [document for task in tasks for document in task]


def malformed(out: Path) -> list[dict[str, object]]:
    files = sorted((out / "malformed").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.parametrize("n_tasks", [2, 3, 20])
def test_any_number_of_tasks_reads_the_same(tmp_path: Path, n_tasks: int) -> None:
    source = RawFiles(path=str(corpus(tmp_path / "in")))
    one, many = read(source, tmp_path / "one"), read(source, tmp_path / "many", n_tasks)
    assert sorted((each.id, each.text) for each in one) == sorted((each.id, each.text) for each in many)
    assert len({each.id for each in one}) == len(one) == 1 + 2 + 3 + 4 + 5 + 2
    key = json.dumps
    assert sorted(malformed(tmp_path / "one"), key=key) == sorted(malformed(tmp_path / "many"), key=key)


def test_tasks_share_a_file_of_records_evenly(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(*({"text": f"{PROSE} {i}"} for i in range(30))) + "not JSON\n")
    source = RawFiles(path=str(tmp_path / "a.jsonl"))
    tasks = [list(Read(source, "s", {}, tmp_path / "out").run(rank=rank, world_size=4)) for rank in range(4)]
    assert [len(task) for task in tasks] == [8, 8, 7, 7]
    assert len({document.id for task in tasks for document in task}) == 30 and len(malformed(tmp_path / "out")) == 1


def test_a_document_knows_where_it_was_found(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(lines({"text": "x y", "year": 1905, "n": 1}))
    (found,) = read(RawFiles(path=str(tmp_path / "in"), keep_fields=("year",)), tmp_path / "out")
    assert found.id == "s/a.jsonl:1"
    assert found.metadata == {"source": "s", "licence": "CC0", "year": 1905, "file": "a.jsonl", "line": 1}


def test_names_do_not_change_where_a_corpus_moves(tmp_path: Path) -> None:
    one, other = RawFiles(path=str(corpus(tmp_path / "a"))), RawFiles(path=str(corpus(tmp_path / "b" / "c")))
    assert [each.id for each in read(one, tmp_path / "1")] == [each.id for each in read(other, tmp_path / "2")]
    assert one.fingerprint() == other.fingerprint()


def test_what_is_malformed_is_listed_with_file_line_and_reason(tmp_path: Path) -> None:
    read(RawFiles(path=str(corpus(tmp_path / "in"))), tmp_path / "out")
    listed = [(each["file"], each["line"]) for each in malformed(tmp_path / "out")]
    assert listed == [("bad.jsonl", 1), ("bad.jsonl", 2)]
    assert malformed(tmp_path / "out")[1]["raw"] == "not JSON"
    assert not list((tmp_path / "out").rglob("*.draft"))


@pytest.mark.parametrize("n_tasks", [1, 3])
def test_a_source_of_which_nothing_can_be_read_is_an_error(tmp_path: Path, n_tasks: int) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.jsonl").write_text("{}\n")
    (tmp_path / "in" / "a.jsonl").write_text("\n{\n")
    with pytest.raises(ValueError, match=r"source s: a\.jsonl, line 2: not JSON"):
        read(RawFiles(path=str(tmp_path / "in")), tmp_path / "out", n_tasks)


def test_one_task_without_documents_is_no_error_if_another_has_some(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.txt").write_bytes(b"\xff" * 100)
    (tmp_path / "in" / "good.txt").write_text(PROSE)
    assert [each.text for each in read(RawFiles(path=str(tmp_path / "in")), tmp_path / "out", 2)] == [PROSE]


def test_other_sources_are_read_by_the_first_task(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines({"text": "x"}, {"text": "y"}, {"text": 1}))
    source = FilesSource(path=str(tmp_path / "a.jsonl"), on_bad_line="set-aside")
    assert [each.id for each in read(source, tmp_path / "out", 3)] == ["s/a.jsonl:1", "s/a.jsonl:2"]
    assert len(malformed(tmp_path / "out")) == 1


def test_only_records_that_match_everything_are_read(tmp_path: Path) -> None:
    records = ({"t": "a", "year": 1905, "by": "E"}, {"t": "b", "year": 1905}, {"t": "c", "by": "E"})
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(*records).encode()))
    source = RawFiles(path=str(tmp_path / "*.gz"), text_field="t", where={"year": "1905", "by": "E"})
    assert [each.text for each in read(source, tmp_path / "out")] == ["a"]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (RawFiles(path="nowhere"), "no documents at"),
        (RawFiles(path="a.exe"), r"must end in \.jsonl"),
    ],
)
def test_a_source_that_cannot_be_read_is_named_in_a_sentence(tmp_path: Path, source: RawFiles, sentence: str) -> None:
    (tmp_path / "a.exe").write_bytes(b"MZ")
    with pytest.raises(ValueError, match=sentence):
        source.at(tmp_path).check()


def test_facts_that_every_document_has_cannot_be_kept_fields() -> None:
    with pytest.raises(ValueError, match="keep_fields: 'id'"):
        RawFiles(path="x", keep_fields=("id",))


def test_versions_of_what_extracts_text_are_in_the_account(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<p>x</p>")
    (tmp_path / "b.txt").write_text("x")
    assert list(RawFiles(path=str(tmp_path)).account()) == ["trafilatura"]


def test_a_step_reads_in_processes_what_one_task_reads(tmp_path: Path) -> None:
    pages = [f"<article><h1>Page {i}</h1>{f'<p>{PROSE}</p>' * 3}</article>" for i in range(6)]
    (tmp_path / "in").mkdir()
    for i, page in enumerate([*pages, ""]):
        (tmp_path / "in" / f"{i}.html").write_text(page)
    source, out = RawFiles(path=str(tmp_path / "in")), tmp_path / "out"
    rules = (RepairUnicode(), IdentifyLanguage(keep=("en",)))
    rule_all(Read(source, "s", {}, out), rules, 3, out, Local(workers=2), 0)
    written = {(each.id, each.text, str(each.metadata["language"])) for each in all_documents(out)}
    assert written == {(each.id, each.text, "en") for each in read(source, tmp_path / "one")}
    assert [each["file"] for each in malformed(out)] == ["6.html"]
    assert len(written) == len(pages)


def test_a_file_name_that_is_not_utf8_still_names_its_documents(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.txt").write_text(PROSE)
    source = RawFiles(path=str(tmp_path))
    with Sandbox() as sandbox:
        assert [each for file in source.files() for each in source.read(file, sandbox)] == [RawDocument(1, PROSE, {})]
    assert [source.name_of(file) for file in source.files()] == ["caf\\udce9.txt"]


@pytest.mark.parametrize("name", ["rank", "media", "discipline", "duplicate", "tokens"])
def test_a_field_cannot_pass_for_a_fact_of_ours(name: str) -> None:
    with pytest.raises(ValueError, match=f"keep_fields: '{name}' is a fact that curation states itself"):
        RawFiles(path="in", keep_fields=("year", name))

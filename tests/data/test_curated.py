"""A curated corpus reads like its files and carries its proof; a benchmark is known by its items."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import zstandard

from innovator.data.benchmarks import Benchmark, FilesBenchmark, Item, LmEvalBenchmark
from innovator.data.curated import CuratedSource
from innovator.data.records import Rejects
from innovator.data.sources import Document

TASK = """
task: pico
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: gold
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}]
"""


def curation(folder: Path) -> Path:
    """What the last step of a curation leaves."""
    (folder / "physics").mkdir(parents=True)
    lines = "".join(json.dumps({"id": str(n), "text": text, "source": "book"}) + "\n" for n, text in enumerate("ab"))
    (folder / "physics" / "00000.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    told = {"title": "x", "corpora": {"physics": {"documents": 2}}, "benchmarks": {"quiz": "0123456789abcdef"}}
    (folder / "curation.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_a_curated_corpus_reads_like_its_files_and_carries_its_proof(tmp_path: Path) -> None:
    curation(tmp_path / "corpora-1")
    source = CuratedSource(path="corpora-1", corpus="physics").at(tmp_path)
    source.check()
    documents = list(source.documents(Rejects(tmp_path / "rejects")))
    assert documents == [Document("00000.jsonl.zst:1", "a"), Document("00000.jsonl.zst:2", "b")]
    assert source.proof() == {"quiz": "0123456789abcdef"}
    assert source.account() == {"curation": "corpora-1"}


def test_a_fingerprint_covers_texts_and_proof_and_not_the_place(tmp_path: Path) -> None:
    source = CuratedSource(path=str(curation(tmp_path / "one")), corpus="physics")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert source.fingerprint() == CuratedSource(path=str(tmp_path / "two"), corpus="physics").fingerprint()
    before = source.fingerprint()
    write(tmp_path / "one" / "curation.json", {"corpora": {"physics": {}}, "benchmarks": {}})
    assert source.fingerprint() != before
    (tmp_path / "two" / "physics" / "00000.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "c"}'))
    assert CuratedSource(path=str(tmp_path / "two"), corpus="physics").fingerprint() != before


@pytest.mark.parametrize(
    ("path", "corpus", "sentence"),
    [
        ("nowhere", "physics", "no curation.json at .*nowhere: give the folder of the last step"),
        ("corpora-1", "alchemy", "has no corpus 'alchemy'; there are physics"),
    ],
)
def test_a_curated_corpus_that_is_not_there_is_named(tmp_path: Path, path: str, corpus: str, sentence: str) -> None:
    curation(tmp_path / "corpora-1")
    with pytest.raises(ValueError, match=sentence):
        CuratedSource(path=path, corpus=corpus).at(tmp_path).check()


def test_items_are_read_from_any_fields(tmp_path: Path) -> None:
    record = {"q": "Why?", "choices": {"A": "so", "B": 2}, "passage": None, "gold": ["so", "thus"]}
    write(tmp_path / "quiz.jsonl", record)
    benchmark = FilesBenchmark(path="quiz.jsonl", fields=("passage", "q", "choices"), answer=("gold",)).at(tmp_path)
    (item,) = benchmark.items()
    assert item == Item("quiz.jsonl:1", "Why?\nso\n2", "so\nthus") and item.text == "Why?\nso\n2\nso\nthus"


def test_a_fingerprint_is_of_the_items_and_not_of_their_order_files_or_names(tmp_path: Path) -> None:
    one, two = {"question": "One?"}, {"question": "Two?"}
    write(tmp_path / "a.jsonl", one, two)
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "1.jsonl", two)
    write(tmp_path / "b" / "2.jsonl", one)
    write(tmp_path / "c.jsonl", one, {"question": "Two"})
    a, b, c = (FilesBenchmark(path=path).at(tmp_path).fingerprint() for path in ("a.jsonl", "b", "c.jsonl"))
    assert a == b != c


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"query": "Why?"}', "quiz.jsonl, line 1: there is no field 'question'; the fields are: query"),
        (b"{", "quiz.jsonl, line 1: not JSON"),
    ],
)
def test_a_line_that_is_no_item_is_named(tmp_path: Path, line: bytes, sentence: str) -> None:
    (tmp_path / "quiz.jsonl").write_bytes(line)
    with pytest.raises(ValueError, match=sentence):
        list(FilesBenchmark(path="quiz.jsonl").at(tmp_path).items())


def test_a_task_of_lm_eval_gives_what_models_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "data.jsonl", {"question": "Why?", "choices": ["so", "thus"], "gold": 1})
    (tmp_path / "pico.yaml").write_text(TASK.replace("DATA", str(tmp_path / "data.jsonl")), encoding="utf-8")
    benchmark = LmEvalBenchmark(task="pico.yaml").at(tmp_path)
    assert list(benchmark.items()) == [Item("pico:0", "Question: Why?\nAnswer:", "so\nthus")]


def test_a_benchmark_that_is_not_there_is_named_in_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    missing: list[tuple[Benchmark, str]] = [
        (FilesBenchmark(path="nowhere.jsonl"), "no corpus at .*nowhere.jsonl"),
        (LmEvalBenchmark(task="nowhere.yaml"), "lm-eval cannot load the task .*nowhere.yaml"),
    ]
    for benchmark, sentence in missing:
        with pytest.raises(ValueError, match=sentence):
            benchmark.at(tmp_path).fingerprint()

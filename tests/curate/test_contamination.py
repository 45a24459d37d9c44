"""No n-gram of a benchmark survives, edited questions are found, and what holds no item is left as it is."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from innovator.curate.account import Account
from innovator.curate.contamination import Action, Decontaminate, DecontaminateWork, Purge, without
from innovator.curate.executors import Local
from innovator.curate.flow import documents_in
from innovator.curate.leak_index import MOST_ITEMS, Builder
from innovator.curate.leaks import NEARLY, VERBATIM, Index
from innovator.curate.rule import Dropped, Kept
from innovator.curate.words import shingles, words_of
from innovator.data.benchmarks import FilesBenchmark, Item

QUESTION = (
    "A steel sphere of mass $m = 3$ kg rolls down a rough incline of height $h$; "
    "which expression gives the speed of its centre at the bottom?"
)
PROSE = (
    "Gardens near the harbour bloom late in spring. Nobody there waters roses at noon, for the sun burns the leaves. "
)
FACTS = {"leaks": 1}


def index_of(*items: Item, near: bool = True) -> Index:
    builder = Builder(13, near)
    builder.add("quiz", items)
    return builder.index()


def purge(tmp_path: Path, index: Index, action: Action = "cut") -> Purge:
    index.save(tmp_path / "index.npz")
    return Purge(index=str(tmp_path / "index.npz"), action=action)


def upper(text: str) -> str:
    return text.upper()


def one_line_each(text: str) -> str:
    return text.replace(" ", "\n")


def other_marks(text: str) -> str:
    return text.replace("$m = 3$", r"\( m=3 \)").replace(";", " --").replace("?", "")


def full_width(text: str) -> str:
    return "".join(chr(ord(mark) + 0xFEE0) if mark.isalnum() else mark for mark in text)


@pytest.mark.parametrize("written", [str, upper, one_line_each, other_marks, full_width])
def test_an_item_is_found_however_it_is_set(written: Callable[[str], str]) -> None:
    text = f"{PROSE * 3}In one book: {written(QUESTION)} {PROSE * 3}"
    (leak,) = index_of(Item("7", QUESTION, "")).leaks(text)
    assert (leak.benchmark, leak.item, leak.how) == ("quiz", "7", VERBATIM)
    assert words_of(text[leak.start : leak.end]).hashes.tolist() == words_of(QUESTION).hashes.tolist()


def test_an_edited_question_is_found_only_if_asked_for() -> None:
    edited = QUESTION.replace("steel sphere", "iron ball").replace("rough", "steep rough").replace("gives", "yields")
    text = f"{PROSE * 3}{edited} {PROSE * 3}"
    assert [leak.how for leak in index_of(Item("7", QUESTION, "")).leaks(text)] == [NEARLY]
    assert index_of(Item("7", QUESTION, ""), near=False).leaks(text) == []


def test_twelve_words_in_a_row_are_no_leak_and_thirteen_are() -> None:
    words = [f"w{n}" for n in range(30)]
    index = index_of(Item("1", " ".join(words), ""), near=False)
    assert index.leaks(" ".join(["x", *words[5:17], "y"])) == []
    assert len(index.leaks(" ".join(["x", *words[5:18], "y"]))) == 1


def test_of_a_short_item_all_must_occur_and_a_shorter_one_is_skipped() -> None:
    builder = Builder(13, False)
    builder.add(
        "quiz", [Item("nine", "One two three four five six seven eight", "nine"), Item("few", "Two plus two?", "4")]
    )
    assert builder.skipped == {"quiz": 1}
    index = builder.index()
    assert index.leaks("One two three four five six seven eight.") == []
    assert [leak.item for leak in index.leaks("So: one two three four five six seven eight; nine.")] == ["nine"]
    assert index.leaks("Two plus two? 4") == []


def test_the_instructions_of_a_benchmark_are_nobodys_own() -> None:
    preface = " ".join(f"instruction{n}" for n in range(20))
    items = [Item(str(n), f"{preface} question{n} is about matter{n} of kind{n}", "") for n in range(MOST_ITEMS + 1)]
    index = index_of(*items, near=False)
    assert index.leaks(f"{preface}.") == []
    assert [leak.item for leak in index.leaks(items[3].question)] == ["3"]


def test_rows_of_zeros_are_nobodys_own() -> None:
    row = "0, 1, " * 10
    assert (
        index_of(Item("matrix", f"What is the rank of [{row}] and what is its null space then?", "")).leaks(row) == []
    )


def test_no_n_gram_of_an_item_survives_cutting_and_the_rest_does(tmp_path: Path) -> None:
    draw = random.Random(0)
    items = [Item(str(n), " ".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=20)), "") for n in range(30)]
    rule = purge(tmp_path, index_of(*items, near=False))
    grams = {gram for item in items for gram in next(shingles(words_of(item.question).hashes, 13)).tolist()}
    for _ in range(50):
        parts = [PROSE * 2] * 3 + [f"So. {draw.choice(items).question}. " for _ in range(3)]
        draw.shuffle(parts)
        outcome = rule.apply("".join(parts), FACTS)
        assert isinstance(outcome, Kept) and outcome.count == 3
        assert not grams & set(next(shingles(words_of(outcome.text).hashes, 13)).tolist())
        assert outcome.text.count("Gardens near the harbour") == 6


def test_what_cutting_brings_together_is_cut_again(tmp_path: Path) -> None:
    inner, outer = " ".join(f"i{n}" for n in range(13)), [f"o{n}" for n in range(13)]
    rule = purge(tmp_path, index_of(Item("inner", inner, ""), Item("outer", " ".join(outer), ""), near=False))
    text = f"{PROSE * 3}\n{' '.join(outer[:6])}.\n{inner}.\n{' '.join(outer[6:])}.\n{PROSE * 3}"
    outcome = rule.apply(text, FACTS)
    assert isinstance(outcome, Kept) and not rule.items.leaks(outcome.text) and "o3" not in outcome.text


def test_sentences_are_cut_whole() -> None:
    text = "First one. Second has it in the middle. Third one.\n\nFourth."
    start = text.index("has it")
    assert without(text, [(start, start + 6)]) == "First one.\n\nThird one.\n\nFourth."
    assert without(text, [(0, len(text))]) == ""


def test_a_contaminated_document_is_dropped_if_asked_or_if_little_is_left(tmp_path: Path) -> None:
    index = index_of(Item("7", QUESTION, ""))
    assert purge(tmp_path, index, "drop").apply(f"{PROSE * 5}{QUESTION}", FACTS) == Dropped("contaminated")
    assert purge(tmp_path, index).apply(f"Well. {QUESTION}", FACTS) == Dropped("contaminated")
    assert purge(tmp_path, index).apply(PROSE, {}) == Kept(PROSE)


def test_an_index_is_the_same_from_its_file_and_a_rule_travels(tmp_path: Path) -> None:
    index = index_of(Item("7", QUESTION, "the answer"), Item("8", f"Why {PROSE}", ""))
    rule = pickle.loads(pickle.dumps(purge(tmp_path, index)))
    text = f"{PROSE} {QUESTION}"
    assert rule.items.leaks(text) == index.leaks(text) != []


def test_a_step_lists_every_leak_and_says_what_it_proved(tmp_path: Path) -> None:
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": QUESTION, "choices": ["v", "w"]}), encoding="utf-8")
    quiz = FilesBenchmark(path="quiz.jsonl", fields=("question", "choices"))
    spec = Decontaminate(benchmarks={"quiz": quiz}).at(tmp_path)
    texts = {"clean": PROSE * 4, "cut": f"{PROSE * 4}{QUESTION} {PROSE * 4}", "gone": QUESTION}
    (tmp_path / "in" / "documents").mkdir(parents=True)
    lines = "".join(json.dumps({"id": id, "text": text}) + "\n" for id, text in texts.items())
    (tmp_path / "in" / "documents" / "00000.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    Account().write(tmp_path / "in" / "account.json")
    out = tmp_path / "out"
    out.mkdir()
    fingerprints = {"quiz": spec.benchmarks["quiz"].fingerprint()}
    work = DecontaminateWork(decontaminate=spec, fingerprints=fingerprints, n_tasks=2)
    work.run(out, {"documents": tmp_path / "in"}, Local(workers=1))
    kept = {one.id: one.text for file in (out / "documents").glob("*") for one in documents_in(file)}
    assert set(kept) == {"clean", "cut"} and kept["clean"] == texts["clean"] and QUESTION not in kept["cut"]
    leaks = [json.loads(line) for line in (out / "leaks.jsonl").read_text("utf-8").splitlines()]
    assert [(leak["document"], leak["benchmark"], leak["item"]) for leak in leaks] == [
        ("cut", "quiz", "quiz.jsonl:1"),
        ("gone", "quiz", "quiz.jsonl:1"),
    ]
    checked = json.loads((out / "checked.json").read_text("utf-8"))
    assert checked["benchmarks"] == fingerprints
    assert checked["benchmark_items"] == {"quiz": {"items": 1, "skipped": 0, "leaked": 1}}


def test_words_are_blind_to_case_marks_spacing_and_ignore_nothing_else() -> None:
    assert words_of("Caf\u00e9  au-LAIT, x\u00b2").hashes.tolist() == words_of("cafe\u0301 AU lait x2").hashes.tolist()
    assert len(words_of("\u6c34\u306e\u5206\u5b50 H2O")) == 5  # scripts without spaces: each letter is a word
    assert len(words_of("")) == len(words_of("... --")) == 0
    long = " ".join(f"w{n}" for n in range(100_000))
    assert len(set(words_of(long).hashes.tolist())) == 100_000  # longer than one block; 64 bits do not collide

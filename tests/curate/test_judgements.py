"""Judgements survive a kill and other writers; preferences keep every annotator's say."""

from __future__ import annotations

import multiprocessing
import random
from itertools import combinations
from pathlib import Path

import pytest
from annotators import RUBRIC, Annotator, grade, pair

from innovator.curate.judgements import (
    Journal,
    Preference,
    Withdrawn,
    preferences,
    read_judgements,
)


def test_the_later_judgement_stands_and_the_file_keeps_both(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "ada")
    first, second = pair("ada", "x", "y", "a"), pair("ada", "y", "x", "a")
    journal.append(first)
    journal.append(second)
    assert read_judgements(tmp_path) == [second]
    assert len(journal.path.read_text(encoding="utf-8").splitlines()) == 2


def test_what_is_withdrawn_does_not_stand(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "ada")
    journal.append(grade("ada", "x", 3))
    journal.append(Withdrawn(criterion="clean", documents=("x",), annotator="ada"))
    assert read_judgements(tmp_path) == []


def test_a_file_cut_at_any_byte_loses_one_judgement_at_most_and_takes_more(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "ada")
    made = [grade("ada", name, 2) for name in ("x", "\u00fc", "z")]
    for it in made:
        journal.append(it)
    whole = journal.path.read_bytes()
    for cut in range(len(whole)):
        journal.path.write_bytes(whole[:cut])
        n_whole = len([1 for line in whole[: cut + 1].split(b"\n")[:-1] if line])
        # A line is whole from its closing brace on, even if its end of line is lost.
        kept = max(n_whole, whole[:cut].count(b"\n"))
        assert read_judgements(tmp_path) == made[:kept]
        journal.append(pair("ada", "p", "q", "tie"))
        assert read_judgements(tmp_path) == [*made[:kept], pair("ada", "p", "q", "tie")]


def test_a_torn_line_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ada.jsonl").write_text('{"kind": "gra', encoding="utf-8")
    assert read_judgements(tmp_path) == []
    assert "line 1: torn" in " ".join(capsys.readouterr().err.split())


def test_json_that_is_no_judgement_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "ada.jsonl").write_text('{"kind": "pair"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"ada\.jsonl, line 1: no judgement"):
        read_judgements(tmp_path)


def _write(folder: Path, writer: int) -> None:
    journal = Journal(folder, "ada")
    for i in range(100):
        journal.append(grade("ada", f"{writer} {i} " + "long " * writer * 200, 1))


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    writers = [multiprocessing.get_context("fork").Process(target=_write, args=(tmp_path, i)) for i in range(4)]
    for it in writers:
        it.start()
    for it in writers:
        it.join()
    assert len(read_judgements(tmp_path)) == 400


@pytest.mark.parametrize("name", ["", "../ada", "a/b", ".hidden", "two words"])
def test_an_annotator_cannot_name_another_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names a file"):
        Journal(tmp_path, name)


def test_disagreement_keeps_both_directions_by_their_shares() -> None:
    said = [
        pair("ada", "x", "y", "a"),
        pair("bob", "y", "x", "b"),
        pair("eve", "x", "y", "b"),
        pair("kim", "x", "y", "tie"),
    ]
    assert sorted(preferences(said, RUBRIC), key=str) == [Preference("x", "y", 0.5), Preference("y", "x", 0.25)]


def test_ties_prefer_none() -> None:
    assert preferences([pair("ada", "x", "y", "tie"), grade("bob", "x", 3), grade("bob", "y", 3)], RUBRIC) == []


def test_grades_compare_within_an_annotator_only() -> None:
    said = [grade("ada", "x", 5), grade("ada", "y", 2), grade("bob", "z", 1)]
    assert preferences(said, RUBRIC) == [Preference("x", "y", 1.0)]


def test_criteria_count_by_their_weights() -> None:
    said = [pair("ada", "x", "y", "a", "clean"), pair("ada", "x", "y", "b", "deep")]
    assert set(preferences(said, RUBRIC)) == {Preference("x", "y", 0.25), Preference("y", "x", 0.75)}


def test_the_order_in_which_documents_and_judgements_come_does_not_matter() -> None:
    truth = {f"d{i}": i / 10 for i in range(10)}
    said = [Annotator(name, truth, 0.3, 0, tie=0.1).compare(a, b) for name in "pqr" for a, b in combinations(truth, 2)]
    swap = {"a": "b", "b": "a", "tie": "tie"}
    turned = [pair(it.annotator, it.b, it.a, swap[it.prefers]) for it in said]
    random.Random(0).shuffle(turned)
    found = {(it.better, it.worse): it.weight for it in preferences(said, RUBRIC)}
    assert found == pytest.approx({(it.better, it.worse): it.weight for it in preferences(turned, RUBRIC)})


def test_preferences_follow_the_truth_and_less_with_more_noise() -> None:
    truth = {f"d{i}": i / 20 for i in range(20)}
    right = []
    for noise in (0.0, 0.2, 2.0):
        annotators = [Annotator(name, truth, noise, 1) for name in "pqr"]
        found = preferences([it.compare(a, b) for it in annotators for a, b in combinations(truth, 2)], RUBRIC)
        right.append(
            sum(it.weight for it in found if truth[it.better] > truth[it.worse]) / sum(it.weight for it in found)
        )
    assert right[0] == 1.0
    assert right[0] > right[1] > right[2] > 0.5


@pytest.mark.parametrize("judgement", [grade("ada", "x", 6), pair("ada", "x", "y", "a", "charm")])
def test_judgements_by_another_rubric_are_refused(judgement: object) -> None:
    with pytest.raises(ValueError, match="ada"):
        preferences([judgement], RUBRIC)  # type: ignore[list-item]

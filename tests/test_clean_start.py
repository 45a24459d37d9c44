"""A training recipe that names benchmarks starts only from corpora that are proved free of exactly these items."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard
from pico_recipe import write_recipe

from innovator.data.benchmarks import FilesBenchmark
from innovator.kinds import read_recipe

CORPORA = ("general", "alchemy", "botany", "cookery", "dance")
QUIZ = "evaluation.benchmarks={quiz: {kind: files, path: quiz.jsonl}}"
CURATED = [f"corpora.{name}={{kind: curated, path: corpora-1, corpus: {name}}}" for name in CORPORA]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe, a benchmark, and corpora that are proved free of it."""
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": "Why?"}) + "\n", encoding="utf-8")
    fingerprint = FilesBenchmark(path=str(tmp_path / "quiz.jsonl")).fingerprint()
    for name in CORPORA:
        (tmp_path / "corpora-1" / name).mkdir(parents=True)
        text = zstandard.compress(json.dumps({"text": name}).encode())
        (tmp_path / "corpora-1" / name / "00000.jsonl.zst").write_bytes(text)
    told = {"corpora": {name: {} for name in CORPORA}, "benchmarks": {"another name": fingerprint}}
    (tmp_path / "corpora-1" / "curation.json").write_text(json.dumps(told), encoding="utf-8")
    return write_recipe(tmp_path)


def problems(recipe: Path, *overrides: str) -> list[str]:
    return read_recipe(recipe, overrides).problems()


def test_without_benchmarks_any_corpus_will_do(recipe: Path) -> None:
    assert problems(recipe) == []


def test_corpora_proved_free_of_the_same_items_will_do_whatever_they_are_called(recipe: Path) -> None:
    assert problems(recipe, QUIZ, *CURATED) == []


def test_a_corpus_that_was_not_checked_is_named_with_the_benchmark_and_what_to_do(recipe: Path) -> None:
    (problem,) = problems(recipe, QUIZ, *CURATED[1:])
    assert problem.startswith("corpora.general: may hold items of evaluation.benchmarks.quiz: ")
    assert "decontaminate.benchmarks" in problem and "evaluation.allow_contaminated: true" in problem


def test_a_benchmark_that_changed_since_is_another_one(recipe: Path) -> None:
    with (recipe.parent / "quiz.jsonl").open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"question": "How?"}) + "\n")
    assert len(problems(recipe, QUIZ, *CURATED)) == len(CORPORA)


def test_whoever_allows_contamination_may_start(recipe: Path) -> None:
    assert problems(recipe, QUIZ, "evaluation.allow_contaminated=true") == []


def test_a_benchmark_that_is_not_there_is_a_problem_of_its_own(recipe: Path) -> None:
    (recipe.parent / "quiz.jsonl").unlink()
    (problem,) = problems(recipe, QUIZ, *CURATED)
    assert problem.startswith("evaluation.benchmarks.quiz: no corpus at ")

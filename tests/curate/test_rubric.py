"""A rubric reads whole or says what is wrong, and a model is told all that annotators are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from innovator.curate.rubric import SCIENCE, Rubric

RECIPE = Path(__file__).parents[2] / "recipes" / "rubric-science.yaml"


def test_the_recipe_is_the_rubric_that_comes_with_innovator() -> None:
    assert Rubric.open(str(RECIPE)) == Rubric.open(None)


def test_a_model_is_told_all_that_annotators_see() -> None:
    rubric = Rubric.open(None)
    prompt = rubric.as_prompt()
    said = [rubric.title, rubric.annotators_know, *rubric.grades, *rubric.criteria]
    said += [text for it in rubric.criteria.values() for text in (it.question, it.good, it.poor, f"{it.weight:g}")]
    assert [text for text in said if text not in prompt] == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("weight: 1.5", "weight: 0", "criteria.correctness: weight is 0"),
        ("question: Does what", "qestion: Does what", "criteria.correctness.qestion: unknown field"),
        ("[useless, poor, fair, good, excellent]", "[good]", "grades has 1 words"),
    ],
)
def test_a_rubric_that_cannot_be_used_is_refused_by_field(old: str, new: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "rubric.yaml"
    path.write_text(SCIENCE.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=problem):
        Rubric.open(str(path))


def test_a_rubric_asks_something() -> None:
    with pytest.raises(ValueError, match="at least one criterion"):
        replace(Rubric.open(None), criteria={})

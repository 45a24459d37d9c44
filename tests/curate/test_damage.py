"""Planted damage is as much as asked for, is counted, depends on the seed alone, and is undone by its rule."""

from __future__ import annotations

from random import Random

import pytest

from innovator.curate.clean.spec import SEVEN
from innovator.curate.damage import CLEANED, DAMAGES
from innovator.curate.rule import Kept

LEAST_RECALL = 0.9  # what is planted leaves some places open to two readings


def paper(seed: int) -> str:
    """An invented paper that has what every kind of damage harms."""
    rng = Random(seed)
    nouns = ["electron", "magnetic field", "efficient reflection", "molecule", "final temperature", "collection"]
    verbs = ["changes", "influences", "follows", "determines", "modifies"]

    def sentence() -> str:
        subject, verb, other = rng.choice(nouns), rng.choice(verbs), rng.choice(nouns)
        formula = f"$x_{{{rng.randint(1, 9)}}} = \\frac{{\\alpha}}{{{rng.randint(2, 9)}}}$"
        return f"The {subject} {verb} the {other} where {formula} holds [{rng.randint(1, 9)}]."

    parts = ["# A paper"]
    for number in range(1, 25):
        parts.append(" ".join(sentence() for _ in range(rng.randint(4, 7))))
        if number % 3 == 0:
            parts += [f"## Section {number}", f"Figure {number}: A curve of the electron."]
    parts += ["\n".join(f"- the item with the {rng.choice(nouns)}" for _ in range(5))]
    parts += ["| x | y |\n| --- | --- |\n" + "\n".join(f"| {n} | {n * n} |" for n in range(6))]
    entries = "\n".join(f"[{n}] A. Writer, On the {rng.choice(nouns)}, {1980 + n}." for n in range(1, 10))
    return "\n\n".join([*parts, "References", entries])


@pytest.mark.parametrize("kind", DAMAGES)
def test_no_severity_is_no_damage(kind: str) -> None:
    assert DAMAGES[kind].plant(paper(0), 0.0, Random(0)) == (paper(0), 0)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_a_function_of_the_seed(kind: str) -> None:
    first, again, other = (DAMAGES[kind].plant(paper(0), 0.6, Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert first[0] != paper(0) and first[1] > 0


@pytest.mark.parametrize("kind", DAMAGES)
def test_more_severity_is_more_damage(kind: str) -> None:
    few, many = (
        sum(DAMAGES[kind].plant(paper(0), share, Random(seed))[1] for seed in range(5)) for share in (0.2, 0.9)
    )
    assert many > 2 * few > 0


@pytest.mark.parametrize("kind", DAMAGES)
def test_text_without_anything_to_harm_is_harmed_nowhere(kind: str) -> None:
    assert DAMAGES[kind].plant("", 0.0, Random(0)) == ("", 0)
    if kind not in ("irrelevant", "boilerplate"):
        assert DAMAGES[kind].plant("\n", 1.0, Random(0)) == ("\n", 0)


@pytest.mark.parametrize("kind", CLEANED)
def test_the_rule_of_a_kind_undoes_it(kind: str) -> None:
    rule = next(rule for rule in SEVEN if rule.name == kind)
    planted = left = 0
    for seed in range(5):
        damaged, n = DAMAGES[kind].plant(paper(seed), 0.6, Random(seed))
        whole, mended = rule.apply(paper(seed), {}), rule.apply(damaged, {})
        assert isinstance(whole, Kept) and isinstance(mended, Kept)
        before, after = whole.text.split("\n"), mended.text.split("\n")
        left += min(n, len(set(after) ^ set(before)))
        planted += n
    assert planted > 20 and left <= (1 - LEAST_RECALL) * planted


def test_shuffling_keeps_every_word() -> None:
    for kind in ("shuffled-words", "shuffled-sentences"):
        shuffled, _ = DAMAGES[kind].plant(paper(0), 1.0, Random(0))
        assert sorted(shuffled.split()) == sorted(paper(0).split())

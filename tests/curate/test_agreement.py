"""Kappa and alpha are what their formulas say, and agreement falls with noise."""

from __future__ import annotations

from itertools import combinations

import pytest
from annotators import RUBRIC, Annotator, grade, pair

from innovator.curate.agreement import agreement, cohen_kappa, krippendorff_alpha


def table(counts: dict[tuple[int, int], int]) -> list[dict[str, int]]:
    """Rows of two annotators, by how often each pair of answers occurs."""
    return [{"ada": one, "bob": other} for (one, other), n in counts.items() for _ in range(n)]


def test_kappa_of_a_table_by_hand() -> None:
    # 50 things: observed 35/50 = 0.7; by chance 0.5 * 0.6 + 0.5 * 0.4 = 0.5; so (0.7 - 0.5) / (1 - 0.5).
    rows = table({(1, 1): 20, (1, 0): 5, (0, 1): 10, (0, 0): 15})
    assert cohen_kappa(rows, ordinal=False) == pytest.approx(0.4)


def test_weighted_kappa_by_hand() -> None:
    # Squared differences: observed (0 + 1 + 0 + 4) / 4; by chance over all 16 pairs of {1, 1, 2, 3} and {1, 2, 2, 1}.
    rows = [{"ada": a, "bob": b} for a, b in ((1, 1), (1, 2), (2, 2), (3, 1))]
    chance = sum((a - b) ** 2 for a in (1, 1, 2, 3) for b in (1, 2, 2, 1)) / 16
    assert cohen_kappa(rows, ordinal=True) == pytest.approx(1 - (5 / 4) / chance)


def test_nominal_alpha_of_two_annotators_by_hand() -> None:
    # alpha = 1 - (n - 1) * o_01 / (n_0 * n_1): 10 things, 4 differ, so o_01 = 4 of n = 20 values; 14 zeros and 6 ones.
    rows = table({(0, 0): 5, (0, 1): 3, (1, 0): 1, (1, 1): 1})
    assert krippendorff_alpha(rows, ordinal=False) == pytest.approx(1 - 19 * 4 / (14 * 6))


def test_ordinal_alpha_by_hand_with_missing_answers() -> None:
    rows = [{"ada": 1, "bob": 1}, {"ada": 2, "bob": 2, "eve": 2}, {"bob": 1, "eve": 2}, {"eve": 1}]
    # With two values every metric is the nominal one: 7 pairable values, three 1 and four 2, o_12 = 1.
    assert krippendorff_alpha(rows, ordinal=True) == pytest.approx(1 - 6 * 1 / (3 * 4))


def test_ordinal_alpha_minds_how_far_apart_grades_are() -> None:
    near = table({(1, 1): 4, (5, 5): 4, (3, 3): 4, (1, 3): 2})
    far = table({(1, 1): 4, (5, 5): 4, (3, 3): 4, (1, 5): 2})
    one, other = krippendorff_alpha(near, ordinal=True), krippendorff_alpha(far, ordinal=True)
    assert one is not None and other is not None and one > other


def test_kappa_of_several_annotators_counts_what_each_two_share() -> None:
    rows = [*table({(0, 0): 2, (1, 1): 2}), {"bob": 0, "eve": 1}, {"bob": 1, "eve": 0}]
    # ada and bob share 4 and agree: 1; bob and eve share 2 and never agree: -1.
    assert cohen_kappa(rows, ordinal=False) == pytest.approx((4 * 1 + 2 * -1) / 6)


def test_what_is_not_defined_is_not_a_number() -> None:
    for rows in ([], [{"ada": 1}], table({(1, 1): 9})):
        assert cohen_kappa(rows, ordinal=True) is None
        assert krippendorff_alpha(rows, ordinal=True) is None


def test_disagreements_are_listed_whatever_the_order_of_documents() -> None:
    said = [
        pair("ada", "x", "y", "a"),
        pair("bob", "y", "x", "a"),
        pair("ada", "x", "z", "a"),
        pair("bob", "z", "x", "b"),
    ]
    [measured] = agreement([*said, pair("ada", "y", "z", "tie")], RUBRIC).measured
    assert (measured.n_annotators, measured.n_things, measured.n_shared, measured.n_ties) == (2, 3, 2, 1)
    assert measured.equal == 0.5
    [apart] = measured.disagreements
    assert apart.documents == ("x", "y")
    assert apart.answers == {"ada": "x", "bob": "y"}


def test_pairs_and_grades_are_measured_apart() -> None:
    said = [pair("ada", "x", "y", "a"), grade("ada", "x", 4), grade("bob", "x", 5), grade("bob", "x", 5, "deep")]
    found = agreement(said, RUBRIC)
    assert [(it.criterion, it.mode) for it in found.measured] == [
        ("clean", "pairs"),
        ("clean", "grades"),
        ("deep", "grades"),
    ]
    assert list(found.plain()) == ["clean, pairs", "clean, grades", "deep, grades"]


@pytest.mark.parametrize("mode", ["pairs", "grades"])
def test_agreement_falls_with_noise_from_perfect_to_chance(mode: str) -> None:
    truth = {f"d{i}": (i + 0.5) / 40 for i in range(40)}
    found = []
    for noise in (0.0, 0.15, 0.5, 50.0):
        annotators = [Annotator(name, truth, noise, 2) for name in "pqr"]
        if mode == "pairs":
            said = [it.compare(a, b) for it in annotators for a, b in combinations(truth, 2)]
        else:
            said = [it.grade(name) for it in annotators for name in truth]  # type: ignore[misc]
        [measured] = agreement(said, RUBRIC).measured
        assert measured.kappa is not None and measured.alpha is not None
        found.append((measured.kappa, measured.alpha))
    assert found[0] == pytest.approx((1.0, 1.0))
    assert found == sorted(found, reverse=True)
    assert max(map(abs, found[-1])) < 0.2  # chance: of 40 grades by three, alpha scatters by about 0.1

"""Constructed pairs: less damage is better, parts share no document, and the same seed gives the same."""

from __future__ import annotations

from random import Random

import pytest

from innovator.curate.pairs import Pair, Pairs, apart
from innovator.curate.seeds import Seeds, passage
from innovator.data.sources import Document

WORDS = ("light", "passes", "slowly", "through", "every", "medium", "that", "bends", "narrow", "beams")


def documents(n: int) -> list[Document]:
    draw = Random(0)

    def paragraph() -> str:
        sentences = [" ".join(draw.choices(WORDS, k=8)).capitalize() + "." for _ in range(4)]
        return " ".join([*sentences, "So $\\frac{a}{b + c}$ is small."])

    return [Document(f"d{number}", "\n\n".join(paragraph() for _ in range(6))) for number in range(n)]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Seeds(n_documents=20, held_out=0.25).pairs(documents(30))


def document(name: str) -> str:
    return name.split()[0]


def severity(name: str) -> float:
    return float(name.split()[2]) if " " in name else 0.0


def test_parts_share_no_document(pairs: Pairs) -> None:
    train, held_out = (
        {document(name) for pair in part for name in (pair.better, pair.worse)}
        for part in (pairs.train, pairs.held_out)
    )
    assert not train & held_out and len(train | held_out) == 20 and len(held_out) == 5


def test_less_damage_of_the_same_kind_is_better(pairs: Pairs) -> None:
    for pair in (*pairs.train, *pairs.held_out):
        assert severity(pair.worse) - severity(pair.better) == pytest.approx(pair.gap) and pair.gap > 0
        kinds = {name.split()[1] for name in (pair.better, pair.worse) if " " in name}
        assert kinds == {pair.about}


def test_documents_are_compared_with_one_another_too(pairs: Pairs) -> None:
    across = [pair for pair in pairs.train if document(pair.better) != document(pair.worse)]
    assert 0.1 < len(across) / len(pairs.train) < 0.4  # half of the pairs get one, if what is drawn compares


def test_worse_texts_are_damaged_and_the_best_are_not(pairs: Pairs) -> None:
    originals = {it.id: it.text for it in documents(30)}
    for name, text in pairs.texts.items():
        assert (text in originals[document(name)]) == (severity(name) == 0)


def test_the_seed_decides(pairs: Pairs) -> None:
    assert Seeds(n_documents=20, held_out=0.25).pairs(documents(30)) == pairs
    assert Seeds(n_documents=20, held_out=0.25, seed=1).pairs(documents(30)) != pairs


@pytest.mark.parametrize("longest", [40, 300, 700, 10_000])
def test_a_passage_is_bounded_and_stands_in_the_document(longest: int) -> None:
    rng = Random(0)
    for it in documents(10):
        found = passage(it.text, longest, rng)
        assert 0 < len(found) <= longest and found in it.text


def test_pairs_between_the_parts_are_left_out_and_counted() -> None:
    names = [f"n{number}" for number in range(30)]
    every = [Pair(one, other) for one in names for other in names if one < other]
    parts = apart(dict.fromkeys(names, ""), every, 0.3, seed=0)
    assert len(parts.held_out) == 9 * 8 / 2 and len(parts.train) == 21 * 20 / 2
    assert len(parts.train) + len(parts.held_out) + parts.n_mixed == len(every)


def test_too_little_to_divide_is_said() -> None:
    with pytest.raises(ValueError, match="too few to learn from some and be tested on others"):
        Seeds().pairs(documents(1))


@pytest.mark.parametrize(
    ("field", "said"),
    [({"damages": ("rust",)}, "name some of"), ({"severities": (0.0,)}, "severities"), ({"held_out": 1.0}, "held_out")],
)
def test_a_wrong_field_is_named(field: dict[str, tuple[str, ...]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Seeds(**field)

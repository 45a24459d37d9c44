"""The fast model is a function of its texts: one by one or together, fitted again or opened from the disk."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from innovator.curate.linear import LONGEST, Linear, excerpt, fit_grades, fit_labels, fit_preferences
from innovator.curate.surface import NAMES, surface

FIELDS = {
    "waves": ("photon", "phase", "lattice", "spin", "field"),
    "cells": ("enzyme", "membrane", "protein", "nucleus", "gene"),
    "sums": ("theorem", "lemma", "prime", "integral", "group"),
}
FILL = ("the", "of", "a", "is", "that", "with", "every", "small", "large", "one")


def texts(n: int, seed: int) -> tuple[list[str], list[str]]:
    draw = random.Random(seed)
    labels = [draw.choice(sorted(FIELDS)) for _ in range(n)]
    return [" ".join(draw.choices(FIELDS[label], k=4) + draw.choices(FILL, k=20)) for label in labels], labels


@pytest.fixture(scope="module")
def model() -> Linear:
    return fit_labels(*texts(120, seed=0), strength=30.0, balanced=True)


def test_fields_are_told_apart_by_their_words(model: Linear) -> None:
    unseen, labels = texts(60, seed=1)
    said = [model.names[best] for best in model.scores(unseen).argmax(axis=1)]
    assert said == labels


def test_probabilities_sum_to_one(model: Linear) -> None:
    probabilities = model.probabilities(texts(20, seed=2)[0])
    assert probabilities.min() >= 0 and np.allclose(probabilities.sum(axis=1), 1, atol=1e-12)


def test_two_labels_are_as_good_as_three() -> None:
    some, labels = texts(90, seed=0)
    two = [(text, label) for text, label in zip(some, labels, strict=True) if label != "sums"]
    model = fit_labels(*map(list, zip(*two, strict=True)), strength=30.0, balanced=False)
    assert model.names == ("cells", "waves")
    assert [model.names[best] for best in model.probabilities([two[0][0]]).argmax(axis=1)] == [two[0][1]]


def test_a_text_alone_scores_as_among_others(model: Linear) -> None:
    some = [*texts(10, seed=3)[0], "", "$", "x" * 70_000]
    alone = np.vstack([model.scores([text]) for text in some])
    assert np.allclose(model.scores(some), alone, rtol=0, atol=1e-5)  # sums of fp32


def test_the_same_texts_give_the_same_model_and_the_disk_keeps_it(model: Linear, tmp_path: Path) -> None:
    again = fit_labels(*texts(120, seed=0), strength=30.0, balanced=True)
    again.save(tmp_path)
    opened = Linear.open(tmp_path)
    assert opened.names == model.names
    assert np.array_equal(opened.weights_FN, model.weights_FN) and np.array_equal(opened.bias_N, model.bias_N)


def test_a_model_of_other_features_is_refused(model: Linear, tmp_path: Path) -> None:
    model.save(tmp_path)
    said = json.loads((tmp_path / "linear.json").read_text())
    (tmp_path / "linear.json").write_text(json.dumps({**said, "n_hashed": 7}))
    with pytest.raises(ValueError, match=r"linear\.json was fitted on other features"):
        Linear.open(tmp_path)


def test_one_label_is_no_question() -> None:
    with pytest.raises(ValueError, match="nothing to tell apart"):
        fit_labels(["a", "b"], ["same", "same"], strength=1.0, balanced=True)


def test_preferences_and_grades_order_unseen_texts() -> None:
    def text(n_good: int, draw: random.Random) -> str:
        return " ".join(draw.sample(["lucid"] * n_good + ["muddy"] * (8 - n_good) + list(FILL), 8 + len(FILL)))

    draw = random.Random(0)
    seen = [text(n, draw) for n in range(9) for _ in range(4)]
    n_good = np.repeat(np.arange(9), 4)
    better, worse = zip(*[(i, j) for i in range(36) for j in range(36) if n_good[i] > n_good[j]], strict=True)
    unseen = [text(n, draw) for n in range(9)]
    ranked = fit_preferences(seen, better, worse, [1.0] * len(better), strength=100.0).scores(unseen)[:, 0]
    graded = fit_grades(seen, n_good / 8, strength=100.0).scores(unseen)[:, 0]
    for scores in (ranked, graded):
        assert scores[8] > scores[5] > scores[3] > scores[0]


def test_surface_figures_are_finite_for_any_text() -> None:
    draw = random.Random(0)
    odd = "aZ9 \n\t.$\\{}é中\u00ad\ufb01\ue000\x07!?-"
    for text in ["", " ", "\n\n", *("".join(draw.choices(odd, k=draw.randint(1, 400))) for _ in range(200))]:
        assert len(surface(text)) == len(NAMES) and np.isfinite(surface(text)).all()


def test_damage_shows_on_the_surface() -> None:
    whole = "Two waves meet where the phase is $\\frac{1}{2}$ and they add up. This holds for all of them.\n\n" * 5
    for damaged, figure in (
        (whole.replace("waves", "wa ves b b"), "lone letters"),
        (whole.replace("}$", "}"), "dollars open"),
        (whole.replace("{2}", "{2"), "braces open"),
        (whole.replace("fi", "\ufb01") + "\x07", "odd"),
        (whole.replace("phase", "pha-\nse"), "hyphenated lines"),
        (whole.replace("meet", "meet meet"), "immediate repeats"),
        (whole.replace("add", "a1d"), "digit in word"),
    ):
        place = NAMES.index(figure)
        assert surface(damaged)[place] > surface(whole)[place], figure


def test_of_a_long_text_beginning_middle_and_end_are_read() -> None:
    text = "first " + "x" * LONGEST + " middle " + "x" * LONGEST + " last"
    shown = excerpt(text)
    assert len(shown) <= LONGEST + 4 and all(word in shown for word in ("first", "middle", "last"))
    assert excerpt(text[:LONGEST]) == text[:LONGEST]

"""An assessor is held to its bar on pairs that it has not seen, and is the same whenever it learns the same."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from innovator.curate.alignment import Alignment, Share
from innovator.curate.assessor import LanguageModel, LinearAssessor
from innovator.curate.pairs import Pair, Pairs

LETTERS = "the cat sat on the mat and the rat"


def pairs(n: int) -> Pairs:
    """Sentences, and the same with words struck out by x; half of them are held out."""
    draw, texts, made = random.Random(0), {}, []
    for number in range(n):
        words = draw.choices(LETTERS.split(), k=12)
        struck = ["xxx" if place in draw.sample(range(12), 5) else word for place, word in enumerate(words)]
        texts |= {f"{number}": " ".join(words), f"{number} struck": " ".join(struck)}
        made.append(Pair(f"{number}", f"{number} struck", about="struck", gap=0.4))
    return Pairs(texts, made[::2], made[1::2])


@pytest.mark.parametrize(
    ("value", "n", "low", "high"), [(0.5, 100, 0.4038, 0.5962), (1.0, 10, 0.7225, 1.0), (0.0, 10, 0.0, 0.2775)]
)
def test_intervals_are_wilsons(value: float, n: int, low: float, high: float) -> None:
    share = Share.of(value, n)
    assert (share.low, share.high) == pytest.approx((low, high), abs=1e-4)


def test_pairs_count_by_weight_ties_by_half_and_refusals_not_at_all() -> None:
    grade = {"a": 3.0, "b": 2.0, "c": 2.0, "d": math.nan}
    some = [Pair("a", "b", 0.6, "x", 0.1), Pair("b", "a", 0.2, "x", 0.2), Pair("b", "c", 0.2, "y"), Pair("a", "d")]
    alignment = Alignment.of(some, grade)
    assert alignment.whole.value == pytest.approx(0.7) and alignment.whole.n == 3 and alignment.n_refused == 1
    assert {about: share.value for about, share in alignment.by_about.items()} == pytest.approx({"x": 0.75, "y": 0.5})
    assert alignment.by_both["x"]["0.2"].value == 0 and alignment.by_gap["0.1"].value == 1


def test_the_linear_assessor_reaches_the_bar_where_words_tell(tmp_path: Path) -> None:
    alignment = LinearAssessor().align(pairs(60), "", tmp_path)
    assert alignment.whole.value >= 0.95
    grades = LinearAssessor().grader("", tmp_path).grade(["the cat sat on the mat", "the xxx sat xxx the xxx"])
    assert grades[0] > grades[1]


def test_below_the_bar_it_stops_unless_told_otherwise(tmp_path: Path) -> None:
    turned = pairs(60)
    turned = Pairs(turned.texts, turned.train, [Pair(it.worse, it.better, about=it.about) for it in turned.held_out])
    with pytest.raises(ValueError, match=r"points below the bar of 95% \(struck .*say `below_bar: go-on`"):
        LinearAssessor().align(turned, "", tmp_path)
    assert json.loads((tmp_path / "alignment.json").read_text())["whole"]["value"] < 0.05
    assert LinearAssessor(below_bar="go-on").align(turned, "", tmp_path).whole.value < 0.05


def test_a_bar_is_a_share() -> None:
    with pytest.raises(ValueError, match="bar is 95"):
        LinearAssessor(bar=95)


@pytest.fixture(scope="module")
def model(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A causal language model that knows nothing, with a tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("lm")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.save_pretrained(folder)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **shape)).save_pretrained(
            folder
        )
    return str(folder)


def test_a_language_model_learns_stops_at_the_bar_and_is_a_stock_classifier(model: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    spec = LanguageModel(model=model, learning_rate=3e-3, batch=4, most_epochs=40, bar=0.9)
    alignment = spec.align(pairs(60), "", tmp_path)
    assert alignment.whole.value >= 0.9
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    assert stock.config.num_labels == 1 and (tmp_path / "model" / "model.safetensors").is_file()
    texts = [*pairs(5).texts.values(), "", "the cat sat " * 200]
    grades = spec.grader("", tmp_path).grade(texts)
    assert np.isfinite(grades).all()
    alone = np.concatenate([spec.grader("", tmp_path).grade([text]) for text in texts])
    assert np.allclose(grades, alone, rtol=0, atol=1e-4)  # padding changes the order of float sums


def test_the_same_course_gives_the_same_weights(model: str, tmp_path: Path) -> None:
    bytes_of = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        LanguageModel(model=model, most_epochs=1, below_bar="go-on").align(pairs(20), "", tmp_path / name)
        bytes_of.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert bytes_of[0] == bytes_of[1]


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no model: there is no config\.json"):
        LanguageModel(model=str(tmp_path)).align(pairs(4), "", tmp_path)

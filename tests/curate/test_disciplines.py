"""Labels: rules by words, and a classifier whose test shares no book with what it learned from."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path

import pytest
from test_linear import FIELDS, FILL

from innovator.curate.disciplines import ByClassifier, BySource, ByWords, Labels
from innovator.curate.examples import Examples
from innovator.curate.rule import Kept
from innovator.data.sources import FilesSource, InstalledDocsSource

WORDS = {"physics": ("quark*", "magnetic field"), "biology": ("cell", "genes")}


def stamp(rule: Labels, text: str) -> tuple[object, object]:
    outcome = rule.apply(text, {"discipline": "theirs"})
    assert isinstance(outcome, Kept) and outcome.text == text
    return outcome.facts.get("discipline"), outcome.facts.get("discipline_score")


def test_by_source_stamps_nothing() -> None:
    assert stamp(BySource(), "a cell") == (None, None) and BySource().disciplines == ()


def test_the_densest_words_win_if_there_are_enough() -> None:
    rule = ByWords(words=WORDS, least=2)
    assert stamp(rule, "Quarks and a magnetic\nfield, a cell") == ("physics", 250.0)
    assert stamp(rule, "cell GENES cell quark") == ("biology", 750.0)
    assert stamp(rule, "excellent genesis of one quarkish cell")[0] == "general"
    assert stamp(rule, "")[0] == "general"


def test_what_names_no_word_is_refused() -> None:
    with pytest.raises(ValueError, match=r"words\.physics: give at least one"):
        ByWords(words={"physics": ("",)})


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FilesSource]:
    """Forty documents of each field, from eight books."""
    folder, draw = tmp_path_factory.mktemp("seeds"), random.Random(0)
    for label, words in {**FIELDS, "general": FILL}.items():
        texts = [" ".join(draw.choices(words, k=5) + draw.choices(FILL, k=20)) for _ in range(40)]
        lines = [json.dumps({"text": text, "book": f"{label} {n % 8}"}) for n, text in enumerate(texts)]
        (folder / f"{label}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {label: FilesSource(path=str(folder / f"{label}.jsonl")) for label in (*FIELDS, "general")}


@pytest.mark.parametrize("seed", range(5))
def test_no_book_is_on_both_sides(seeds: dict[str, FilesSource], seed: int, tmp_path: Path) -> None:
    train, held_out = Examples.read(seeds, "book", tmp_path).apart(0.25, seed)
    assert not set(train.groups) & set(held_out.groups)
    assert {label: held_out.labels.count(label) for label in seeds} == dict.fromkeys(seeds, 10)
    assert len(train.texts) + len(held_out.texts) == 160


def test_the_classifier_reports_what_it_confuses_and_its_rule_travels(
    seeds: dict[str, FilesSource], tmp_path: Path
) -> None:
    spec = ByClassifier(seeds=seeds, group_field="book")
    report = spec.train(tmp_path)
    assert spec.disciplines == tuple(FIELDS)
    assert sum(n for row in report.confusion.values() for n in row.values()) == report.n_held_out == 40
    assert report.accuracy > 0.9  # every document has five words that only its field has
    said = json.loads((tmp_path / "report.json").read_text())
    assert said["accuracy"] == report.accuracy and said["disciplines"]["waves"]["recall"] == report.recall("waves")
    rule = pickle.loads(pickle.dumps(spec.rule(tmp_path)))
    name, score = stamp(rule, "photon lattice spin photon phase of the")
    assert name == "waves" and 0.5 <= float(str(score)) <= 1


def test_what_is_not_likely_enough_is_general(seeds: dict[str, FilesSource], tmp_path: Path) -> None:
    spec = ByClassifier(seeds=seeds, least=0.999999)
    spec.train(tmp_path)
    assert stamp(spec.rule(tmp_path), "photon enzyme theorem")[0] == "general"


def test_one_book_cannot_be_divided(seeds: dict[str, FilesSource], tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text("".join(json.dumps({"text": f"star {n}", "book": "one"}) + "\n" for n in range(9)))
    spec = ByClassifier(seeds={**seeds, "stars": FilesSource(path=str(one))}, group_field="book")
    with pytest.raises(ValueError, match=r"seeds\.stars: its documents are of too few groups, none could be held out"):
        spec.train(tmp_path)


def test_sources_without_fields_are_divided_by_document(tmp_path: Path) -> None:
    manuals = {name: InstalledDocsSource(distributions=(name,)) for name in ("rich", "typer")}
    examples = Examples.read(manuals, "book", tmp_path)
    assert len(set(examples.groups)) == len(examples.texts)

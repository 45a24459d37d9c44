"""A session asks each thing once, goes on where it stopped, and shows no cue."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from annotators import RUBRIC
from rich.console import Console

from innovator.curate.judgements import Journal, read_judgements
from innovator.curate.label_terminal import ask
from innovator.curate.labelling import Session, agreement_table, label, read_documents
from innovator.curate.rubric import SCIENCE
from innovator.curate.sampling import Draw, Mode
from innovator.data.sources import Document

TEXTS = {f"d{i:03}": "word " * random.Random(i).randrange(20, 2000) for i in range(200)}
DOCUMENTS = [Document(name, text) for name, text in TEXTS.items()]


def draw(annotator: str, mode: Mode = "pairs", n: int = 40, double: float = 0.5, seed: int = 0) -> Draw:
    return Draw(annotator=annotator, mode=mode, n=n, double=double, seed=seed)


def shown(it: Draw) -> list[tuple[str, ...]]:
    return [item.documents for item in it.items(DOCUMENTS, ["clean"])]


def session(folder: Path, n: int = 3, mode: Mode = "pairs") -> Session:
    return Session(draw("ada", mode, n).items(DOCUMENTS, RUBRIC.criteria), TEXTS, RUBRIC, Journal(folder, "ada"))


def answered(it: Session, answer: str) -> None:
    question = it.question()
    assert question is not None
    it.answer(question.number, answer)


@pytest.mark.parametrize("mode", ["pairs", "grades"])
def test_annotators_share_what_was_said_and_the_draw_repeats(mode: Mode) -> None:
    for double in (0.0, 0.25, 1.0):
        ada, bob = ({tuple(sorted(it)) for it in shown(draw(who, mode, double=double))} for who in ("ada", "bob"))
        assert len(ada) == len(bob) == 40
        by_chance = 10 if mode == "pairs" else 20  # of 1564 pairs or 200 documents; more than four deviations away
        assert round(40 * double) <= len(ada & bob) <= round(40 * double) + by_chance
    assert shown(draw("ada", mode)) == shown(draw("ada", mode))
    assert shown(draw("ada", mode)) != shown(draw("ada", mode, seed=1))


def test_length_is_no_cue() -> None:
    lengths = sorted(len(text) for text in TEXTS.values())
    ranks = {name: lengths.index(len(text)) for name, text in TEXTS.items()}
    assert max(abs(ranks[a] - ranks[b]) for a, b in shown(draw("ada"))) <= 10  # 8, and equal lengths share a rank


def test_the_side_is_no_cue() -> None:
    first = sum(a < b for a, b in shown(draw("ada", n=1000)))
    assert 430 < first < 570  # 500 with a standard deviation of 16
    both = [[it for it in shown(draw(who, double=1.0))] for who in ("ada", "bob")]
    assert set(both[0]) != set(both[1])


def test_asking_for_more_asks_all_shared_things_again_first_drawn() -> None:
    few, more = ({tuple(sorted(it)) for it in shown(draw("ada", n=n, double=1.0))} for n in (10, 20))
    assert few < more


def test_more_than_there_is_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="3 documents give 3 pairs, fewer than 4"):
        draw("ada", n=4).items(DOCUMENTS[:3], ["clean"])


def test_every_criterion_of_a_thing_is_asked_before_the_next_thing() -> None:
    items = draw("ada").items(DOCUMENTS, ["clean", "deep"])
    assert [it.criterion for it in items] == ["clean", "deep"] * 40
    assert all(one.documents == other.documents for one, other in zip(items[::2], items[1::2], strict=True))


def test_a_session_that_is_opened_anew_goes_on(tmp_path: Path) -> None:
    answers = ["a", "b", "tie"] * 2
    for answer in answers:
        answered(session(tmp_path), answer)
    assert session(tmp_path).question() is None
    assert [it.prefers for it in read_judgements(tmp_path)] == answers  # type: ignore[union-attr]


def test_undo_goes_back_through_earlier_sessions_to_the_start(tmp_path: Path) -> None:
    first = session(tmp_path)
    asked = [first.question()]
    answered(first, "a")
    asked.append(first.question())
    first.skip(1)
    again = session(tmp_path)
    again.undo()
    assert again.question() == asked[1]
    again.undo()
    assert again.question() == asked[0]
    again.undo()
    assert again.question() == asked[0]
    assert read_judgements(tmp_path) == []


def test_what_is_skipped_is_not_asked_again_and_not_judged(tmp_path: Path) -> None:
    session(tmp_path).skip(0)
    question = session(tmp_path).question()
    assert question is not None and question.number == 1
    assert read_judgements(tmp_path) == []


def test_an_answer_to_another_question_is_not_taken(tmp_path: Path) -> None:
    it = session(tmp_path)
    it.answer(0, "a")
    it.answer(0, "b")
    it.skip(5)
    assert [one.prefers for one in read_judgements(tmp_path)] == ["a"]  # type: ignore[union-attr]


@pytest.mark.parametrize(("mode", "answer"), [("pairs", "5"), ("pairs", ""), ("grades", "6"), ("grades", "a")])
def test_an_answer_that_is_none_is_refused(mode: Mode, answer: str, tmp_path: Path) -> None:
    it = session(tmp_path, mode=mode)
    with pytest.raises(ValueError, match="is no"):
        it.answer(0, answer)
    assert it.question() == session(tmp_path, mode=mode).question()


def typed(*keys: str) -> Iterator[str]:
    yield from keys
    raise EOFError


def test_the_terminal_takes_the_same_answers(tmp_path: Path) -> None:
    page = Console(file=io.StringIO(), width=120)
    ask(session(tmp_path), page, typed("1", "x", "2", "u", "t", "s").__next__)
    assert [it.prefers for it in read_judgements(tmp_path)] == ["a", "tie"]  # type: ignore[union-attr]
    assert len(session(tmp_path).done) == 3


def test_the_terminal_shows_markup_as_text(tmp_path: Path) -> None:
    texts = dict.fromkeys(TEXTS, "[red]x[/red] [/oops]")
    console = Console(file=io.StringIO(), width=120)
    items = draw("ada", "grades", 1).items(DOCUMENTS, ["clean"])
    ask(Session(items, texts, RUBRIC, Journal(tmp_path, "ada")), console, typed("3").__next__)
    assert "[red]x[/red] [/oops]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_labels_of_two_annotators_are_tabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents, out = tmp_path / "documents.jsonl", tmp_path / "labels"
    lines = (json.dumps({"text": text}) + "\n" for text in TEXTS.values())
    documents.write_text("".join(lines), encoding="utf-8")
    for name in ("ada", "bob"):
        monkeypatch.setattr("sys.stdin", io.StringIO("1\n" * 100))
        label(documents, SCIENCE, out, name, "grades", 4, 1.0, 0, True, 0, False)
    table = agreement_table(out, SCIENCE)
    assert table.row_count == 4
    assert list(table.columns[3].cells) == ["4"] * 4  # shared
    assert list(table.columns[5].cells) == ["100%"] * 4


def test_a_folder_without_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no corpus at"):
        read_documents(tmp_path)

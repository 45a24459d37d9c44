"""A session in which an annotator judges documents: what is asked, answered, skipped and undone, in whatever form."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import RLock
from typing import TypeVar

from rich.table import Table

from innovator.curate.agreement import agreement
from innovator.curate.flow import DOCUMENTS, all_documents
from innovator.curate.judgements import (
    Answer,
    Entry,
    GradeJudgement,
    Journal,
    Judgement,
    PairJudgement,
    Skipped,
    Withdrawn,
    read_judgements,
    thing,
)
from innovator.curate.rubric import Criterion, Rubric
from innovator.curate.sampling import Draw, Item, Mode, pool
from innovator.data.records import Rejects
from innovator.data.sources import Document, FilesSource
from innovator.say import say

SIDES: dict[str, Answer] = {"a": "a", "b": "b", "tie": "tie"}
Passed = TypeVar("Passed", Skipped, Withdrawn)


@dataclass(frozen=True)
class Question:
    """What is asked now. number: of the item, which an answer repeats so that none falls to the next question."""

    number: int
    name: str
    criterion: Criterion
    texts: tuple[str, ...]


class Session:
    """The items in turn; each answer is on the disk before the next is asked, and a new session goes on from there."""

    def __init__(self, items: Sequence[Item], texts: Mapping[str, str], rubric: Rubric, journal: Journal) -> None:
        self.items, self.texts, self.rubric, self.journal = items, texts, rubric, journal
        self.lock = RLock()
        numbers = {(item.criterion, tuple(sorted(item.documents))): number for number, item in enumerate(items)}
        entries = [entry for entry in journal.entries() if thing(entry) in numbers]
        self.done = [numbers[thing(entry)] for entry in entries]
        self.seconds = [entry.seconds for entry in entries if isinstance(entry, Judgement)]
        self._ask(self._next())

    def question(self) -> Question | None:
        """What is asked now; None when all is done."""
        with self.lock:
            if self.now is None:
                return None
            item = self.items[self.now]
            texts = tuple(self.texts[name] for name in item.documents)
            return Question(self.now, item.criterion, self.rubric.criteria[item.criterion], texts)

    def seconds_left(self) -> float | None:
        """By the median time of the answers so far."""
        return median(self.seconds) * (len(self.items) - len(self.done)) if self.seconds else None

    def answer(self, number: int, answer: str) -> None:
        """Take `a`, `b`, `tie` or a grade for question `number`; nothing happens if that is not what is asked now.

        ValueError for an answer that is none.
        """
        with self.lock:
            if number == self.now:
                judgement = self._judgement(self.items[number], answer)
                self.seconds.append(judgement.seconds)
                self._done(judgement)

    def skip(self, number: int) -> None:
        """Leave question `number` without a judgement."""
        with self.lock:
            if number == self.now:
                self._done(self._about(Skipped, self.items[number]))

    def undo(self) -> None:
        """Take back the last answer, also one of an earlier session, and ask again."""
        with self.lock:
            if self.done:
                self.journal.append(self._about(Withdrawn, self.items[self.done[-1]]))
                self._ask(self.done.pop())

    def _done(self, entry: Entry) -> None:
        assert self.now is not None
        self.journal.append(entry)
        self.done.append(self.now)
        self._ask(self._next())

    def _ask(self, number: int | None) -> None:
        self.now, self.asked = number, time.monotonic()

    def _next(self) -> int | None:
        done = set(self.done)
        return next((number for number in range(len(self.items)) if number not in done), None)

    def _about(self, kind: type[Passed], item: Item) -> Passed:
        return kind(criterion=item.criterion, documents=item.documents, annotator=self.journal.annotator)

    def _judgement(self, item: Item, answer: str) -> Judgement:
        seconds = round(time.monotonic() - self.asked, 1)
        if len(item.documents) == 1:
            return GradeJudgement(
                criterion=item.criterion,
                document=item.documents[0],
                grade=_grade(answer, len(self.rubric.grades)),
                annotator=self.journal.annotator,
                seconds=seconds,
            )
        if answer not in SIDES:
            raise ValueError(f"{answer!r} is none of {', '.join(SIDES)}")
        return PairJudgement(
            criterion=item.criterion,
            a=item.documents[0],
            b=item.documents[1],
            prefers=SIDES[answer],
            annotator=self.journal.annotator,
            seconds=seconds,
        )


def label(
    documents: Path,
    rubric: Path,
    out: Path,
    annotator: str,
    mode: Mode,
    n: int,
    double: float,
    seed: int,
    terminal: bool,
    port: int,
    open_browser: bool,
) -> None:
    """Ask an annotator about `n` pairs or documents by each criterion, on a page or in the terminal.

    double: the share of them that every annotator is asked. port: of the page; 0 takes a free one.
    """
    criteria = Rubric.open(str(rubric))
    journal = Journal(out, annotator)
    texts = pool(read_documents(documents), seed)
    draw = Draw(annotator=annotator, mode=mode, n=n, double=double, seed=seed)
    session = Session(draw.items(texts, criteria.criteria), {it.id: it.text for it in texts}, criteria, journal)
    if terminal:
        from innovator.curate.label_terminal import ask  # here because it shows what this file defines

        ask(session)
    else:
        from innovator.curate.label_page import serve  # here because it shows what this file defines

        serve(session, port, open_browser)
    say(f"{len(session.done)} of {len(session.items)} done, in {journal.path}; the same command goes on")


def agreement_table(out: Path, rubric: Path) -> Table:
    """How far the annotators of a folder agree, a row for each criterion."""
    measured = agreement(read_judgements(out), Rubric.open(str(rubric))).measured
    table = Table("criterion", title=f"agreement in {out}")
    for name in ("annotators", "judged", "shared", "ties", "equal", "Cohen's kappa", "Krippendorff's alpha"):
        table.add_column(name, justify="right")
    for it in measured:
        counts = (str(n) for n in (it.n_annotators, it.n_things, it.n_shared, it.n_ties))
        equal = "-" if it.equal is None else f"{it.equal:.0%}"
        table.add_row(f"{it.criterion}, {it.mode}", *counts, equal, _figure(it.kappa), _figure(it.alpha))
    return table


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of a curation's step, or of JSON Lines or Parquet files."""
    if (path / DOCUMENTS).is_dir():
        return (Document(it.id, it.text) for it in all_documents(path))
    source = FilesSource(path=str(path))
    source.check()
    return source.documents(Rejects(path))  # nothing is set aside: the source stops at a bad line


def _grade(answer: str, highest: int) -> int:
    if answer not in map(str, range(1, highest + 1)):
        raise ValueError(f"{answer!r} is no grade from 1 to {highest}")
    return int(answer)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"

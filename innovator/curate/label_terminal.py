"""A labelling session in the terminal, for machines without a browser."""

from __future__ import annotations

from collections.abc import Callable

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from innovator.curate.labelling import Question, Session

PAIR_KEYS = {"1": "a", "2": "b", "t": "tie"}


def ask(session: Session, console: Console | None = None, read: Callable[[], str] = input) -> None:
    """Ask until all is done, or until the annotator stops: q, the end of the input, or Ctrl-C."""
    console = console or Console(highlight=False)
    console.print(Panel(Text(session.rubric.annotators_know), title=Text(session.rubric.title)))
    while question := session.question():
        _show(session, question, console)
        try:
            key = read().strip().lower()
        except (EOFError, KeyboardInterrupt):
            return
        if key == "q":
            return
        _take(session, question, key, console)


def _take(session: Session, question: Question, key: str, console: Console) -> None:
    if key == "u":
        session.undo()
    elif key == "s":
        session.skip(question.number)
    else:
        try:
            session.answer(question.number, PAIR_KEYS.get(key, "") if len(question.texts) == 2 else key)
        except ValueError:
            console.print(Text(f"{key!r} is none of the keys"))


def _show(session: Session, question: Question, console: Console) -> None:
    it, width = question.criterion, console.width // len(question.texts) - 1
    names = ("1", "2") if len(question.texts) == 2 else ("",)
    console.rule(Text(f"{len(session.done) + 1} of {len(session.items)}: {question.name}"))
    panels = [Panel(Text(text), title=name, width=width) for name, text in zip(names, question.texts, strict=True)]
    console.print(Columns(panels, padding=(0, 1)))
    console.print(Text(f"{it.question}\n  good: {it.good}\n  poor: {it.poor}"))
    grades = ", ".join(f"{grade} {word}" for grade, word in enumerate(session.rubric.grades, start=1))
    answers = grades if len(question.texts) == 1 else "1 or 2 is better, t tie"
    console.print(Text(f"{answers}; s skip, u undo, q stop: "), end="")

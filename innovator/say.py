"""What a person at the terminal sees: lines, and progress with a rate and a time to go."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

CONSOLE = Console(stderr=True, highlight=False)
CONSOLE.quiet = os.environ.get("RANK", "0") != "0"  # of the processes of a run the first one speaks
SECONDS_BETWEEN_LINES = 15.0
WIDEST = 200
_speaker = ""


class Advance(Protocol):
    """Report `n` further units done; keyword figures (a loss, a rate) are shown beside the bar."""

    def __call__(self, n: int, **figures: float) -> None: ...


def among_others(speaker: str) -> None:
    """From now on this process shares the screen: lines instead of bars, and details begin with the speaker's name."""
    global _speaker
    _speaker = speaker


def say(text: str) -> None:
    """Print one line for a person, on standard error; details of what is being made are indented."""
    if _speaker and text.startswith("  ") and not text.startswith(f"  {_speaker}"):
        text = f"  {_speaker}: {text.lstrip()}"
    CONSOLE.print(text, markup=False, soft_wrap=True)


def complain(text: str) -> None:
    """Print an error, whichever process it is in."""
    where = f"[process {os.environ['RANK']}] " if CONSOLE.quiet else ""
    print(f"{where}error: {text}", file=sys.stderr)


def show(table: Table) -> None:
    """Print a table, on a narrow screen or in a log as wide as it is: lines that break are worse than long ones."""
    widest = Measurement.get(CONSOLE, CONSOLE.options.update(max_width=WIDEST), table).maximum
    Console(stderr=True, highlight=False, width=max(CONSOLE.width, widest), quiet=CONSOLE.quiet).print(table)


@contextmanager
def progress(description: str, total: int, unit: str = "") -> Iterator[Advance]:
    """Show how far a task is: a bar on a terminal of its own, elsewhere a line now and then."""
    if CONSOLE.is_terminal and not _speaker:
        with _bar() as bar:
            task = bar.add_task(description, total=total, figures="")

            def advance(n: int, **figures: float) -> None:
                bar.update(task, advance=n, figures=_shown(figures))

            yield advance
    else:
        yield _Lines(description, total, unit)


class _Lines:
    def __init__(self, description: str, total: int, unit: str) -> None:
        self.description, self.total, self.unit, self.done = description, total, unit, 0
        self.start = self.last = time.monotonic()

    def __call__(self, n: int, **figures: float) -> None:
        self.done += n
        now = time.monotonic()
        if now - self.last < SECONDS_BETWEEN_LINES:
            return
        self.last = now
        left = (now - self.start) / max(self.done, 1) * (self.total - self.done)
        share = f"{self.done:,}/{self.total:,} {self.unit}" if self.total else f"{self.done:,} {self.unit}"
        to_go = f"{left:.0f} s to go" if self.total and self.done else ""
        say(f"  {self.description}: {', '.join(filter(None, (share.strip(), _shown(figures), to_go)))}")


def _bar() -> Progress:
    columns = (TextColumn("  {task.description}"), SpinnerColumn(), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns, TimeRemainingColumn(), TextColumn("{task.fields[figures]}"), console=CONSOLE, transient=True
    )


def _shown(figures: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in figures.items())


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

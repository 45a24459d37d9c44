"""A finished model written for others, read again, described, and only then given its name."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
from rich.table import Table

from innovator.export.card import card
from innovator.export.gguf_tensors import Stored
from innovator.export.subject import Subject
from innovator.export.targets import TARGETS, Gguf, Target, alignment, verdicts
from innovator.export.verdict import RUNTIMES, Checked, Exported
from innovator.models.cost import cost
from innovator.models.moe import MoEConfig
from innovator.say import say
from innovator.weights.folder import Folder

BYTES: dict[Stored, int] = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 2}
ROOM = 1.2  # of what is loaded or written, for what comes with it


def export(folder: Folder, out: Path, target: Target, stored: Stored, check: bool) -> Exported:
    """Write a model into a folder that appears when it is whole and, with `check`, was found to be the model.

    ValueError, before any work, if the target cannot be this model, or disk or memory will not do; and if what was
    written is another model than ours, which is then left beside `out` under `.partial`.
    """
    exported = Exported(target=target.name, stored=stored, verdicts=verdicts(target, Subject.of(folder)), checked=None)
    _check_sense(folder, out, target, exported)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    _check_room(folder, out.absolute().parent, stored, check)
    with _alone(out) as beside:
        say(f"writing {target.name} in {stored}")
        target.write(folder, beside, stored)
        if check:
            say("reading it again in a process of its own")
            exported = replace(exported, checked=_judged(target.compare(folder, beside, stored), exported, beside))
        (beside / "README.md").write_text(card(folder, exported), encoding="utf8")
        os.replace(beside, out)
    return exported


def _check_sense(folder: Folder, out: Path, target: Target, exported: Exported) -> None:
    found = exported.verdicts
    if all(verdict.grade == "impossible" for verdict in found.values()):
        why = found["llama.cpp" if isinstance(target, Gguf) else "transformers"].why
        raise ValueError(f"{target.name} cannot be {folder.path}: {why}")
    if exported.stored not in target.stores:
        raise ValueError(f"{target.name} stores {', '.join(target.stores)}, not {exported.stored}")
    if out.exists():
        raise ValueError(f"{out} exists: name another folder, or remove it")
    if out.absolute().is_relative_to(folder.path.resolve()):
        raise ValueError(f"{out} lies in {folder.path}, which is never written to: name a folder outside it")


@contextmanager
def _alone(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that no other export writes to; the lock dies with the process that holds it."""
    file = out.with_name(f".{out.name}.lock")
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is writing {out}; wait for it, or name another folder") from error
        try:
            beside = out.with_name(out.name + ".partial")
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            yield beside
        finally:
            file.unlink()


def _judged(checked: Checked | None, exported: Exported, beside: Path) -> Checked | None:
    """The comparison, unless it says that an exact target came out as another model."""
    exact = any(verdict.grade == "exact" for verdict in exported.verdicts.values())
    if checked is not None and exact and not checked.passed:
        raise ValueError(
            f"{beside} is another model: read by {checked.loader}, its logits differ from ours by "
            f"{checked.logits_error:.1e} of the largest, allowed are {checked.tolerance:.0e}"
        )
    return checked


def _check_room(folder: Folder, beside: Path, stored: Stored, check: bool) -> None:
    needed = ROOM * BYTES[stored] * cost(folder.config, seq_len=1).total
    free = shutil.disk_usage(beside).free
    if needed > free:
        raise ValueError(f"{beside.parent} has {gigabytes(free)} free, about {gigabytes(needed)} will be written")
    memory = psutil.virtual_memory().available
    if check and needed > memory:
        raise ValueError(
            f"reading it again takes about {gigabytes(needed)} of memory, {gigabytes(memory)} are free: "
            "give --no-check to write it without, or export on a larger machine"
        )


def plan_table(subject: Subject, title: str) -> Table:
    """What every target is worth to every runtime."""
    caption = alignment(subject) if isinstance(subject.config.ffn, MoEConfig) else None
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", show_lines=True)
    for column in ("--to", *RUNTIMES):
        table.add_column(column)
    for target in TARGETS:
        cells = []
        for verdict in verdicts(target, subject).values():
            style = {"exact": "green", "approximate": "yellow", "impossible": "dim"}[verdict.grade]
            notes = "\n".join(note for note in (verdict.why, verdict.launch) if note)
            cells.append(f"[{style}]{verdict.grade}[/]" + (f"\n{notes}" if notes else ""))
        table.add_row(target.name, *cells)
    return table


def gigabytes(n_bytes: float) -> str:
    """Bytes as a person reads them."""
    return f"{n_bytes / (1 << 30):.1f} GiB"

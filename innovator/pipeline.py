"""Steps that make artifacts out of artifacts, each made once and found again by its content.

A step's folder is `<name>-<digest>`, and the digest covers its spec and everything upstream: changing a
recipe never overwrites a result, and running it again never repeats work.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from innovator.document import Record, plain
from innovator.files import write_json
from innovator.say import say

MOST_CHANGES = 4
SHOWN = 60
SECONDS_BETWEEN_LOOKS = 0.5


class Work(Record, Protocol):
    """What a step does: writes everything it makes into `out`, reading only its inputs' folders."""

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None: ...


class StepError(ValueError):
    """What the user should know about a step that could not be made."""


@dataclass(frozen=True)
class Step:
    """A piece of work and, by the role each plays in it, the steps it reads."""

    name: str
    spec: Work
    inputs: tuple[tuple[str, Step], ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.+-]*", self.name):
            raise ValueError(f"step name {self.name!r} cannot name a folder: use letters, digits and -_.+")

    @cached_property
    def digest(self) -> str:
        """Eight hexadecimal digits that change with the spec and with anything upstream."""
        parents = {role: parent.digest for role, parent in self.inputs}
        identity = json.dumps([type(self.spec).__name__, plain(self.spec), parents])
        return hashlib.sha256(identity.encode()).hexdigest()[:8]

    def folder(self, root: Path) -> Path:
        """The step's folder under `root`."""
        return root / f"{self.name}-{self.digest}"

    def found(self, root: Path) -> bool:
        """Whether the step has been made, to its end."""
        return (self.folder(root) / "DONE").exists()

    def upstream(self) -> tuple[Step, ...]:
        """This step and all it needs, every parent before its children."""
        order: dict[str, Step] = {}

        def visit(step: Step) -> None:
            key = f"{step.name}-{step.digest}"
            if key not in order:
                for _, parent in step.inputs:
                    visit(parent)
                order[key] = step

        visit(self)
        return tuple(order.values())


Doer = Callable[[Work, Path, Mapping[str, Path]], None]


def itself(work: Work, out: Path, inputs: Mapping[str, Path]) -> None:
    """Work done by its own `run`."""
    work.run(out, inputs)


def run(goal: Step, root: Path, only: str | None = None, do: Doer = itself) -> Path:
    """Bring `goal` into being under `root`, doing only what is not done; or only its steps named `only`.

    do: how a step's work is done, where that is more than to call its `run`.
    """
    steps = chosen(goal, only)
    for step in steps:
        make(step, root, do)
    return steps[-1].folder(root)


def follow(goal: Step, root: Path, only: str | None, do: Doer, shared: tuple[type, ...]) -> None:
    """What the other processes of a run do: take part in work of types `shared`, and wait for the rest."""
    for step in chosen(goal, only):
        if isinstance(step.spec, shared) and not step.found(root):
            do(step.spec, step.folder(root), {role: parent.folder(root) for role, parent in step.inputs})
        while not step.found(root):
            time.sleep(SECONDS_BETWEEN_LOOKS)


def chosen(goal: Step, only: str | None) -> list[Step]:
    """The steps that lead to a goal, or those named `only`; ValueError if there are none."""
    steps = [step for step in goal.upstream() if only in (None, step.name)]
    if not steps:
        names = ", ".join(dict.fromkeys(step.name for step in goal.upstream()))
        raise ValueError(f"there is no step {only!r}; the steps are {names}")
    return steps


def make(step: Step, root: Path, do: Doer) -> None:
    """Make a step whose inputs are made; StepError if they are not, or if its work cannot be done."""
    out = step.folder(root)
    if step.found(root):
        say(f"found  {out.name}")
        return
    absent = [parent.folder(root).name for _, parent in step.inputs if not parent.found(root)]
    if absent:
        raise StepError(f"{step.name}: needs {', '.join(absent)}, not made yet in {root}")
    out.mkdir(parents=True, exist_ok=True)
    with _alone(step.name, out):
        if not step.found(root):
            _work(step, root, do)


def _work(step: Step, root: Path, do: Doer) -> None:
    """Do the step in its folder, which may hold what an interrupted attempt left behind."""
    out, start = step.folder(root), time.monotonic()
    inputs = {role: parent.folder(root) for role, parent in step.inputs}
    names = {role: folder.name for role, folder in inputs.items()}
    record = {"work": type(step.spec).__name__, "spec": plain(step.spec), "inputs": names}
    _say_what_differs(step, root, record)
    write_json(out / "spec.json", record)
    write_json(out / "machine.json", _machine())
    say(f"making {out.name}")
    try:
        do(step.spec, out, inputs)
    except ValueError as error:
        raise StepError(f"{step.name}: {error}") from error
    seconds = time.monotonic() - start
    write_json(out / "DONE", {"seconds": round(seconds, 1)})
    say(f"made   {out.name}  {seconds:.1f} s")


def _say_what_differs(step: Step, root: Path, record: Mapping[str, object]) -> None:
    """Why a step is made though one of its name is there: the newest of them stays, and differs in these fields."""
    others = [path for path in root.glob(f"{step.name}-{'[0-9a-f]' * 8}/spec.json") if path.parent != step.folder(root)]
    if others and not (step.folder(root) / "spec.json").exists():
        newest = max(others, key=lambda path: (path.stat().st_mtime_ns, path))
        changes = list(_changes(json.loads(newest.read_text(encoding="utf8")), record, ""))
        more = f" and {len(changes) - MOST_CHANGES} more" if len(changes) > MOST_CHANGES else ""
        why = ", ".join(changes[:MOST_CHANGES]) + more if changes else "another order of the same fields"
        say(f"{step.name}: {newest.parent.name} stays as it is; this one is made for {why}")


def _changes(before: object, after: object, where: str) -> Iterator[str]:
    """The fields in which two records differ, each with what it was and what it is."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            yield from _changes(before.get(name), after.get(name), f"{where}.{name}" if where else name)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _changes(old, new, f"{where}.{number}")
    elif before != after:
        old, new = (textwrap.shorten(json.dumps(value), SHOWN) for value in (before, after))
        yield f"{where.removeprefix('spec.')} {old} -> {new}"


@contextmanager
def _alone(name: str, folder: Path) -> Iterator[None]:
    """Keep a second process out of a step's folder; the lock dies with the process that holds it."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StepError(f"{name}: another process is making {folder}; wait for it or stop it") from error
        yield


def _machine() -> dict[str, object]:
    """Where, when and with which versions a step was made."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "innovator": version("innovator"),
        "torch": version("torch"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "n_cpus": os.cpu_count(),
    }


def _commit() -> str | None:
    """The commit of the checkout this package runs from, marked if files differ from it; None outside one."""
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    described = subprocess.run(command, capture_output=True, text=True, check=False)
    return described.stdout.strip() or None

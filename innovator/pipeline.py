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
import time
from collections.abc import Iterator, Mapping
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


def run(goal: Step, root: Path, only: str | None = None) -> Path:
    """Bring `goal` into being under `root`, doing only what is not done; or only its steps named `only`."""
    steps = [step for step in goal.upstream() if only in (None, step.name)]
    if not steps:
        names = ", ".join(dict.fromkeys(step.name for step in goal.upstream()))
        raise ValueError(f"there is no step {only!r}; the steps are {names}")
    for step in steps:
        _make(step, root)
    return steps[-1].folder(root)


def _make(step: Step, root: Path) -> None:
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
            _work(step, root)


def _work(step: Step, root: Path) -> None:
    """Do the step in its folder, which may hold what an interrupted attempt left behind."""
    out, start = step.folder(root), time.monotonic()
    inputs = {role: parent.folder(root) for role, parent in step.inputs}
    names = {role: folder.name for role, folder in inputs.items()}
    write_json(out / "spec.json", {"work": type(step.spec).__name__, "spec": plain(step.spec), "inputs": names})
    write_json(out / "machine.json", _machine())
    say(f"making {out.name}")
    try:
        step.spec.run(out, inputs)
    except ValueError as error:
        raise StepError(f"{step.name}: {error}") from error
    seconds = time.monotonic() - start
    write_json(out / "DONE", {"seconds": round(seconds, 1)})
    say(f"made   {out.name}  {seconds:.1f} s")


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

"""Kill runs at random moments, spoil what they left, and compare what comes out with a run that nobody disturbed.

make torture, or PYTHONPATH=tests python benchmarks/torture.py [--runs 20] [--seed 0] [--root FOLDER]
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pico_recipe import write_recipe
from rich.console import Console
from rich.table import Table
from torture_work import LONGEST, Attempt, made

BAD_INPUT, DISK_FULL, REQUEUE, INTERRUPTED = 2, 3, 75, 130
KILLED_AGAIN = 0.6
FULL_AT = (25_000, 60_000, 90_000, 130_000)
COLUMNS = (
    "what",
    "runs",
    "stopped",
    "amid a save",
    "amid weights",
    "before DONE",
    "restarts",
    "identical",
    "wrong ends",
    "s",
)


@dataclass
class Row:
    """What was done to some runs, and what came of it.

    differing: how many files are not those of the undisturbed run; faults: what should not be, in words.
    """

    what: str
    runs: int = 0
    stopped: int = 0
    restarts: int = 0
    differing: int = 0
    hits: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def fault(self, root: Path, attempt: Attempt, asked: str) -> None:
        """Note that a process did not end as it should."""
        self.faults.append(f"{root}: ended with {attempt.code}, not {asked}: {attempt.said()[-400:]}")

    def cells(self) -> tuple[str, ...]:
        hits = [str(self.hits.get(window, 0)) for window in WINDOWS]
        ends = str(len(self.faults) - self.differing)
        counts = (str(self.runs), str(self.stopped), *hits, str(self.restarts))
        return self.what, *counts, "NO" if self.differing else "yes", ends, f"{self.seconds:.0f}"


@dataclass(frozen=True)
class World:
    """The recipe, and what a run that nobody disturbed made of it."""

    home: Path
    recipe: Path
    chance: random.Random
    made: dict[str, str]
    seconds: float

    @classmethod
    def build(cls, home: Path, seed: int) -> World:
        world = cls(home, write_recipe(home), random.Random(seed), {}, 0.0)
        start = time.monotonic()
        attempt = Attempt(world.recipe, home / "undisturbed")
        if attempt.finish() != 0:
            sys.exit(f"the undisturbed run ended with {attempt.code}:\n{attempt.said()}")
        return replace(world, made=made(attempt.root), seconds=time.monotonic() - start)

    def compare(self, row: Row, root: Path, must_say: str) -> None:
        """Run to the end, and note every file that is not what the undisturbed run wrote."""
        attempt = Attempt(self.recipe, root)
        row.restarts += 1
        if attempt.finish() != 0 or must_say not in attempt.said():
            row.fault(root, attempt, f"0 and {must_say!r}")
        found = made(root)
        different = sorted(name for name in self.made | found if self.made.get(name) != found.get(name))
        row.differing += len(different)
        row.faults += [f"{root}: {name} differs" for name in different]


def steps(root: Path) -> Iterator[Path]:
    """The folders of steps that are not finished."""
    if root.is_dir():
        yield from (step for step in root.iterdir() if not (step / "DONE").exists())


def saving(root: Path) -> bool:
    return any(any((step / "checkpoints").glob(".partial-*")) for step in steps(root))


def writing(root: Path) -> bool:
    return any((step / "weights.partial").exists() for step in steps(root))


def finishing(root: Path) -> bool:
    return any((step / "weights").exists() for step in steps(root))


def twice_saved(root: Path) -> bool:
    return any(len(checkpoints(step)) == 2 for step in steps(root))


def checkpoints(step: Path) -> list[Path]:
    return sorted((step / "checkpoints").glob("[0-9]*"))


Harm = Callable[[Row, Path], str]  # what the run that is started next must say
WINDOWS = {"saving": saving, "writing": writing, "finishing": finishing}


def strike(world: World, row: Row, root: Path, number: int, code: int, n_jobs: int) -> bool:
    """Start the run and stop all its processes at a random moment; whether it was still going."""
    attempt = Attempt(world.recipe, root, n_jobs=n_jobs)
    attempt.until(root.is_dir, LONGEST)
    attempt.until(lambda: False, world.chance.uniform(0.1, world.seconds * 0.7))
    if world.chance.random() < 0.5:
        window = WINDOWS[world.chance.choice(list(WINDOWS))]
        attempt.caught(lambda: window(root), world.seconds)
    attempt.hold()
    going = not attempt.ended()
    for name, window in WINDOWS.items():
        row.hits[name] = row.hits.get(name, 0) + (going and window(root))
    attempt.send(number)
    if attempt.finish() not in (code, 0):
        row.fault(root, attempt, str(code))
    row.stopped += going
    return going and attempt.code != 0


def stopped(world: World, row: Row, root: Path, number: int, code: int, n_jobs: int = 1) -> str:
    """Stop a run at one random moment after another."""
    while strike(world, row, root, number, code, n_jobs) and world.chance.random() < KILLED_AGAIN:
        row.restarts += 1
    return ""


def damaged(world: World, row: Row, root: Path, spoiled: int) -> str:
    """Kill a run that has two checkpoints, and spoil the newest, or both."""
    attempt = Attempt(world.recipe, root)
    attempt.until(lambda: False, world.chance.uniform(0.0, world.seconds * 0.2))
    row.stopped += attempt.caught(lambda: twice_saved(root), LONGEST)
    attempt.send(signal.SIGKILL)
    attempt.finish()
    for step in steps(root):
        for victim in checkpoints(step)[-spoiled:]:
            spoil(world.chance.choice(sorted(victim.iterdir())), world.chance)
    return "is damaged" if spoiled == 1 else "no checkpoint is whole"


def spoil(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def full(world: World, row: Row, root: Path, file_bytes: int) -> str:
    """Let a run find the disk full when a file has so many bytes."""
    attempt = Attempt(world.recipe, root, file_bytes)
    row.stopped += attempt.finish() == DISK_FULL
    if attempt.code != DISK_FULL:
        row.fault(root, attempt, str(DISK_FULL))
    return ""


def crowded(world: World, row: Row, root: Path) -> str:
    """Start a second run in a folder while the first one trains; it must be refused, and the first not be harmed."""
    first = Attempt(world.recipe, root)
    first.caught(lambda: twice_saved(root), LONGEST)
    second = Attempt(world.recipe, root)
    refused = second.finish() == BAD_INPUT and "another process is making" in second.said()
    if not refused:
        row.fault(root, second, f"{BAD_INPUT} and a refusal")
    row.stopped += refused
    if first.finish() != 0:
        row.fault(root, first, "0")
    return ""


def torment(world: World, what: str, harms: list[Harm]) -> Row:
    """Do harm to one run each, in a folder of its own, and see what comes out in the end."""
    row, start = Row(what), time.monotonic()
    for number, harm in enumerate(harms):
        root = world.home / f"{what.replace(' ', '-')}-{number}"
        world.compare(row, root, must_say=harm(row, root))
        row.runs += 1
        if not row.faults:
            shutil.rmtree(root)
    row.seconds = time.monotonic() - start
    return row


def torture(world: World, n_runs: int) -> Iterator[Row]:
    """Every harm that is known, the commonest most often."""

    few = max(1, n_runs // 5)
    killed = partial(stopped, world, number=signal.SIGKILL, code=-signal.SIGKILL)
    terminated = partial(stopped, world, number=signal.SIGTERM, code=REQUEUE)
    yield torment(world, "kill -9", [killed] * n_runs)
    yield torment(world, "kill -9, two steps at a time", [partial(killed, n_jobs=2)] * few)
    yield torment(world, "SIGTERM", [terminated] * few)
    yield torment(world, "SIGTERM, two steps at a time", [partial(terminated, n_jobs=2)] * few)
    yield torment(world, "Ctrl-C", [partial(stopped, world, number=signal.SIGINT, code=INTERRUPTED)] * few)
    yield torment(world, "newest checkpoint damaged", [partial(damaged, world, spoiled=1)] * few)
    yield torment(world, "all checkpoints damaged", [partial(damaged, world, spoiled=2)] * 2)
    yield torment(world, "disk full", [partial(full, world, file_bytes=n) for n in FULL_AT])
    yield torment(world, "two runs in one folder", [partial(crowded, world)] * 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="how many runs are killed")
    parser.add_argument("--seed", type=int, default=0, help="what the moments depend on")
    parser.add_argument("--root", type=Path, help="a new folder for everything; kept where something differs")
    asked = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="torture-")) if asked.root is None else asked.root
    home.mkdir(parents=True, exist_ok=True)
    world = World.build(home, asked.seed)
    console = Console(width=140, highlight=False)
    console.print(f"undisturbed: {world.seconds:.1f} s, {len(world.made)} files to compare")
    table = Table(*COLUMNS)
    faults: list[str] = []
    for row in torture(world, asked.runs):
        table.add_row(*row.cells())
        console.print(" ".join(row.cells()), markup=False)
        faults += row.faults
    console.print(table)
    for fault in faults:
        console.print(fault, markup=False)
    if faults:
        sys.exit(1)
    shutil.rmtree(home)


if __name__ == "__main__":
    main()

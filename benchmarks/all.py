"""All benchmarks of speed one after the other, each in a process of its own, and their goals in one table at the end.

python benchmarks/all.py [--device cuda] [--only layer] [--limit 540] [--seconds 12] [--out FOLDER] [--quick]

Never longer than `--limit` seconds: what is then not done is stopped and named, and exit code 1 says so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

USUAL = ("layer", "step", "decode", "growth", "stream")
NAMES = (*USUAL, "thinkers")  # the last, which takes as long as all the others, only when it is asked for
LIMITS = {"cpu": 600.0, "cuda": 540.0}
CONSOLE = Console(width=140, highlight=False)


def run(name: str, given: argparse.Namespace, seconds: float) -> str:
    """One benchmark, its tables on the screen; returns what went wrong, or nothing."""
    command = [
        sys.executable,
        str(Path(__file__).with_name(f"{name}.py")),
        "--device",
        given.device,
        "--out",
        given.out,
    ]
    command += ["--quick"] if given.quick else []
    command += [] if given.seconds is None else ["--seconds", str(given.seconds)]
    CONSOLE.rule(name)
    try:
        code = subprocess.run(command, timeout=max(seconds, 0.0)).returncode
    except subprocess.TimeoutExpired:
        return f"{name} was stopped: the time was up"
    return f"{name} ended with exit code {code}" if code else ""


def goals(name: str, out: Path) -> Iterator[tuple[str, ...]]:
    """Every ratio of a benchmark that has a goal."""
    file = out / f"{name}.json"
    if not file.is_file():
        return
    for race in json.loads(file.read_text(encoding="utf-8"))["races"]:
        for ratio in race["ratios"]:
            if "goal" in ratio:
                verdict = "[green]reached[/]" if ratio["met"] else "[red]missed[/]"
                yield name, race["title"], ratio["what"], f"{ratio['value']:.3g}", ratio["goal"], verdict


def summary(given: argparse.Namespace) -> Table:
    """All goals in one table."""
    shown = Table(title="Goals (--quick: they mean nothing)" if given.quick else "Goals", title_justify="left")
    for column in ("benchmark", "of", "ratio", "is", "goal", ""):
        shown.add_column(column)
    for name in given.only or USUAL:
        for row in goals(name, Path(given.out)):
            shown.add_row(*row)
    return shown


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(LIMITS), default="cpu")
    parser.add_argument("--only", action="append", choices=NAMES, help="may be given several times")
    parser.add_argument("--limit", type=float, help=f"seconds for everything (default: {LIMITS})")
    parser.add_argument("--seconds", type=float, help="how long each race is timed, about")
    parser.add_argument("--out", default="runs/bench", help="the folder of the JSON files")
    parser.add_argument("--quick", action="store_true", help="does it run? tiny shapes, and times that mean nothing")
    return parser.parse_args()


def main() -> None:
    """Run what was asked for, then judge."""
    given = arguments()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in given.only or USUAL:
        Path(given.out, f"{name}.json").unlink(missing_ok=True)
    end = time.monotonic() + (LIMITS[given.device] if given.limit is None else given.limit)
    wrong = [run(name, given, end - time.monotonic()) for name in given.only or USUAL]
    CONSOLE.print(summary(given))
    if any(wrong):
        raise SystemExit("\n".join(filter(None, wrong)))


if __name__ == "__main__":
    main()

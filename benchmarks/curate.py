"""What curation costs beside plain datatrove with the same filters, and how time and memory grow with the text.

python benchmarks/curate.py [FOLDER] [--mb 12] [--rounds 3] [--out FILE]

FOLDER: JSON Lines with `text` (default: the documentation of installed packages, written to a temporary folder). Every
run is a process of its own: its peak memory is its own, and its imports are counted alike. Plain datatrove: its
JsonlReader, Gopher's two filters and JsonlWriter, one worker. Ours with the same filters: the same, with the account of
every rule, samples and rejects. The whole curation: reading, languages, seven rules of cleaning, duplicates,
decontamination, publishing; at once, twice and four times the text.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from innovator.data.records import Malformed, Rejects, read_records
from innovator.data.sources import InstalledDocsSource

DISTRIBUTIONS = ("python", "sympy", "scipy", "networkx", "astropy", "scikit-learn")
SIZES = (1, 2, 4)
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Run:
    """One process: seconds, seconds of CPU time with imports, and the most memory that it or a worker held, in MiB."""

    seconds: float
    cpu: float
    peak_mib: float


def main() -> None:
    """Time every contestant in turns, and print ratios."""
    asked = arguments()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sizes = {
            times: text(asked.folder, asked.mb * times * 1e6 / max(SIZES), root / f"text-{times}") for times in SIZES
        }
        largest = max(SIZES)
        runs: dict[str, list[Run]] = {}
        for turn in range(asked.rounds):
            for who in ("plain", "ours"):
                runs.setdefault(who, []).append(timed(who, root / f"text-{largest}", root / f"{who}-{turn}"))
        for times in SIZES:
            runs[f"whole, {times}x"] = [timed("whole", root / f"text-{times}", root / f"whole-{times}")]
        show(runs, sizes, asked.out)


def text(source: Path | None, n_bytes: float, folder: Path) -> tuple[int, float]:
    """Write the first documents of the source as JSON Lines in four files; how many, and how many MB."""
    folder.mkdir()
    files = [(folder / f"{number}.jsonl").open("w", encoding="utf-8") for number in range(4)]
    n, size = 0, 0
    for document in texts(source, folder):
        if size >= n_bytes:
            break
        files[n % 4].write(json.dumps({"text": document}) + "\n")
        n, size = n + 1, size + len(document.encode())
    for file in files:
        file.close()
    return n, size / 1e6


def texts(source: Path | None, folder: Path):  # type: ignore[no-untyped-def]
    """All texts, one document of each file in turn, so that a part of them is like the whole."""
    if source is None:
        for document in InstalledDocsSource(distributions=DISTRIBUTIONS).documents(Rejects(folder / "rejects")):
            yield document.text
        return
    open_files = [read_records(file, frozenset({"text"})) for file in sorted(source.rglob("*.jsonl*"))]
    while open_files:
        for file in list(open_files):
            record = next(file, None)
            if record is None:
                open_files.remove(file)
            elif not isinstance(record, Malformed):
                yield str(record.fields["text"])


def timed(who: str, text: Path, out: Path) -> Run:
    """Let a process do it."""
    command = [sys.executable, str(HERE / "curate_work.py"), who, str(text), str(out)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode:
        sys.exit(said.stderr)
    return Run(**json.loads(said.stdout.splitlines()[-1]))


def show(runs: dict[str, list[Run]], sizes: dict[int, tuple[int, float]], out: Path | None) -> None:
    """The table, and the ratios below it."""
    table = Table("", "documents", "MB", "s", "CPU s", "documents/CPU s", "MB/CPU s", "peak MiB", title="one worker")
    for who, some in runs.items():
        n, mb = sizes[int(who[-2]) if who.startswith("whole") else max(SIZES)]
        cpu = statistics.median(run.cpu for run in some)
        seconds, peak = statistics.median(run.seconds for run in some), max(run.peak_mib for run in some)
        figures = f"{seconds:.1f}", f"{cpu:.1f}", f"{n / cpu:.0f}", f"{mb / cpu:.2f}", f"{peak:.0f}"
        table.add_row(who, f"{n:,}", f"{mb:.1f}", *figures)
    console = Console(width=120)
    console.print(table)
    ratio = statistics.median(one.cpu / other.cpu for one, other in zip(runs["ours"], runs["plain"], strict=True))
    console.print(f"ours against plain datatrove with the same filters: {ratio:.2f} times the CPU time")
    small, large = (statistics.median(run.cpu for run in runs[f"whole, {times}x"]) for times in (1, max(SIZES)))
    per_mb = (large - small) / (sizes[max(SIZES)][1] - sizes[1][1])
    console.print(
        f"the whole curation: {1 / per_mb:.2f} MB per CPU second beside {small - per_mb * sizes[1][1]:.1f} s of its own"
    )
    if out is not None:
        plain = {who: [vars(run) for run in some] for who, some in runs.items()}
        out.write_text(json.dumps({"runs": plain, "sizes": sizes, "ours_against_plain": ratio}, indent=2))


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--mb", type=float, default=12.0, help="of text, at four times the smallest size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Time and memory of upcycling and exporting, beside a plain copy of as many bytes and beside mergekit-moe.

python benchmarks/export.py [--shape tiny] [--root FOLDER] [--mergekit PROGRAM]

Every measurement is a process of its own. This one never imports torch: what a parent holds counts as its child's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

GIB = 1 << 30
WORK = Path(__file__).with_name("export_work.py")
PLAIN, MERGEKIT = "plain read and write", "mergekit-moe"
SOURCES, PARTS = 8, 8
ROOM = 28 * GIB
SECONDS_BETWEEN_LOOKS = 0.02
COLUMNS = ("written", "s", "s/GiB", "x plain", "s with start", "x mergekit", "peak RSS", "anonymous", "allowed")
CONSOLE = Console(width=140, highlight=False)


@dataclass(frozen=True)
class Run:
    """One process. seconds: its work alone, if it tells; whole: from its start until every byte is on the disk.

    peak_anonymous leaves out pages of mapped files, which the system takes back whenever it wants.
    """

    seconds: float | None
    whole: float
    n_bytes: int
    peak_rss: int
    peak_anonymous: int
    load: float


@dataclass(frozen=True)
class Task:
    """A command that fills the folder `out` from weights below `reads`; `kept` if something else reads what it made."""

    name: str
    command: tuple[str, ...]
    out: Path
    reads: Path
    kept: bool = False

    def run(self) -> Run:
        """Measure it, with nothing of what it reads in the system's cache."""
        shutil.rmtree(self.out, ignore_errors=True)
        os.sync()
        for file in weights(self.reads):
            forget(file)
        log = self.out.with_suffix(".log")
        load, start = os.getloadavg()[0], time.perf_counter()
        with log.open("w", encoding="utf-8") as output:
            child = subprocess.Popen(self.command, stdout=output, stderr=subprocess.STDOUT)
            peak_rss, peak_anonymous = watch(child)
        said = log.read_text(encoding="utf-8")
        if child.returncode:
            raise SystemExit(f"{self.name} failed:\n{said[-3000:]}")
        files = [file for file in self.out.rglob("*") if file.is_file()]
        for file in files:
            flush(file)
        whole = time.perf_counter() - start
        n_bytes = sum(file.stat().st_size for file in files)
        if not self.kept:
            shutil.rmtree(self.out)
        seconds = None if self.name == MERGEKIT else float(said.split()[-1])
        return Run(seconds, whole, n_bytes, peak_rss, peak_anonymous, load)


def watch(child: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait for the end; the largest resident memory that the kernel saw, and the largest anonymous part we saw."""
    anonymous = 0
    while (ended := os.wait4(child.pid, os.WNOHANG))[0] == 0:
        _, resident, shared, *_ = map(int, Path(f"/proc/{child.pid}/statm").read_text().split())
        anonymous = max(anonymous, (resident - shared) * os.sysconf("SC_PAGESIZE"))
        time.sleep(SECONDS_BETWEEN_LOOKS)
    child.returncode = os.waitstatus_to_exitcode(ended[1])
    return ended[2].ru_maxrss << 10, anonymous


def flush(file: Path) -> None:
    """See to it that a file's bytes are on the disk."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())


def forget(file: Path) -> None:
    """Have the system drop a file from its cache."""
    with file.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def ours(name: str, out: Path, reads: Path, *arguments: object, kept: bool = False) -> Task:
    """A task of `export_work.py`."""
    task, *rest = map(str, arguments)
    return Task(name, (sys.executable, str(WORK), task, str(out), *rest), out, reads, kept)


def mergekit(program: str, inputs: Path, out: Path) -> Task:
    """The same experts, whole feed-forwards beside the base's as the shared one, in files as large as ours."""
    base, *taught = (str(folder / "weights") for folder in sorted(inputs.iterdir()))
    config = {
        "base_model": base,
        "gate_mode": "random",
        "architecture": "qwen",
        "dtype": "bfloat16",
        "experts_per_token": 2,
        "experts": [{"source_model": folder} for folder in taught],
        "shared_experts": [{"source_model": base}],
    }
    file = out.with_suffix(".json")
    file.write_text(json.dumps(config), encoding="utf-8")
    return Task(MERGEKIT, (program, str(file), str(out), "--out-shard-size", "2B", "--quiet"), out, inputs)


def weights(folder: Path) -> list[Path]:
    """All weight files below a folder."""
    return sorted(folder.rglob("*.safetensors"))


def alternated(tasks: Sequence[Task], repeats: int) -> dict[str, list[Run]]:
    """Each task, then the plain copy of what the first reads and as much as it writes; and all over again."""
    runs: dict[str, list[Run]] = {}
    for _ in range(repeats):
        for task in tasks:
            noted(runs, task)
        reads, n_bytes = tasks[0].reads, runs[tasks[0].name][-1].n_bytes
        noted(runs, ours(PLAIN, tasks[0].out.with_name("plain"), reads, "copy", n_bytes, *weights(reads)))
    return runs


def noted(runs: dict[str, list[Run]], task: Task) -> None:
    """Run a task and say so."""
    run = task.run()
    runs.setdefault(task.name, []).append(run)
    CONSOLE.print(f"{task.name}: {run.whole:.1f} s, load before {run.load:.1f}")


def measured(root: Path, repeats: int, program: str | None) -> dict[str, dict[str, list[Run]]]:
    """Everything, group by group; each is compared with the plain copy beside it."""
    inputs, out, soft, sigmoid = (root / name for name in ("inputs", "out", "softmax", "sigmoid"))
    fine = (
        ours("upcycle", soft, inputs, "upcycle", inputs, "softmax", PARTS, PARTS, kept=True),
        ours("prove and upcycle", sigmoid, inputs, "split", inputs, "sigmoid", PARTS, PARTS, kept=True),
    )
    exported = (
        ours("to glm4_moe", out, sigmoid, "export", sigmoid / "weights", "glm4_moe"),
        ours("to qwen2_moe", out, soft, "export", soft / "weights", "qwen2_moe"),
    )
    groups = {
        f"{SOURCES} x {PARTS} experts": alternated(fine, repeats),
        "export in bf16": alternated(exported, repeats),
    }
    shutil.rmtree(sigmoid)
    if program is not None:
        whole = (
            ours("upcycle", soft, inputs, "upcycle", inputs, "softmax", 1, 2, kept=True),
            ours("then to qwen2_moe", out, soft, "export", soft / "weights", "qwen2_moe"),
            mergekit(program, inputs, root / "merged"),
        )
        groups[f"{SOURCES} whole feed-forwards"] = alternated(whole, repeats)
    shutil.rmtree(soft)
    return groups


def largest_tensor(file: Path) -> int:
    """How many bytes the largest tensor of a safetensors file has."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    places = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    return max(int(end - start) for start, end in places)


def machine(root: Path) -> dict[str, object]:
    """What the figures were measured on."""
    models = [line.split(": ")[1] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mount = max((it for it in mounts if root.is_relative_to(it[1])), key=lambda it: len(it[1]))
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "disk": f"{mount[0]} ({mount[2]})",
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def shown(groups: Mapping[str, Mapping[str, list[Run]]], rss_limit: int, title: str) -> Table:
    """Medians of the times, and the largest memory of all repeats."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for group, rows in groups.items():
        table.add_row(f"[bold]{group}[/]")
        for name, runs in rows.items():
            peak, anonymous = max(run.peak_rss for run in runs), max(run.peak_anonymous for run in runs)
            allowed = "" if name in (PLAIN, MERGEKIT) else gib(rss_limit)
            table.add_row(name, gib(runs[0].n_bytes), *times(runs, rows), gib(peak), gib(anonymous), allowed)
        table.add_section()
    return table


def times(runs: list[Run], rows: Mapping[str, list[Run]]) -> tuple[str, ...]:
    """The cells from seconds to the ratio to mergekit; those that make no sense for a row are empty."""
    whole = median(run.whole for run in runs)
    beside = f"{whole / median(run.whole for run in rows[MERGEKIT]):.2f}" if MERGEKIT in rows else ""
    told = [run.seconds for run in runs if run.seconds is not None]
    if not told:
        return "", "", "", f"{whole:.1f}", beside
    return f"{median(told):.1f}", f"{pace(runs):.2f}", f"{pace(runs) / pace(rows[PLAIN]):.2f}", f"{whole:.1f}", beside


def pace(runs: list[Run]) -> float:
    """Seconds of work per GiB written."""
    return median(run.seconds for run in runs if run.seconds is not None) / runs[0].n_bytes * GIB


def gib(n_bytes: int) -> str:
    """Bytes as a person reads them."""
    return f"{n_bytes / GIB:.2f} GiB"


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("qwen2.5-0.5b", "tiny"), default="qwen2.5-0.5b")
    parser.add_argument("--root", type=Path, default=Path("runs/bench-export"), help="where 28 GiB are free")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--mergekit", metavar="PROGRAM", help="the path of mergekit-moe, in an environment of its own")
    return parser.parse_args()


def main() -> None:
    """Make the inputs, measure, print one table, write all figures to `export.json` beside the inputs."""
    asked = arguments()
    root = asked.root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    if asked.shape != "tiny" and shutil.disk_usage(root).free < ROOM:
        raise SystemExit(f"{root}: {gib(shutil.disk_usage(root).free)} free, {gib(ROOM)} are needed")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    noted({}, ours("making the inputs", root / "inputs", root / "inputs", "inputs", asked.shape, SOURCES, kept=True))
    rss_limit = 3 * GIB // 2 + 2 * largest_tensor(root / "inputs" / "base" / "weights" / "model.safetensors")
    groups = measured(root, asked.repeats, asked.mergekit)
    shutil.rmtree(root / "inputs")
    CONSOLE.print(shown(groups, rss_limit, f"{asked.shape}, median of {asked.repeats}"))
    if asked.mergekit is None:
        CONSOLE.print("mergekit-moe was not measured: give its path with --mergekit.")
    figures = {"shape": asked.shape, "machine": machine(root), "rss_limit": rss_limit, "groups": groups}
    (root / "export.json").write_text(json.dumps(figures, indent=2, default=asdict) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

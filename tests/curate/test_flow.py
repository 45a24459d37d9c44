"""A step is a function of its documents and rules: not of workers, kills, or who carries out its tasks."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from datatrove.data import Document

from innovator.curate.executors import Executor, Local, Slurm
from innovator.curate.flow import Incoming, all_documents, rule_all, writer
from innovator.curate.rule import Dropped, Facts, Kept, Outcome

N_TASKS = 3
SLURM = """#!{python}
import os, re, subprocess, sys
if os.path.basename(sys.argv[0]) == "squeue":
    sys.exit()
script = open(sys.argv[-1]).read()
array = re.search(r"--array=(\\d+)-(\\d+)", script)
for task in range(int(array[1]), int(array[2]) + 1):
    own = {{"SLURM_ARRAY_TASK_ID": str(task), "SLURM_NODELIST": "here"}}
    subprocess.run(["bash", sys.argv[-1]], env=os.environ | own)
print("Submitted batch job 7")
"""


@dataclass(frozen=True)
class Even:
    """Drops odd numbers and writes out the rest."""

    name = "even"

    def apply(self, text: str, facts: Facts) -> Outcome:
        return Dropped("odd") if int(text) % 2 else Kept(f"{text} is even", 1, {"half": int(text) // 2})


@dataclass(frozen=True)
class Breaks:
    """Breaks at a number, as long as a file says so."""

    at: str
    while_there: Path
    name = "breaks"

    def apply(self, text: str, facts: Facts) -> Outcome:
        if text == self.at and self.while_there.exists():
            raise ValueError(f"cannot stand {text}")
        return Kept(text)


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Sixty documents in five files, as an earlier step would leave them."""
    with writer(tmp_path / "numbers" / "documents") as file:
        for number in range(60):
            file.write(Document(text=str(number), id=f"n{number}", metadata={"source": "count"}), number % 5)
    return tmp_path / "numbers"


def made(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("documents/*"), *folder.glob("rejects/*"), folder / "account.json"]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_every_document_is_kept_or_rejected_with_its_reason(numbers: Path, tmp_path: Path) -> None:
    rule_all(Incoming([numbers]), [Even()], N_TASKS, tmp_path / "out", Local(workers=1), 60)
    kept = {document.id: document for document in all_documents(tmp_path / "out")}
    (tmp_path / "seen").mkdir()
    (tmp_path / "out" / "rejects").rename(tmp_path / "seen" / "documents")
    rejected = {document.id: document for document in all_documents(tmp_path / "seen")}
    assert kept.keys() | rejected.keys() == {f"n{number}" for number in range(60)} and not kept.keys() & rejected.keys()
    assert kept["n8"].text == "8 is even" and kept["n8"].metadata == {"source": "count", "half": 4, "tokens": 3}
    assert rejected["n7"].text == "7"
    assert {(it.metadata["rule"], it.metadata["reason"]) for it in rejected.values()} == {("even", "odd")}


def test_workers_do_not_change_a_byte(numbers: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        rule_all(Incoming([numbers]), [Even()], N_TASKS, tmp_path / str(workers), Local(workers=workers), 60)
    assert made(tmp_path / "1") == made(tmp_path / "2")


def test_a_step_that_broke_goes_on_and_ends_as_if_it_had_not(numbers: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.touch()
    rules = [Breaks("11", bad), Even()]
    with pytest.raises(ValueError, match="cannot stand 11"):
        rule_all(Incoming([numbers]), rules, N_TASKS, tmp_path / "broken", Local(workers=1), 60)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "broken/tasks/completions").iterdir()}
    bad.unlink()
    for name in ("broken", "whole"):
        rule_all(Incoming([numbers]), rules, N_TASKS, tmp_path / name, Local(workers=1), 60)
    assert made(tmp_path / "broken") == made(tmp_path / "whole")
    done = tmp_path / "broken/tasks/completions"
    assert before and all((done / name).stat().st_mtime_ns == time for name, time in before.items())


@dataclass(frozen=True)
class Dies:
    """Ends its process at a number, as the kernel does for want of memory."""

    at: str
    name = "dies"

    def apply(self, text: str, facts: Facts) -> Outcome:
        if text == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return Kept(text)


def test_a_killed_worker_is_told_and_not_waited_for(numbers: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a worker was killed, probably for want of memory"):
        rule_all(Incoming([numbers]), [Dies("11")], N_TASKS, tmp_path / "out", Local(workers=2), 60)


def test_damaged_documents_are_named(numbers: Path, tmp_path: Path) -> None:
    file = next((numbers / "documents").iterdir())
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ValueError, match=rf"{file}, line \d+: the compressed data breaks off"):
        rule_all(Incoming([numbers]), [Even()], N_TASKS, tmp_path / "out", Local(workers=1), 60)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """Programs named as Slurm's, which run an array's tasks one after the other."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sbatch", "squeue"):
        (programs / name).write_text(SLURM.format(python=sys.executable))
    (programs / "srun").write_text('#!/bin/bash\nshift 3\nexec "$@"\n')  # srun -l -n 1 PROGRAM
    (programs / "scontrol").write_text("#!/bin/bash\necho here\n")
    for program in programs.iterdir():
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    here = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", here)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    yield Slurm(partition="cpu")


def test_slurm_makes_the_same_bytes(numbers: Path, tmp_path: Path, slurm: Slurm) -> None:
    who: dict[str, Executor] = {"here": Local(workers=1), "slurm": slurm}
    for name, executor in who.items():
        rule_all(Incoming([numbers]), [Even()], N_TASKS, tmp_path / name, executor, 60)
    assert made(tmp_path / "here") == made(tmp_path / "slurm")


def test_jobs_that_end_without_their_work_are_said(numbers: Path, tmp_path: Path, slurm: Slurm) -> None:
    bad = tmp_path / "bad"
    bad.touch()
    with pytest.raises(ValueError, match=r"Slurm ended with 1 of 3 tasks not done; see .*slurm"):
        rule_all(Incoming([numbers]), [Breaks("11", bad)], N_TASKS, tmp_path / "out", slurm, 60)


def test_without_slurm_nobody_waits_for_it(numbers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="there is no sbatch here"):
        rule_all(Incoming([numbers]), [Even()], N_TASKS, tmp_path / "out", Slurm(partition="cpu"), 60)

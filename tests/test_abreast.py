"""Steps that need nothing of each other are made at the same time, and stopping one process stops all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from innovator.abreast import places, run_abreast
from innovator.models.spec import Spec
from innovator.pipeline import Step, itself, run

PATIENCE = 60.0


def until(happened: Callable[[], bool], what: str) -> None:
    over = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > over:
            raise ValueError(f"waited in vain for {what}")
        time.sleep(0.01)


def leave_number(file: Path) -> None:
    """Write this process's number, all at once."""
    beside = file.with_suffix(".partial")
    beside.write_text(str(os.getpid()))
    os.replace(beside, file)


@dataclass(frozen=True, kw_only=True)
class Word(Spec):
    """Writes a word after what its inputs hold."""

    text: str

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        before = [(folder / "text").read_text() for folder in inputs.values()]
        (out / "text").write_text(" ".join([*before, self.text]))


@dataclass(frozen=True, kw_only=True)
class Meeting(Spec):
    """Ends only when somebody else is there too."""

    place: str
    name: str
    other: str

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        (Path(self.place) / self.name).touch()
        until((Path(self.place) / self.other).exists, self.other)
        (out / "text").write_text(self.name)


@dataclass(frozen=True, kw_only=True)
class Failing(Spec):
    """Leaves its process's number where others can read it, and fails or is killed when somebody is there."""

    place: str
    other: str
    killed: bool

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        until((Path(self.place) / self.other).exists, self.other)
        leave_number(Path(self.place) / "number")
        if self.killed:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("the ink has run out")


@dataclass(frozen=True, kw_only=True)
class Surviving(Spec):
    """Is made after the process whose number it reads has ended."""

    place: str
    name: str

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        (Path(self.place) / self.name).touch()
        number = Path(self.place) / "number"
        until(number.exists, "a number")
        until(lambda: not Path("/proc", number.read_text()).exists(), "an end")
        (out / "text").write_text(self.name)


@dataclass(frozen=True, kw_only=True)
class Patient(Spec):
    """Leaves its process's number, and waits until it may go on."""

    place: str
    name: str

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        leave_number(Path(self.place) / self.name)
        until((Path(self.place) / "go").exists, "leave to go on")
        (out / "text").write_text(self.name)


@dataclass(frozen=True, kw_only=True)
class Threads(Spec):
    """Writes how many threads it may use."""

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        (out / "threads").write_text(str(torch.get_num_threads()))


def made(goal: Step, root: Path, n_jobs: int = 2) -> Path:
    return run_abreast(goal, root, None, itself, n_jobs)


def patient(place: Path) -> Step:
    return gathered(*(Step(name, Patient(place=str(place), name=name)) for name in ("ann", "bob")))


def gathered(*steps: Step) -> Step:
    return Step("goal", Word(text="end"), tuple((step.name, step) for step in steps))


def test_two_steps_are_made_at_the_same_time(tmp_path: Path) -> None:
    place = str(tmp_path)
    ann = Step("ann", Meeting(place=place, name="ann", other="bob"))
    bob = Step("bob", Meeting(place=place, name="bob", other="ann"))
    assert (made(gathered(ann, bob), tmp_path / "runs") / "text").read_text() == "ann bob end"


def test_what_one_reads_is_made_before(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    top = Step("top", Word(text="one"))
    left, right = (Step(name, Word(text=name), (("above", top),)) for name in ("left", "right"))
    goal = gathered(left, right)
    run(top, tmp_path)
    folder = made(goal, tmp_path, n_jobs=8)
    assert (folder / "text").read_text() == "one left one right end"
    assert f"found  {top.folder(tmp_path).name}\n" in capfd.readouterr().err
    assert made(goal, tmp_path) == folder == run(goal, tmp_path)


@pytest.mark.parametrize(("killed", "code"), [(False, 2), (True, 128 + signal.SIGKILL)])
def test_when_one_fails_no_other_begins_and_those_that_have_are_made(
    tmp_path: Path, killed: bool, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    place, root = str(tmp_path), tmp_path / "runs"
    failing = Step("failing", Failing(place=place, other="there", killed=killed))
    surviving = Step("surviving", Surviving(place=place, name="there"))
    late = Step("late", Word(text="late"))
    with pytest.raises(SystemExit) as ended:
        made(gathered(failing, surviving, late), root)
    assert ended.value.code == code
    assert surviving.found(root) and not failing.found(root) and not late.folder(root).exists()
    assert ("failing: its process was ended by SIGKILL" in capfd.readouterr().err) == killed


def test_processes_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert [place.n_threads for place in places(3)] == [2, 2, 2]
    assert [place.n_threads for place in places(9)] == [1] * 9
    folder = made(Step("threads", Threads()), tmp_path, n_jobs=4)
    assert (folder / "threads").read_text() == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert [place.n_threads for place in places(3)] == [8, 8, 8]


@pytest.mark.parametrize(("visible", "dealt"), [(None, "01201"), ("5,GPU-x", ["5", "GPU-x", "5", "GPU-x", "5"])])
def test_processes_are_dealt_the_gpus(visible: str | None, dealt: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [place.gpu for place in places(5)] == list(dealt)


def test_a_gpu_is_all_that_its_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.get_num_threads()
    try:
        places(2)[1].take()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    finally:
        torch.set_num_threads(before)


STOPPED = """
import sys
from pathlib import Path
from innovator.ends import ending
from test_abreast import made, patient
with ending():
    made(patient(Path(sys.argv[1])), Path(sys.argv[1]) / "runs")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_who_stops_the_first_process_stops_all(tmp_path: Path, number: signal.Signals, code: int) -> None:
    names = [tmp_path / name for name in ("ann", "bob")]
    command = [sys.executable, "-c", STOPPED, str(tmp_path)]
    first = subprocess.Popen(command, cwd=Path(__file__).parent, start_new_session=True)
    until(lambda: first.poll() is not None or all(name.exists() for name in names), "two processes")
    numbers = [name.read_text() for name in names]
    os.kill(first.pid, number)
    assert first.wait(PATIENCE) == code
    until(lambda: not any(Path("/proc", number).exists() for number in numbers), "the end of both")
    (tmp_path / "go").touch()
    assert (made(patient(tmp_path), tmp_path / "runs") / "text").read_text() == "ann bob end"

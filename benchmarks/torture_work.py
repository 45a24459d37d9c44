"""A recipe run by the command line in a process of its own, forked from one that has imported everything."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot  # noqa: F401  what a report would import, once for all runs

from innovator import cli
from innovator.recipe import Recipe
from innovator.train.spec import Course, TrainSpec

COURSES = {"base": 4096, "induce": 2048, "warm_router": 2048, "integrate": 6144}
SECONDS_BETWEEN_LOOKS = 0.0005
LONGEST = 120.0


class Attempt:
    """One process, in a group of its own; the log beside `root` is what it says."""

    def __init__(self, recipe: Path, root: Path, file_bytes: int = resource.RLIM_INFINITY, n_jobs: int = 1) -> None:
        self.root, self.log = root, root.with_suffix(".log")
        self.begins = self.log.stat().st_size if self.log.exists() else 0
        self.code: int | None = None
        self.held = False
        self.pid = os.fork()
        if self.pid == 0:
            run_here(recipe, root, self.log, file_bytes, n_jobs)
        os.setpgid(self.pid, self.pid)

    def said(self) -> str:
        return self.log.read_text(encoding="utf8")[self.begins :]

    def ended(self) -> bool:
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def until(self, happened: Callable[[], bool], seconds: float) -> bool:
        """Wait until it has happened, the process has ended, or the time is over; whether it has happened."""
        over = time.monotonic() + seconds
        while time.monotonic() < over and not self.ended():
            if happened():
                return True
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return False

    def hold(self) -> None:
        """Stop the process where it is."""
        if self.held or self.ended():
            return
        os.killpg(self.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        self.held = os.WIFSTOPPED(status)
        self.code = None if self.held else os.waitstatus_to_exitcode(status)

    def go(self) -> None:
        """Let the process go on."""
        self.send(signal.SIGCONT)
        self.held = False

    def caught(self, amid: Callable[[], bool], seconds: float) -> bool:
        """Stop the process amid something; whether that came."""
        over = time.monotonic() + seconds
        while self.until(amid, over - time.monotonic()):
            self.hold()
            if amid() and not self.ended():
                return True
            self.go()
        return False

    def send(self, number: int) -> None:
        """Send a signal to the process group, which need not be going."""
        if not self.ended():
            os.killpg(self.pid, number)

    def finish(self) -> int:
        """Let the process go on, and wait for it; its exit code."""
        self.go()
        if not self.until(lambda: False, LONGEST):
            self.send(signal.SIGKILL)
        while not self.ended():
            time.sleep(SECONDS_BETWEEN_LOOKS)
        assert self.code is not None
        return self.code


def run_here(recipe: Path, root: Path, log: Path, file_bytes: int, n_jobs: int) -> None:
    """Be a process of its own that runs the recipe, saving often; never returns."""
    os.setpgid(0, 0)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    plain = Recipe.training

    def often(self: Recipe, course: Course, mixture: dict[str, float], trainable: dict[str, float]) -> TrainSpec:
        return replace(plain(self, course, mixture, trainable), checkpoint_every=5, checkpoint_minutes=0.002)

    Recipe.training = often  # type: ignore[method-assign]
    courses = [f"{stage}.course.tokens={tokens}" for stage, tokens in COURSES.items()]
    sys.argv = ["innovator", "run", str(recipe), "baselines=[]", *courses, "--root", str(root), "--jobs", str(n_jobs)]
    code = 1
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


def made(root: Path) -> dict[str, str]:
    """The checksum of every weight and score below a folder."""
    files = [*root.glob("*/weights/*"), *root.glob("*/scores.json")]
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)}

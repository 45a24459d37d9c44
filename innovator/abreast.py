"""Steps that need nothing of each other, made at the same time, each by a process of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from threading import Thread

import torch

from innovator.ends import ending
from innovator.engine.processes import leave
from innovator.pipeline import Doer, Step, chosen, make
from innovator.say import among_others, complain, say

PROCESSES = get_context("forkserver")  # copies of one that has imported the package
PACKAGE = __name__.partition(".")[0]
KILLED = 128  # what a shell adds to a signal's number


@dataclass(frozen=True)
class Place:
    """What a process computes on: so many threads, and one GPU where there are some."""

    n_threads: int
    gpu: str | None

    def take(self) -> None:
        """Before anything is computed."""
        torch.set_num_threads(self.n_threads)
        if self.gpu is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = self.gpu


def places(n_jobs: int) -> list[Place]:
    """The cores divided, unless OMP_NUM_THREADS says how many threads each process has, and the GPUs dealt in turns."""
    n_threads = torch.get_num_threads() // (1 if "OMP_NUM_THREADS" in os.environ else n_jobs)
    gpus: list[str | None] = [None]
    if torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = [*(visible.split(",") if visible else map(str, range(torch.cuda.device_count())))]
    return [Place(max(1, n_threads), gpus[number % len(gpus)]) for number in range(n_jobs)]


@dataclass(frozen=True)
class Job:
    """A step as it is being made."""

    step: Step
    place: Place
    process: ForkServerProcess

    @classmethod
    def begin(cls, step: Step, root: Path, do: Doer, place: Place) -> Job:
        """Start a process that makes the step."""
        process = PROCESSES.Process(target=work, args=(step, root, do, place), name=step.name)
        process.start()
        return cls(step, place, process)

    def end(self) -> int:
        """Wait for the process; returns its exit code as a shell would."""
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return code
        why = f"its process was ended by {signal.Signals(-code).name}"
        complain(f"{self.step.name}: {why}; if memory ran out, make fewer steps at a time (--jobs)")
        return KILLED - code


def run_abreast(goal: Step, root: Path, only: str | None, do: Doer, n_jobs: int) -> Path:
    """As `pipeline.run`, but up to `n_jobs` steps at a time; whoever stops this process stops them all.

    When a step fails no other begins, those that have begun are made to their end, and SystemExit is raised with the
    exit code of the step that failed.
    """
    steps = chosen(goal, only)
    for step in steps:
        if step.found(root):
            make(step, root, do)  # which only says so
    PROCESSES.set_forkserver_preload([name for name in sys.modules if name.startswith(PACKAGE)])
    left, running, free = [step for step in steps if not step.found(root)], list[Job](), places(n_jobs)
    failure = 0
    try:
        while running or (left and not failure):
            while free and not failure and (fit := ready(left, running)) is not None:
                left.remove(fit)
                running.append(Job.begin(fit, root, do, free.pop(0)))
            wait([job.process.sentinel for job in running])
            for job in [job for job in running if not job.process.is_alive()]:
                running.remove(job)
                free.append(job.place)
                code = job.end()
                failure = failure or code
            if failure and running:
                say(f"no other step begins; waiting for {', '.join(job.step.name for job in running)}")
    finally:
        for job in running:
            job.process.terminate()
        for job in running:
            job.process.join()
    if failure:
        raise SystemExit(failure)
    return steps[-1].folder(root)


def ready(left: Collection[Step], running: Collection[Job]) -> Step | None:
    """The first step that reads nothing that is still to be made."""
    unmade = {step.digest for step in (*left, *(job.step for job in running))}
    return next((step for step in left if not unmade & {parent.digest for _, parent in step.inputs}), None)


def work(step: Step, root: Path, do: Doer, place: Place) -> None:
    """What a process does from its beginning to its end."""
    Thread(target=end_with_parent, daemon=True).start()
    place.take()
    among_others(step.name)
    with ending():
        make(step, root, do)
        leave()


def end_with_parent() -> None:
    """Stop, as if by SIGTERM, when nobody is there any more who would."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)

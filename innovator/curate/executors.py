"""Who carries out a pipeline's tasks: processes of this machine, jobs of Slurm, or workers of Ray; the same tasks."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import dill
from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger
from datatrove.utils.stats import PipelineStats

from innovator.models.spec import Spec

SECONDS_BETWEEN_LOOKS = 5.0
KILLED = (
    "a worker was killed, probably for want of memory: give executor.workers a smaller number; the same command goes "
    "on with the tasks that are left"
)


@dataclass(frozen=True, kw_only=True)
class Local(Spec):
    """Processes of this machine. workers: how many at once; 0 takes one for each core."""

    kind: Literal["local"] = "local"
    workers: int = 0

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}: give a number of processes, or 0 for one per core")

    def carry_out(self, blocks: Sequence[PipelineStep], n_tasks: int, notes: Path) -> None:
        """Do the tasks that `notes` does not say are done."""
        workers = min(self.workers or len(os.sched_getaffinity(0)), n_tasks)
        _Quiet(list(blocks), tasks=n_tasks, workers=workers, logging_dir=str(notes)).run()


@dataclass(frozen=True, kw_only=True)
class Slurm(Spec):
    """An array of jobs. time: limit of a job; venv: the environment to activate; sbatch: more options by name."""

    kind: Literal["slurm"] = "slurm"
    partition: str
    time: str = "20:00:00"
    workers: int = -1
    cpus_per_task: int = 1
    mem_per_cpu_gb: int = 4
    qos: str = "normal"
    venv: str | None = None
    sbatch: dict[str, str] = field(default_factory=dict)

    def carry_out(self, blocks: Sequence[PipelineStep], n_tasks: int, notes: Path) -> None:
        """Submit the tasks that are not done, and wait for them; ValueError if jobs end without having done them."""
        if shutil.which("sbatch") is None:
            raise ValueError("there is no sbatch here: run this where Slurm is, or choose executor: {kind: local}")
        jobs = SlurmPipelineExecutor(
            list(blocks),
            tasks=n_tasks,
            time=self.time,
            partition=self.partition,
            workers=self.workers,
            cpus_per_task=self.cpus_per_task,
            mem_per_cpu_gb=self.mem_per_cpu_gb,
            qos=self.qos,
            venv_path=None if self.venv is None else f"{self.venv}/bin/activate",
            sbatch_args=self.sbatch,
            job_name=notes.parent.name,
            logging_dir=str(notes),
            slurm_logs_folder=str(notes / "slurm"),
            mail_type="NONE",
        )
        jobs.run()
        try:
            while jobs.get_incomplete_ranks():
                if not _queued(jobs.job_id) and (left := jobs.get_incomplete_ranks()):
                    raise ValueError(f"Slurm ended with {len(left)} of {n_tasks} tasks not done; see {notes / 'slurm'}")
                time.sleep(SECONDS_BETWEEN_LOOKS)
        except KeyboardInterrupt:
            subprocess.run(["scancel", str(jobs.job_id)], check=False)
            raise


@dataclass(frozen=True, kw_only=True)
class Ray(Spec):
    """Workers of a Ray cluster (the package `ray` must be installed)."""

    kind: Literal["ray"] = "ray"
    workers: int = -1
    cpus_per_task: int = 1
    mem_per_cpu_gb: float = 4.0

    def carry_out(self, blocks: Sequence[PipelineStep], n_tasks: int, notes: Path) -> None:
        """Do the tasks that `notes` does not say are done."""
        RayPipelineExecutor(
            list(blocks),
            tasks=n_tasks,
            workers=self.workers,
            cpus_per_task=self.cpus_per_task,
            mem_per_cpu_gb=self.mem_per_cpu_gb,
            logging_dir=str(notes),
        ).run()


Executor = Local | Slurm | Ray
HERE = Local()


class _Quiet(LocalPipelineExecutor):
    """Says nothing on the terminal: progress and errors are shown by whoever waits."""

    def _run_for_rank(self, rank: int, local_rank: int = 0, node_rank: int = -1) -> PipelineStats:
        logger.disable("datatrove")
        return super()._run_for_rank(rank, local_rank, node_rank)

    def run(self) -> None:
        """Do the tasks that are left; ValueError if a process was killed, which datatrove's own pool never notices."""
        logger.disable("datatrove")
        if self.workers == 1:
            super().run()
            return
        with ProcessPoolExecutor(self.workers, mp_context=get_context("forkserver")) as pool:
            tasks = [pool.submit(_carry, dill.dumps(self), rank) for rank in self.get_incomplete_ranks()]
            try:
                for task in as_completed(tasks):
                    task.result()
            except BrokenProcessPool as error:
                raise ValueError(KILLED) from error
            finally:
                pool.shutdown(cancel_futures=True)


def _carry(executor: bytes, rank: int) -> None:
    """One task, in a process of its own; datatrove's blocks hold what only dill can send there."""
    dill.loads(executor)._run_for_rank(rank)


def _queued(job: str | None) -> bool:
    """Whether Slurm still has the job, or any task of its array."""
    asked = subprocess.run(["squeue", "--noheader", "--job", str(job)], capture_output=True, text=True, check=False)
    known = "Invalid job id" not in asked.stderr  # of a job that ended long ago; any other failure passes
    return bool(asked.stdout.strip()) or (asked.returncode != 0 and known)

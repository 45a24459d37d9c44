"""How a training step is best spread over given GPUs, and how many of them it needs at least."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import get_args

import torch

from innovator.engine.parallel import Engine, Recompute
from innovator.models.decoder import DecoderConfig
from innovator.models.moe import MoEConfig
from innovator.train.lesson import Lesson
from innovator.train.memory import Footprint, footprint
from innovator.train.spec import TrainSpec

GIB = 2**30
USABLE = 0.9
MOST_GPUS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Machines:
    """GPUs of `memory` GiB, of which CUDA, NCCL and gaps between allocations leave nine tenths.

    tflops: what one GPU can do in the type that is computed in. utilisation: which share of it is model FLOPs.
    """

    n_gpus: int
    memory: float
    per_node: int = 8
    utilisation: float = 0.4
    tflops: float = 400.0

    @property
    def room(self) -> float:
        """Bytes that a step may take on each."""
        return USABLE * self.memory * GIB

    @property
    def flops_per_second(self) -> float:
        """Model FLOPs per second of all together."""
        return self.n_gpus * self.tflops * 1e12 * self.utilisation


@dataclass(frozen=True)
class Job:
    """One training step and the shape of what it trains."""

    name: str
    spec: TrainSpec
    config: DecoderConfig

    def lesson(self, micro_rows: int) -> Lesson:
        """What one GPU reads at a time."""
        spec = self.spec
        return Lesson(
            config=self.config,
            trainable=spec.trainable,
            rows=micro_rows,
            seq_len=spec.batch.seq_len,
            precision=spec.precision,
            grouped=True,
        )


@dataclass(frozen=True)
class Placement:
    """A job under an engine, so many rows at a time, and what that takes on each GPU."""

    engine: Engine
    n_gpus: int
    micro_rows: int
    footprint: Footprint

    @property
    def mesh(self) -> str:
        """Replicas, GPUs that share the weights of one, and how many of these share its experts."""
        return f"{self.engine.replicate} x {self.n_gpus // self.engine.replicate} x {self.engine.experts}"


def engines(machines: Machines, config: DecoderConfig) -> Iterator[Engine]:
    """Every engine worth trying: least computed again first, then most replicas; experts stay within a node."""
    for recompute in get_args(Recompute):
        for replicate in reversed(divisors(machines.n_gpus)):
            shard = machines.n_gpus // replicate
            shared = (n for n in divisors(shard) if n <= machines.per_node and divides_experts(config, n, shard // n))
            yield Engine(replicate=replicate, experts=max(shared), recompute=recompute)


def divides_experts(config: DecoderConfig, n_processes: int, n_rows: int) -> bool:
    """Whether experts can stand on so many processes, each one's matrices cut among `n_rows` of them (or on one)."""
    if n_processes == 1:
        return True
    if not isinstance(config.ffn, MoEConfig) or config.ffn.n_experts % n_processes:
        return False
    with torch.device("meta"):
        return all(weight.shape[1] % n_rows == 0 for weight in config.ffn.expert.stack(config.dim, 1).parameters())


def place(job: Job, engine: Engine, machines: Machines) -> Placement | None:
    """The job under this engine with as many rows at a time as fit, none more than its batch says; None if none fit."""
    n_rows = machines.n_gpus // engine.replicate // engine.experts
    mixture = isinstance(job.config.ffn, MoEConfig) and engine.divides(job.config.ffn)
    if mixture and not divides_experts(job.config, engine.experts, n_rows):
        return None
    tried = (_placed(job, engine, machines.n_gpus, micro_rows) for micro_rows in _micro_rows(job.spec, machines.n_gpus))
    return next((it for it in tried if it.footprint.total <= machines.room), None)


def best(job: Job, machines: Machines) -> Placement | None:
    """The first engine that the job fits under; None if it fits under none."""
    tried = (place(job, engine, machines) for engine in engines(machines, job.config))
    return next((it for it in tried if it is not None), None)


def common(jobs: Iterable[Job], machines: Machines) -> Engine | None:
    """The first engine under which all jobs fit, for they may be run by one command."""
    every = tuple(jobs)
    largest = max(every, key=lambda job: isinstance(job.config.ffn, MoEConfig)).config
    tried = engines(machines, largest)
    return next((it for it in tried if all(place(job, it, machines) is not None for job in every)), None)


def shortage(job: Job, machines: Machines) -> str:
    """One sentence on what a job that does not fit needs."""
    if not divides(job.spec, machines):
        return f"{job.name}: batch.rows={job.spec.batch.rows} do not divide among {machines.n_gpus} GPUs"
    engine = list(engines(machines, job.config))[-1]
    bytes_needed = _placed(job, engine, machines.n_gpus, 1).footprint.total
    memory = f"GPUs of {bytes_needed / USABLE / GIB:.0f} GiB"
    n_gpus = machines.per_node * -(-machines.n_gpus // machines.per_node)
    while n_gpus <= MOST_GPUS:
        more = replace(machines, n_gpus=n_gpus)
        if divides(job.spec, more) and best(job, more) is not None:
            return f"{job.name} does not fit: needs at least {n_gpus} GPUs of {machines.memory:g} GiB, or {memory}"
        n_gpus *= 2
    return f"{job.name} does not fit on any number of GPUs of {machines.memory:g} GiB: needs {memory}, or shorter rows"


def divides(spec: TrainSpec, machines: Machines) -> bool:
    """Whether every GPU gets as many rows of a batch."""
    return spec.batch.rows % machines.n_gpus == 0


def divisors(number: int) -> list[int]:
    """Every divisor, from 1 up."""
    return [it for it in range(1, number + 1) if number % it == 0]


def _micro_rows(spec: TrainSpec, n_gpus: int) -> Iterator[int]:
    rows = spec.batch.rows // n_gpus if spec.batch.rows % n_gpus == 0 else 0
    rows = min(spec.batch.micro_rows or rows, rows)
    while rows:
        yield rows
        rows //= 2


def _placed(job: Job, engine: Engine, n_gpus: int, micro_rows: int) -> Placement:
    if not (isinstance(job.config.ffn, MoEConfig) and engine.divides(job.config.ffn)):
        engine = replace(engine, experts=1)
    return Placement(engine, n_gpus, micro_rows, footprint(job.lesson(micro_rows), engine, n_gpus))

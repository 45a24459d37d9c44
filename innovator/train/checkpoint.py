"""Saving a run so that it goes on bit for bit, on as many ranks as there are then.

A checkpoint is a folder named by its step: written beside by PyTorch's distributed checkpoint, its files' checksums
with it, and renamed when all of it is on the disk. One that does not hold what was written is set aside.
Only what learns is saved; frozen weights are read again from where they came. All ranks call all of this alike.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future as Writing
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict import (
    OptimizerStateType,
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future
from torch.optim import Optimizer

from innovator.engine.processes import second_line
from innovator.engine.ranks import on_all_ranks, on_first_rank, share
from innovator.files import write_json
from innovator.say import say

KEPT = 2
CHECKSUMS = "checksums.json"
BY_PARAMETER = StateDictOptions(flatten_optimizer_state_dict=True)
COPIED = StagingOptions(
    use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
)


class State(TypedDict):
    """What is written: plain numbers, tensors by name, and the optimizer's state by parameter name.

    Learning rates and the like follow from the run's spec, and its parameters may be grouped otherwise on other ranks.
    """

    run: str
    progress: dict[str, int]
    model: dict[str, Tensor]
    optimizer: OptimizerStateType


@dataclass(frozen=True)
class Progress:
    """How many steps a run has done, and how many of them it skipped."""

    step: int = 0
    skipped: int = 0


@dataclass
class Cadence:
    """When a run is saved: every so many steps, and when so many seconds have passed since it was saved.

    The clock of the first rank decides; it stands still while the run waits for a checkpoint to be written.
    """

    every_steps: int
    every_seconds: float
    since: float | None = None

    def due(self, step: int) -> bool:
        """Whether the run is to be saved after this step; all ranks ask once after each."""
        now = time.monotonic()
        since = now if self.since is None else self.since
        due = step % self.every_steps == 0 or on_first_rank(lambda: now - since >= self.every_seconds)
        self.since = None if due else since
        return due


class Checkpoints:
    """The checkpoints of a run: the last KEPT of them, each whole.

    run: what tells this run from every other. aside: whether the run goes on while one is written, which is then a copy
    in main memory; what goes wrong meanwhile is raised by the next call.
    """

    def __init__(self, folder: Path, run: str, *, aside: bool) -> None:
        self.folder, self.run = folder, run
        self.stager = DefaultStager(COPIED) if aside else None
        self.group = second_line() if aside and dist.is_initialized() else None
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.writing: Writing[None] | None = None

    def save(self, progress: Progress, model: nn.Module, optimizer: Optimizer) -> None:
        """Write `folder/<step>`, or begin to."""
        self.wait()
        state = self._state(progress, model, optimizer)
        if self.stager is None:
            _write(self.folder, progress.step, state, None)
        else:
            copied = self.stager.stage(dict(state))
            assert isinstance(copied, dict)  # and not a promise: COPIED is done at once
            self.writing = self.thread.submit(_write, self.folder, progress.step, copied, self.group)

    def wait(self) -> None:
        """Until nothing is being written."""
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()

    def failed(self) -> bool:
        """Whether what was being written has failed; the next `save` or `wait` says how."""
        return self.writing is not None and self.writing.done() and self.writing.exception() is not None

    def load(self, model: nn.Module, optimizer: Optimizer) -> Progress:
        """Put the newest whole one, if there is one, into model and optimizer; returns how far it had come.

        ValueError if another run wrote it.
        """
        newest = _newest(self.folder)
        if newest is None:
            return Progress()
        state = self._state(Progress(), model, optimizer)
        with _plainly():
            dcp.load(state, checkpoint_id=newest)
        if state["run"] != self.run:
            raise ValueError(f"{newest} was written by a run with another recipe: remove {self.folder} to begin anew")
        groups = get_optimizer_state_dict(model, optimizer, options=BY_PARAMETER)
        set_optimizer_state_dict(model, optimizer, {**groups, **state["optimizer"]}, options=BY_PARAMETER)
        progress = Progress(**state["progress"])
        if progress.step == progress.skipped:
            optimizer.state.clear()
        return progress

    def _state(self, progress: Progress, model: nn.Module, optimizer: Optimizer) -> State:
        untouched = not optimizer.state
        whole = get_optimizer_state_dict(model, optimizer, options=BY_PARAMETER)
        if untouched:
            optimizer.state.clear()  # to have something to give, PyTorch makes an empty optimizer count a step
        moments = {name: value for name, value in whole.items() if name.startswith("state.")}
        return {"run": self.run, "progress": asdict(progress), "model": learning(model), "optimizer": moments}


class Writer(dcp.FileSystemWriter):
    """PyTorch's writer, but a full disk stays an OSError where closing a half-written archive fails in its turn."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write what the plan gives to this rank."""
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def saved(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def learning(model: nn.Module) -> dict[str, Tensor]:
    """What changes while a run goes on: trained parameters, and the selection biases of trained routers."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    biases = {
        name: buffer
        for name, buffer in model.named_buffers()
        if name.endswith("selection_bias") and name.replace("selection_bias", "weight") in trained
    }
    return {name: tensor.detach() for name, tensor in {**trained, **biases}.items()}


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None if it holds what was written. All ranks read."""
    try:
        written = on_first_rank(lambda: json.loads((checkpoint / CHECKSUMS).read_text(encoding="utf8")))
        found = _checksums(checkpoint, None)
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    wrong = [name for name in written if found.get(name) != written[name]]
    return f"{wrong[0]} is not what was written" if wrong else None


def _write(folder: Path, step: int, state: Mapping[str, object], group: dist.ProcessGroup | None) -> None:
    """Write a checkpoint beside and give it its name, then let go of old ones; another thread needs its own group."""
    final, beside = folder / f"{step:08d}", folder / f".partial-{step:08d}"
    on_first_rank(lambda: _begin(folder), group)
    try:
        with _plainly():
            dcp.save(dict(state), storage_writer=Writer(beside), process_group=group)
        sums = _checksums(beside, group)
        on_first_rank(lambda: _publish(beside, final, sums), group)
    except OSError:
        on_first_rank(lambda: shutil.rmtree(beside, ignore_errors=True), group)
        raise
    on_first_rank(lambda: _prune(folder), group)


def _begin(folder: Path) -> None:
    """Clear away what was being written or deleted when an earlier process died."""
    folder.mkdir(exist_ok=True)
    for unfinished in folder.glob(".partial-*"):
        shutil.rmtree(unfinished)


def _publish(beside: Path, final: Path, sums: Mapping[str, str]) -> None:
    """Give what all ranks have written its name when it is on the disk, its checksums with it."""
    entries = dcp.FileSystemReader(beside).read_metadata().storage_data or {}
    if absent := {entry.relative_path for entry in entries.values()} - sums.keys():
        raise ValueError(f"{final.parent} lacks {min(absent)}, which another process wrote: all must see one folder")
    write_json(beside / CHECKSUMS, sums)
    _flush(beside)
    if final.exists():
        _remove(final)
    os.replace(beside, final)
    _flush(final.parent)


def _prune(folder: Path) -> None:
    for old in saved(folder)[:-KEPT]:
        _remove(old)


def _remove(checkpoint: Path) -> None:
    """Delete a checkpoint, which never is half deleted under its name."""
    doomed = checkpoint.with_name(f".partial-old-{checkpoint.name}")
    os.replace(checkpoint, doomed)
    shutil.rmtree(doomed)


def _newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; newer ones are set aside."""
    checkpoints = on_first_rank(lambda: saved(folder))
    for checkpoint in reversed(checkpoints):
        wrong = damage(checkpoint)
        if wrong is None:
            return checkpoint
        on_first_rank(partial(_set_aside, checkpoint, wrong))
    if checkpoints:
        say("  no checkpoint is whole: starts from the beginning")
    return None


def _set_aside(checkpoint: Path, wrong: str) -> None:
    aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(checkpoint, aside)
    say(f"  checkpoint {checkpoint} is damaged ({wrong}); set aside as {aside.name}")


def _checksums(checkpoint: Path, group: dist.ProcessGroup | None) -> dict[str, str]:
    """The SHA-256 of every file of a checkpoint; each rank reads its share of them."""
    names = on_first_rank(lambda: sorted(path.name for path in checkpoint.iterdir() if path.name != CHECKSUMS), group)
    own = share(names)
    with ThreadPoolExecutor() as pool:
        sums = on_all_ranks(lambda: [*pool.map(_checksum, (checkpoint / name for name in own))], group)
    return {name: one for nth, part in enumerate(sums) for name, one in zip(names[nth :: len(sums)], part, strict=True)}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _plainly() -> Iterator[None]:
    """Raise what went wrong on a rank as it is, not wrapped in an account of all ranks: a full disk is an OSError."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        raise next((cause for cause in causes if isinstance(cause, OSError)), causes[0]) from error

"""Saving a run so that it goes on bit for bit: written beside and renamed, the newest one counts.

PyTorch's distributed checkpoint does the writing, so that a run can be resumed on another number of ranks.
Only what learns is saved; frozen weights are read again from where they came.
"""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    OptimizerStateType,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from innovator.models.decoder import Decoder

KEPT = 2


class State(TypedDict):
    """What is written: plain numbers, tensors by name, and the optimizer's state by parameter name."""

    progress: dict[str, int]
    model: dict[str, Tensor]
    optimizer: OptimizerStateType


@dataclass(frozen=True)
class Progress:
    """How many steps a run has done, and how many of them it skipped."""

    step: int = 0
    skipped: int = 0


def save(folder: Path, progress: Progress, model: Decoder, optimizer: Optimizer) -> None:
    """Write `folder/<step>` whole or not at all, then let go of all but the last KEPT."""
    final, beside = folder / f"{progress.step:08d}", folder / f".partial-{progress.step:08d}"
    shutil.rmtree(beside, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings(action="ignore"):
        dcp.save(_state(progress, model, optimizer), checkpoint_id=beside, no_dist=True)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(beside, final)
    for old in saved(folder)[:-KEPT]:
        shutil.rmtree(old)


def saved(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def load(folder: Path, model: Decoder, optimizer: Optimizer) -> Progress:
    """Put the newest checkpoint, if there is one, into model and optimizer; returns how far it had come."""
    if not (checkpoints := saved(folder)):
        return Progress()
    state = _state(Progress(), model, optimizer)
    with warnings.catch_warnings(action="ignore"):
        dcp.load(state, checkpoint_id=checkpoints[-1], no_dist=True)
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    return Progress(**state["progress"])


def _state(progress: Progress, model: Decoder, optimizer: Optimizer) -> State:
    return {
        "progress": asdict(progress),
        "model": learning(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }


def learning(model: Decoder) -> dict[str, Tensor]:
    """What changes while a run goes on: trained parameters, and the selection biases of trained routers."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    biases = {
        name: buffer
        for name, buffer in model.named_buffers()
        if name.endswith("selection_bias") and name.replace("selection_bias", "weight") in trained
    }
    return {name: tensor.detach() for name, tensor in {**trained, **biases}.items()}

"""What one of several processes does for all of them, and what each of them does a share of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def on_first_rank(work: Callable[[], T], group: dist.ProcessGroup | None = None) -> T:
    """What the first rank makes of some work, or its error, on all ranks; nobody goes on before it is done.

    group: whom the ranks talk through; work beside the main thread needs one of its own.
    """
    if not dist.is_initialized():
        return work()
    outcome: list[T | OSError | ValueError] = [OSError("the first rank has not answered")]
    if dist.get_rank() == 0:
        try:
            outcome[0] = work()
        except (OSError, ValueError) as error:
            outcome[0] = error
    dist.broadcast_object_list(outcome, src=0, group=group)
    if isinstance(outcome[0], OSError | ValueError):
        raise outcome[0]
    return outcome[0]


def on_all_ranks(work: Callable[[], T], group: dist.ProcessGroup | None = None) -> list[T]:
    """What each rank makes of some work, or the first error of any, on all ranks."""
    outcome: T | OSError | ValueError
    try:
        outcome = work()
    except (OSError, ValueError) as error:
        outcome = error
    outcomes = [outcome]
    if dist.is_initialized():
        outcomes *= dist.get_world_size()
        dist.all_gather_object(outcomes, outcome, group=group)
    made = [it for it in outcomes if not isinstance(it, OSError | ValueError)]
    if len(made) < len(outcomes):
        raise next(it for it in outcomes if isinstance(it, OSError | ValueError))
    return made


def share(items: Sequence[T]) -> Sequence[T]:
    """Which of them are this rank's to deal with."""
    return items[dist.get_rank() :: dist.get_world_size()] if dist.is_initialized() else items

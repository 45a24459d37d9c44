"""What the first of several processes does for all of them."""

from __future__ import annotations

from collections.abc import Callable
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

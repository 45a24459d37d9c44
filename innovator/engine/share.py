"""Work that every process of a run does a share of: rows to read, weights to write."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from innovator.engine.parallel import World
from innovator.engine.parts import whole
from innovator.models.decoder import Decoder
from innovator.weights.folder import Folder, save_folder


def turns(n_rows: int, at_a_time: int, world: World) -> Iterator[range]:
    """The rows that this process reads, pass by pass.

    Every process makes as many passes, for weights are gathered and rows travel among all; one may have no row.
    """
    first, end = n_rows * world.rank // world.size, n_rows * (world.rank + 1) // world.size
    most = -(-n_rows // world.size)
    for start in range(first, first + most, at_a_time):
        yield range(min(start, end), min(start + at_a_time, end))


def added(count: Tensor, world: World) -> Tensor:
    """What all processes have counted, summed in fp64; of the type it was counted in."""
    return world.total(count.double()).to(count.dtype)


def save_model(model: Decoder, source: Folder, out: Path, world: World) -> None:
    """Write weights, of which every process holds a part, to `out`, with all else that `source` says."""
    state = model.state_dict()
    tensors = ((name, whole(state[name]).cpu()) for name in source.shapes)
    if world.rank == 0:
        save_folder(out, source.config, tensors, source.path, source.facts)
    else:
        deque(tensors, maxlen=0)  # every process has a part of each tensor
    world.wait()

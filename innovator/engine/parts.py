"""Tensors of which every process of a run holds a part."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate


def mesh_of(tensor: Tensor) -> DeviceMesh | None:
    """The processes among which a tensor is divided; None if it is not."""
    return tensor.device_mesh if isinstance(tensor, DTensor) else None


def own(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A tensor that processes may hold in parts; all of them must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def change(tensor: Tensor, function: Callable[[Tensor], Tensor]) -> None:
    """Replace a tensor, of which processes may hold parts, by a function of all of it."""
    changed = function(whole(tensor))
    if isinstance(tensor, DTensor):
        everywhere = DTensor.from_local(changed, tensor.device_mesh, [Replicate()] * tensor.device_mesh.ndim)
        changed = everywhere.redistribute(placements=tensor.placements)
    tensor.copy_(changed)

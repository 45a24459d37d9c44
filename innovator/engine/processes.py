"""The processes of a torchrun: how they meet, in which groups they stand, how they part."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Groups:
    """Processes in groups that each hold all weights.

    mesh: (replicate, shard) for all that is no expert. expert_mesh: (replicate, rows, experts), for the experts.
    """

    mesh: DeviceMesh
    expert_mesh: DeviceMesh

    def over(self, dim: str) -> DeviceMesh:
        """The mesh along which FSDP shards, and across which it replicates if there are several replicas."""
        mesh = self.expert_mesh if dim == "rows" else self.mesh
        return mesh["replicate", dim] if mesh.size(0) > 1 else mesh[dim]


def meet() -> torch.device:
    """Where this process computes, when all have come together."""
    device = _own_device()
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=TIMEOUT)
        else:
            dist.init_process_group(backend, timeout=TIMEOUT, store=dist.HashStore(), rank=0, world_size=1)
    return device


@cache  # channels between processes are opened for good, and a recipe has many steps
def grouped(device_type: str, replicate: int, experts: int) -> Groups:
    """The processes that have met, in groups; ValueError if they do not divide so."""
    size = dist.get_world_size()
    if size % (replicate * experts):
        raise ValueError(f"{size} processes do not divide into replicate={replicate} groups by experts={experts}")
    shard = size // replicate
    mesh = init_device_mesh(device_type, (replicate, shard), mesh_dim_names=("replicate", "shard"))
    shape, names = (replicate, shard // experts, experts), ("replicate", "rows", "experts")
    return Groups(mesh, init_device_mesh(device_type, shape, mesh_dim_names=names))


@cache
def second_line() -> dist.ProcessGroup:
    """Through which threads beside the main one talk to those of the other processes that have met."""
    group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    assert group is not None
    return group


def leave() -> None:
    """Part from the other processes, if there were any."""
    grouped.cache_clear()
    second_line.cache_clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device

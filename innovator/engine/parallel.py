"""One run on many processes: applied from outside to a model that is written for one device.

Weights, gradients and optimizer state are sharded by FSDP2, experts may stand on different processes. Every loss is a
sum and every gradient is summed, so that no result depends on how a batch is dealt out.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard
from torch.utils.checkpoint import checkpoint

from innovator.engine.dispatch import divide_experts
from innovator.engine.parts import own
from innovator.models.decoder import Block, Decoder
from innovator.models.moe import MoE
from innovator.models.spec import Spec
from innovator.weights.folder import Folder

TIMEOUT = timedelta(minutes=10)
Precision = Literal["fp32", "bf16"]
Recompute = Literal["none", "ffn", "full"]
Learns = Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class Engine(Spec):
    """How a run is spread over the processes it is started on; changes no result, so it is no part of a recipe.

    replicate: how many groups of processes hold all weights (HSDP); within a group they are sharded.
    experts: among how many processes of a group the experts are divided, where their number allows.
    recompute: what the backward pass computes again instead of keeping it: nothing, feed-forwards (where most of a
    mixture's memory goes), or whole blocks.
    compile: whether blocks are compiled. stop_at: when to save and stop, in seconds since 1970.
    """

    replicate: int = 1
    experts: int = 1
    stop_at: float | None = None
    recompute: Recompute = "none"
    compile: bool = False

    def is_over(self) -> bool:
        """Whether it is time to stop."""
        return self.stop_at is not None and time.time() >= self.stop_at

    def is_plain(self) -> bool:
        """Whether nothing is asked that one process could not do by itself."""
        return replace(self, stop_at=None) == Engine()


class World(Protocol):
    """The processes that share a run."""

    @property
    def rank(self) -> int:
        """Which of them this one is."""
        ...

    @property
    def size(self) -> int:
        """How many they are."""
        ...

    @property
    def device(self) -> torch.device:
        """Where this one computes."""
        ...

    def place(self, folder: Folder, learns: Learns, precision: Precision) -> Decoder:
        """A decoder with the folder's weights, of which those learn that `learns` says by name; fp32 master weights."""
        ...

    def total(self, number: Tensor) -> Tensor:
        """The sum over all processes."""
        ...

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """The norm of gradients of which every process holds its share."""
        ...

    def any(self, wish: bool) -> bool:
        """Whether any process wishes it."""
        ...

    def wait(self) -> None:
        """Until all processes are here."""
        ...


@dataclass(frozen=True)
class Alone:
    """One process."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def place(self, folder: Folder, learns: Learns, precision: Precision) -> Decoder:
        model = folder.load().to(self.device)
        model.tie()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learns(name))
        return model.train()

    def total(self, number: Tensor) -> Tensor:
        return number

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        return torch.stack(torch._foreach_norm(list(gradients))).norm()

    def any(self, wish: bool) -> bool:
        return wish

    def wait(self) -> None:
        return


@dataclass(frozen=True)
class Spread:
    """Processes of a torchrun, in groups that each hold all weights.

    mesh: (replicate, shard) for all that is no expert. expert_mesh: (replicate, rows, experts), for the experts.
    """

    engine: Engine
    device: torch.device
    mesh: DeviceMesh
    expert_mesh: DeviceMesh

    @classmethod
    def start(cls, engine: Engine) -> Spread:
        """Join the other processes; ValueError if they do not divide as the engine asks."""
        device = _own_device()
        if not dist.is_initialized():
            _meet(device)
        size = dist.get_world_size()
        if size % (engine.replicate * engine.experts):
            raise ValueError(
                f"{size} processes do not divide into replicate={engine.replicate} groups by experts={engine.experts}"
            )
        shard = size // engine.replicate
        names = ("replicate", "shard"), ("replicate", "rows", "experts")
        mesh = init_device_mesh(device.type, (engine.replicate, shard), mesh_dim_names=names[0])
        shape = (engine.replicate, shard // engine.experts, engine.experts)
        return cls(engine, device, mesh, init_device_mesh(device.type, shape, mesh_dim_names=names[1]))

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def size(self) -> int:
        return dist.get_world_size()

    def place(self, folder: Folder, learns: Learns, precision: Precision) -> Decoder:
        with torch.device("meta"):
            model = Decoder(folder.config).train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learns(name))
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if precision == "bf16" else MixedPrecisionPolicy()
        for number, block in enumerate(model.layers):
            assert isinstance(block, Block)
            fill(block, folder, f"layers.{number}.", self.device)
            self._spread_block(block, policy)
        for name in ("embed", "norm") if folder.config.tied else ("embed", "norm", "unembed"):
            fill(model.get_submodule(name), folder, f"{name}.", self.device)
        model.tie()
        fully_shard(model, mesh=self._over("shard"), mp_policy=policy)
        warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")  # which nobody changes in place
        register_fsdp_forward_method(model, "loss")
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        return model

    def total(self, number: Tensor) -> Tensor:
        number = number.clone()
        dist.all_reduce(number)
        return number

    def norm(self, gradients: Sequence[Tensor]) -> Tensor:
        square = torch.stack(torch._foreach_norm([own(gradient) for gradient in gradients])).square().sum()
        dist.all_reduce(square, group=self.mesh.get_group("shard"))
        return square.sqrt()

    def any(self, wish: bool) -> bool:
        return bool(self.total(torch.tensor(float(wish), device=self.device)) > 0)

    def wait(self) -> None:
        dist.barrier()

    def _spread_block(self, block: Block, policy: MixedPrecisionPolicy) -> None:
        """Shard a block whose weights are whole; a router keeps fp32, experts have a mesh of their own."""
        if isinstance(block.ffn, MoE):
            divided = self.engine.experts > 1 and block.ffn.config.n_experts % self.engine.experts == 0
            if divided:
                divide_experts(block.ffn.experts, self.expert_mesh["experts"])
            over, dim = (self._over("rows"), 1) if divided else (self._over("shard"), 0)
            check_even(block.ffn.experts, over.size(-1), dim)
            fully_shard(block.ffn.experts, mesh=over, mp_policy=policy, shard_placement_fn=lambda weight: Shard(dim))
            fully_shard(block.ffn.router, mesh=self._over("shard"))
        if self.engine.recompute != "none":
            recompute(block if self.engine.recompute == "full" else block.ffn)
        if self.engine.compile:
            block.compile()
        fully_shard(block, mesh=self._over("shard"), mp_policy=policy)

    def _over(self, dim: str) -> DeviceMesh:
        """The mesh along which FSDP shards, and across which it replicates if there are several replicas."""
        mesh = self.expert_mesh if dim == "rows" else self.mesh
        return mesh["replicate", dim] if self.engine.replicate > 1 else mesh[dim]


def _own_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    torch.cuda.set_device(device)
    return device


def _meet(device: torch.device) -> None:
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=TIMEOUT)
    else:
        dist.init_process_group(backend, timeout=TIMEOUT, store=dist.HashStore(), rank=0, world_size=1)


def join(engine: Engine, precision: Precision) -> World:
    """The processes that this one was started with; alone if neither torchrun nor engine nor type says otherwise."""
    if "RANK" in os.environ or not engine.is_plain() or precision != "fp32":
        return Spread.start(engine)
    return Alone(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def fill(module: nn.Module, folder: Folder, prefix: str, device: torch.device) -> None:
    """Give a module without numbers those of a folder, and what a folder does not hold zeros."""
    module.to_empty(device=device)
    state = module.state_dict()
    for name, tensor in {**dict(module.named_buffers()), **state}.items():
        tensor.copy_(folder.tensor(prefix + name)) if name in state else tensor.zero_()


def check_even(experts: nn.Module, n_processes: int, dim: int) -> None:
    """ValueError if FSDP cannot shard experts along a dimension, which must divide unless it is the first."""
    for weight in experts.parameters():
        if dim > 0 and weight.shape[dim] % n_processes:
            raise ValueError(
                f"experts of shape {list(weight.shape)} do not divide among {n_processes} processes along {dim}: "
                "take more --experts, or more --replicate"
            )


def recompute(module: nn.Module) -> None:
    """Let a module's backward pass compute again what its forward pass then need not keep."""
    vars(module)["forward"] = partial(checkpoint, module.forward, use_reentrant=False)


def leave() -> None:
    """Part from the other processes, if there were any."""
    if dist.is_initialized():
        dist.destroy_process_group()

"""One run on many processes: applied from outside to a model that is written for one device.

Weights, gradients and optimizer state are sharded by FSDP2, experts may stand on different processes. Every loss is a
sum and every gradient is summed, so that no result depends on how a batch is dealt out.
"""

from __future__ import annotations

import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard
from torch.utils.checkpoint import checkpoint

from innovator.engine.dispatch import divide_experts
from innovator.engine.parts import own
from innovator.engine.processes import Groups, grouped, meet
from innovator.models.decoder import Block, Decoder, DecoderConfig
from innovator.models.moe import MoE, MoEConfig
from innovator.models.spec import Spec
from innovator.say import say
from innovator.weights.folder import Folder

Precision = Literal["fp32", "bf16"]
Recompute = Literal["none", "ffn", "full"]
Learns = Callable[[str], bool]


def nothing(name: str) -> bool:
    """Of a model that is only read, no parameter learns."""
    return False


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

    def divides(self, mixture: MoEConfig) -> bool:
        """Whether the experts of a mixture stand on different processes."""
        return self.experts > 1 and mixture.n_experts % self.experts == 0

    def reading(self) -> Engine:
        """The same where there is no backward pass: nothing is computed again, and too little to compile for."""
        return replace(self, recompute="none", compile=False)


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
    """Processes of a torchrun."""

    engine: Engine
    device: torch.device
    groups: Groups

    @classmethod
    def start(cls, engine: Engine) -> Spread:
        """Join the other processes; ValueError if they do not divide as the engine asks."""
        device = meet()
        return cls(engine, device, grouped(device.type, engine.replicate, engine.experts))

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def size(self) -> int:
        return dist.get_world_size()

    def place(self, folder: Folder, learns: Learns, precision: Precision) -> Decoder:
        gc.collect()  # FSDP's modules refer to each other: without this those of the last step would still be there
        self._say_if_whole(folder.config)
        with torch.device("meta"):
            model = Decoder(folder.config).train()
        model.in_step = self.size > 1
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learns(name))
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if precision == "bf16" else MixedPrecisionPolicy()
        for number, block in enumerate(model.layers):
            assert isinstance(block, Block)
            fill(block, folder, f"layers.{number}.", self.device)
            self._spread_block(block, policy)
        for name in ("embed", "norm") if folder.config.tied else ("embed", "norm", "unembed"):
            fill(model.get_submodule(name), folder, f"{name}.", self.device)
        fill(model.thinking, folder, "thinking.", self.device)
        for part in deciding(model.thinking):
            fully_shard(part, mesh=self.groups.over("shard"))
        model.tie()
        fully_shard(model, mesh=self.groups.over("shard"), mp_policy=policy)
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
        dist.all_reduce(square, group=self.groups.mesh.get_group("shard"))
        return square.sqrt()

    def any(self, wish: bool) -> bool:
        return bool(self.total(torch.tensor(float(wish), device=self.device)) > 0)

    def wait(self) -> None:
        dist.barrier()

    def _say_if_whole(self, config: DecoderConfig) -> None:
        """Say that experts are not divided though that was asked for."""
        n_processes = self.engine.experts
        if isinstance(config.ffn, MoEConfig) and n_processes > 1 and not self.engine.divides(config.ffn):
            say(f"  {config.ffn.n_experts} experts do not divide among {n_processes} processes: sharded like the rest")

    def _spread_block(self, block: Block, policy: MixedPrecisionPolicy) -> None:
        """Shard a block whose weights are whole; a router keeps fp32, experts have a mesh of their own."""
        if isinstance(block.ffn, MoE):
            divided = self.engine.divides(block.ffn.config)
            if divided:
                divide_experts(block.ffn.experts, self.groups.expert_mesh["experts"])
            over, dim = (self.groups.over("rows"), 1) if divided else (self.groups.over("shard"), 0)
            check_even(block.ffn.experts, over.size(-1), dim)
            as_given = replace(policy, cast_forward_inputs=False)  # choices' weights are fp32 in some routers
            fully_shard(block.ffn.experts, mesh=over, mp_policy=as_given, shard_placement_fn=lambda weight: Shard(dim))
            fully_shard(block.ffn.router, mesh=self.groups.over("shard"))
        if self.engine.recompute != "none":
            recompute(block if self.engine.recompute == "full" else block.ffn)
        if self.engine.compile:
            block.compile()
        fully_shard(block, mesh=self.groups.over("shard"), mp_policy=policy)


def join(engine: Engine, precision: Precision) -> World:
    """The processes that this one was started with; alone if neither torchrun nor engine nor type says otherwise."""
    if "RANK" in os.environ or not engine.is_plain() or precision != "fp32":
        return Spread.start(engine)
    return Alone(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def deciding(thinking: nn.Module) -> Iterator[nn.Module]:
    """The modules by which tokens decide how long to think: of tensors they make tensors, in fp32 like a router."""
    for child in thinking.children():
        yield from child if isinstance(child, nn.ModuleList) else (child,)


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

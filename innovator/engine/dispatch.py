"""Experts that stand on different processes, to which tokens travel and from which they return; none is ever dropped.

Shape suffixes: S tokens, K chosen experts of each, R rows (one per token and chosen expert, sorted by expert),
E experts, P processes that share them, L experts of one process, D model.
"""

from __future__ import annotations

import copy

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd, wait_tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.func import functional_call

from innovator.engine.parts import own
from innovator.models.experts import GELUExperts, SwiGLUExperts
from innovator.models.rows import Rows


class Dispatch:
    """What experts do when others hold most of them: rows travel to their experts' process, and back."""

    def __init__(self, experts: SwiGLUExperts | GELUExperts, mesh: DeviceMesh) -> None:
        self.experts, self.mesh = experts, mesh
        self.arithmetic = copy.deepcopy(experts).to("meta")

    def __call__(self, x_SD: Tensor, expert_SK: Tensor, weight_SK: Tensor) -> Tensor:
        rows = Rows.of(expert_SK, len(self.experts.down_proj))
        count_PL = rows.count_E.view(self.mesh.size(), -1)
        coming_PL = torch.empty_like(count_PL)
        dist.all_to_all_single(coming_PL, count_PL.contiguous(), group=self.mesh.get_group())
        leave, come = count_PL.sum(dim=1).tolist(), coming_PL.sum(dim=1).tolist()
        arrived_RD = self._exchange(x_SD.index_select(0, rows.token_R()), come, leave)
        expert_L = torch.arange(coming_PL.shape[1], device=x_SD.device).repeat(len(come))
        expert_R1 = expert_L.repeat_interleave(coming_PL.flatten())[:, None]
        weights = {name: own(weight) for name, weight in self.experts.named_parameters()}
        operands = (arrived_RD, expert_R1, torch.ones_like(expert_R1, dtype=x_SD.dtype))
        y_RD = functional_call(self.arithmetic, weights, operands)
        return rows.sum(self._exchange(y_RD, leave, come), weight_SK)

    def _exchange(self, x_RD: Tensor, come: list[int], leave: list[int]) -> Tensor:
        return wait_tensor(all_to_all_single_autograd(x_RD.contiguous(), come, leave, self.mesh.get_group()))


def divide_experts(experts: SwiGLUExperts | GELUExperts, mesh: DeviceMesh) -> None:
    """Leave each process of a mesh its share of the experts, and let rows travel."""
    dispatch = Dispatch(experts, mesh)
    for name, weight in list(experts.named_parameters()):
        mine = weight.detach().chunk(mesh.size())[mesh.get_local_rank()].clone()
        divided = DTensor.from_local(mine, mesh, [Shard(0)], run_check=False)
        experts.register_parameter(name, nn.Parameter(divided, requires_grad=weight.requires_grad))
    vars(experts)["forward"] = dispatch

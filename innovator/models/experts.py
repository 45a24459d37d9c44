"""Many small feed-forwards in stacked tensors, over rows that are sorted by expert.

Shape suffixes: R rows (one per token and chosen expert, sorted by expert), E experts, D model, F hidden width of
one expert, P = 2F (gate over up).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

GROUPED_MM_BYTES = 16


class SwiGLUExperts(nn.Module):
    """Experts of the kind down(silu(gate(x)) * up(x))."""

    def __init__(self, dim: int, hidden: int, n_experts: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(n_experts, 2 * hidden, dim))
        self.down_proj = nn.Parameter(torch.empty(n_experts, dim, hidden))

    def forward(self, x_RD: Tensor, count_E: Tensor) -> Tensor:
        return experts_forward(x_RD, self.gate_up_proj, self.down_proj, count_E)


class GELUExperts(nn.Module):
    """Experts of the kind down(gelu(up(x))) with biases, one after the other."""

    def __init__(self, dim: int, hidden: int, n_experts: int, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate
        self.up_proj = nn.Parameter(torch.empty(n_experts, hidden, dim))
        self.up_bias = nn.Parameter(torch.empty(n_experts, hidden))
        self.down_proj = nn.Parameter(torch.empty(n_experts, dim, hidden))
        self.down_bias = nn.Parameter(torch.empty(n_experts, dim))

    def forward(self, x_RD: Tensor, count_E: Tensor) -> Tensor:
        rows = x_RD.split(count_E.tolist())
        parts = zip(rows, self.up_proj, self.up_bias, self.down_proj, self.down_bias, strict=True)
        return torch.cat([self._one(*part) for part in parts])

    def _one(self, x_RD: Tensor, up_FD: Tensor, up_F: Tensor, down_DF: Tensor, down_D: Tensor) -> Tensor:
        hidden_RF = F.gelu(F.linear(x_RD, up_FD, up_F), approximate=self.approximate)
        return F.linear(hidden_RF, down_DF, down_D)


def experts_forward(x_RD: Tensor, gate_up_EPD: Tensor, down_EDF: Tensor, count_E: Tensor) -> Tensor:
    """Each expert's SwiGLU over its own run of `count_E` rows; returns [R, D]."""
    if x_RD.is_cuda and _aligned(x_RD.shape[1], x_RD.dtype) and _aligned(down_EDF.shape[2], x_RD.dtype):
        return grouped(x_RD, gate_up_EPD, down_EDF, count_E)
    y_RD: Tensor = LoopedExperts.apply(x_RD, gate_up_EPD, down_EDF, count_E.tolist())
    return y_RD


def _aligned(width: int, dtype: torch.dtype) -> bool:
    """Whether torch's grouped matrix product takes rows of this width: strides must be multiples of 16 bytes."""
    return width * dtype.itemsize % GROUPED_MM_BYTES == 0


def grouped(x_RD: Tensor, gate_up_EPD: Tensor, down_EDF: Tensor, count_E: Tensor) -> Tensor:
    """All experts in two grouped matrix products: the fast way on a GPU."""
    end_E = count_E.cumsum(0).int()
    gate_RF, up_RF = F.grouped_mm(x_RD, gate_up_EPD.mT, offs=end_E).chunk(2, dim=-1)
    return F.grouped_mm(F.silu(gate_RF) * up_RF, down_EDF.mT, offs=end_E)


def reference(x_RD: Tensor, gate_up_EPD: Tensor, down_EDF: Tensor, count_E: Tensor) -> Tensor:
    """One expert after the other in plain autograd: what the faster ways are tested against."""
    rows = x_RD.split(count_E.tolist())
    parts = zip(rows, gate_up_EPD.unbind(), down_EDF.unbind(), strict=True)
    return torch.cat([_swiglu(x, gate_up) @ down.T for x, gate_up, down in parts])


def _swiglu(x_RD: Tensor, gate_up_PD: Tensor) -> Tensor:
    gate_RF, up_RF = (x_RD @ gate_up_PD.T).chunk(2, dim=-1)
    return F.silu(gate_RF) * up_RF


class ExpertsContext(FunctionCtx):
    """What the forward pass of `LoopedExperts` leaves for the backward pass."""

    count_E: list[int]
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]


class LoopedExperts(torch.autograd.Function):
    """One expert after the other, each while its rows are in cache: the fast way on a CPU.

    Keeps only the gate and up products for the backward pass, and computes no gradient that nobody asked for.
    """

    @staticmethod
    def forward(ctx: ExpertsContext, x_RD: Tensor, gate_up_EPD: Tensor, down_EDF: Tensor, count_E: list[int]) -> Tensor:
        product_RP = x_RD.new_empty(len(x_RD), gate_up_EPD.shape[1])
        y_RD = torch.empty_like(x_RD)
        for expert, rows in _runs(count_E):
            torch.mm(x_RD[rows], gate_up_EPD[expert].T, out=product_RP[rows])
            gate_RF, up_RF = product_RP[rows].chunk(2, dim=-1)
            torch.mm(F.silu(gate_RF).mul_(up_RF), down_EDF[expert].T, out=y_RD[rows])
        ctx.save_for_backward(x_RD, gate_up_EPD, down_EDF, product_RP)
        ctx.count_E = count_E
        return y_RD

    @staticmethod
    def backward(ctx: ExpertsContext, dy_RD: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x_RD, gate_up_EPD, down_EDF, product_RP = ctx.saved_tensors
        wants_x, wants_gate_up, wants_down, _ = ctx.needs_input_grad
        dx_RD = torch.empty_like(x_RD) if wants_x else None
        dgate_up_EPD = torch.zeros_like(gate_up_EPD) if wants_gate_up else None
        ddown_EDF = torch.zeros_like(down_EDF) if wants_down else None
        dy_RD = dy_RD.contiguous()
        for expert, rows in _runs(ctx.count_E):
            gate_RF, up_RF = product_RP[rows].chunk(2, dim=-1)
            sigmoid_RF = gate_RF.sigmoid()
            silu_RF = gate_RF * sigmoid_RF
            if ddown_EDF is not None:
                torch.mm(dy_RD[rows].T, silu_RF * up_RF, out=ddown_EDF[expert])
            dhidden_RF = dy_RD[rows] @ down_EDF[expert]
            dgate_RF = dhidden_RF * up_RF * (sigmoid_RF + silu_RF * (1 - sigmoid_RF))
            dproduct_RP = torch.cat([dgate_RF, dhidden_RF * silu_RF], dim=-1)
            if dgate_up_EPD is not None:
                torch.mm(dproduct_RP.T, x_RD[rows], out=dgate_up_EPD[expert])
            if dx_RD is not None:
                torch.mm(dproduct_RP, gate_up_EPD[expert], out=dx_RD[rows])
        return dx_RD, dgate_up_EPD, ddown_EDF, None


def _runs(count_E: list[int]) -> list[tuple[int, slice]]:
    """Each expert that has rows, and where they stand."""
    runs, start = [], 0
    for expert, count in enumerate(count_E):
        if count:
            runs.append((expert, slice(start, start + count)))
        start += count
    return runs

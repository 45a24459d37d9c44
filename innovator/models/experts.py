"""Many small feed-forwards in stacked tensors, and what a token gets of those that it chose.

Shape suffixes: S tokens, K chosen experts of each, R = S*K rows sorted by expert, E experts, D model, F hidden width of
one expert, P = 2F (gate over up).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cores import OneByOne
from .fused import FusedSwiGLU, GroupedProducts
from .rows import Rows

GROUPED_MM_BYTES = 16
FUSED: Callable[..., Tensor] = FusedSwiGLU.apply
# There counts of rows are Python numbers: every routing would be compiled anew.
ONE_BY_ONE: Callable[..., Tensor] = torch.compiler.disable(FusedSwiGLU.apply)


class SwiGLUExperts(nn.Module):
    """Experts of the kind down(silu(gate(x)) * up(x))."""

    def __init__(self, dim: int, hidden: int, n_experts: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(n_experts, 2 * hidden, dim))
        self.down_proj = nn.Parameter(torch.empty(n_experts, dim, hidden))

    def forward(self, x_SD: Tensor, expert_SK: Tensor, weight_SK: Tensor) -> Tensor:
        """The weighted sum [S, D] of each token's experts."""
        rows = Rows.of(expert_SK, len(self.down_proj))
        operands = x_SD, weight_SK, self.gate_up_proj, self.down_proj, *rows
        if x_SD.is_cuda and _aligned(x_SD.shape[1], x_SD.dtype) and _aligned(self.down_proj.shape[2], x_SD.dtype):
            return FUSED(*operands, GroupedProducts())
        return ONE_BY_ONE(*operands, OneByOne())


class GELUExperts(nn.Module):
    """Experts of the kind down(gelu(up(x))) with biases, one after the other."""

    def __init__(self, dim: int, hidden: int, n_experts: int, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate
        self.up_proj = nn.Parameter(torch.empty(n_experts, hidden, dim))
        self.up_bias = nn.Parameter(torch.empty(n_experts, hidden))
        self.down_proj = nn.Parameter(torch.empty(n_experts, dim, hidden))
        self.down_bias = nn.Parameter(torch.empty(n_experts, dim))

    def forward(self, x_SD: Tensor, expert_SK: Tensor, weight_SK: Tensor) -> Tensor:
        """The weighted sum [S, D] of each token's experts."""
        rows = Rows.of(expert_SK, len(self.down_proj))
        x_RD = x_SD.index_select(0, rows.token_R()).split(rows.count_E.tolist())
        parts = zip(x_RD, self.up_proj, self.up_bias, self.down_proj, self.down_bias, strict=True)
        return rows.sum(torch.cat([self._one(*part) for part in parts]), weight_SK)

    def _one(self, x_RD: Tensor, up_FD: Tensor, up_F: Tensor, down_DF: Tensor, down_D: Tensor) -> Tensor:
        hidden_RF = F.gelu(F.linear(x_RD, up_FD, up_F), approximate=self.approximate)
        return F.linear(hidden_RF, down_DF, down_D)


def _aligned(width: int, dtype: torch.dtype) -> bool:
    """Whether torch's grouped matrix product takes rows of this width: strides must be multiples of 16 bytes."""
    return width * dtype.itemsize % GROUPED_MM_BYTES == 0


def reference(x_SD: Tensor, weight_SK: Tensor, gate_up_EPD: Tensor, down_EDF: Tensor, rows: Rows) -> Tensor:
    """One expert after the other in plain autograd: what the faster ways are tested against."""
    x_RD = x_SD.index_select(0, rows.token_R()).split(rows.count_E.tolist())
    parts = zip(x_RD, gate_up_EPD.unbind(), down_EDF.unbind(), strict=True)
    y_RD = torch.cat([_swiglu(x, gate_up) @ down.T for x, gate_up, down in parts])
    y_SKD = y_RD.index_select(0, rows.row_SK.flatten()).view(*rows.row_SK.shape, -1)
    return (y_SKD * weight_SK[..., None]).sum(dim=1).type_as(x_SD)


def _swiglu(x_RD: Tensor, gate_up_PD: Tensor) -> Tensor:
    gate_RF, up_RF = (x_RD @ gate_up_PD.T).chunk(2, dim=-1)
    return F.silu(gate_RF) * up_RF

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


def one_by_one(*operands: Tensor) -> Tensor:
    """The mixture on all cores of a CPU."""
    return FUSED(*operands, OneByOne(torch.get_num_threads()))


# There counts of rows are Python numbers: every routing would be compiled anew.
ONE_BY_ONE: Callable[..., Tensor] = torch.compiler.disable(one_by_one)


class SwiGLUExperts(nn.Module):
    """Experts of the kind down(silu(gate(x)) * up(x))."""

    def __init__(self, dim: int, hidden: int, n_experts: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.empty(n_experts, 2 * hidden, dim))
        self.down_proj = nn.Parameter(torch.empty(n_experts, dim, hidden))

    def forward(self, x_SD: Tensor, expert_SK: Tensor, weight_SK: Tensor) -> Tensor:
        """The weighted sum [S, D] of each token's experts."""
        rows = Rows.of(expert_SK, len(self.down_proj))
        if torch.is_autocast_enabled(x_SD.device.type):
            return self._cast(x_SD, rows, weight_SK, torch.get_autocast_dtype(x_SD.device.type))
        return self._mixed(x_SD, self.gate_up_proj, self.down_proj, rows, weight_SK)

    def _cast(self, x_SD: Tensor, rows: Rows, weight_SK: Tensor, dtype: torch.dtype) -> Tensor:
        """As a trainer that casts would have products computed."""
        with torch.autocast(x_SD.device.type, enabled=False):
            matrices = self.gate_up_proj.to(dtype), self.down_proj.to(dtype)
            return self._mixed(x_SD.to(dtype), *matrices, rows, weight_SK)

    def _mixed(self, x_SD: Tensor, gate_up_EPD: Tensor, down_EDF: Tensor, rows: Rows, weight_SK: Tensor) -> Tensor:
        operands = x_SD, weight_SK, gate_up_EPD, down_EDF, *rows
        if x_SD.is_cuda and _aligned(x_SD.shape[1], x_SD.dtype) and _aligned(down_EDF.shape[2], x_SD.dtype):
            return FUSED(*operands, GroupedProducts())
        return ONE_BY_ONE(*operands)


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

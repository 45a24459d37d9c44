"""A mixture of SwiGLU experts, forward and backward in one function that keeps little and moves little.

Of all rows only the gate and up products stay for the backward pass: rows are gathered again, activations computed
again, and a weight's gradient is read off before the down product instead of keeping what came after it.

Shape suffixes: S tokens, K chosen experts of each, R = S*K rows sorted by expert, E experts, D model, F hidden width of
one expert, P = 2F (gate over up).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .rows import Rows


@dataclass(frozen=True)
class Operands:
    """What a mixture is made of: tokens, the weights of their choices, its experts' matrices, and who goes where."""

    x_SD: Tensor
    weight_SK: Tensor
    gate_up_EPD: Tensor
    down_EDF: Tensor
    rows: Rows

    def weight_R1(self) -> Tensor:
        """The weight of each row."""
        return self.weight_SK.flatten().index_select(0, self.rows.choice_R)[:, None]


@dataclass(frozen=True)
class Slopes:
    """Gradients of rows, of their weights, and of the matrices, None for those that do not learn."""

    row_RD: Tensor
    weight_R: Tensor
    gate_up_EPD: Tensor | None
    down_EDF: Tensor | None


@dataclass(frozen=True)
class Learns:
    """Which of the experts' matrices learn."""

    gate_up: bool
    down: bool


class Arithmetic(Protocol):
    """A way to compute the rows of a mixture."""

    def forward(self, it: Operands) -> tuple[Tensor, Tensor]:
        """Gate and up products [R, P], and results [R, D]."""
        ...

    def backward(self, it: Operands, product_RP: Tensor, dy_SD: Tensor, learns: Learns) -> Slopes:
        """All gradients, given that of the tokens' results."""
        ...


class MixtureContext(FunctionCtx):
    """What the forward pass of `FusedSwiGLU` leaves for the backward pass."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]
    way: Arithmetic


class FusedSwiGLU(torch.autograd.Function):
    """The weighted sum [S, D] of each token's experts; rows are given as in `Rows`."""

    @staticmethod
    def forward(
        ctx: MixtureContext,
        x_SD: Tensor,
        weight_SK: Tensor,
        gate_up_EPD: Tensor,
        down_EDF: Tensor,
        choice_R: Tensor,
        row_SK: Tensor,
        count_E: Tensor,
        way: Arithmetic,
    ) -> Tensor:
        it = Operands(x_SD, weight_SK, gate_up_EPD, down_EDF, Rows(choice_R, row_SK, count_E))
        product_RP, y_RD = way.forward(it)
        ctx.save_for_backward(x_SD, weight_SK, gate_up_EPD, down_EDF, choice_R, row_SK, count_E, product_RP)
        ctx.way = way
        return it.rows.sum(y_RD, weight_SK)

    @staticmethod
    @once_differentiable
    def backward(ctx: MixtureContext, dy_SD: Tensor) -> tuple[Tensor | None, ...]:
        x_SD, weight_SK, gate_up_EPD, down_EDF, choice_R, row_SK, count_E, product_RP = ctx.saved_tensors
        it = Operands(x_SD, weight_SK, gate_up_EPD, down_EDF, Rows(choice_R, row_SK, count_E))
        wants_x, wants_weight, wants_gate_up, wants_down, *_ = ctx.needs_input_grad
        slopes = ctx.way.backward(it, product_RP, dy_SD.contiguous(), Learns(wants_gate_up, wants_down))
        dx_SD = it.rows.sum(slopes.row_RD) if wants_x else None
        dweight_SK = slopes.weight_R[row_SK] if wants_weight else None
        return dx_SD, dweight_SK, slopes.gate_up_EPD, slopes.down_EDF, None, None, None, None


def swiglu(product_RP: Tensor) -> Tensor:
    """silu(gate) * up."""
    gate_RF, up_RF = product_RP.chunk(2, dim=-1)
    return F.silu(gate_RF).mul_(up_RF)


@dataclass(frozen=True)
class Bend:
    """What lies between the two products of a backward pass."""

    weight_R: Tensor
    hidden_RF: Tensor
    product_RP: Tensor

    @classmethod
    def of(cls, product_RP: Tensor, dhidden_RF: Tensor, weight_R1: Tensor) -> Bend:
        """Gradient of each row's weight, hidden layer times weight, and gradient of the gate and up products.

        product_RP: of the forward pass. dhidden_RF: gradient of the hidden layer as if every weight were 1.
        """
        gate_RF, up_RF = product_RP.chunk(2, dim=-1)
        silu_RF = F.silu(gate_RF)
        hidden_RF = silu_RF * up_RF
        weight_R = torch.linalg.vecdot(dhidden_RF, hidden_RF).type_as(weight_R1)
        weighted_RF = (dhidden_RF * weight_R1).type_as(dhidden_RF)
        dgate_RF = torch.ops.aten.silu_backward(weighted_RF * up_RF, gate_RF)
        dproduct_RP = torch.cat([dgate_RF, silu_RF.mul_(weighted_RF)], dim=-1)
        return cls(weight_R, hidden_RF.mul_(weight_R1), dproduct_RP)


class GroupedProducts:
    """Every product of all experts as one grouped product: the fast way on a GPU."""

    def forward(self, it: Operands) -> tuple[Tensor, Tensor]:
        """Gate and up products [R, P], and results [R, D]."""
        end_E = it.rows.count_E.cumsum(0).int()
        x_RD = it.x_SD.index_select(0, it.rows.token_R())
        product_RP = F.grouped_mm(x_RD, it.gate_up_EPD.mT, offs=end_E)
        return product_RP, F.grouped_mm(swiglu(product_RP), it.down_EDF.mT, offs=end_E)

    def backward(self, it: Operands, product_RP: Tensor, dy_SD: Tensor, learns: Learns) -> Slopes:
        """All gradients, given that of the tokens' results."""
        end_E, token_R = it.rows.count_E.cumsum(0).int(), it.rows.token_R()
        dy_RD = dy_SD.index_select(0, token_R)
        bend = Bend.of(product_RP, F.grouped_mm(dy_RD, it.down_EDF, offs=end_E), it.weight_R1())
        ddown_EDF = F.grouped_mm(dy_RD.T, bend.hidden_RF, offs=end_E) if learns.down else None
        dgate_up_EPD = None
        if learns.gate_up:
            dgate_up_EPD = F.grouped_mm(bend.product_RP.T, it.x_SD.index_select(0, token_R), offs=end_E)
        dx_RD = F.grouped_mm(bend.product_RP, it.gate_up_EPD, offs=end_E)
        return Slopes(dx_RD, bend.weight_R, dgate_up_EPD, ddown_EDF)

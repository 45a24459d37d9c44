"""Tokens on their way to experts: one row for each token and each expert it chose, sorted by expert.

Shape suffixes: S tokens, K chosen experts of each, R = S*K rows, E experts, D model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Rows(NamedTuple):
    """Which choice each row is, where each choice's row stands, and how many rows each expert has."""

    choice_R: Tensor
    row_SK: Tensor
    count_E: Tensor

    @classmethod
    def of(cls, expert_SK: Tensor, n_experts: int) -> Rows:
        """Sort the choices by expert, those of one expert by token; none is ever dropped."""
        expert_R = expert_SK.flatten()
        choice_R = expert_R.argsort(stable=True)
        row_R = torch.empty_like(choice_R)
        row_R[choice_R] = torch.arange(len(choice_R), device=choice_R.device)
        count_E = expert_R.new_zeros(n_experts).index_add_(0, expert_R, torch.ones_like(expert_R))
        return cls(choice_R, row_R.view_as(expert_SK), count_E)

    def token_R(self) -> Tensor:
        """Whose row each is."""
        return self.choice_R // self.row_SK.shape[1]

    def sum(self, y_RD: Tensor, weight_SK: Tensor | None = None) -> Tensor:
        """What each token's rows come to, [S, D]; every sum has one order, on a GPU too.

        In fp32 on a CPU it is one pass over the rows; elsewhere it rounds as transformers' mixtures do.
        """
        if y_RD.dtype == torch.float32 and y_RD.device.type == "cpu":
            return F.embedding_bag(self.row_SK, y_RD, mode="sum", per_sample_weights=weight_SK)
        y_SKD = y_RD.index_select(0, self.row_SK.flatten()).view(*self.row_SK.shape, -1)
        return (y_SKD if weight_SK is None else y_SKD * weight_SK[..., None]).sum(dim=1).type_as(y_RD)

"""Depth-Attention: a layer's values are mixed with those of earlier layers before anyone attends to them.

Shape suffixes: A layers to choose among, B batch, T slots, N query heads, G key-value heads, H head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .spec import Spec


@dataclass(frozen=True, kw_only=True)
class DepthAttention(Spec):
    """Each slot chooses, for each key-value head, among its own value and those of earlier layers (arXiv 2606.05014).

    What an earlier layer offers is what it has itself mixed, and what is remembered is mixed already. The first layer
    has nothing to choose from.

    stride: layers of its multiples offer their values to all later ones; the paper takes half the number of layers.
    recent: how many layers just below offer theirs as well; the paper takes none. self_bias: what is added to the
    score of the own value; ours, 0 in the paper. A trained model begins close to what it was at about 8: n layers
    whose scores exceed the own by at most d weigh n * exp(d - self_bias) together, or less.
    """

    stride: int
    recent: int = 0
    self_bias: float = 0.0

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"depth: stride={self.stride} must be at least 1")
        if self.recent < 0:
            raise ValueError(f"depth: recent={self.recent} layers cannot be less than none")
        if not math.isfinite(self.self_bias):
            raise ValueError(f"depth: self_bias={self.self_bias} is not a finite number")

    def anchors(self, layer: int) -> list[int]:
        """The numbers of the earlier layers that offer their values; who is none for a layer is none for later ones."""
        return [below for below in range(layer) if below % self.stride == 0 or below >= layer - self.recent]

    def mix(self, q_BNTH: Tensor, k_BGTH: Tensor, v_BGTH: Tensor, anchors: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """A layer's values [B, G, T, H] as others shall see them; `anchors` are the same slots' keys and values below.

        Queries and keys may be rotated, for those of one slot turn by the same angle.
        """
        n_groups, width = k_BGTH.shape[1], k_BGTH.shape[-1]
        wide = torch.promote_types(q_BNTH.dtype, torch.float32)
        q_BGTH = q_BNTH.unflatten(1, (n_groups, -1)).mean(dim=2, dtype=wide) / math.sqrt(width)
        below = [(q_BGTH * offered_BGTH).sum(dim=-1) for offered_BGTH, _ in anchors]
        own_BGT = (q_BGTH * k_BGTH).sum(dim=-1) + self.self_bias
        weight_ABGT = torch.stack([*below, own_BGT]).softmax(dim=0)
        values = (*(offered_BGTH for _, offered_BGTH in anchors), v_BGTH)
        parts = [weight_BGT[..., None] * part for weight_BGT, part in zip(weight_ABGT, values, strict=True)]
        return torch.stack(parts).sum(dim=0).to(v_BGTH.dtype)

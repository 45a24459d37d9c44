"""The parts every decoder shares: where slots stand, norms, dense feed-forwards.

Shape suffixes: B batch, T slots, U slots that may be seen, D model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .experts import GELUExperts, SwiGLUExperts
from .spec import Spec

GENERAL = -1
PADDING = -1  # the document of slots that hold nothing


@dataclass(frozen=True)
class Layout:
    """What is known of each slot: its place in its document, which document, which discipline (or GENERAL).

    A slot sees the slots of its own document that stand no later than itself. A token may own several slots; then
    `order_BT` says which come later, in the place of the position that they share, no slot sees one of a greater
    `depth_BT`, and `log_mass_BT` is what is added to the attention that a slot gets. None: of no concern.
    plain: whether every row is known to be one document, slot by slot in their order and none deeper than those before
    it may see, so that no mask is needed.
    """

    position_BT: Tensor
    document_BT: Tensor
    label_BT: Tensor
    order_BT: Tensor | None = None
    depth_BT: Tensor | None = None
    log_mass_BT: Tensor | None = None
    plain: bool = False

    @classmethod
    def of(cls, tokens_BT: Tensor) -> Layout:
        """Every row is one document without a known discipline."""
        position_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
        return cls(position_BT, torch.zeros_like(position_BT), torch.full_like(position_BT, GENERAL), plain=True)

    def then(self, later: Layout) -> Layout:
        """These slots, and after them the slots of `later`."""
        return self._each(lambda one_BT, other_BT: torch.cat([one_BT, other_BT], dim=1), later)

    def last(self, n_slots: int) -> Layout:
        """The last slots of each row."""
        return self._each(lambda fact_BT: fact_BT[:, -n_slots:])

    def at(self, slot_BA: Tensor) -> Layout:
        """Only the slots of these numbers."""
        return self._each(lambda fact_BT: fact_BT.gather(1, slot_BA))

    def without(self, gone_BT: Tensor) -> Layout:
        """The same slots; those that are gone hold nothing, and see themselves."""
        document_BT = self.document_BT.masked_fill(gone_BT, PADDING)
        log_mass_BT = None if self.log_mass_BT is None else self.log_mass_BT.masked_fill(gone_BT, 0.0)
        return replace(self, document_BT=document_BT, log_mass_BT=log_mass_BT, plain=False)

    def repeat(self, n_slots: int, *, first: int = 0, most: int | None = None) -> Layout:
        """As many slots for each token in the place of one, in order: from number `first` on, of the `most` it owns."""
        repeated = self._each(lambda fact_BT: fact_BT.repeat_interleave(n_slots, dim=1))
        slot_K = torch.arange(first, first + n_slots, device=self.position_BT.device)
        order_BTK = self.position_BT[..., None] * (n_slots if most is None else most) + slot_K
        return replace(repeated, order_BT=order_BTK.flatten(1), plain=self.plain)

    def to(self, device: torch.device) -> Layout:
        """The same facts on another device."""
        return replace(self._each(lambda fact_BT: fact_BT.to(device)), plain=self.plain)

    def is_text(self) -> Tensor:
        """Boolean [B, T]: which slots hold something."""
        return self.document_BT != PADDING

    def sees(self, other: Layout, window: int | None = None) -> Tensor:
        """Boolean [B, 1, T, U]: which slots of `other` each slot here may attend to, itself among the last `window`."""
        seen_BTU = self.document_BT[:, :, None] == other.document_BT[:, None, :]
        if self.order_BT is not None and other.order_BT is not None:
            seen_BTU &= self.order_BT[:, :, None] >= other.order_BT[:, None, :]
        if self.depth_BT is not None and other.depth_BT is not None:
            seen_BTU &= self.depth_BT[:, :, None] >= other.depth_BT[:, None, :]
        distance_BTU = self.position_BT[:, :, None] - other.position_BT[:, None, :]
        seen_BTU &= distance_BTU >= 0 if window is None else (distance_BTU >= 0) & (distance_BTU < window)
        return seen_BTU[:, None]

    def _each(self, change: Callable[..., Tensor], *others: Layout) -> Layout:
        """Every fact changed, together with the same fact of others."""
        all_of_them = (self, *others)
        order_BT, depth_BT, log_mass_BT = (
            None if facts[0] is None else change(*facts)
            for facts in zip(*((it.order_BT, it.depth_BT, it.log_mass_BT) for it in all_of_them), strict=True)
        )
        return Layout(
            change(*(it.position_BT for it in all_of_them)),
            change(*(it.document_BT for it in all_of_them)),
            change(*(it.label_BT for it in all_of_them)),
            order_BT=order_BT,
            depth_BT=depth_BT,
            log_mass_BT=log_mass_BT,
        )


def at_slots(fact: Tensor, slot_BA: Tensor) -> Tensor:
    """Of what is known of all slots, [B, T] or [B, T, D], that of these; no index as wide as rows is made or kept."""
    first_B1 = torch.arange(len(fact), device=fact.device)[:, None] * fact.shape[1]
    return fact.flatten(0, 1).index_select(0, (first_B1 + slot_BA).flatten()).unflatten(0, slot_BA.shape)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type for sums and probabilities of numbers of this one: the same, but fp32 at least."""
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True, kw_only=True)
class RMSNormConfig(Spec):
    """Divide by the root mean square, times a weight (arXiv 1910.07467)."""

    eps: float = 1e-6
    kind: Literal["rms"] = "rms"

    def build(self, dim: int) -> RMSNorm:
        return RMSNorm(dim, self.eps)


@dataclass(frozen=True, kw_only=True)
class LayerNormConfig(Spec):
    """Subtract the mean, divide by the standard deviation, times a weight, plus a bias (arXiv 1607.06450)."""

    eps: float = 1e-5
    kind: Literal["layer"] = "layer"

    def build(self, dim: int) -> nn.LayerNorm:
        return nn.LayerNorm(dim, self.eps)


NormConfig = RMSNormConfig | LayerNormConfig


class RMSNorm(nn.Module):
    """Rounds as the Llama families do: normalised in fp32, brought to the model's type, then weighted."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).type_as(x) * self.weight


@dataclass(frozen=True, kw_only=True)
class SwiGLUConfig(Spec):
    """A feed-forward of `hidden` gated neurons (Shazeer, arXiv 2002.05202)."""

    hidden: int
    kind: Literal["swiglu"] = "swiglu"

    def build(self, dim: int, layer: int) -> SwiGLU:
        return SwiGLU(dim, self.hidden)

    def stack(self, dim: int, n_experts: int) -> SwiGLUExperts:
        """`n_experts` of these in stacked tensors."""
        return SwiGLUExperts(dim, self.hidden, n_experts)


@dataclass(frozen=True, kw_only=True)
class GELUConfig(Spec):
    """A feed-forward of `hidden` neurons with biases (GPT-2, GPT-NeoX); `approximate` as in torch's GELU."""

    hidden: int
    approximate: Literal["none", "tanh"] = "none"
    kind: Literal["gelu"] = "gelu"

    def build(self, dim: int, layer: int) -> GELU:
        return GELU(dim, self.hidden, self.approximate)

    def stack(self, dim: int, n_experts: int) -> GELUExperts:
        """`n_experts` of these in stacked tensors."""
        return GELUExperts(dim, self.hidden, n_experts, self.approximate)


DenseConfig = SwiGLUConfig | GELUConfig


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x_BTD: Tensor, layout: Layout) -> Tensor:
        return self.mix(x_BTD)

    def mix(self, x: Tensor) -> Tensor:
        """The feed-forward itself, which asks nothing of where a slot stands."""
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class GELU(nn.Module):
    """down(gelu(up(x))), both with biases."""

    def __init__(self, dim: int, hidden: int, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate
        self.up_proj = nn.Linear(dim, hidden)
        self.down_proj = nn.Linear(hidden, dim)

    def forward(self, x_BTD: Tensor, layout: Layout) -> Tensor:
        return self.mix(x_BTD)

    def mix(self, x: Tensor) -> Tensor:
        """The feed-forward itself, which asks nothing of where a slot stands."""
        y: Tensor = self.down_proj(F.gelu(self.up_proj(x), approximate=self.approximate))
        return y

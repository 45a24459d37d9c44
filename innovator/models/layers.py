"""The parts every decoder shares: where slots stand, rotary positions, attention, the dense feed-forward.

Shape suffixes: B batch, T slots, U slots that may be seen (remembered and own), D model, N query heads,
G key-value heads, H head width, F hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .spec import Spec

GENERAL = -1


@dataclass(frozen=True)
class Layout:
    """What is known of each slot: its place in its document, which document, which discipline (or GENERAL).

    A slot sees the slots of its own document that stand no later than itself.
    """

    position_BT: Tensor
    document_BT: Tensor
    label_BT: Tensor

    @classmethod
    def of(cls, tokens_BT: Tensor) -> Layout:
        """Every row is one document without a known discipline."""
        position_BT = torch.arange(tokens_BT.shape[1], device=tokens_BT.device).expand_as(tokens_BT)
        return cls(position_BT, torch.zeros_like(position_BT), torch.full_like(position_BT, GENERAL))

    def then(self, later: Layout) -> Layout:
        """These slots, and after them the slots of `later`."""
        return Layout(
            torch.cat([self.position_BT, later.position_BT], dim=1),
            torch.cat([self.document_BT, later.document_BT], dim=1),
            torch.cat([self.label_BT, later.label_BT], dim=1),
        )

    def sees(self, other: Layout) -> Tensor:
        """Boolean [B, 1, T, U]: which slots of `other` each slot here may attend to."""
        same_BTU = self.document_BT[:, :, None] == other.document_BT[:, None, :]
        earlier_BTU = self.position_BT[:, :, None] >= other.position_BT[:, None, :]
        return (same_BTU & earlier_BTU)[:, None]

    def to(self, device: torch.device) -> Layout:
        """The same facts on another device."""
        return Layout(self.position_BT.to(device), self.document_BT.to(device), self.label_BT.to(device))


class Keys(NamedTuple):
    """What one layer's queries may look at; never changed in place, so that layers can be replayed."""

    k_BGUH: Tensor
    v_BGUH: Tensor

    def then(self, own: Keys) -> Keys:
        """These keys, and after them one's own."""
        k_BGUH = torch.cat([self.k_BGUH, own.k_BGUH], dim=2)
        return Keys(k_BGUH, torch.cat([self.v_BGUH, own.v_BGUH], dim=2))


class Sight(NamedTuple):
    """What attention needs to know of a layout, worked out once for all layers."""

    cos_B1TH: Tensor
    sin_B1TH: Tensor
    mask_B1TU: Tensor


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(Spec):
    """Grouped-query attention with rotary positions; `qk_norm` is Qwen3's RMSNorm on each head's query and key."""

    n_heads: int
    n_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads={self.n_heads} is not a multiple of n_kv_heads={self.n_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even for rotary positions")

    def build(self, dim: int, norm_eps: float) -> Attention:
        return Attention(dim, self, norm_eps)

    def sight(self, layout: Layout, seen: Layout) -> Sight:
        """What every layer needs to know of slots in `layout` that may look at `seen`."""
        cos_B1TH, sin_B1TH = rotary(layout.position_BT, self.head_dim, self.rope_theta)
        return Sight(cos_B1TH, sin_B1TH, layout.sees(seen))


@dataclass(frozen=True, kw_only=True)
class SwiGLUConfig(Spec):
    """A dense feed-forward of `hidden` neurons (Shazeer, arXiv 2002.05202)."""

    hidden: int
    kind: Literal["swiglu"] = "swiglu"

    def build(self, dim: int, layer: int) -> SwiGLU:
        return SwiGLU(dim, self.hidden)


def rotary(position_BT: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine [B, 1, T, H] of each slot's rotation angles, in fp32."""
    even_H = torch.arange(0, head_dim, 2, device=position_BT.device, dtype=torch.float32)
    angle_BTH = (position_BT[..., None].float() * theta ** -(even_H / head_dim)).repeat(1, 1, 2)
    return angle_BTH.cos()[:, None], angle_BTH.sin()[:, None]


def rotate(x_BNTH: Tensor, sight: Sight) -> Tensor:
    """Turn each head by its slot's angles, first half against second half as Hugging Face does."""
    first, second = x_BNTH.chunk(2, dim=-1)
    turned_BNTH = torch.cat([-second, first], dim=-1)
    return (x_BNTH * sight.cos_B1TH + turned_BNTH * sight.sin_B1TH).type_as(x_BNTH)


class Attention(nn.Module):
    """Grouped-query attention over what a layout lets each slot see."""

    def __init__(self, dim: int, config: AttentionConfig, norm_eps: float) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        width, kv_width = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.q_proj = nn.Linear(dim, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(dim, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(dim, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, dim, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head_dim, eps=norm_eps) if config.qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, sight: Sight, past: Keys | None = None) -> tuple[Tensor, Keys]:
        q_BNTH = rotate(self.q_norm(self._heads(self.q_proj(x_BTD))), sight)
        k_BGTH = rotate(self.k_norm(self._heads(self.k_proj(x_BTD))), sight)
        own = Keys(k_BGTH, self._heads(self.v_proj(x_BTD)))
        seen = own if past is None else past.then(own)
        y_BNTH = F.scaled_dot_product_attention(
            q_BNTH, seen.k_BGUH, seen.v_BGUH, attn_mask=sight.mask_B1TU, enable_gqa=True
        )
        return self.o_proj(y_BNTH.transpose(1, 2).flatten(2)), seen

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


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

"""Grouped-query attention with rotary positions.

Shape suffixes: B batch, T slots, U slots that may be seen (remembered and own), D model, N query heads,
G key-value heads, H head width, R rotated width of a head, X = H + 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .depth import DepthAttention
from .layers import Layout, NormConfig
from .spec import Spec

WIDER = 8  # numbers of a head, where keys have masses
SPARE = 64  # slots that keys may grow by before they are copied, at least


@dataclass(frozen=True, kw_only=True)
class PlainRope(Spec):
    """Rotary positions (RoFormer, arXiv 2104.09864): pair i of a head turns by theta^(-2i/width) per slot."""

    theta: float = 10_000.0
    kind: Literal["plain"] = "plain"

    def frequencies(self, width: int, device: torch.device) -> Tensor:
        """Radians per slot of each pair, [width / 2]."""
        even = torch.arange(0, width, 2, device=device, dtype=torch.float32)
        return 1.0 / (self.theta ** (even / width))


@dataclass(frozen=True, kw_only=True)
class LinearRope(Spec):
    """All positions divided by `factor` (arXiv 2306.15595)."""

    factor: float
    theta: float = 10_000.0
    kind: Literal["linear"] = "linear"

    def frequencies(self, width: int, device: torch.device) -> Tensor:
        """Radians per slot of each pair, [width / 2]."""
        return PlainRope(theta=self.theta).frequencies(width, device) / self.factor


@dataclass(frozen=True, kw_only=True)
class Llama3Rope(Spec):
    """Llama 3.1's scaling: slow pairs are divided by `factor`, fast ones are left, those between are blended.

    A pair is slow or fast if it turns fewer than `low_freq_factor` or more than `high_freq_factor` times within
    the `original_context` slots that the model was first trained on.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int
    theta: float = 500_000.0
    kind: Literal["llama3"] = "llama3"

    def frequencies(self, width: int, device: torch.device) -> Tensor:
        """Radians per slot of each pair, [width / 2]."""
        plain = PlainRope(theta=self.theta).frequencies(width, device)
        turns = self.original_context / (2 * math.pi / plain)
        fast = ((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)).clamp(0, 1)
        return (1 - fast) * plain / self.factor + fast * plain


Rope = PlainRope | LinearRope | Llama3Rope


@dataclass
class Room:
    """Where keys stand with space behind them; `n_used`: slots that are taken by now."""

    k_BGUH: Tensor
    v_BGUH: Tensor
    n_used: int


class Keys(NamedTuple):
    """What one layer's queries may look at; no key ever changes, so that layers can be replayed.

    room: where these keys are the first, if they were made without gradients: whoever comes first may stand behind
    them there, and nothing is copied.
    """

    k_BGUH: Tensor
    v_BGUH: Tensor
    room: Room | None = None

    def then(self, own: Keys) -> Keys:
        """These keys, and after them one's own."""
        if torch.is_grad_enabled():
            k_BGUH = torch.cat([self.k_BGUH, own.k_BGUH], dim=2)
            return Keys(k_BGUH, torch.cat([self.v_BGUH, own.v_BGUH], dim=2))
        n_before, n_slots = self.k_BGUH.shape[2], self.k_BGUH.shape[2] + own.k_BGUH.shape[2]
        room = self._room(n_slots)
        room.k_BGUH[:, :, n_before:n_slots] = own.k_BGUH
        room.v_BGUH[:, :, n_before:n_slots] = own.v_BGUH
        room.n_used = n_slots
        return Keys(room.k_BGUH[:, :, :n_slots], room.v_BGUH[:, :, :n_slots], room)

    def at(self, slot_BA: Tensor) -> Keys:
        """Only the keys of the slots of these numbers."""
        index_B1A1 = slot_BA[:, None, :, None]
        return self.each(lambda part: part.gather(2, index_B1A1.expand(-1, part.shape[1], -1, part.shape[3])))

    def last(self, n_slots: int) -> Keys:
        """The keys of the last slots."""
        return self.each(lambda part: part[:, :, -n_slots:])

    def each(self, change: Callable[[Tensor], Tensor]) -> Keys:
        """Keys and values changed alike."""
        return Keys(change(self.k_BGUH), change(self.v_BGUH))

    def _room(self, n_slots: int) -> Room:
        """A place for so many slots that begins with these: their own, unless it is full or others went on in it."""
        room, n_own = self.room, self.k_BGUH.shape[2]
        if room is not None and room.n_used == n_own and n_slots <= room.k_BGUH.shape[2] and _writable(room.k_BGUH):
            return room
        n_all = n_slots + n_slots // 4 + SPARE
        batch, heads, _, width = self.k_BGUH.shape
        k_BGUH, v_BGUH = (part.new_empty(batch, heads, n_all, width) for part in (self.k_BGUH, self.v_BGUH))
        room = Room(k_BGUH, v_BGUH, n_own)
        room.k_BGUH[:, :, :n_own] = self.k_BGUH
        room.v_BGUH[:, :, :n_own] = self.v_BGUH
        return room


def _writable(tensor: Tensor) -> bool:
    """Torch refuses to write into what was made in inference mode outside of it."""
    return torch.is_inference_mode_enabled() or not tensor.is_inference()


class Sight(NamedTuple):
    """What attention needs to know of a layout, worked out once for all layers.

    The mask is added to scores, -inf where a slot does not see; of a boolean one each layer would keep such a copy.
    Without one, slots see all that stand before them. log_mass_BU: what is added to the scores of each slot that is
    looked at, where that learns: fused attention takes no mask that does, and any other keeps all scores.
    """

    cos_B1TR: Tensor
    sin_B1TR: Tensor
    mask_B1TU: Tensor | None
    log_mass_BU: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class AttentionConfig(Spec):
    """Grouped-query attention.

    qkv_bias, o_bias: biases on query, key and value, and on the output. qk_norm: Qwen3's norm on each head's query
    and key. rotary_dim: how much of a head is rotated (all of it if None). window: how many slots, the own one
    among them, a slot sees (all earlier ones if None). depth: how values are mixed over layers (not if None).
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: bool = False
    rope: Rope = field(default_factory=PlainRope)
    rotary_dim: int | None = None
    window: int | None = None
    depth: DepthAttention | None = None

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads={self.n_heads} is not a multiple of n_kv_heads={self.n_kv_heads}")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1, for a slot sees itself")
        if self.rotated % 2 or not 0 <= self.rotated <= self.head_dim:
            raise ValueError(f"{self.rotated} of a head's {self.head_dim} numbers cannot be rotated in pairs")

    @property
    def rotated(self) -> int:
        """How many numbers of a head rotary positions turn."""
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    def build(self, dim: int, norm: NormConfig) -> Attention:
        return Attention(dim, self, norm)

    def anchors(self, layer: int) -> list[int]:
        """The numbers of the earlier layers whose keys and values `layer` needs."""
        return [] if self.depth is None else self.depth.anchors(layer)

    def sight(self, layout: Layout, seen: Layout, dtype: torch.dtype) -> Sight:
        """What every layer needs to know of slots in `layout` that may look at `seen`; angles in fp32, then `dtype`."""
        frequency_P = self.rope.frequencies(self.rotated, layout.position_BT.device)
        angle_B1TR = (layout.position_BT[:, None, :, None].float() * frequency_P).repeat(1, 1, 1, 2)
        width = layout.position_BT.shape[1]
        if layout.plain and seen is layout and layout.log_mass_BT is None and (self.window or width) >= width:
            return Sight(angle_B1TR.cos().to(dtype), angle_B1TR.sin().to(dtype), None)
        sees_B1TU, log_mass_BU = layout.sees(seen, self.window), seen.log_mass_BT
        mass: Tensor | float = 0.0
        if log_mass_BU is not None and log_mass_BU.requires_grad:
            there_BU = log_mass_BU > -torch.inf
            sees_B1TU = sees_B1TU & there_BU[:, None, None]
            log_mass_BU = torch.where(there_BU, log_mass_BU, 0.0)
        elif log_mass_BU is not None:
            mass, log_mass_BU = log_mass_BU[:, None, None].to(dtype), None
        mask_B1TU = torch.where(sees_B1TU, mass, torch.full((), -torch.inf, dtype=dtype, device=sees_B1TU.device))
        return Sight(angle_B1TR.cos().to(dtype), angle_B1TR.sin().to(dtype), mask_B1TU, log_mass_BU)


def rotate(x_BNTH: Tensor, sight: Sight) -> Tensor:
    """Turn the first R numbers of each head by its slot's angles, first half against second half."""
    turned_BNTR, rest = x_BNTH.tensor_split([sight.cos_B1TR.shape[-1]], dim=-1)
    first, second = turned_BNTR.chunk(2, dim=-1)
    across_BNTR = torch.cat([-second, first], dim=-1)
    return torch.cat([turned_BNTR * sight.cos_B1TR + across_BNTR * sight.sin_B1TR, rest], dim=-1)


def attend(q_BNTH: Tensor, seen: Keys, sight: Sight) -> Tensor:
    """What each slot reads of those that it sees."""
    mask, k_BGUH, v_BGUH = sight.mask_B1TU, seen.k_BGUH, seen.v_BGUH
    if sight.log_mass_BU is None:
        return F.scaled_dot_product_attention(
            q_BNTH, k_BGUH, v_BGUH, attn_mask=mask, is_causal=mask is None, enable_gqa=True
        )
    root = q_BNTH.shape[-1] ** 0.5
    mass_BGU = (sight.log_mass_BU * root).to(k_BGUH.dtype)[:, None].expand(k_BGUH.shape[:-1])
    wide_BNTX, wide_BGUX = wider(q_BNTH, q_BNTH.new_ones(q_BNTH.shape[:-1])), wider(k_BGUH, mass_BGU)
    value_BGUX = F.pad(v_BGUH, (0, WIDER))
    y_BNTX = F.scaled_dot_product_attention(
        wide_BNTX, wide_BGUX, value_BGUX, attn_mask=mask, scale=1 / root, enable_gqa=True
    )
    return y_BNTX[..., : q_BNTH.shape[-1]]


def wider(head_BNTH: Tensor, number_BNT: Tensor) -> Tensor:
    """Heads with one number more, and zeros up to a width that fused attention takes."""
    return torch.cat([head_BNTH, F.pad(number_BNT[..., None], (0, WIDER - 1))], dim=-1)


class Attention(nn.Module):
    """Grouped-query attention over what a layout lets each slot see."""

    def __init__(self, dim: int, config: AttentionConfig, norm: NormConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.depth = config.depth
        width, kv_width = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.q_proj = nn.Linear(dim, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(dim, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(dim, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, dim, bias=config.o_bias)
        self.q_norm = norm.build(config.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = norm.build(config.head_dim) if config.qk_norm else nn.Identity()

    def forward(
        self, x_BTD: Tensor, sight: Sight, past: Keys | None = None, anchors: tuple[Keys, ...] = ()
    ) -> tuple[Tensor, Keys]:
        """What is read, and what later slots may look at, these slots last; `anchors` are theirs in earlier layers."""
        q_BNTH = rotate(self.q_norm(self._heads(self.q_proj(x_BTD))), sight)
        k_BGTH = rotate(self.k_norm(self._heads(self.k_proj(x_BTD))), sight)
        v_BGTH = self._heads(self.v_proj(x_BTD))
        if self.depth is not None:
            v_BGTH = self.depth.mix(q_BNTH, k_BGTH, v_BGTH, [(it.k_BGUH, it.v_BGUH) for it in anchors])
        own = Keys(k_BGTH, v_BGTH)
        seen = own if past is None else past.then(own)
        y_BNTH = attend(q_BNTH, seen, sight)
        return self.o_proj(y_BNTH.transpose(1, 2).flatten(2)), seen

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

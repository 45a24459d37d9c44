"""The language model: embed, pass the blocks, unembed.

Shape suffixes: B batch, T slots, S = B*T tokens, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AttentionConfig, Keys, Sight
from .layers import DenseConfig, Layout, NormConfig, RMSNormConfig
from .moe import MoE, MoEConfig
from .spec import Spec

IGNORE = -100
LOSS_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Spec):
    """A pre-norm decoder: `n_layers` blocks of attention and a dense or mixed feed-forward.

    residual: whether the feed-forward reads what attention has written (sequential) or what attention read (parallel).
    """

    vocab_size: int
    dim: int
    n_layers: int
    attention: AttentionConfig
    ffn: DenseConfig | MoEConfig
    norm: NormConfig = field(default_factory=RMSNormConfig)
    residual: Literal["sequential", "parallel"] = "sequential"
    tied: bool = False

    def block(self, layer: int) -> Block:
        """A fresh block as it stands in `layer`."""
        return BLOCKS[self.residual](self, layer)


@dataclass(frozen=True)
class Memory:
    """What has been read so far: where each remembered slot stands, and every layer's keys."""

    layout: Layout
    keys: tuple[Keys, ...]


@dataclass(frozen=True)
class Reading:
    """One pass over the blocks: the last hidden states (after the final norm), and what was read by now."""

    h_BTD: Tensor
    memory: Memory


class Block(nn.Module):
    """Attention and a feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.attn_norm = config.norm.build(config.dim)
        self.attn = config.attention.build(config.dim, config.norm)
        self.ffn_norm = config.norm.build(config.dim)
        self.ffn = config.ffn.build(config.dim, layer)

    def forward(self, x_BTD: Tensor, layout: Layout, sight: Sight, past: Keys | None = None) -> tuple[Tensor, Keys]:
        y_BTD, seen = self.attn(self.attn_norm(x_BTD), sight, past)
        x_BTD = x_BTD + y_BTD
        return x_BTD + self.ffn(self.ffn_norm(x_BTD), layout), seen


class ParallelBlock(Block):
    """Attention and feed-forward read the same residual stream, each through its own norm (GPT-J, GPT-NeoX)."""

    def forward(self, x_BTD: Tensor, layout: Layout, sight: Sight, past: Keys | None = None) -> tuple[Tensor, Keys]:
        y_BTD, seen = self.attn(self.attn_norm(x_BTD), sight, past)
        return self.ffn(self.ffn_norm(x_BTD), layout) + y_BTD + x_BTD, seen


BLOCKS = {"sequential": Block, "parallel": ParallelBlock}


class Decoder(nn.Module):
    """Written for one device; whoever trains on many applies that from outside."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        first_VD = torch.randn(config.vocab_size, config.dim)  # not nn.Embedding's: on meta that loads a compiler
        self.embed = nn.Embedding.from_pretrained(first_VD, freeze=False)
        self.layers = nn.ModuleList(config.block(layer) for layer in range(config.n_layers))
        self.norm = config.norm.build(config.dim)
        self.unembed = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.tie()

    def tie(self) -> None:
        """Let embedding and head share one matrix if the config says so; moving to another device parts them."""
        if self.config.tied:
            self.unembed.weight = self.embed.weight

    def forward(self, tokens_BT: Tensor, layout: Layout | None = None) -> Tensor:
        """Logits [B, T, V]; without a layout every row is one document."""
        reading = self.read(self.embed(tokens_BT), layout or Layout.of(tokens_BT))
        logits_BTV: Tensor = self.unembed(reading.h_BTD)
        return logits_BTV

    def read(self, x_BTD: Tensor, layout: Layout, past: Memory | None = None) -> Reading:
        """Pass embedded slots through the blocks, after what is remembered in `past`."""
        seen = layout if past is None else past.layout.then(layout)
        sight = self.config.attention.sight(layout, seen, x_BTD.dtype)
        before: Sequence[Keys | None] = [None] * len(self.layers) if past is None else past.keys
        keys = []
        for block, past_keys in zip(self.layers, before, strict=True):
            x_BTD, own = block(x_BTD, layout, sight, past_keys)
            keys.append(own)
        return Reading(self.norm(x_BTD), Memory(seen, tuple(keys)))

    def loss(self, tokens_BT: Tensor, target_BT: Tensor, layout: Layout) -> Tensor:
        """Cross-entropy in nats, summed over the slots whose target is not IGNORE."""
        h_SD = self._hidden(self.embed(tokens_BT), layout).flatten(0, 1)
        chunks = zip(h_SD.split(LOSS_CHUNK), target_BT.flatten().split(LOSS_CHUNK), strict=True)
        return torch.stack([self._cross_entropy(h, target) for h, target in chunks]).sum()

    def _hidden(self, x_BTD: Tensor, layout: Layout) -> Tensor:
        """What `read` finds, remembering nothing."""
        sight = self.config.attention.sight(layout, layout, x_BTD.dtype)
        for block in self.layers:
            x_BTD, _ = block(x_BTD, layout, sight)
        h_BTD: Tensor = self.norm(x_BTD)
        return h_BTD

    def _cross_entropy(self, h_SD: Tensor, target_S: Tensor) -> Tensor:
        logits_SV = self.unembed(h_SD).float()
        return F.cross_entropy(logits_SV, target_S, ignore_index=IGNORE, reduction="sum")

    def mixtures(self) -> list[MoE]:
        """The feed-forwards that are mixtures, from the first layer to the last."""
        return [block.ffn for block in self.layers if isinstance(block.ffn, MoE)]

    @torch.no_grad()
    def initialize(self, seed: int, std: float = 0.02) -> None:
        """Draw fresh weights: N(0, std^2), what writes to the residual stream smaller by sqrt(2 n_layers) (GPT-2)."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                writes = "o_proj" in name or "down_proj" in name
                scale = (2 * self.config.n_layers) ** -0.5 if writes else 1.0
                parameter.normal_(std=std * scale, generator=generator)

"""The language model: embed, pass the blocks, unembed.

Shape suffixes: B batch, T slots, S = B*T tokens, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from .attention import AttentionConfig, Keys, Sight
from .head import summed_cross_entropy
from .initial import GPT2Init, Init, Stack
from .layers import DenseConfig, Layout, NormConfig, RMSNormConfig
from .memory import Memories, Memory
from .moe import MoE, MoEConfig
from .spec import Spec
from .thinking import Moment, PlainConfig, Reading, Thought
from .ways import ThinkingConfig

IGNORE = -100
NOW = Moment()
GPT2 = GPT2Init()


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Spec):
    """A pre-norm decoder: `n_layers` blocks of attention and a dense or mixed feed-forward.

    residual: whether the feed-forward reads what attention has written (sequential) or what attention read (parallel).
    embed_scale: what embedded tokens are multiplied by. thinking: what is done with a text beyond reading it once.
    """

    vocab_size: int
    dim: int
    n_layers: int
    attention: AttentionConfig
    ffn: DenseConfig | MoEConfig
    norm: NormConfig = field(default_factory=RMSNormConfig)
    residual: Literal["sequential", "parallel"] = "sequential"
    tied: bool = False
    embed_scale: float = 1.0
    thinking: ThinkingConfig = field(default_factory=PlainConfig)

    def block(self, layer: int) -> Block:
        """A fresh block as it stands in `layer`."""
        return BLOCKS[self.residual](self, layer)


class Block(nn.Module):
    """Attention and a feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.attn_norm = config.norm.build(config.dim)
        self.attn = config.attention.build(config.dim, config.norm)
        self.ffn_norm = config.norm.build(config.dim)
        self.ffn = config.ffn.build(config.dim, layer)

    def forward(
        self, x_BTD: Tensor, layout: Layout, sight: Sight, past: Keys | None = None, anchors: tuple[Keys, ...] = ()
    ) -> tuple[Tensor, Keys]:
        y_BTD, seen = self.attn(self.attn_norm(x_BTD), sight, past, anchors)
        x_BTD = x_BTD + y_BTD
        return x_BTD + self.ffn(self.ffn_norm(x_BTD), layout), seen


class ParallelBlock(Block):
    """Attention and feed-forward read the same residual stream, each through its own norm (GPT-J, GPT-NeoX)."""

    def forward(
        self, x_BTD: Tensor, layout: Layout, sight: Sight, past: Keys | None = None, anchors: tuple[Keys, ...] = ()
    ) -> tuple[Tensor, Keys]:
        y_BTD, seen = self.attn(self.attn_norm(x_BTD), sight, past, anchors)
        return self.ffn(self.ffn_norm(x_BTD), layout) + y_BTD + x_BTD, seen


BLOCKS = {"sequential": Block, "parallel": ParallelBlock}


class Decoder(nn.Module):
    """Written for one device; whoever trains on many applies that from outside, and sets `in_step`."""

    in_step = False

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        first_VD = torch.randn(config.vocab_size, config.dim)  # not nn.Embedding's: on meta that loads a compiler
        self.embed = nn.Embedding.from_pretrained(first_VD, freeze=False)
        self.layers = nn.ModuleList(config.block(layer) for layer in range(config.n_layers))
        self.norm = config.norm.build(config.dim)
        self.unembed = nn.Linear(config.dim, config.vocab_size, bias=False)
        self.thinking = config.thinking.build(config.dim)
        for mixture in self.mixtures():
            mixture.passes = config.thinking.effort().training_passes
        self.tie()

    def tie(self) -> None:
        """Let embedding and head share one matrix if the config says so; moving to another device parts them."""
        if self.config.tied:
            self.unembed.weight = self.embed.weight

    def forward(self, tokens_BT: Tensor, layout: Layout | None = None) -> Tensor:
        """Logits [B, T, V]; without a layout every row is one document."""
        thought = self.read(tokens_BT, layout or Layout.of(tokens_BT))
        logits_BTV: Tensor = self.unembed(thought.h_BTD)
        return logits_BTV

    def read(self, tokens_BT: Tensor, layout: Layout, past: Memories | None = None, moment: Moment = NOW) -> Thought:
        """Read tokens, after what is remembered in `past`, and think; without a past nothing is remembered."""
        thought: Thought = self.thinking(self, self.embedded(tokens_BT), layout, past, moment)
        return thought

    def loss(self, tokens_BT: Tensor, target_BT: Tensor, layout: Layout, moment: Moment = NOW) -> Tensor:
        """Nats of cross-entropy, summed over slots whose target is not IGNORE; in training with thinking's penalty."""
        thought = self.read(tokens_BT, layout, None, moment)
        h_SD, target_S = thought.h_BTD.flatten(0, 1), target_BT.flatten()
        nats, nats_S = summed_cross_entropy(h_SD, self.unembed.weight, target_S, ignore=IGNORE)
        if not self.training:
            return nats
        hit_BT = nats_S.neg().exp().view_as(target_BT)
        return nats + self.thinking.penalty(thought, hit_BT, target_BT != IGNORE, moment)

    def read_once(self, x_BTD: Tensor, layout: Layout, past: Memory | None, *, remember: bool) -> Reading:
        """Pass embedded slots through the blocks, after what is remembered in `past`."""
        seen = layout if past is None else past.layout.then(layout)
        sight = self.config.attention.sight(layout, seen, x_BTD.dtype)
        before: Sequence[Keys | None] = [None] * len(self.layers) if past is None else past.keys
        keys = []
        earlier: dict[int, Keys] = {}
        for layer, (block, past_keys) in enumerate(zip(self.layers, before, strict=True)):
            earlier = {number: earlier[number] for number in self.config.attention.anchors(layer)}
            x_BTD, known = block(x_BTD, layout, sight, past_keys, tuple(earlier.values()))
            earlier[layer] = known.last(x_BTD.shape[1])
            if remember:
                keys.append(known)
        return Reading(self.norm(x_BTD), Memory(seen, tuple(keys)) if remember else None, x_BTD)

    def embedded(self, tokens_BT: Tensor) -> Tensor:
        """What stands for each token at the input, [B, T, D]."""
        x_BTD: Tensor = self.embed(tokens_BT)
        return x_BTD if self.config.embed_scale == 1 else x_BTD * self.config.embed_scale

    @property
    def embedding_VD(self) -> Tensor:
        """What stands for each token, before `embed_scale`."""
        return self.embed.weight

    @property
    def embed_scale(self) -> float:
        """What it is multiplied by."""
        return self.config.embed_scale

    @property
    def head_VD(self) -> Tensor:
        """What gives each token's logit."""
        return self.unembed.weight

    def mixtures(self) -> list[MoE]:
        """The feed-forwards that are mixtures, from the first layer to the last."""
        return [block.ffn for block in self.layers if isinstance(block.ffn, MoE)]

    @torch.no_grad()
    def initialize(self, seed: int, init: Init = GPT2) -> None:
        """Draw fresh weights: norms 1, biases 0, everything else by `init`; what thinks then sets its own."""
        generator = torch.Generator().manual_seed(seed)
        stack = Stack(self.config.dim, self.config.n_layers, self.config.thinking.effort().speaking_passes)
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                writes = "o_proj" in name or "down_proj" in name
                init.draw(parameter, stack, generator, writes=writes)
        self.thinking.reset(generator)

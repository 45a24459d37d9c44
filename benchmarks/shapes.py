"""What is measured: single layers and whole models of ours, with random weights.

Shape suffixes: B rows, T slots.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from machine import Scale, Setting
from torch import Tensor, nn

from innovator.models.attention import AttentionConfig
from innovator.models.cost import Cost, cost
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.layers import SwiGLUConfig
from innovator.models.moe import MoEConfig, SoftmaxRouter

STD = 0.02


@dataclass(frozen=True)
class LayerShape:
    """A mixture in the place of one feed-forward, and how many tokens pass it."""

    dim: int
    n_experts: int
    width: int
    top_k: int
    n_tokens: int

    @property
    def flops(self) -> float:
        """Of the chosen experts' three products, forward and for both gradients of each."""
        return 3 * 2.0 * 3 * self.dim * self.width * self.top_k * self.n_tokens

    @property
    def config(self) -> MoEConfig:
        """The mixture, without a shared expert; `dense` costs as much as the experts that a token passes."""
        return MoEConfig(
            n_experts=self.n_experts,
            n_disciplines=2,
            top_k=self.top_k,
            expert=SwiGLUConfig(hidden=self.width),
            shared=None,
            dense=SwiGLUConfig(hidden=self.width * self.top_k),
            router=SoftmaxRouter(),
        )


@dataclass(frozen=True)
class ModelShape:
    """A whole mixture and the batch that a step reads."""

    config: DecoderConfig
    rows: int
    seq_len: int

    @property
    def n_tokens(self) -> int:
        """Tokens of a step."""
        return self.rows * self.seq_len

    @property
    def dense(self) -> DecoderConfig:
        """The dense model of equal active FLOPs: as wide as the shared and the chosen experts together."""
        moe = self.mixture
        assert isinstance(moe.shared, SwiGLUConfig)
        return replace(self.config, ffn=SwiGLUConfig(hidden=moe.shared.hidden + moe.top_k * moe.expert.hidden))

    @property
    def mixture(self) -> MoEConfig:
        """The feed-forward of every layer."""
        assert isinstance(self.config.ffn, MoEConfig)
        return self.config.ffn

    def count(self, config: DecoderConfig) -> Cost:
        """What this model or its dense counterpart costs."""
        return cost(config, self.seq_len)

    def step_flops(self, config: DecoderConfig) -> float:
        """What of a training step counts."""
        return self.count(config).training * self.n_tokens


def upcycled(dense: DecoderConfig, *, n_sources: int, n_parts: int, top_k: int) -> DecoderConfig:
    """What becomes of a dense model whose disciplines' feed-forwards are cut in parts."""
    assert isinstance(dense.ffn, SwiGLUConfig)
    ffn = MoEConfig(
        n_experts=n_sources * n_parts,
        n_disciplines=n_sources,
        top_k=top_k,
        expert=SwiGLUConfig(hidden=dense.ffn.hidden // n_parts),
        shared=dense.ffn,
        dense=dense.ffn,
        router=SoftmaxRouter(),
    )
    return replace(dense, ffn=ffn)


def dense_model(vocab_size: int, dim: int, n_layers: int, n_heads: int, n_kv_heads: int, hidden: int) -> DecoderConfig:
    """A dense model of the Qwen2 family."""
    attention = AttentionConfig(n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=dim // n_heads, qkv_bias=True)
    ffn = SwiGLUConfig(hidden=hidden)
    return DecoderConfig(vocab_size=vocab_size, dim=dim, n_layers=n_layers, attention=attention, ffn=ffn, tied=True)


TINY = upcycled(dense_model(128, 32, 2, 2, 2, 32), n_sources=4, n_parts=2, top_k=2)
QUICKSTART = upcycled(dense_model(1024, 64, 3, 2, 2, 128), n_sources=4, n_parts=4, top_k=4)
FINE = upcycled(dense_model(4096, 256, 4, 4, 2, 704), n_sources=4, n_parts=8, top_k=4)
QWEN = upcycled(dense_model(151_936, 896, 24, 14, 2, 4864), n_sources=8, n_parts=8, top_k=8)

LAYERS: dict[Scale, dict[str, LayerShape]] = {
    "quick": {"tiny": LayerShape(dim=32, n_experts=8, width=16, top_k=2, n_tokens=128)},
    "cpu": {
        "quickstart": LayerShape(dim=64, n_experts=16, width=32, top_k=4, n_tokens=2048),
        "fine": LayerShape(dim=256, n_experts=32, width=88, top_k=4, n_tokens=4096),
        "paper": LayerShape(dim=3584, n_experts=64, width=2368, top_k=8, n_tokens=256),
    },
    "cuda": {
        "fine": LayerShape(dim=256, n_experts=32, width=88, top_k=4, n_tokens=4096),
        "paper": LayerShape(dim=3584, n_experts=64, width=2368, top_k=8, n_tokens=16_384),
    },
}
MODELS: dict[Scale, dict[str, ModelShape]] = {
    "quick": {"tiny": ModelShape(TINY, rows=2, seq_len=32)},
    "cpu": {
        "quickstart": ModelShape(QUICKSTART, rows=16, seq_len=128),
        "fine": ModelShape(FINE, rows=8, seq_len=512),
    },
    "cuda": {"qwen2.5-0.5b upcycled": ModelShape(QWEN, rows=4, seq_len=2048)},
}


def build(config: DecoderConfig, setting: Setting) -> Decoder:
    """A model of random weights on the device."""
    with setting.device:
        model = Decoder(config).to(setting.dtype)
    model.tie()
    draw(model, STD)
    return model.train()


@torch.no_grad()
def draw(module: nn.Module, std: float) -> None:
    """Give all weights fresh random numbers, norms ones."""
    for number, (name, parameter) in enumerate(module.named_parameters()):
        generator = torch.Generator(parameter.device).manual_seed(number)
        if name.endswith("norm.weight"):
            parameter.fill_(1.0)
        else:
            parameter.normal_(std=std, generator=generator)


def random_text(shape: ModelShape, setting: Setting) -> tuple[Tensor, Tensor]:
    """Tokens, and the one that follows each."""
    generator = torch.Generator().manual_seed(0)
    size = (shape.rows, shape.seq_len + 1)
    tokens_BT = torch.randint(shape.config.vocab_size, size, generator=generator).to(setting.device)
    return tokens_BT[:, :-1].contiguous(), tokens_BT[:, 1:].contiguous()

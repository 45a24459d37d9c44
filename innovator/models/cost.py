"""What a decoder costs: parameters in all and per token, floating-point operations per token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from .decoder import Decoder, DecoderConfig
from .moe import MoEConfig


def first_match(name: str, trainable: Mapping[str, float]) -> float:
    """The learning-rate factor of the first pattern that a parameter's name matches; 0, frozen, if none does."""
    return next((factor for pattern, factor in trainable.items() if fnmatchcase(name, pattern)), 0.0)


@dataclass(frozen=True)
class Cost:
    """Counts of one decoder; `active` and `products` count only the top-k experts that a token passes.

    products: active parameters that are matrix products (everything but the embedding look-up and the norms).
    attention: FLOPs per token of a forward pass in scores and values, at half the sequence length on average.
    """

    total: int
    active: int
    products: int
    trained_products: int
    attention: float

    @property
    def forward(self) -> float:
        """FLOPs per token of a forward pass."""
        return 2.0 * self.products + self.attention

    @property
    def training(self) -> float:
        """FLOPs per token of a training step: forward, gradients of activations, gradients of trained matrices."""
        return 2.0 * self.forward + self.attention + 2.0 * self.trained_products


def cost(config: DecoderConfig, seq_len: int, trainable: Mapping[str, float] | None = None) -> Cost:
    """Count a decoder without making it; `trainable` are name patterns as in a training spec (default: all)."""
    patterns = {"*": 1.0} if trainable is None else trainable
    with torch.device("meta"):
        sizes = {name: parameter.numel() for name, parameter in Decoder(config).named_parameters()}
    active = {name: size * _share(name, config) for name, size in sizes.items()}
    products = {name: n for name, n in active.items() if _is_product(name, config)}
    trained = sum(n for name, n in products.items() if first_match(name, patterns) > 0)
    width = config.attention.n_heads * config.attention.head_dim
    return Cost(
        total=sum(sizes.values()),
        active=round(sum(active.values())),
        products=round(sum(products.values())),
        trained_products=round(trained),
        attention=2.0 * config.n_layers * seq_len * width,
    )


def _share(name: str, config: DecoderConfig) -> float:
    if isinstance(config.ffn, MoEConfig) and ".experts." in name:
        return config.ffn.top_k / config.ffn.n_experts
    return 1.0


def _is_product(name: str, config: DecoderConfig) -> bool:
    if name == "embed.weight":
        return config.tied
    return not name.endswith(("norm.weight", "bias"))

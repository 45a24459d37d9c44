"""What a decoder costs: parameters in all and per token, floating-point operations and memory per token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from .decoder import Decoder, DecoderConfig
from .moe import MoEConfig
from .thinking import Effort

BF16 = 2


def first_match(name: str, trainable: Mapping[str, float]) -> float:
    """The learning-rate factor of the first pattern that a parameter's name matches; 0, frozen, if none does."""
    return next((factor for pattern, factor in trainable.items() if fnmatchcase(name, pattern)), 0.0)


@dataclass(frozen=True)
class Products:
    """Active parameters that are matrix products, by how often a token passes them: once in each pass, or once in all.

    The head is passed once, and what thinking has of its own is counted so. Not counted is what Depth-Attention adds
    to attention, below a thousandth of it.
    """

    each_pass: int
    once: int

    def flops(self, passes: float) -> float:
        """FLOPs per token, one multiplication and one addition for each."""
        return 2.0 * (passes * self.each_pass + self.once)


@dataclass(frozen=True)
class Cost:
    """Counts of one decoder; `active` and products count only the top-k experts that a token passes.

    products, trained: of everything but the embedding look-up and the norms, and of what learns of that. attention:
    FLOPs per token of one pass in scores and values, at half the sequence length on average. mix, mix_back: FLOPs of
    one expected embedding, and of its gradients, as if head and embedding learn. slot_bytes: what one slot takes in
    memory, in bf16.
    """

    total: int
    active: int
    products: Products
    trained: Products
    attention: float
    mix: float
    mix_back: float
    slot_bytes: int
    effort: Effort

    @property
    def forward(self) -> float:
        """FLOPs per token of speaking, if every token is thought about as long as can be."""
        return self.speaking(self.effort.speaking_passes)

    def speaking(self, passes: float) -> float:
        """FLOPs per token of speaking, if tokens take so many passes on average.

        Between one pass and the most, attention and expected embeddings are taken to grow evenly.
        """
        share = self._share(passes)
        attended = 1.0 + share * (self.effort.speaking_attended - 1.0)
        mixes = share * self.effort.speaking_mixes
        return self.products.flops(passes) + attended * self.attention + mixes * self.mix

    def memory(self, passes: float) -> float:
        """Bytes per token that are remembered while speaking, if tokens take so many passes on average."""
        return self.slot_bytes * self.slots(passes)

    def slots(self, passes: float) -> float:
        """Slots that are remembered for each token then."""
        least = self.effort.kept_least
        return least + self._share(passes) * (self.effort.kept - least)

    @property
    def training(self) -> float:
        """FLOPs per token of a training step: forward, gradients of activations, gradients of trained matrices."""
        effort = self.effort
        passes, trained = effort.training_passes, self.trained.flops(effort.training_passes)
        mixed = effort.training_mixes * (self.mix + self.mix_back)
        return 2.0 * self.products.flops(passes) + trained + 3.0 * effort.training_attended * self.attention + mixed

    def _share(self, passes: float) -> float:
        """How far a number of passes is between one and the most."""
        most = self.effort.speaking_passes
        return 0.0 if most == 1 else (passes - 1.0) / (most - 1.0)


def cost(config: DecoderConfig, seq_len: int, trainable: Mapping[str, float] | None = None) -> Cost:
    """Count a decoder without making it; `trainable` are name patterns as in a training spec (default: all)."""
    patterns = {"*": 1.0} if trainable is None else trainable
    with torch.device("meta"):
        sizes = {name: parameter.numel() for name, parameter in Decoder(config).named_parameters()}
    active = {name: size * _share(name, config) for name, size in sizes.items()}
    products = {name: n for name, n in active.items() if _is_product(name, config)}
    attention, effort, vocab = config.attention, config.thinking.effort(), config.vocab_size
    mixed = vocab if effort.mixed is None else min(effort.mixed, vocab)
    return Cost(
        total=sum(sizes.values()),
        active=round(sum(active.values())),
        products=_products(products),
        trained=_products({name: n for name, n in products.items() if first_match(name, patterns) > 0}),
        attention=2.0 * config.n_layers * seq_len * attention.n_heads * attention.head_dim,
        mix=2.0 * config.dim * (vocab + mixed),
        mix_back=8.0 * config.dim * mixed,
        slot_bytes=2 * BF16 * config.n_layers * attention.n_kv_heads * attention.head_dim,
        effort=effort,
    )


def _share(name: str, config: DecoderConfig) -> float:
    if isinstance(config.ffn, MoEConfig) and ".experts." in name:
        return config.ffn.top_k / config.ffn.n_experts
    return 1.0


def _is_product(name: str, config: DecoderConfig) -> bool:
    if name == "embed.weight":
        return config.tied
    return not name.endswith(("norm.weight", "bias", "embedding"))


def _products(sizes: Mapping[str, float]) -> Products:
    each_pass = sum(n for name, n in sizes.items() if name.startswith("layers."))
    return Products(round(each_pass), round(sum(sizes.values()) - each_pass))

"""What must be true of a fresh mixture, measured: parts sum to the whole, and taught by nobody it is the base.

Shape suffixes: B sequences, T slots, S = B*T, D model, N taught models, C numbers of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from innovator.models.decoder import DecoderConfig
from innovator.models.layers import Layout
from innovator.models.moe import MoEConfig, Router
from innovator.weights.blockwise import embedded, through_block, unembedded
from innovator.weights.ffn import FFN, read_ffn, split_ffn
from innovator.weights.folder import Folder
from innovator.weights.upcycle import UpcycleSpec, upcycle_layer

TOLERANCE = 1e-5
N_SEQUENCES, N_SLOTS = 4, 64
CHUNK = 1 << 20
TINY = 1e-30


@dataclass(frozen=True)
class LayerProof:
    """parts_error: largest |sum of parts - whole| over all taught feed-forwards, relative to the largest output."""

    layer: int
    parts_error: float


@dataclass(frozen=True)
class Proof:
    """logits_error: largest difference between base and mixture, relative to the largest logit of the base."""

    layers: tuple[LayerProof, ...]
    logits_error: float
    tolerance: float = TOLERANCE

    @property
    def parts_error(self) -> float:
        """The largest of all layers, or what is not a number."""
        return max((layer.parts_error for layer in self.layers), key=lambda error: (error != error, error))

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance."""
        return all(error <= self.tolerance for error in (self.logits_error, self.parts_error))


@dataclass(frozen=True)
class LayerInduction:
    """How far each discipline moved one layer's feed-forward, and the cosine between their movements."""

    layer: int
    moved: Mapping[str, float]
    cosine: list[list[float]]


@torch.no_grad()
def prove(base: Folder, sources: Sequence[Folder], spec: UpcycleSpec, seed: int) -> Proof:
    """Both laws in fp32, holding one block of the base and one expert at a time."""
    generator = torch.Generator().manual_seed(seed)
    tokens_BT = torch.randint(base.config.vocab_size, (N_SEQUENCES, N_SLOTS), generator=generator)
    dense_BTD = mixed_BTD = embedded(base, tokens_BT, torch.float32)
    layers = []
    for layer in range(base.config.n_layers):
        ffn = read_ffn(base, layer).float()
        x_SD = torch.randn(N_SLOTS, base.config.dim, generator=generator)
        order_F = spec.partition.order(ffn, spec.n_parts, torch.Generator().manual_seed(seed * 100_003 + layer))
        errors = [_parts_error(read_ffn(source, layer).float(), order_F, spec, x_SD) for source in (base, *sources)]
        layers.append(LayerProof(layer, float(torch.tensor(errors).max())))  # unlike Python's max, keeps a NaN
        untaught = ffn if layer in spec.dense_layers else _Mixed(ffn, layer, base.config, len(sources), spec, seed)
        dense_BTD = through_block(base, layer, dense_BTD)
        mixed_BTD = through_block(base, layer, mixed_BTD, _Applied(untaught))
    return Proof(tuple(layers), _relative(unembedded(base, mixed_BTD), unembedded(base, dense_BTD)))


def induction(base: Folder, sources: Mapping[str, Folder], layer: int) -> LayerInduction:
    """|taught - base| / |base| over one layer's matrices, and cosines between the differences; a chunk at a time."""
    square, product_NN = 0.0, torch.zeros(len(sources), len(sources), dtype=torch.float64)
    for name in (name for name in base.shapes if name.startswith(f"layers.{layer}.ffn.")):
        tensors = [folder.tensor(name).flatten() for folder in (base, *sources.values())]
        for origin_C, *taught in zip(*(tensor.split(CHUNK) for tensor in tensors), strict=True):
            change_NC = torch.stack([taught_C.float() - origin_C.float() for taught_C in taught])
            product_NN += change_NC @ change_NC.T
            square += float(origin_C.float().square().sum())
    length_N = product_NN.diagonal().sqrt()
    moved = dict(zip(sources, (length_N / square**0.5).tolist(), strict=True))
    return LayerInduction(layer, moved, (product_NN / length_N.outer(length_N).clamp_min(TINY)).tolist())


class _Mixed:
    """A layer's feed-forward upcycled from the base alone, each expert gone when its tokens have passed it."""

    def __init__(
        self, ffn: FFN, layer: int, dense: DecoderConfig, n_sources: int, spec: UpcycleSpec, seed: int
    ) -> None:
        self.mixture = upcycle_layer(ffn, [ffn] * n_sources, n_sources, layer, spec, seed)
        config = spec.config(dense, n_sources).ffn
        assert isinstance(config, MoEConfig)
        self.router = Router(dense.dim, config)
        self.router.weight.copy_(self.mixture.router_ED)
        self.router.selection_bias.copy_(self.mixture.selection_bias_E)

    def __call__(self, x_SD: Tensor) -> Tensor:
        routing = self.router(x_SD)
        y_SD = torch.zeros_like(x_SD) if self.mixture.shared is None else self.mixture.shared(x_SD)
        for number, expert in enumerate(self.mixture.experts):
            token_R, choice_R = (routing.expert_SK == number).nonzero(as_tuple=True)
            if len(token_R):
                weight_R1 = routing.weight_SK[token_R, choice_R, None]
                y_SD = y_SD.index_add(0, token_R, expert(x_SD[token_R]) * weight_R1)
        return y_SD


class _Applied(nn.Module):
    """Any function of tokens in a feed-forward's place."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x_BTD: Tensor, layout: Layout) -> Tensor:
        return self.function(x_BTD.flatten(0, 1)).view_as(x_BTD)


def _parts_error(ffn: FFN, order_F: Tensor, spec: UpcycleSpec, x_SD: Tensor) -> float:
    whole_SD = ffn(x_SD)
    sum_SD = sum((part(x_SD) for part in split_ffn(ffn, order_F, spec.n_parts)), torch.zeros_like(whole_SD))
    return _relative(sum_SD, whole_SD)


def _relative(ours: Tensor, truth: Tensor) -> float:
    return float((ours - truth).abs().max() / truth.abs().max())

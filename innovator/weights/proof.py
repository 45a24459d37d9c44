"""What must be true of a fresh mixture, measured: parts sum to the whole, and taught by nobody it is the base.

Shape suffixes: B sequences, T slots, S = B*T, D model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from innovator.models.decoder import Block, DecoderConfig
from innovator.models.layers import Layout
from innovator.weights.folder import Folder
from innovator.weights.upcycle import FFN, UpcycleSpec, read_ffn, split_ffn, upcycle_layer

TOLERANCE = 1e-5
N_SEQUENCES, N_SLOTS = 4, 64


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
    """Both laws in fp32, holding one block of each model at a time."""
    generator = torch.Generator().manual_seed(seed)
    tokens_BT = torch.randint(base.config.vocab_size, (N_SEQUENCES, N_SLOTS), generator=generator)
    dense_BTD = mixed_BTD = F.embedding(tokens_BT, base.tensor("embed.weight").float())
    layers = []
    for layer in range(base.config.n_layers):
        ffns = [_float(read_ffn(source, layer)) for source in (base, *sources)]
        layers.append(LayerProof(layer, _parts_error(ffns, spec, layer, seed, generator)))
        mixture = upcycle_layer(ffns[0], ffns[:1] * len(sources), layer, spec, seed)
        dense_BTD = _pass(base, base.config, layer, {}, dense_BTD)
        mixed_BTD = _pass(base, spec.config(base.config, len(sources)), layer, mixture, mixed_BTD)
    return Proof(tuple(layers), _relative(_logits(base, mixed_BTD), _logits(base, dense_BTD)))


def induction(base: Folder, sources: Mapping[str, Folder], layer: int) -> LayerInduction:
    """|taught - base| / |base| over one layer's three matrices, and cosines between the differences."""
    origin = _flat(read_ffn(base, layer))
    delta = {name: _flat(read_ffn(source, layer)) - origin for name, source in sources.items()}
    moved = {name: float(change.norm() / origin.norm()) for name, change in delta.items()}
    unit = torch.stack([F.normalize(change, dim=0) for change in delta.values()])
    return LayerInduction(layer, moved, (unit @ unit.T).tolist())


def _parts_error(ffns: Sequence[FFN], spec: UpcycleSpec, layer: int, seed: int, generator: torch.Generator) -> float:
    x_SD = torch.randn(N_SLOTS, ffns[0].gate_FD.shape[1], generator=generator)
    order_F = spec.partition.order(ffns[0], spec.n_parts, torch.Generator().manual_seed(seed * 100_003 + layer))
    errors = [_relative(_sum_of_parts(ffn, order_F, spec.n_parts, x_SD), ffn(x_SD)) for ffn in ffns]
    return float(torch.tensor(errors).max())  # which, unlike Python's max, does not lose a NaN


def _sum_of_parts(ffn: FFN, order_F: Tensor, n_parts: int, x_SD: Tensor) -> Tensor:
    gate_up_MPD, down_MDW = split_ffn(ffn, order_F, n_parts)
    parts = map(FFN, *gate_up_MPD.chunk(2, dim=1), down_MDW)
    return torch.stack([part(x_SD) for part in parts]).sum(dim=0)


def _pass(base: Folder, config: DecoderConfig, layer: int, replaced: Mapping[str, Tensor], x_BTD: Tensor) -> Tensor:
    """Send hidden states through one block, its feed-forward replaced by other tensors if there are any."""
    at = f"layers.{layer}."
    block = Block(config, layer).eval()
    kept = [name for name in base.shapes if name.startswith(at) and not (replaced and ".ffn." in name)]
    tensors = {**replaced, **{name: base.tensor(name) for name in kept}}
    block.load_state_dict({name.removeprefix(at): tensor.float() for name, tensor in tensors.items()})
    layout = Layout.of(x_BTD[..., 0])
    y_BTD: Tensor = block(x_BTD, layout, config.attention.sight(layout, layout))[0]
    return y_BTD


def _logits(base: Folder, h_BTD: Tensor) -> Tensor:
    normed_BTD = F.rms_norm(h_BTD, h_BTD.shape[-1:], base.tensor("norm.weight").float(), base.config.norm_eps)
    head = "embed.weight" if base.config.tied else "unembed.weight"
    return normed_BTD @ base.tensor(head).float().T


def _relative(ours: Tensor, truth: Tensor) -> float:
    return float((ours - truth).abs().max() / truth.abs().max())


def _float(ffn: FFN) -> FFN:
    return FFN(*(matrix.float() for matrix in ffn))


def _flat(ffn: FFN) -> Tensor:
    return torch.cat([matrix.float().flatten() for matrix in ffn])

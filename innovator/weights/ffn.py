"""The matrices of dense feed-forwards, cut across their neurons: a feed-forward is a sum over neurons.

Shape suffixes: S tokens, D model, F hidden neurons, P what a neuron looks at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from innovator.models.layers import GELUConfig
from innovator.weights.folder import Folder


@dataclass(frozen=True)
class SwiGLUMatrices:
    """down(silu(gate(x)) * up(x))."""

    gate_FD: Tensor
    up_FD: Tensor
    down_DF: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is learnt."""
        return self.gate_FD, self.up_FD, self.down_DF

    def __call__(self, x_SD: Tensor) -> Tensor:
        return (F.silu(x_SD @ self.gate_FD.T) * (x_SD @ self.up_FD.T)) @ self.down_DF.T

    @property
    def dim(self) -> int:
        """The width of what goes in and comes out."""
        return self.down_DF.shape[0]

    @property
    def rows_FP(self) -> Tensor:
        """What each neuron looks at."""
        return torch.cat([self.gate_FD, self.up_FD], dim=1)

    def some(self, neurons: Tensor, share: float) -> SwiGLUMatrices:
        """A feed-forward of these neurons only; `share` of what belongs to no neuron."""
        gate_FD, up_FD = _taken(self.gate_FD, 0, neurons), _taken(self.up_FD, 0, neurons)
        return SwiGLUMatrices(gate_FD, up_FD, _taken(self.down_DF, 1, neurons))

    def times(self, factor: float) -> SwiGLUMatrices:
        """The same with its output multiplied."""
        return replace(self, down_DF=self.down_DF * factor)

    def float(self) -> SwiGLUMatrices:
        """The same in fp32."""
        return SwiGLUMatrices(*(matrix.float() for matrix in self.tensors))

    def named(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Its tensors under the names they have in a decoder."""
        yield from zip(self.names(prefix), self.tensors, strict=True)

    @staticmethod
    def names(prefix: str) -> tuple[str, ...]:
        return tuple(f"{prefix}.{part}_proj.weight" for part in ("gate", "up", "down"))


@dataclass(frozen=True)
class GELUMatrices:
    """down(gelu(up(x))), both with biases; `approximate` as in torch's GELU."""

    up_FD: Tensor
    up_F: Tensor
    down_DF: Tensor
    down_D: Tensor
    approximate: str

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that is learnt."""
        return self.up_FD, self.up_F, self.down_DF, self.down_D

    def __call__(self, x_SD: Tensor) -> Tensor:
        hidden_SF = F.gelu(F.linear(x_SD, self.up_FD, self.up_F), approximate=self.approximate)
        return F.linear(hidden_SF, self.down_DF, self.down_D)

    @property
    def dim(self) -> int:
        """The width of what goes in and comes out."""
        return self.down_DF.shape[0]

    @property
    def rows_FP(self) -> Tensor:
        """What each neuron looks at."""
        return torch.cat([self.up_FD, self.up_F[:, None]], dim=1)

    def some(self, neurons: Tensor, share: float) -> GELUMatrices:
        """A feed-forward of these neurons only; `share` of what belongs to no neuron."""
        return GELUMatrices(
            _taken(self.up_FD, 0, neurons),
            _taken(self.up_F, 0, neurons),
            _taken(self.down_DF, 1, neurons),
            self.down_D * share,
            self.approximate,
        )

    def times(self, factor: float) -> GELUMatrices:
        """The same with its output multiplied."""
        return replace(self, down_DF=self.down_DF * factor, down_D=self.down_D * factor)

    def float(self) -> GELUMatrices:
        """The same in fp32."""
        up_FD, up_F, down_DF, down_D = (tensor.float() for tensor in self.tensors)
        return GELUMatrices(up_FD, up_F, down_DF, down_D, self.approximate)

    def named(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Its tensors under the names they have in a decoder."""
        yield from zip(self.names(prefix), self.tensors, strict=True)

    @staticmethod
    def names(prefix: str) -> tuple[str, ...]:
        return tuple(f"{prefix}.{part}_proj.{kind}" for part in ("up", "down") for kind in ("weight", "bias"))


FFN = SwiGLUMatrices | GELUMatrices


def read_ffn(folder: Folder, layer: int) -> FFN:
    """One dense layer's feed-forward."""
    prefix = f"layers.{layer}.ffn"
    if isinstance(folder.config.ffn, GELUConfig):
        up_FD, up_F, down_DF, down_D = (folder.piece(name) for name in GELUMatrices.names(prefix))
        return GELUMatrices(up_FD, up_F, down_DF, down_D, folder.config.ffn.approximate)
    return SwiGLUMatrices(*(folder.piece(name) for name in SwiGLUMatrices.names(prefix)))


def split_ffn(ffn: FFN, order_F: Tensor, n_parts: int) -> Iterator[FFN]:
    """Cut a feed-forward into parts of neurons that follow each other in `order_F`; the parts sum to the whole."""
    return (ffn.some(neurons, 1 / n_parts) for neurons in order_F.chunk(n_parts))


def _taken(matrix: Tensor, axis: int, neurons: Tensor) -> Tensor:
    """What belongs to these neurons; not copied where they stand in a row, as copying takes as long as reading."""
    first, n_neurons = int(neurons[0]), len(neurons)
    if torch.equal(neurons, torch.arange(first, first + n_neurons)):
        return matrix.narrow(axis, first, n_neurons)
    return matrix.index_select(axis, neurons)

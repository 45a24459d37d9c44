"""What is to be exported, as far as it decides where it can go."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from innovator.models.decoder import DecoderConfig
from innovator.models.layers import RMSNormConfig, SwiGLUConfig
from innovator.models.moe import MoEConfig, SoftmaxRouter
from innovator.weights.families import only_ours
from innovator.weights.folder import Folder
from innovator.weights.upcycle import UpcycleSpec

ROW_MULTIPLE = 8


@dataclass(frozen=True)
class Subject:
    """A decoder's shape, and whether its routers' selection biases are anything but zero."""

    config: DecoderConfig
    biased: bool

    @classmethod
    def of(cls, folder: Folder) -> Subject:
        """A model that exists; reads the selection biases."""
        biases = (folder.piece(name) for name in folder.shapes if name.endswith(".selection_bias"))
        return cls(folder.config, any(bool(bias.any()) for bias in biases))

    @classmethod
    def planned(cls, config: DecoderConfig, spec: UpcycleSpec) -> Subject:
        """A mixture that an upcycling will make."""
        ranked = bool(spec.start.bias(n_sources=2, n_parts=1).any())
        return cls(config, ranked or not isinstance(spec.router, SoftmaxRouter))

    @property
    def mixture(self) -> MoEConfig:
        """The mixture that it is known to be."""
        return mixture(self.config)

    @property
    def dense_prefix(self) -> int | None:
        """How many layers stay dense if they are the first ones, else None."""
        kept = sorted(self.mixture.dense_layers)
        return len(kept) if kept == list(range(len(kept))) else None

    @property
    def kernel(self) -> str:
        """The kernel of transformers that computes the experts: its usual one wants rows of whole 16 bytes."""
        return "grouped_mm" if self.mixture.expert.hidden % ROW_MULTIPLE == 0 else "batched_mm"

    @property
    def usual_heads(self) -> bool:
        """Whether the heads together are as wide as the model."""
        return self.config.attention.n_heads * self.config.attention.head_dim == self.config.dim

    def obstacles(self) -> Iterator[str]:
        """Why no stock mixture can be this model, whatever its router."""
        config = self.config
        yield from only_ours(config)
        if not isinstance(config.ffn, MoEConfig):
            yield "it is dense: its own family's class loads it as it is"
        elif not isinstance(config.ffn.expert, SwiGLUConfig):
            yield "its feed-forwards are not SwiGLU"
        if not isinstance(config.norm, RMSNormConfig):
            yield "its norms are not RMSNorm"
        if config.residual != "sequential":
            yield "attention and feed-forward run in parallel"
        if config.attention.o_bias:
            yield "its attention output has a bias"


def mixture(config: DecoderConfig) -> MoEConfig:
    """The mixture that a decoder is known to have: every target for mixtures first refuses those without."""
    assert isinstance(config.ffn, MoEConfig)
    return config.ffn

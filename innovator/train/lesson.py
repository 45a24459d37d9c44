"""What one process does in a step, as far as memory depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import torch

from innovator.engine.parallel import Precision
from innovator.models.cost import first_match
from innovator.models.decoder import Decoder, DecoderConfig

FP32 = 4


@cache
def parameter_sizes(config: DecoderConfig) -> Mapping[str, int]:
    """Numbers in each parameter of a decoder, which is not made."""
    with torch.device("meta"):
        return {name: parameter.numel() for name, parameter in Decoder(config).named_parameters()}


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A decoder, which of its parameters learn (name patterns), and what one process reads at a time.

    grouped: whether experts are computed by grouped products, as on a GPU, or one after the other.
    """

    config: DecoderConfig
    trainable: Mapping[str, float]
    rows: int
    seq_len: int
    precision: Precision
    grouped: bool

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.rows * self.seq_len

    @property
    def width(self) -> int:
        """Bytes of a number that is computed with."""
        return FP32 if self.precision == "fp32" else 2

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Numbers in each parameter."""
        return parameter_sizes(self.config)

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """The parameters that learn."""
        return tuple(name for name in self.sizes if first_match(name, self.trainable) > 0)

    @cached_property
    def learning(self) -> frozenset[str]:
        """Every part of the model in which something learns."""
        paths = (name.split(".") for name in self.trained)
        return frozenset(".".join(path[:depth]) for path in paths for depth in range(1, len(path)))

    @property
    def head_learns(self) -> bool:
        """Whether the matrix of the head does."""
        return self.learns("unembed") or (self.config.tied and self.learns("embed"))

    def learns(self, *parts: str) -> bool:
        """Whether any parameter of these parts of the model learns."""
        return not self.learning.isdisjoint(parts)

"""How the weights of a fresh decoder are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Generator, Tensor, nn

from .spec import Spec


@dataclass(frozen=True)
class Stack:
    """What a draw depends on: a decoder's width and layers, and how often a token passes all of them."""

    dim: int
    n_layers: int
    passes: float


@dataclass(frozen=True, kw_only=True)
class GPT2Init(Spec):
    """N(0, std^2); what writes to the residual stream is smaller by sqrt(2 n_layers), for that many are added."""

    std: float = 0.02
    kind: Literal["gpt2"] = "gpt2"

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ValueError(f"std={self.std} of fresh weights must be above 0")

    def draw(self, weight: Tensor, stack: Stack, generator: Generator, *, writes: bool) -> None:
        """Fill a weight; `writes`: to the residual stream."""
        scale = (2 * stack.n_layers) ** -0.5 if writes else 1.0
        weight.normal_(std=self.std * scale, generator=generator)


@dataclass(frozen=True, kw_only=True)
class PonderInit(Spec):
    """Variance 2 / (5 dim), nothing beyond three standard deviations: the start of PonderLM (arXiv 2505.20674).

    What writes to the residual stream is smaller by sqrt(2 n_layers); `per_step` counts every pass of a token, as the
    paper's GPT-NeoX does and its Llama does not.
    """

    per_step: bool = False
    kind: Literal["ponder"] = "ponder"

    def draw(self, weight: Tensor, stack: Stack, generator: Generator, *, writes: bool) -> None:
        """Fill a weight; `writes`: to the residual stream."""
        n_written = 2 * stack.n_layers * (stack.passes if self.per_step else 1)
        std = (2 / (5 * stack.dim)) ** 0.5 * (n_written**-0.5 if writes else 1.0)
        nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std, generator=generator)


Init = GPT2Init | PonderInit

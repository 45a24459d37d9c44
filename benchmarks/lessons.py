"""A training step as it is timed: the same for our models and for others.

Shape suffixes: B rows, T slots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from innovator.models.decoder import Decoder
from innovator.models.layers import Layout

CLIP = 1.0


@dataclass(frozen=True)
class Lesson:
    """A model, its optimizer and the mean loss of a batch; the learning rate is 0, so that every round routes alike."""

    model: nn.Module
    loss: Callable[[], Tensor]
    optimizer: AdamW

    def step(self) -> None:
        """Everything from the batch to the weights after it."""
        self.loss().backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def eager_step(self) -> None:
        """The same, nothing of it compiled."""
        with torch.compiler.set_stance("force_eager"):
            self.step()

    def forth_and_back(self) -> None:
        """Without the optimizer, whose work grows with all parameters and not with the active ones."""
        self.loss().backward()
        self.optimizer.zero_grad(set_to_none=True)


def optimizer(model: nn.Module) -> AdamW:
    """The one that training uses, which moves nothing here."""
    return AdamW(model.parameters(), lr=0.0, fused=True)


def own_lesson(model: Decoder, batch: tuple[Tensor, Tensor], layout: Layout | None = None) -> Lesson:
    """One of our models, dense or mixed; without a layout every row is one document."""
    tokens_BT, target_BT = batch
    seen = layout or Layout.of(tokens_BT)
    return Lesson(model, lambda: model.loss(tokens_BT, target_BT, seen) / target_BT.numel(), optimizer(model))

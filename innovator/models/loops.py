"""Two plain ways to spend more passes on a token, for thinking to be measured against.

Shape suffixes: B batch, T tokens, P pauses after each, D model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from .layers import Layout
from .memory import Memories, Memory
from .spec import Spec
from .thinking import Effort, Held, Moment, Plain, Reader, Reading, Thinker, Thought, memories


@dataclass(frozen=True, kw_only=True)
class LoopConfig(Spec):
    """Pass the whole stack of blocks `n_loops` times, each time over its own output, and the final norm once.

    The baseline "looped" of arXiv 2505.20674 (table 2), where n_loops is 4 and 7: nothing is added in between. One
    loop is a decoder that only reads; with more a trained model is another from the start.
    """

    n_loops: int = 4
    kind: Literal["loop"] = "loop"

    def __post_init__(self) -> None:
        if self.n_loops < 1:
            raise ValueError(f"n_loops={self.n_loops} must be at least 1, for a text is read once")

    def effort(self) -> Effort:
        return Effort(
            training_passes=self.n_loops,
            training_attended=self.n_loops,
            speaking_passes=self.n_loops,
            speaking_attended=self.n_loops,
            kept=self.n_loops,
            held=Held(passes=self.n_loops, attended=self.n_loops, between=1.0),
        )

    def build(self, dim: int) -> Loop | Plain:
        return Loop(self.n_loops) if self.n_loops > 1 else Plain()


class Loop(Thinker):
    """Passes over the same slots, each of which remembers for itself."""

    def __init__(self, n_loops: int) -> None:
        super().__init__()
        self.n_loops = n_loops

    def forward(self, reader: Reader, x_BTD: Tensor, layout: Layout, past: Memories | None, moment: Moment) -> Thought:
        befores: tuple[Memory | None, ...] = past or (None,) * self.n_loops
        readings: list[Reading] = []
        for before in befores:
            readings.append(reader.read_once(x_BTD, layout, before, remember=past is not None))
            x_BTD = readings[-1].stream_BTD
        passes_BT = torch.full_like(layout.position_BT, self.n_loops)
        return Thought(readings[-1].h_BTD, memories(*readings), passes_BT)


@dataclass(frozen=True, kw_only=True)
class PauseConfig(Spec):
    """After each token `n_pauses` learned embeddings at its position, the last of which speaks (arXiv 2310.02226).

    As the baseline of arXiv 2509.23184 has it, after every token; an embedding of its own for each pause is ours, and
    so is start_std, the spread that they are drawn with: best that of the tokens' embeddings. Without pauses it is a
    decoder that only reads; with them a trained model is another from the start.
    """

    n_pauses: int = 3
    start_std: float = 0.02
    kind: Literal["pause"] = "pause"

    def __post_init__(self) -> None:
        if self.n_pauses < 0:
            raise ValueError(f"n_pauses={self.n_pauses} must be at least 0")
        if self.start_std <= 0:
            raise ValueError(f"start_std={self.start_std} must be above 0, for a norm divides by an embedding's size")

    def effort(self) -> Effort:
        n_slots = self.n_pauses + 1.0
        return Effort(
            training_passes=n_slots,
            training_attended=n_slots**2,
            speaking_passes=n_slots,
            speaking_attended=n_slots**2,
            kept=n_slots,
            held=Held(passes=n_slots, attended=n_slots**2, widest=n_slots, between=1.0),
        )

    def build(self, dim: int) -> Pause | Plain:
        return Pause(dim, self) if self.n_pauses else Plain()


class Pause(Thinker):
    """One pass over tokens with pauses between them."""

    def __init__(self, dim: int, config: PauseConfig) -> None:
        super().__init__()
        self.start_std = config.start_std
        self.embedding = nn.Parameter(torch.zeros(config.n_pauses, dim))

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw the embeddings."""
        self.embedding.normal_(std=self.start_std, generator=generator)

    def forward(self, reader: Reader, x_BTD: Tensor, layout: Layout, past: Memories | None, moment: Moment) -> Thought:
        n_slots = len(self.embedding) + 1
        before = past[0] if past else None
        reading = reader.read_once(
            self._paused(x_BTD, reader.embed_scale), layout.repeat(n_slots), before, remember=past is not None
        )
        passes_BT = torch.full_like(layout.position_BT, n_slots)
        return Thought(reading.h_BTD[:, n_slots - 1 :: n_slots], memories(reading), passes_BT)

    def _paused(self, x_BTD: Tensor, scale: float) -> Tensor:
        """Each token, and after it the pauses, embedded at the same scale."""
        pause_PD = (self.embedding * scale).type_as(x_BTD)
        pause_BTPD = pause_PD.expand(*x_BTD.shape[:2], -1, -1)
        return torch.cat([x_BTD[:, :, None], pause_BTPD], dim=2).flatten(1, 2)

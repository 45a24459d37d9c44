"""Speaking: token by token, with a memory of the keys.

Shape suffixes: B prompts, T slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .decoder import Decoder
from .layers import GENERAL, PADDING, Layout
from .memory import Memories

TEXT = 0


@torch.inference_mode()
def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    n_new: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    stop: int | None = None,
) -> list[list[int]]:
    """Continue each prompt by at most `n_new` tokens; greedy at temperature 0. `stop` ends a continuation."""
    if any(len(prompt) == 0 for prompt in prompts):
        raise ValueError("a prompt is empty: give at least one token")
    tokens_BT, layout = _left_padded(prompts)
    generator = torch.Generator().manual_seed(seed)
    spoken: list[Tensor] = []
    memories: Memories = ()
    for _ in range(n_new):
        thought = model.read(tokens_BT, layout, memories)
        memories = thought.memories
        tokens_BT = _choose(model.unembed(thought.h_BTD[:, -1]), temperature, generator)
        spoken.append(tokens_BT)
        if stop is not None and all((torch.cat(spoken, 1) == stop).any(1)):
            break
        layout = _after(layout)
    rows = torch.cat(spoken, dim=1).tolist() if spoken else [[] for _ in prompts]
    return [row[: row.index(stop)] if stop in row else row for row in rows]


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Layout]:
    """Prompts flush right; the slots before one are a document of their own, which its tokens do not see."""
    longest = max(map(len, prompts))
    start_B1 = torch.tensor([[longest - len(prompt)] for prompt in prompts])
    slot_T = torch.arange(longest)
    tokens_BT = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    is_text_BT = slot_T >= start_B1
    document_BT = torch.where(is_text_BT, TEXT, PADDING)
    position_BT = torch.where(is_text_BT, slot_T - start_B1, slot_T)
    return tokens_BT, Layout(position_BT, document_BT, torch.full_like(tokens_BT, GENERAL))


def _after(layout: Layout) -> Layout:
    """The slot that follows the last one of each row."""
    return Layout(layout.position_BT[:, -1:] + 1, layout.document_BT[:, -1:], layout.label_BT[:, -1:])


def _choose(logits_BV: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0.0:
        return logits_BV.argmax(dim=-1, keepdim=True)
    return torch.multinomial((logits_BV / temperature).softmax(dim=-1), 1, generator=generator)

"""Texts as others hand them over, with a mask and positions, and what is remembered of them row by row.

Shape suffixes: B batch, T new tokens, U slots or tokens seen by now, D model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .layers import GENERAL, PADDING, Layout
from .memory import Memory


def layout_after(before: Layout | None, x_BTD: Tensor, mask_BU: Tensor | None, position_BT: Tensor | None) -> Layout:
    """Where new tokens stand; the mask speaks of those before as well.

    Padding is a document of its own, text begins a document at position 0. Positions of text are counted unless given.
    """
    if before is None and mask_BU is None and position_BT is None:
        return Layout.of(x_BTD[..., 0])
    text_BT = read_mask(before, x_BTD, mask_BU)
    document_B1, length_B1 = (0, 0) if before is None else newest(before)
    if position_BT is None:
        position_BT = text_BT.cumsum(1) - 1 + length_B1
    position_BT = position_BT.expand_as(text_BT)
    document_BT = document_B1 + ((position_BT == 0) & text_BT).cumsum(1)
    return Layout(position_BT, document_BT.where(text_BT, PADDING), torch.full_like(position_BT, GENERAL))


def read_mask(before: Layout | None, x_BTD: Tensor, mask_BU: Tensor | None) -> Tensor:
    """Which new tokens are text, [B, T]."""
    n_before = 0 if before is None else before.position_BT.shape[1]
    shape = (x_BTD.shape[0], n_before + x_BTD.shape[1])
    if mask_BU is None:
        return torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)
    if mask_BU.shape != shape:
        raise ValueError(f"attention_mask is {list(mask_BU.shape)}, the tokens seen by now are {list(shape)}")
    return mask_BU[:, n_before:].bool()


def newest(layout: Layout) -> tuple[Tensor, Tensor]:
    """Each row's newest document and how long it is by now; both 0 where a row holds no text."""
    document_B1 = layout.document_BT.clamp(min=0).amax(dim=1, keepdim=True)
    end_BT = (layout.position_BT + 1) * (layout.document_BT == document_B1)
    return document_B1, end_BT.amax(dim=1, keepdim=True)


def rows_of_memory(memory: Memory, row_B: Tensor) -> Memory:
    """Only these rows of a memory, or some of them several times."""
    keys = (keys.each(lambda part: part[row_B.to(part.device)]) for keys in memory.keys)
    return Memory(rows_of_layout(memory.layout, row_B), tuple(keys))


def rows_of_layout(layout: Layout, row_B: Tensor) -> Layout:
    """Only these rows of a layout, or some of them several times."""

    def rows(fact_BT: Tensor) -> Tensor:
        return fact_BT[row_B.to(fact_BT.device)]

    extra = (layout.order_BT, layout.depth_BT, layout.log_mass_BT)
    order_BT, depth_BT, log_mass_BT = (None if fact_BT is None else rows(fact_BT) for fact_BT in extra)
    return Layout(
        rows(layout.position_BT),
        rows(layout.document_BT),
        rows(layout.label_BT),
        order_BT=order_BT,
        depth_BT=depth_BT,
        log_mass_BT=log_mass_BT,
    )


def without(layout: Layout, gone: Layout) -> Layout:
    """The same slots; those of tokens that stand in `gone` hold nothing."""
    same_BUT = layout.document_BT[:, :, None] == gone.document_BT[:, None]
    same_BUT &= layout.position_BT[:, :, None] == gone.position_BT[:, None]
    return layout.without(same_BUT.any(dim=-1))

"""The mean embedding of the words that a head expects, whose peak memory does not grow with vocabulary times slots.

Shape suffixes: S slots, C slots of one chunk, D model, V vocabulary, K most probable words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .head import add_product, chunk_slots
from .layers import wide


def expected_embedding(h_SD: Tensor, head_VD: Tensor, embedding_VD: Tensor, top_k: int | None) -> Tensor:
    """Each slot's mean embedding [S, D] under what its head predicts, or under its `top_k` most probable words."""
    mixed_SD: Tensor = (
        MixAll.apply(h_SD, head_VD, embedding_VD)
        if top_k is None or top_k >= len(head_VD)
        else MixTop.apply(h_SD, head_VD, embedding_VD, top_k)
    )
    return mixed_SD


class MixContext(FunctionCtx):
    """What a forward pass here leaves for the backward pass."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]


class MixAll(torch.autograd.Function):
    """Every word counts; the backward pass predicts again, chunk by chunk."""

    @staticmethod
    def forward(ctx: MixContext, h_SD: Tensor, head_VD: Tensor, embedding_VD: Tensor) -> Tensor:
        ctx.save_for_backward(h_SD, head_VD, embedding_VD)
        mixed_SD = torch.empty_like(h_SD)
        size = chunk_slots(len(head_VD))
        for h_CD, mixed_CD in zip(h_SD.split(size), mixed_SD.split(size), strict=True):
            mixed_CD.copy_(_predicted(h_CD, head_VD).to(h_SD.dtype) @ embedding_VD)
        return mixed_SD

    @staticmethod
    @once_differentiable
    def backward(ctx: MixContext, dmixed_SD: Tensor) -> tuple[Tensor | None, ...]:
        h_SD, head_VD, embedding_VD = ctx.saved_tensors
        wants_h, wants_head, wants_embedding = ctx.needs_input_grad
        slope = Slope(
            h_SD=torch.zeros_like(h_SD) if wants_h else None,
            head_VD=_sum_like(head_VD) if wants_head else None,
            embedding_VD=_sum_like(embedding_VD) if wants_embedding else None,
        )
        for slot_C in torch.arange(len(h_SD), device=h_SD.device).split(chunk_slots(len(head_VD))):
            slope.add(slot_C, h_SD[slot_C], head_VD, embedding_VD, dmixed_SD[slot_C])
        return slope.h_SD, _like(slope.head_VD, head_VD), _like(slope.embedding_VD, embedding_VD)


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Gradients as far as they are asked for; chunks add to them.

    Those of matrices are in fp32 at least: many chunks are added, and in half precision small ones would be lost.
    """

    h_SD: Tensor | None
    head_VD: Tensor | None
    embedding_VD: Tensor | None

    def add(self, slot_C: Tensor, h_CD: Tensor, head_VD: Tensor, embedding_VD: Tensor, dmixed_CD: Tensor) -> None:
        """What these slots contribute."""
        p_CV = _predicted(h_CD, head_VD)
        if self.embedding_VD is not None:
            add_product(self.embedding_VD, p_CV.to(h_CD.dtype), dmixed_CD)
        if self.h_SD is None and self.head_VD is None:
            return
        dlogit_CV = _through_softmax(p_CV, dmixed_CD @ embedding_VD.T).to(h_CD.dtype)
        if self.h_SD is not None:
            self.h_SD[slot_C] = dlogit_CV @ head_VD
        if self.head_VD is not None:
            add_product(self.head_VD, dlogit_CV, h_CD)


class MixTop(torch.autograd.Function):
    """Only the most probable words count; the backward pass touches no others, and predicts nothing again."""

    @staticmethod
    def forward(ctx: MixContext, h_SD: Tensor, head_VD: Tensor, embedding_VD: Tensor, top_k: int) -> Tensor:
        chunks = [_top(h_CD, head_VD, top_k) for h_CD in h_SD.split(chunk_slots(len(head_VD)))]
        logit_SK, word_SK = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        ctx.save_for_backward(h_SD, head_VD, embedding_VD, logit_SK, word_SK)
        return _weigh(logit_SK.softmax(dim=-1).to(embedding_VD.dtype), word_SK, embedding_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: MixContext, dmixed_SD: Tensor) -> tuple[Tensor | None, ...]:
        h_SD, head_VD, embedding_VD, logit_SK, word_SK = ctx.saved_tensors
        wants_h, wants_head, wants_embedding, _ = ctx.needs_input_grad
        logit_SK = logit_SK.requires_grad_()
        with torch.enable_grad():
            wide_VD = _wide(embedding_VD).requires_grad_(wants_embedding)
            mixed_SD = _weigh(logit_SK.softmax(dim=-1), word_SK, wide_VD)
        asked = (logit_SK, wide_VD) if wants_embedding else (logit_SK,)
        dlogit_SK, *dembedding = torch.autograd.grad(mixed_SD, asked, _wide(dmixed_SD))
        del wide_VD, mixed_SD
        dembedding_VD = dembedding.pop().to(embedding_VD.dtype) if dembedding else None
        # A logit is linear in state and row: its slope in a state weighs rows, and the slope of that weighs states.
        with torch.enable_grad():
            wide_VD = _wide(head_VD).requires_grad_(wants_head)
            dh_SD = _weigh(dlogit_SK, word_SK, wide_VD)
        dhead_VD = torch.autograd.grad(dh_SD, wide_VD, _wide(h_SD))[0].to(head_VD.dtype) if wants_head else None
        return dh_SD.detach().to(h_SD.dtype) if wants_h else None, dhead_VD, dembedding_VD, None


def _predicted(h_CD: Tensor, head_VD: Tensor) -> Tensor:
    """The probability of each word, [C, V], in fp32 at least."""
    return _wide(F.linear(h_CD, head_VD)).softmax(dim=-1)


def _top(h_CD: Tensor, head_VD: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The highest logits, in fp32 at least, and whose they are; both [C, K]."""
    logit_CK, word_CK = F.linear(h_CD, head_VD).topk(top_k, dim=-1, sorted=False)
    return _wide(logit_CK), word_CK


def _weigh(weight_SK: Tensor, word_SK: Tensor, row_VD: Tensor) -> Tensor:
    """The sum of some words' rows, [S, D], each with its weight."""
    return F.embedding_bag(word_SK, row_VD, per_sample_weights=weight_SK, mode="sum")


def _through_softmax(p_CV: Tensor, dp_CV: Tensor) -> Tensor:
    """The slope in the logits, from that in their softmax."""
    dp_CV = _wide(dp_CV)
    mean_C1 = torch.bmm(p_CV[:, None], dp_CV[:, :, None])[..., 0]
    return dp_CV.sub_(mean_C1).mul_(p_CV)


def _sum_like(tensor: Tensor) -> Tensor:
    """Zeros in fp32 at least."""
    return torch.zeros_like(tensor, dtype=wide(tensor.dtype))


def _like(tensor: Tensor | None, other: Tensor) -> Tensor | None:
    return None if tensor is None else tensor.to(other.dtype)


def _wide(tensor: Tensor) -> Tensor:
    """The same numbers outside autograd's graph, in fp32 at least."""
    return tensor.detach().to(wide(tensor.dtype))

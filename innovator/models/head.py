"""The loss of a linear head, whose peak memory does not grow with vocabulary times slots.

The loss is a plain sum, so what comes back to it is one number: the gradients are made as the logits pass by, chunk by
chunk, and only multiplied in the backward pass.

Shape suffixes: S slots, C slots of one chunk, D model, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .layers import wide

CHUNK_BYTES = 8 * 2**20  # more leaves a processor's caches
CHUNK_SLOTS = 512  # fewer cost time: every chunk passes over the whole matrix and its gradient


def chunk_slots(vocab_size: int) -> int:
    """How many slots have their logits stand at once: 8 MiB of them in fp32, but 512 slots at least."""
    return max(CHUNK_SLOTS, CHUNK_BYTES // (torch.float32.itemsize * vocab_size))


def summed_cross_entropy(h_SD: Tensor, head_VD: Tensor, target_S: Tensor, *, ignore: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy of a linear head in nats, summed over the slots whose target is not `ignore`; and each slot's.

    The latter, 0 where the target is `ignore`, has no gradient.
    """
    if not torch.is_grad_enabled():  # `needs_input_grad` does not know
        h_SD, head_VD = h_SD.detach(), head_VD.detach()
    nats: tuple[Tensor, Tensor] = HeadLoss.apply(h_SD, head_VD, target_S, ignore)
    return nats


class HeadContext(FunctionCtx):
    """What the forward pass of `HeadLoss` leaves for the backward pass."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]


class HeadLoss(torch.autograd.Function):
    """Cross-entropy of a linear head that never holds more logits than one chunk has.

    Gradients are multiplied in place, so a graph that is kept allows one backward pass: autograd refuses a second.
    """

    @staticmethod
    def forward(
        ctx: HeadContext, h_SD: Tensor, head_VD: Tensor, target_S: Tensor, ignore: int
    ) -> tuple[Tensor, Tensor]:
        wants_h, wants_head, _, _ = ctx.needs_input_grad
        slope = Slope(
            h_SD=torch.zeros_like(h_SD) if wants_h else None,
            head_VD=torch.zeros_like(head_VD, dtype=wide(head_VD.dtype)) if wants_head else None,
        )
        chunks = (target_S != ignore).nonzero().squeeze(1).split(chunk_slots(len(head_VD)))
        nats_S = torch.zeros_like(target_S, dtype=wide(h_SD.dtype))
        for slot_C in chunks:
            nats_S[slot_C] = _pass(h_SD[slot_C], head_VD, target_S[slot_C], slot_C, slope)
        ctx.save_for_backward(*(dx.to(h_SD.dtype) for dx in (slope.h_SD, slope.head_VD) if dx is not None))
        ctx.mark_non_differentiable(nats_S)
        return nats_S.sum(), nats_S

    @staticmethod
    @once_differentiable
    def backward(ctx: HeadContext, dnats: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        saved = iter(ctx.saved_tensors)
        dh_SD, dhead_VD = (next(saved).mul_(dnats) if wanted else None for wanted in ctx.needs_input_grad[:2])
        return dh_SD, dhead_VD, None, None


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Gradients of the sum, as far as they are asked for; chunks add to them.

    The head's is in fp32 at least: many chunks are added, and in half precision small ones would be lost.
    """

    h_SD: Tensor | None
    head_VD: Tensor | None

    def add(self, slot_C: Tensor, dlogit_CV: Tensor, h_CD: Tensor, head_VD: Tensor) -> None:
        """What these slots contribute."""
        if self.h_SD is not None:
            self.h_SD[slot_C] = dlogit_CV @ head_VD
        if self.head_VD is not None:
            add_product(self.head_VD, dlogit_CV, h_CD)


def add_product(sum_VD: Tensor, left_CV: Tensor, right_CD: Tensor) -> None:
    """Add what a chunk's slots give for each word; nothing is copied where the sum has their type."""
    if sum_VD.dtype == right_CD.dtype:
        torch.addmm(sum_VD, left_CV.T, right_CD, out=sum_VD)
    else:
        sum_VD.add_(left_CV.T @ right_CD)


def _pass(h_CD: Tensor, head_VD: Tensor, target_C: Tensor, slot_C: Tensor, slope: Slope) -> Tensor:
    """The nats [C] of one chunk, whose gradients are added to `slope`."""
    log_p_CV = F.log_softmax(F.linear(h_CD, head_VD).to(wide(h_CD.dtype)), dim=-1)
    nats_C = -log_p_CV.gather(1, target_C[:, None])[:, 0]
    if slope.h_SD is not None or slope.head_VD is not None:
        p_CV = log_p_CV.exp_()
        p_CV[torch.arange(len(target_C), device=target_C.device), target_C] -= 1
        slope.add(slot_C, p_CV.to(h_CD.dtype), h_CD, head_VD)
    return nats_C

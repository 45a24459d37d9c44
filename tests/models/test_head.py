"""The loss of a head is that of torch, and so are its gradients, but memory does not grow with vocabulary times slots.

Shape suffixes: S slots, D model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from innovator.models import head
from innovator.models.decoder import IGNORE, Decoder, DecoderConfig
from innovator.models.head import CHUNK_SLOTS, summed_cross_entropy
from innovator.models.layers import Layout

QWEN = 151_936
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Slots:
    """What a head reads, its matrix, and which word follows; h_SD and head_VD ask for gradients."""

    h_SD: Tensor
    head_VD: Tensor
    target_S: Tensor

    @classmethod
    def draw(cls, n_slots: int = 50, vocab: int = 61, dim: int = 16, dtype: torch.dtype = torch.float32) -> Slots:
        generator = torch.Generator().manual_seed(3)
        h_SD, head_VD = (
            torch.randn(n, dim, generator=generator, dtype=torch.float64).to(dtype) for n in (n_slots, vocab)
        )
        target_S = torch.randint(vocab, (n_slots,), generator=generator)
        target_S[::4] = IGNORE
        return cls(h_SD.requires_grad_(), head_VD.requires_grad_(), target_S)

    def to(self, dtype: torch.dtype) -> Slots:
        h_SD, head_VD = (it.detach().to(dtype).requires_grad_() for it in (self.h_SD, self.head_VD))
        return Slots(h_SD, head_VD, self.target_S)

    def results(self, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and the gradients of half of it."""
        nats = loss(self.h_SD, self.head_VD, self.target_S)
        dh_SD, dhead_VD = torch.autograd.grad(nats / 2, (self.h_SD, self.head_VD))
        return nats.detach(), dh_SD, dhead_VD

    def learn(self) -> None:
        """Forward and backward pass."""
        ours(self.h_SD, self.head_VD, self.target_S).backward()


def ours(h_SD: Tensor, head_VD: Tensor, target_S: Tensor) -> Tensor:
    nats, _ = summed_cross_entropy(h_SD, head_VD, target_S, ignore=IGNORE)
    return nats


def plain(h_SD: Tensor, head_VD: Tensor, target_S: Tensor) -> Tensor:
    """All logits at once, in fp32 at least."""
    logits_SV = F.linear(h_SD, head_VD)
    wide_SV = logits_SV.to(torch.promote_types(logits_SV.dtype, torch.float32))
    return F.cross_entropy(wide_SV, target_S, ignore_index=IGNORE, reduction="sum")


def error(one: Tensor, other: Tensor) -> float:
    """The distance between two tensors in norms of the second."""
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven slots at a time: 37 of 50 predict, so that the last chunk is a remainder."""
    monkeypatch.setattr(head, "CHUNK_SLOTS", 7)
    monkeypatch.setattr(head, "CHUNK_BYTES", 1)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_loss_and_gradients_are_those_of_all_logits_at_once(dtype: torch.dtype, tolerance: float) -> None:
    """Sums in another order."""
    slots = Slots.draw(dtype=dtype)
    for one, other in zip(slots.results(ours), slots.results(plain), strict=True):
        assert one.dtype == other.dtype and error(one, other) < tolerance


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_rounds_the_logits_and_the_gradients_and_no_sum(dtype: torch.dtype, rounding: float) -> None:
    """Off the fp32 results by two roundings at most; the loss, of equally rounded logits, is torch's."""
    slots = Slots.draw(n_slots=400, dtype=dtype)
    nats, *gradients = slots.results(ours)
    assert nats.dtype == torch.float32 and error(nats, slots.results(plain)[0]) < 1e-6
    for one, exact in zip(gradients, slots.to(torch.float32).results(plain)[1:], strict=True):
        assert one.dtype == dtype and error(one, exact) < 2 * rounding


def test_many_small_contributions_are_not_lost_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum in bf16 stands still after 256 equal numbers; here are 1,000 chunks of one slot."""
    monkeypatch.setattr(head, "CHUNK_SLOTS", 1)
    monkeypatch.setattr(head, "CHUNK_BYTES", 1)
    one = Slots.draw(n_slots=2, dtype=torch.bfloat16)
    many = Slots(one.h_SD[1:].detach().repeat(1000, 1).requires_grad_(), one.head_VD, one.target_S[1:].repeat(1000))
    assert error(many.results(ours)[2], 1000 * one.results(ours)[2]) < 2**-8


@pytest.mark.usefixtures("small_chunks")
def test_each_slot_has_its_part_of_the_loss_and_lets_no_gradient_through() -> None:
    slots = Slots.draw()
    nats, nats_S = summed_cross_entropy(slots.h_SD, slots.head_VD, slots.target_S, ignore=IGNORE)
    logits_SV = F.linear(slots.h_SD, slots.head_VD)
    expected_S = F.cross_entropy(logits_SV, slots.target_S, ignore_index=IGNORE, reduction="none")
    assert error(nats_S, expected_S.detach()) < 1e-6
    assert nats.requires_grad and not nats_S.requires_grad


def test_slots_without_a_target_have_no_gradient() -> None:
    slots = Slots.draw()
    dh_SD = slots.results(ours)[1]
    assert ((dh_SD == 0).all(dim=1) == (slots.target_S == IGNORE)).all()


def test_where_nothing_is_predicted_there_is_neither_loss_nor_gradient() -> None:
    slots = Slots.draw()
    slots.target_S.fill_(IGNORE)
    assert not any(it.any() for it in slots.results(ours))


@pytest.mark.parametrize("frozen", ["h_SD", "head_VD"])
def test_what_is_frozen_has_no_gradient_and_the_other_the_same(frozen: str) -> None:
    slots = Slots.draw()
    whole = dict(zip(("h_SD", "head_VD"), slots.results(ours)[1:], strict=True))
    vars(slots)[frozen].requires_grad_(False)
    slots.learn()
    for name, gradient in whole.items():
        half = vars(slots)[name].grad
        assert half is None if name == frozen else torch.equal(half, 2 * gradient)


def test_a_tied_matrix_sums_what_it_learns_as_embedding_and_as_head(dense: DecoderConfig) -> None:
    model = Decoder(replace(dense, tied=True))
    model.initialize(seed=1)
    tokens_BT = torch.arange(18).view(2, 9)
    target_BT, layout = tokens_BT.roll(-1, dims=1), Layout.of(tokens_BT)
    model.loss(tokens_BT, target_BT, layout).backward()
    h_BTD = model.read(tokens_BT, layout).h_BTD
    nats = plain(h_BTD.flatten(0, 1), model.unembed.weight, target_BT.flatten())
    (expected_VD,) = torch.autograd.grad(nats, model.embed.weight)
    assert model.embed.weight.grad is not None and error(model.embed.weight.grad, expected_VD) < 1e-6


def test_a_kept_graph_allows_one_backward_pass() -> None:
    slots = Slots.draw()
    nats = ours(slots.h_SD, slots.head_VD, slots.target_S)
    nats.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        nats.backward()


def test_without_autograd_no_gradient_is_made() -> None:
    slots = Slots.draw(vocab=8192, n_slots=64)
    with torch.no_grad():
        reading = peak(lambda: ours(slots.h_SD, slots.head_VD, slots.target_S))
    slots.h_SD.requires_grad_(False)
    learning = peak(lambda: ours(slots.h_SD, slots.head_VD, slots.target_S))
    assert learning - reading > 0.9 * slots.head_VD.nbytes


def test_with_twice_the_slots_the_peak_grows_by_what_the_head_reads() -> None:
    """Of Qwen's words, whose logits are 0.3 GB a chunk."""
    few, many = (Slots.draw(n_slots, vocab=QWEN, dim=2) for n_slots in (700, 1400))  # of which 525 and 1,050 predict
    peaks = [peak(slots.learn) for slots in (few, many)]
    logits = 4 * QWEN * CHUNK_SLOTS
    assert peaks[0] < 2.1 * logits
    assert peaks[1] - peaks[0] < 0.001 * logits


def peak(work: Callable[[], object]) -> int:
    """The most bytes that stood at once beside those that stood before, by every allocation that torch makes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most

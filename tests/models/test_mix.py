"""Expected embeddings are what all probabilities times all embeddings come to, and so are their gradients.

Shape suffixes: S slots, D model, V vocabulary, K most probable words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from innovator.models import head
from innovator.models.head import CHUNK_SLOTS
from innovator.models.mix import expected_embedding

QWEN = 151_936
TOP = 7
NAMES = ("h_SD", "head_VD", "embedding_VD")
Mix = Callable[[Tensor, Tensor, Tensor, int | None], Tensor]
every_width = pytest.mark.parametrize("top_k", [None, TOP])


@dataclass(frozen=True)
class Words:
    """States, a head, embeddings, and the slope that comes back to the mixture; all but the last ask for gradients."""

    h_SD: Tensor
    head_VD: Tensor
    embedding_VD: Tensor
    slope_SD: Tensor

    @classmethod
    def draw(cls, n_slots: int = 50, vocab: int = 61, dim: int = 16, dtype: torch.dtype = torch.float64) -> Words:
        generator = torch.Generator().manual_seed(3)
        h_SD, head_VD, embedding_VD, slope_SD = (
            torch.randn(n, dim, generator=generator, dtype=torch.float64).to(dtype)
            for n in (n_slots, vocab, vocab, n_slots)
        )
        return cls(h_SD.requires_grad_(), head_VD.requires_grad_(), embedding_VD.requires_grad_(), slope_SD)

    def to(self, dtype: torch.dtype) -> Words:
        asked = (vars(self)[name].detach().to(dtype).requires_grad_() for name in NAMES)
        return Words(*asked, self.slope_SD.to(dtype))

    def results(self, mix: Mix, top_k: int | None) -> list[Tensor]:
        """The mixture and its gradients."""
        asked = (self.h_SD, self.head_VD, self.embedding_VD)
        mixed_SD = mix(*asked, top_k)
        return [mixed_SD.detach(), *torch.autograd.grad(mixed_SD, asked, self.slope_SD)]

    def learn(self, top_k: int | None) -> None:
        """Forward and backward pass."""
        expected_embedding(self.h_SD, self.head_VD, self.embedding_VD, top_k).backward(self.slope_SD)


def plain(h_SD: Tensor, head_VD: Tensor, embedding_VD: Tensor, top_k: int | None) -> Tensor:
    """All probabilities at once, those of words that are not among the top set to 0 by their logits."""
    logit_SV = F.linear(h_SD, head_VD)
    least_S1 = logit_SV.topk(top_k or len(head_VD)).values[:, -1:]
    return logit_SV.masked_fill(logit_SV < least_S1, -torch.inf).softmax(dim=-1) @ embedding_VD


def error(one: Tensor, other: Tensor) -> float:
    """The distance between two tensors in norms of the second."""
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven slots at a time; of 50, the last chunk is a remainder."""
    monkeypatch.setattr(head, "CHUNK_SLOTS", 7)
    monkeypatch.setattr(head, "CHUNK_BYTES", 1)


@every_width
@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_mixture_and_gradients_are_those_of_all_words_at_once(
    dtype: torch.dtype, tolerance: float, top_k: int | None
) -> None:
    """Sums in another order."""
    words = Words.draw(dtype=dtype)
    for one, other in zip(words.results(expected_embedding, top_k), words.results(plain, top_k), strict=True):
        assert one.dtype == other.dtype and error(one, other) < tolerance


@every_width
@pytest.mark.usefixtures("small_chunks")
def test_a_tied_matrix_sums_what_it_learns_as_embedding_and_as_head(top_k: int | None) -> None:
    words = Words.draw()
    tied = Words(words.h_SD, words.head_VD, words.head_VD, words.slope_SD)
    tied.learn(top_k)
    _, _, as_head_VD, as_embedding_VD = Words(
        words.h_SD, words.head_VD, words.head_VD.detach().clone().requires_grad_(), words.slope_SD
    ).results(plain, top_k)
    assert words.head_VD.grad is not None and error(words.head_VD.grad, as_head_VD + as_embedding_VD) < 1e-13


def test_the_top_of_all_words_is_all_words() -> None:
    words = Words.draw()
    for one, other in zip(words.results(expected_embedding, 61), words.results(expected_embedding, None), strict=True):
        assert torch.equal(one, other)
    assert error(words.results(expected_embedding, 60)[0], words.results(expected_embedding, None)[0]) < 0.02


@every_width
@pytest.mark.usefixtures("small_chunks")
def test_half_precision_rounds_factors_and_results_and_no_sum(top_k: int | None) -> None:
    """Of equally rounded states, heads and embeddings; logits of norm 4 are off by up to 2^-7 themselves."""
    words = Words.draw(n_slots=400, dtype=torch.bfloat16)
    exact = words.to(torch.float32).results(plain, top_k)
    for one, other in zip(words.results(expected_embedding, top_k), exact, strict=True):
        assert one.dtype == torch.bfloat16 and error(one, other) < 6 * 2**-8


@every_width
def test_many_small_contributions_are_not_lost_in_half_precision(
    monkeypatch: pytest.MonkeyPatch, top_k: int | None
) -> None:
    """A sum in bf16 stands still after 256 equal numbers; here are 600 chunks of one slot."""
    monkeypatch.setattr(head, "CHUNK_SLOTS", 1)
    monkeypatch.setattr(head, "CHUNK_BYTES", 1)
    one = Words.draw(n_slots=1, dtype=torch.bfloat16)
    h_SD, slope_SD = one.h_SD.detach().repeat(600, 1).requires_grad_(), one.slope_SD.repeat(600, 1)
    many = Words(h_SD, one.head_VD, one.embedding_VD, slope_SD)
    for name, summed, single in zip(
        NAMES[1:], many.results(expected_embedding, top_k)[2:], one.results(expected_embedding, top_k)[2:], strict=True
    ):
        assert error(summed, 600 * single.float()) < 2**-7, name


@every_width
@pytest.mark.parametrize("frozen", NAMES)
def test_what_is_frozen_has_no_gradient_and_the_others_the_same(frozen: str, top_k: int | None) -> None:
    words = Words.draw()
    whole = dict(zip(NAMES, words.results(expected_embedding, top_k)[1:], strict=True))
    vars(words)[frozen].requires_grad_(False)
    words.learn(top_k)
    for name, gradient in whole.items():
        own = vars(words)[name].grad
        assert own is None if name == frozen else torch.equal(own, gradient)


@pytest.mark.parametrize(("top_k", "n_chunks"), [(None, 2.1), (TOP, 1.1)])
def test_with_twice_the_slots_the_peak_grows_by_what_the_head_reads(top_k: int | None, n_chunks: float) -> None:
    """Of Qwen's words, whose logits are 0.3 GB a chunk; all words' backward pass holds probabilities and slopes too."""
    few, many = (Words.draw(n_slots, vocab=QWEN, dim=2, dtype=torch.float32) for n_slots in (520, 1040))
    peaks = [peak(partial(words.learn, top_k)) for words in (few, many)]
    logits = 4 * QWEN * CHUNK_SLOTS
    assert peaks[0] < n_chunks * logits
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

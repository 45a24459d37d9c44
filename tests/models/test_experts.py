"""However fast the experts are computed, they are the experts computed one after the other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from innovator.models.experts import GELUExperts, experts_forward, grouped, reference
from innovator.models.layers import GELU

DIM = 12
GELU_NAMES = {
    "up_proj": "up_proj.weight",
    "up_bias": "up_proj.bias",
    "down_proj": "down_proj.weight",
    "down_bias": "down_proj.bias",
}
COUNTS = ((3, 0, 7, 2), (0, 0, 12, 0), (5, 4, 2, 0), (0, 1, 0, 1))
Way = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
every_count = pytest.mark.parametrize("counts", COUNTS, ids=str)
every_width = pytest.mark.parametrize("hidden", [16, 20, 7])


def operands(counts: tuple[int, ...], hidden: int, dim: int = DIM) -> list[Tensor]:
    """Rows, gate over up, down."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((sum(counts), dim), (len(counts), 2 * hidden, dim), (len(counts), dim, hidden))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def outcome(path: Way, inputs: list[Tensor], counts: tuple[int, ...], wanted: tuple[bool, ...]) -> list[Tensor | None]:
    """The output, and the gradient of each input that wants one."""
    leaves = [x.detach().clone().requires_grad_(want) for x, want in zip(inputs, wanted, strict=True)]
    x_RD, gate_up_EPD, down_EDF = leaves
    y_RD = path(x_RD, gate_up_EPD, down_EDF, torch.tensor(counts, device=x_RD.device))
    if any(wanted):
        (y_RD.float() * torch.linspace(-1, 1, y_RD.numel(), device=y_RD.device).view_as(y_RD)).sum().backward()
    return [y_RD.detach(), *(leaf.grad for leaf in leaves)]


def assert_same(ours: list[Tensor | None], truth: list[Tensor | None], tolerance: float) -> None:
    for one, other in zip(ours, truth, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def slope(module: torch.nn.Module, name: str) -> Tensor:
    gradient = module.get_parameter(name).grad
    assert gradient is not None
    return gradient


@every_width
@every_count
def test_the_loop_equals_the_reference(counts: tuple[int, ...], hidden: int) -> None:
    inputs = operands(counts, hidden)
    wanted = (True, True, True)
    ours = outcome(experts_forward, inputs, counts, wanted)
    assert_same(ours, outcome(reference, inputs, counts, wanted), tolerance=1e-5)


@pytest.mark.parametrize("hidden", [16, 20])
@every_count
def test_the_grouped_products_equal_the_reference(counts: tuple[int, ...], hidden: int) -> None:
    inputs = operands(counts, hidden)
    wanted = (True, True, True)
    ours = outcome(grouped, inputs, counts, wanted)
    assert_same(ours, outcome(reference, inputs, counts, wanted), tolerance=1e-5)


@pytest.mark.parametrize("wanted", list(product([False, True], repeat=3)), ids=str)
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(wanted: tuple[bool, bool, bool]) -> None:
    inputs = operands(COUNTS[0], hidden=20)
    ours = outcome(experts_forward, inputs, COUNTS[0], wanted)
    assert_same(ours, outcome(reference, inputs, COUNTS[0], wanted), tolerance=1e-5)


def test_the_gradients_are_the_slopes() -> None:
    inputs = [x.double().requires_grad_() for x in operands((2, 0, 3), hidden=3, dim=4)]

    def path(x_RD: Tensor, gate_up_EPD: Tensor, down_EDF: Tensor) -> Tensor:
        return experts_forward(x_RD, gate_up_EPD, down_EDF, torch.tensor([2, 0, 3]))

    assert torch.autograd.gradcheck(path, inputs)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@every_count
def test_experts_with_biases_are_feed_forwards_one_after_the_other(counts: tuple[int, ...], approximate: str) -> None:
    stacked = GELUExperts(DIM, 20, len(counts), approximate)
    alone = [GELU(DIM, 20, approximate) for _ in counts]
    generator = torch.Generator().manual_seed(3)
    for parameter in stacked.parameters():
        parameter.data.normal_(generator=generator)
    for name, theirs in GELU_NAMES.items():
        for expert, feed_forward in enumerate(alone):
            feed_forward.get_parameter(theirs).data.copy_(stacked.get_parameter(name)[expert])
    x_RD = torch.randn(sum(counts), DIM, generator=generator)
    parts = [feed_forward.mix(rows) for feed_forward, rows in zip(alone, x_RD.split(counts), strict=True)]
    together_RD, apart_RD = stacked(x_RD, torch.tensor(counts)), torch.cat(parts)
    torch.testing.assert_close(together_RD, apart_RD)
    for y_RD in (together_RD, apart_RD):
        y_RD.square().sum().backward()
    for name, theirs in GELU_NAMES.items():
        slopes = torch.stack([slope(feed_forward, theirs) for feed_forward in alone])
        torch.testing.assert_close(slope(stacked, name), slopes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_width
@every_count
def test_on_a_gpu_every_width_equals_the_reference(counts: tuple[int, ...], hidden: int) -> None:
    inputs = [x.to("cuda", torch.bfloat16) for x in operands(counts, hidden, dim=16)]
    wanted = (True, True, True)
    ours = outcome(experts_forward, inputs, counts, wanted)
    # bfloat16 keeps 8 bits, and the two ways round at different places.
    assert_same(ours, outcome(reference, inputs, counts, wanted), tolerance=3e-2)

"""However fast a mixture is computed, it is its experts one after the other."""

from __future__ import annotations

from itertools import product
from threading import Barrier

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from innovator.models import cores
from innovator.models.cores import OneByOne, portions
from innovator.models.experts import GELUExperts, SwiGLUExperts
from innovator.models.fused import Arithmetic, FusedSwiGLU, GroupedProducts
from innovator.models.layers import GELU
from innovator.models.rows import Rows

DIM = 12
TOLERANCE = 1e-5  # sums of the same numbers in another order; seen: 6e-7
GELU_NAMES = {
    "up_proj": "up_proj.weight",
    "up_bias": "up_proj.bias",
    "down_proj": "down_proj.weight",
    "down_bias": "down_proj.bias",
}
CHOICES = {
    "uneven": [[0, 2], [2, 3], [0, 2], [2, 0], [2, 3], [2, 1]],
    "one expert": [[2], [2], [2]],
    "two of them idle": [[1, 3], [3, 1]],
    "one token": [[3, 0, 1]],
    "many rows": [[token % 3, 3] for token in range(60)],
}
WAYS = {"one by one": OneByOne(1), "grouped": GroupedProducts()}
Outcome = list[Tensor | None]
every_choice = pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
few_and_many = pytest.mark.parametrize("choices", [CHOICES["uneven"], CHOICES["many rows"]], ids=["few", "many"])
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def reference(x_SD: Tensor, weight_SK: Tensor, gate_up_EPD: Tensor, down_EDF: Tensor, rows: Rows) -> Tensor:
    """One expert after the other in plain autograd."""
    x_RD = x_SD.index_select(0, rows.token_R()).split(rows.count_E.tolist())
    parts = zip(x_RD, gate_up_EPD.unbind(), down_EDF.unbind(), strict=True)
    y_RD = torch.cat([swiglu(x @ gate_up.T) @ down.T for x, gate_up, down in parts])
    y_SKD = y_RD.index_select(0, rows.row_SK.flatten()).view(*rows.row_SK.shape, -1)
    return (y_SKD * weight_SK[..., None]).sum(dim=1).type_as(x_SD)


def swiglu(product_RP: Tensor) -> Tensor:
    gate_RF, up_RF = product_RP.chunk(2, dim=-1)
    return F.silu(gate_RF) * up_RF


def operands(choices: list[list[int]], hidden: int, dim: int = DIM) -> list[Tensor]:
    """Tokens, weights, gate over up, down, of four experts."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((len(choices), dim), (len(choices), len(choices[0])), (4, 2 * hidden, dim), (4, dim, hidden))
    return [torch.randn(shape, generator=generator) for shape in shapes]


def rows(choices: list[list[int]], device: str = "cpu") -> Rows:
    return Rows.of(torch.tensor(choices, device=device), 4)


def fused(way: Arithmetic, inputs: list[Tensor], where: Rows) -> Tensor:
    y_SD: Tensor = FusedSwiGLU.apply(*inputs, *where, way)
    return y_SD


def leaves(inputs: list[Tensor], wanted: tuple[bool, ...]) -> list[Tensor]:
    return [x.detach().clone().requires_grad_(want) for x, want in zip(inputs, wanted, strict=True)]


def outcome(y_SD: Tensor, inputs: list[Tensor]) -> Outcome:
    """The result, and the gradient of each input that wants one."""
    if y_SD.requires_grad:
        (y_SD.float() * torch.linspace(-1, 1, y_SD.numel(), device=y_SD.device).view_as(y_SD)).sum().backward()
    return [y_SD.detach(), *(leaf.grad for leaf in inputs)]


def assert_same(ours: Outcome, truth: Outcome, tolerance: float = TOLERANCE) -> None:
    for one, other in zip(ours, truth, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(other.abs().max()))


def compare(way: Arithmetic, inputs: list[Tensor], where: Rows, wanted: tuple[bool, ...], tolerance: float) -> None:
    ours, theirs = leaves(inputs, wanted), leaves(inputs, wanted)
    truth = outcome(reference(*theirs, where), theirs)
    assert_same(outcome(fused(way, ours, where), ours), truth, tolerance)


@pytest.mark.parametrize("hidden", [16, 20])
@every_choice
@every_way
def test_every_way_equals_the_reference(way: Arithmetic, choices: list[list[int]], hidden: int) -> None:
    compare(way, operands(choices, hidden), rows(choices), (True,) * 4, TOLERANCE)


@pytest.mark.parametrize("wanted", list(product([False, True], repeat=4)), ids=str)
@few_and_many
@every_way
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(
    way: Arithmetic, choices: list[list[int]], wanted: tuple[bool, ...]
) -> None:
    compare(way, operands(choices, hidden=20), rows(choices), wanted, TOLERANCE)


@few_and_many
@every_way
def test_half_precision_is_the_reference_to_its_last_bits(way: Arithmetic, choices: list[list[int]]) -> None:
    """bf16 keeps 8 bits; gradients pass three products."""
    inputs = [x.bfloat16() for x in operands(choices, hidden=16, dim=16)]
    compare(way, inputs, rows(choices), (True,) * 4, 3e-2)


@few_and_many
@pytest.mark.parametrize("weight_type", [torch.bfloat16, torch.float32])
def test_half_precision_sums_as_the_reference_bit_for_bit(weight_type: torch.dtype, choices: list[list[int]]) -> None:
    """Which is how transformers' mixtures round, so that exported models speak alike."""
    inputs = [x.bfloat16() for x in operands(choices, hidden=16)]
    inputs[1] = inputs[1].to(weight_type)
    where = rows(choices)
    assert torch.equal(fused(OneByOne(1), inputs, where), reference(*inputs, where))


@few_and_many
def test_the_gradients_are_the_slopes(choices: list[list[int]]) -> None:
    inputs = [x.double().requires_grad_() for x in operands(choices, hidden=3, dim=4)]
    where = rows(choices)
    assert torch.autograd.gradcheck(lambda *it: fused(OneByOne(1), list(it), where), inputs)


def test_what_many_cores_compute_is_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """And twice the same bits, whoever takes which portion; the cores' threads leave this one as it was."""
    generator = torch.Generator().manual_seed(4)
    experts = SwiGLUExperts(DIM, 20, 8)
    for parameter in experts.parameters():
        parameter.data.normal_(generator=generator)
    x_SD = torch.randn(500, DIM, generator=generator).requires_grad_()
    expert_SK = torch.rand(500, 8, generator=generator).topk(3).indices
    weight_SK = torch.rand(500, 3, generator=generator)
    monkeypatch.setattr(cores, "ROWS_IN_CACHE", 200)
    found, before = [], torch.get_num_threads()
    for n_cores in (1, 3, 3):
        monkeypatch.setattr(cores, "NOT_WORTH_SHARING", 0)
        torch.set_num_threads(n_cores)
        inputs = [x_SD, *experts.parameters()]
        for leaf in inputs:
            leaf.grad = None
        found.append(outcome(experts(x_SD, expert_SK, weight_SK), inputs))
        assert torch.get_num_threads() == n_cores
    torch.set_num_threads(before)
    alone, together, again = found
    assert_same(together, alone)
    assert all(torch.equal(one, other) for one, other in zip(together, again, strict=True) if one is not None)


def test_a_thread_of_the_crew_computes_by_itself() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    pool = cores.crew(3)
    together = Barrier(3)

    def ask() -> int:
        together.wait()  # so that each thread is asked
        return torch.get_num_threads()

    asked = [pool.submit(ask) for _ in range(3)]
    assert [it.result() for it in asked] == [1, 1, 1] and torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_many_cores_compute_under_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "NOT_WORTH_SHARING", 0)
    before, choices = torch.get_num_threads(), CHOICES["uneven"]
    inputs, where = operands(choices, hidden=20), rows(choices)
    torch.set_num_threads(2)
    with torch.inference_mode():
        y_SD = fused(OneByOne(2), inputs, where)
    torch.set_num_threads(before)
    torch.testing.assert_close(y_SD.clone(), reference(*inputs, where), rtol=TOLERANCE, atol=TOLERANCE * 100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trainer_that_casts_gets_what_a_model_of_that_type_gives(dtype: torch.dtype) -> None:
    experts = SwiGLUExperts(DIM, 20, 4)
    for parameter in experts.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(3))
    x_SD, weight_SK = operands(CHOICES["uneven"], hidden=20)[:2]
    expert_SK = torch.tensor(CHOICES["uneven"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast_SD = experts(x_SD.to(dtype), expert_SK, weight_SK)
    cast_SD.float().sum().backward()
    assert experts.down_proj.grad is not None and experts.down_proj.grad.dtype == torch.float32
    assert torch.equal(cast_SD, experts.bfloat16()(x_SD.bfloat16(), expert_SK, weight_SK))


def test_another_routing_compiles_nothing_anew() -> None:
    experts = SwiGLUExperts(DIM, 20, 4)
    for parameter in experts.parameters():
        parameter.data.normal_(generator=torch.Generator().manual_seed(3))
    torch._dynamo.reset()  # of what other tests have compiled
    compiled = torch.compile(experts, backend="eager")
    x_SD = operands(CHOICES["uneven"], hidden=20)[0]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for seed in range(3):
            weight_SK, expert_SK = torch.rand(6, 4, generator=torch.Generator().manual_seed(seed)).topk(2)
            assert torch.equal(compiled(x_SD, expert_SK, weight_SK), experts(x_SD, expert_SK, weight_SK))


def test_the_grouped_way_is_one_graph_forward_and_backward() -> None:
    """In half precision, as on a GPU: in fp32 torch has no grouped product to compile for a CPU."""
    choices = CHOICES["uneven"]
    inputs = [x.bfloat16() for x in operands(choices, hidden=16, dim=16)]

    def path(*it: Tensor) -> Tensor:
        *operands, expert_SK = it
        return fused(GroupedProducts(), operands, Rows.of(expert_SK, 4))

    ours, theirs = leaves(inputs, (True,) * 4), leaves(inputs, (True,) * 4)
    compiled = torch.compile(path, backend="aot_eager", fullgraph=True)
    found = outcome(compiled(*ours, torch.tensor(choices)), ours)
    assert_same(found, outcome(path(*theirs, torch.tensor(choices)), theirs))


@pytest.mark.parametrize("count_E", [[3, 0, 7, 2], [0, 0, 5000, 1], [2000, 48, 1], [0], [1]], ids=str)
def test_portions_hold_every_row_once_and_never_split_an_expert(count_E: list[int]) -> None:
    seen, start = {}, 0
    for portion in portions(count_E, 2048):
        assert portion.rows.start == start
        start = portion.rows.stop
        seen |= dict(zip(portion.experts, portion.counts, strict=True))
        assert sum(portion.counts) == start - portion.rows.start
        assert len(portion.experts) == 1 or sum(portion.counts) <= 2048
    assert start == sum(count_E) and seen == {expert: count for expert, count in enumerate(count_E) if count}


def slope(module: torch.nn.Module, name: str) -> Tensor:
    gradient = module.get_parameter(name).grad
    assert gradient is not None
    return gradient


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@every_choice
def test_experts_with_biases_are_feed_forwards(choices: list[list[int]], approximate: str) -> None:
    stacked = GELUExperts(DIM, 20, 4, approximate)
    alone = [GELU(DIM, 20, approximate) for _ in range(4)]
    generator = torch.Generator().manual_seed(3)
    for parameter in stacked.parameters():
        parameter.data.normal_(generator=generator)
    for name, theirs in GELU_NAMES.items():
        for expert, feed_forward in enumerate(alone):
            feed_forward.get_parameter(theirs).data.copy_(stacked.get_parameter(name)[expert])
    x_SD, weight_SK = operands(choices, hidden=20)[:2]
    together_SD = stacked(x_SD, torch.tensor(choices), weight_SK)
    apart_SD = torch.stack(
        [
            sum((w * alone[e].mix(x) for e, w in zip(chosen, weights, strict=True)), torch.zeros(DIM))
            for x, chosen, weights in zip(x_SD, choices, weight_SK, strict=True)
        ]
    )
    torch.testing.assert_close(together_SD, apart_SD)
    for y_SD in (together_SD, apart_SD):
        y_SD.square().sum().backward()
    for expert in {expert for chosen in choices for expert in chosen}:
        ours = [slope(stacked, name)[expert] for name in GELU_NAMES]
        assert_same([*ours], [slope(alone[expert], name) for name in GELU_NAMES.values()])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("hidden", [16, 20, 7])
@every_choice
def test_on_a_gpu_every_width_equals_the_reference(choices: list[list[int]], hidden: int) -> None:
    """Widths of 16 bytes by grouped products, others one expert after the other; bf16 keeps 8 bits."""
    generator = torch.Generator().manual_seed(3)
    experts = SwiGLUExperts(16, hidden, 4).to("cuda", torch.bfloat16)
    for parameter in experts.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    x_SD, weight_SK = [x.to("cuda", torch.bfloat16) for x in operands(choices, hidden, dim=16)[:2]]
    ours = [x_SD.clone().requires_grad_(), weight_SK.clone().requires_grad_(), *experts.parameters()]
    found = outcome(experts(ours[0], torch.tensor(choices, device="cuda"), ours[1]), ours)
    theirs = leaves([x_SD, weight_SK, *experts.parameters()], (True,) * 4)
    assert_same(found, outcome(reference(*theirs, rows(choices, "cuda")), theirs), tolerance=3e-2)

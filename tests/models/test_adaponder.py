"""Who halts is read no more, shows the keys of its last pass, and is asked to by the penalty.

Shape suffixes: B batch, T tokens, D model, V vocabulary, K steps.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pondering import CLOSED, HALTING, N_TOKENS, aimed, bias_all, gradients, mean_input, pondered, stack
from readings import EXACT, Counting, Draw, exact, left_padded, plain, some_tokens, thinker
from torch import Tensor

from innovator.models.decoder import IGNORE, Decoder, DecoderConfig
from innovator.models.layers import GENERAL, Layout
from innovator.models.memory import Memory
from innovator.models.ponder import AdaPonderLMConfig, PonderLMConfig
from innovator.models.thinking import Moment, Reading, Thought


@pytest.fixture(params=["dense", "neox", "mixture"])
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return exact(replace(request.getfixturevalue(request.param), embed_scale=1.5))


def halted_early(model: Decoder, tokens_T: Tensor, config: AdaPonderLMConfig) -> tuple[Tensor, list[int]]:
    """Equations of arXiv 2603.01914, token by token: who halts is read no more, and shows the keys of its last pass."""
    memories: list[Memory | None] = [None] * (config.n_steps + 1)
    said, passes = [], []
    for t, token in enumerate(tokens_T):
        x_BTD = model.embed.weight[token][None, None] * model.config.embed_scale
        layout = Layout(*(torch.tensor([[fact]]) for fact in (t, 0, -1)))
        alive, n_passes = True, 0
        for i, before in enumerate(memories):
            if alive:
                reading = model.read_once(x_BTD, layout, before, remember=True)
                assert reading.memory is not None
                own, h_BTD, n_passes = reading.memory.last(1), reading.h_BTD, n_passes + 1
            memories[i] = own if before is None else before.then(own)
            if alive and i < config.n_steps:
                gate = opened(model, i, h_BTD)
                alive = bool(gate >= config.threshold)
                x_BTD = x_BTD + alive * gate * mean_input(model, h_BTD, config.top_k)
        said.append(h_BTD[0, 0])
        passes.append(n_passes)
    return torch.stack(said), passes


def opened(model: Decoder, step: int, h_BTD: Tensor) -> Tensor:
    """How far a gate opens."""
    weight = dict(model.get_submodule(f"thinking.gates.{step}").named_parameters())
    hidden = (h_BTD @ weight["inner.weight"].T + weight["inner.bias"]).relu()
    return torch.sigmoid(hidden @ weight["outer.weight"].T + weight["outer.bias"])


def test_a_token_halts_as_the_equations_say_and_so_are_its_gradients(config: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = aimed(draw, config, HALTING), some_tokens(2, N_TOKENS)
    thought = model.read(tokens_BT, Layout.of(tokens_BT))
    said, passes = zip(*(halted_early(model, tokens_T, HALTING) for tokens_T in tokens_BT), strict=True)
    assert {n for row in passes for n in row} == {1, 2, 3, 4}  # or the text would say little
    assert thought.passes_BT.tolist() == list(passes)
    torch.testing.assert_close(thought.h_BTD, torch.stack(said), **EXACT)
    ours, theirs = gradients(model, thought.h_BTD), gradients(model, torch.stack(said))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-8)


@torch.no_grad()
def test_closed_gates_leave_a_model_that_only_reads(config: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = aimed(draw, config, HALTING), some_tokens(2, N_TOKENS)
    bias_all(model, CLOSED)
    thought = model.read(tokens_BT, Layout.of(tokens_BT))
    assert torch.equal(thought.h_BTD, plain(model).read(tokens_BT, Layout.of(tokens_BT)).h_BTD)
    assert (thought.passes_BT == 1).all()


@torch.no_grad()
def test_a_pass_reads_only_who_goes_on_and_there_are_as_many_for_every_text(dense: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = aimed(draw, exact(dense), HALTING), some_tokens(3, N_TOKENS)
    thought, reader = model.read(tokens_BT, Layout.of(tokens_BT)), Counting(model)
    reader.think(tokens_BT)
    going_KBT = torch.stack([thought.passes_BT > k for k in range(4)])
    assert reader.n_held == going_KBT.sum(dim=(1, 2)).tolist()
    assert reader.n_slots == (3 * going_KBT.sum(dim=2).max(dim=1).values).tolist()
    assert reader.n_held[0] > reader.n_held[1] > reader.n_held[2] > reader.n_held[3] > 0
    bias_all(model, CLOSED)
    none_goes = Counting(model)
    none_goes.think(tokens_BT)
    assert none_goes.n_slots == [33, 3, 3, 3] and none_goes.n_held == [33, 0, 0, 0]


@torch.no_grad()
def test_slots_that_hold_nothing_are_read_once(dense: DecoderConfig, draw: Draw) -> None:
    model = aimed(draw, exact(dense), HALTING)
    tokens_BT, layout = left_padded(some_tokens(2, N_TOKENS), 5)
    reader = Counting(model)
    thought = reader.think(tokens_BT, layout)
    assert (thought.passes_BT[:, :5] == 1).all() and thought.onward_KBT is not None
    assert not thought.onward_KBT[:, :, :5].any()
    assert reader.n_slots[0] == 2 * (5 + N_TOKENS) and max(reader.n_slots[1:]) <= 2 * N_TOKENS


def test_nothing_halts_where_a_threshold_is_tiny_and_gates_are_open(dense: DecoderConfig, draw: Draw) -> None:
    """Gates of 1 are PonderLM."""
    model, tokens_BT = thinker(draw, exact(dense), replace(HALTING, threshold=1e-4)), some_tokens(2, N_TOKENS)
    bias_all(model, -CLOSED)
    thought = model.read(tokens_BT, Layout.of(tokens_BT))
    expected_BTD = pondered(model, tokens_BT, PonderLMConfig(n_steps=3, top_k=5))
    torch.testing.assert_close(thought.h_BTD, expected_BTD, **EXACT)


def test_what_goes_on_is_told_and_0_of_the_halted(dense: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = aimed(draw, exact(dense), HALTING), some_tokens(2, N_TOKENS)
    thought = model.read(tokens_BT, Layout.of(tokens_BT))
    assert thought.onward_KBT is not None
    reached_KBT = torch.stack([thought.passes_BT > k for k in range(3)])
    assert torch.equal(thought.onward_KBT > 0, reached_KBT)
    goes_on_KBT = torch.stack([thought.passes_BT > k + 1 for k in range(3)])
    assert torch.equal(thought.onward_KBT >= HALTING.threshold, goes_on_KBT)
    first_BT = opened(model, 0, stack(model, model.embedded(tokens_BT)))[..., 0]
    torch.testing.assert_close(thought.onward_KBT[0], first_BT, **EXACT)


def lowest(gate_KBT: Tensor, counts_BT: Tensor, share: float) -> Tensor:
    """For each row the mean of the lowest share of the gates that count, for each of its tokens."""
    paid = [torch.zeros(())]
    for gate_KT, counts_T in zip(gate_KBT.unbind(1), counts_BT, strict=True):
        gates = gate_KT[:, counts_T].flatten().sort().values
        n_lowest = int(share * len(gates))
        paid += [gates[:n_lowest].mean() * counts_T.sum()] if n_lowest else []
    return torch.stack(paid).sum()


@pytest.mark.parametrize("done", [0.2, 0.4, 0.6, 1.0])
def test_the_penalty_is_the_mean_of_a_rows_lowest_gates_for_each_token(dense: DecoderConfig, done: float) -> None:
    """Of 4 and 3 tokens that count, 3 gates of each: a tenth and a fifth of 12 and of 9."""
    way = AdaPonderLMConfig(share=0.2, weight=0.5)
    gate_KBT = torch.rand(3, 2, 5, generator=torch.Generator().manual_seed(4)).requires_grad_()
    counts_BT = torch.tensor([[True, True, False, True, True], [False, False, True, True, True]])
    thought = Thought(torch.zeros(2, 5, 1), (), torch.ones(2, 5), gate_KBT)
    penalty = way.build(4).penalty(thought, torch.zeros(2, 5), counts_BT, Moment(done, 1))
    (slope_KBT,) = torch.autograd.grad(penalty, gate_KBT)
    expected = 0.5 * lowest(gate_KBT.detach(), counts_BT, way.share_at(done))
    assert penalty.item() == pytest.approx(expected.item())
    assert int((slope_KBT > 0).sum()) == (int(12 * way.share_at(done)) + int(9 * way.share_at(done)))
    assert not slope_KBT[:, ~counts_BT].any() and (done == 0.2) == (penalty.item() == 0)


def test_the_loss_of_training_has_the_penalty_and_that_of_scoring_has_not(dense: DecoderConfig, draw: Draw) -> None:
    way = replace(HALTING, share=0.9)
    model, tokens_BT = aimed(draw, exact(dense), way), some_tokens(2, N_TOKENS)
    target_BT = tokens_BT.roll(-1, dims=1).masked_fill(tokens_BT % 3 == 0, IGNORE)
    layout, moment = Layout.of(tokens_BT), Moment(1.0, 1)
    scored = model.loss(tokens_BT, target_BT, layout)
    learnt = model.train().loss(tokens_BT, target_BT, layout, moment)
    gate_KBT = model.read(tokens_BT, layout).onward_KBT
    assert gate_KBT is not None
    expected = 0.1 * lowest(gate_KBT, target_BT != IGNORE, 0.9)
    assert expected > 0 and (learnt - scored).item() == pytest.approx(expected.item())


def test_routers_count_only_who_is_read(mixture: DecoderConfig, draw: Draw) -> None:
    """Two experts for each token of each pass, and none for the slots that fill up the rows."""
    model, tokens_BT = aimed(draw, mixture, HALTING).train(), some_tokens(2, N_TOKENS)
    thought = model.read(tokens_BT, Layout.of(tokens_BT))
    (mixed,) = model.mixtures()
    assert mixed.router.load.sum() == 2 * thought.passes_BT.sum() and mixed.passes == 4


@torch.no_grad()
def test_what_a_text_leaves_is_copied_only_where_somebody_halts(dense: DecoderConfig, draw: Draw) -> None:
    model = thinker(draw, exact(dense), replace(HALTING, threshold=1e-4))
    tokens_BT = some_tokens(2, N_TOKENS + 1)
    layout = Layout.of(tokens_BT[:, :-1])
    last = Layout(*(torch.full((2, 1), fact) for fact in (N_TOKENS, 0, GENERAL)))
    for bias, parts_are_shared in ((-CLOSED, [True] * 4), (CLOSED, [True, False, False, False])):
        bias_all(model, bias)
        past = model.read(tokens_BT[:, :-1], layout, ()).memories
        reader = Keeping(model)
        left = reader.think(tokens_BT[:, -1:], last, past).memories
        assert [seen is part for seen, part in zip(reader.seen, past, strict=True)] == parts_are_shared
        assert [kept is made for kept, made in zip(left, reader.made, strict=True)] == parts_are_shared


class Keeping(Counting):
    """A reader that keeps what it is given to look at and what it gives."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__(decoder)
        self.seen: list[Memory | None] = []
        self.made: list[Memory | None] = []

    def read_once(self, x_BTD: Tensor, layout: Layout, past: Memory | None, *, remember: bool) -> Reading:
        reading = super().read_once(x_BTD, layout, past, remember=remember)
        self.seen.append(past)
        self.made.append(reading.memory)
        return reading


@pytest.mark.parametrize(("bias_start", "gate"), [(2.0, 0.8808), (0.0, 0.5)])
def test_open_gates_are_where_training_starts(dense: DecoderConfig, bias_start: float, gate: float) -> None:
    model = Decoder(replace(dense, thinking=replace(HALTING, threshold=1e-4, bias_start=bias_start)))
    model.initialize(seed=1)
    tokens_BT = some_tokens(2, N_TOKENS)
    thought = model.read(tokens_BT, Layout.of(tokens_BT))
    assert thought.onward_KBT is not None
    torch.testing.assert_close(thought.onward_KBT, torch.full((3, 2, N_TOKENS), gate), rtol=0, atol=0.02)


def test_the_weights_of_gates_are_drawn_as_wide_as_is_said_and_again_the_same(dense: DecoderConfig) -> None:
    narrow, wider = (Decoder(replace(dense, thinking=replace(HALTING, start_std=std))) for std in (0.02, 0.1))
    for model in (narrow, wider):
        model.initialize(seed=1)
    one_DD, other_DD = (it.get_parameter("thinking.gates.0.inner.weight") for it in (narrow, wider))
    torch.testing.assert_close(one_DD * 5, other_DD)
    assert float(one_DD.detach().std()) == pytest.approx(0.02, rel=0.2)
    again = Decoder(replace(dense, thinking=HALTING))
    again.initialize(seed=1)
    assert all(torch.equal(one, again.get_parameter(name)) for name, one in narrow.named_parameters())

"""Every token takes the steps it asks for, and it does not matter what is read beside it or how many at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from readings import (
    EXACT,
    Counting,
    Draw,
    effort,
    exact,
    in_goes,
    left_padded,
    mixing_over_depth,
    packed,
    plain,
    some_tokens,
    thinker,
)
from torch import Tensor

from innovator.models.decoder import IGNORE, Decoder, DecoderConfig
from innovator.models.latent_cot import LatentCoT, LatentCoTConfig
from innovator.models.layers import PADDING, Layout
from innovator.models.thinking import Held, Moment, Thought

THREE = LatentCoTConfig(n_steps=3, tau=0.2, feed_scale=0.7)
N_TOKENS = 11


@pytest.fixture(params=["dense", "neox", "mixture", "deep"])
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return exact(request.getfixturevalue(request.param))


@pytest.fixture
def deep(dense: DecoderConfig) -> DecoderConfig:
    return mixing_over_depth(dense)


@pytest.fixture
def model(config: DecoderConfig, draw: Draw) -> Decoder:
    return thinker(draw, config, THREE)


def shift(model: Decoder, bias: float) -> Decoder:
    """Let tokens never go on, or always."""
    assert isinstance(model.thinking, LatentCoT)
    torch.nn.init.constant_(model.thinking.router.bias, bias)
    return model


def see(model: Decoder, slots: list[tuple[int, int]], x_SD: Tensor) -> Tensor:
    """The last slot's state, from the mask as the paper writes it: (t, k) is seen if it is no later and no deeper."""
    t_S, k_S = torch.tensor(slots).unbind(1)
    layout = Layout(t_S[None], torch.zeros_like(t_S)[None], torch.zeros_like(t_S)[None])
    mask_SS = (t_S <= t_S[:, None]) & (k_S <= k_S[:, None])
    sight = model.config.attention.sight(layout, layout, x_SD.dtype)._replace(mask_B1TU=mask_SS[None, None])
    x_BSD = x_SD[None]
    for block in model.layers:
        x_BSD, _ = block(x_BSD, layout, sight)
    h_D: Tensor = model.norm(x_BSD)[0, -1]
    return h_D


def slot_by_slot(model: Decoder, tokens_T: Tensor, config: LatentCoTConfig) -> tuple[Tensor, list[int]]:
    """Equations of arXiv 2602.08220 for one text: what each token tells the head, and how many slots it took."""
    router = model.get_submodule("thinking.router")
    slots, x, said, n_slots = [], [], [], []
    for t, token in enumerate(tokens_T):
        fed_D, reach, mixed_D = model.embed.weight[token], torch.tensor(1.0).double(), 0.0
        for k in range(config.n_steps + 1):
            slots.append((t, k))
            x.append(fed_D)
            h_D = see(model, slots, torch.stack(x))
            go_on = torch.sigmoid(h_D @ router.weight[k] + router.bias[k]) if k < config.n_steps else 0.0
            if k == config.n_steps or reach * go_on < config.tau:
                mixed_D = mixed_D + reach * h_D
                break
            mixed_D = mixed_D + reach * (1 - go_on) * h_D
            fed_D, reach = config.feed_scale * h_D, reach * go_on
        said.append(mixed_D)
        n_slots.append(k + 1)
    return torch.stack(said), n_slots


def test_a_text_is_thought_about_as_the_equations_say(dense: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = thinker(draw, exact(dense), THREE), some_tokens(1, N_TOKENS)
    expected_TD, n_slots = slot_by_slot(model, tokens_BT[0], THREE)
    thought = model.read(tokens_BT, Layout.of(tokens_BT))
    assert set(n_slots) >= {1, 2, 4}  # or the text would say little
    assert thought.passes_BT[0].tolist() == n_slots
    torch.testing.assert_close(thought.h_BTD[0], expected_TD, **EXACT)


def test_slopes_are_those_of_the_equations(dense: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = thinker(draw, exact(dense), THREE), some_tokens(1, N_TOKENS)
    parameters = {name: it for name, it in model.named_parameters() if name != "unembed.weight"}
    said_TD, _ = slot_by_slot(model, tokens_BT[0], THREE)
    expected = torch.autograd.grad(said_TD.square().sum(), list(parameters.values()))
    h_BTD = model.read(tokens_BT, Layout.of(tokens_BT)).h_BTD
    slopes = torch.autograd.grad(h_BTD.square().sum(), list(parameters.values()))
    for name, slope, slope_by_slot in zip(parameters, slopes, expected, strict=True):
        torch.testing.assert_close(slope, slope_by_slot, rtol=1e-10, atol=1e-10, msg=name)
        assert slope.abs().sum() > 0, name


@torch.no_grad()
def test_a_model_that_never_goes_on_is_the_one_that_only_reads(model: Decoder) -> None:
    tokens_BT = some_tokens(2, N_TOKENS)
    thought = shift(model, -1e3).read(tokens_BT, Layout.of(tokens_BT))
    assert torch.equal(thought.h_BTD, plain(model).read(tokens_BT, Layout.of(tokens_BT)).h_BTD)
    assert thought.passes_BT.eq(1).all()
    goes = (4, *[1] * (N_TOKENS - 4))
    spoken, read = (in_goes(it, tokens_BT, Layout.of(tokens_BT), goes)[0] for it in (model, plain(model)))
    assert torch.equal(spoken, read)


def test_without_steps_there_is_nothing_but_reading(config: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = thinker(draw, config, LatentCoTConfig(n_steps=0)), some_tokens(2, N_TOKENS)
    assert torch.equal(model(tokens_BT), plain(model)(tokens_BT))


@torch.no_grad()
def test_steps_come_in_with_the_warm_up(config: DecoderConfig, draw: Draw) -> None:
    model = thinker(draw, config, replace(THREE, gain_warmup=0.2)).train()
    tokens_BT = some_tokens(2, N_TOKENS)
    layout, target_BT = Layout.of(tokens_BT), tokens_BT.roll(-1, dims=1)
    h = [model.read(tokens_BT, layout, None, Moment(done)).h_BTD for done in (0.0, 0.1, 0.2, 1.0)]
    assert torch.equal(h[0], plain(model).read(tokens_BT, layout).h_BTD)
    assert torch.equal(
        model.loss(tokens_BT, target_BT, layout, Moment(0.0)), plain(model).loss(tokens_BT, target_BT, layout)
    )
    torch.testing.assert_close(h[1] - h[0], (h[3] - h[0]) / 2)
    assert torch.equal(h[2], h[3])
    assert not torch.allclose(h[0], h[3])


def test_speaking_token_by_token_equals_reading_at_once(model: Decoder) -> None:
    tokens_BT = some_tokens(2, N_TOKENS)
    thought = model.read(tokens_BT, Layout.of(tokens_BT))
    assert 1 < thought.passes_BT.double().mean() < 3.9
    spoken_BTD, _ = in_goes(model, tokens_BT, Layout.of(tokens_BT), (4, *[1] * (N_TOKENS - 4)))
    torch.testing.assert_close(spoken_BTD, thought.h_BTD, **EXACT)


def test_reading_in_goes_equals_reading_at_once(model: Decoder) -> None:
    lengths = (5, 1, 9)
    tokens_BT = some_tokens(1, sum(lengths))
    in_three_BTD, _ = in_goes(model, tokens_BT, packed(lengths), (3, 7, 5))
    at_once_BTD = model.read(tokens_BT, packed(lengths)).h_BTD
    torch.testing.assert_close(in_three_BTD, at_once_BTD, **EXACT)


def test_packed_documents_do_not_see_each_other(model: Decoder) -> None:
    lengths = (5, 1, 9)
    tokens_BT = some_tokens(1, sum(lengths))
    together_TV = model(tokens_BT, packed(lengths))[0]
    alone_TV = torch.cat([model(document_BT)[0] for document_BT in tokens_BT.split(lengths, dim=1)])
    torch.testing.assert_close(together_TV, alone_TV, **EXACT)


def test_padding_is_as_if_it_were_not_there(model: Decoder) -> None:
    tokens_BT = some_tokens(2, N_TOKENS)
    padded_BT, layout = left_padded(tokens_BT, 3)
    whole = model.read(tokens_BT, Layout.of(tokens_BT))
    h_BTD, memories = in_goes(model, padded_BT, layout, (6, *[1] * (N_TOKENS - 3)))
    torch.testing.assert_close(h_BTD[:, 3:], whole.h_BTD, **EXACT)
    assert torch.equal(
        model.read(padded_BT, layout).passes_BT, torch.nn.functional.pad(whole.passes_BT, (3, 0), value=1)
    )
    held_B = memories[0].layout.is_text().sum(dim=1)
    assert torch.equal(held_B, whole.passes_BT.sum(dim=1))


def test_what_is_remembered_grows_by_the_steps_taken(model: Decoder) -> None:
    tokens_BT = some_tokens(1, N_TOKENS)
    thought = model.read(tokens_BT, Layout.of(tokens_BT), ())
    (memory,) = thought.memories
    assert memory.layout.position_BT.shape[1] == thought.passes_BT.sum()
    depth_T, position_T = memory.layout.depth_BT[0], memory.layout.position_BT[0]
    for position, n_passes in enumerate(thought.passes_BT[0].tolist()):
        assert sorted(depth_T[position_T == position].tolist()) == list(range(n_passes))
    assert not model.read(tokens_BT, Layout.of(tokens_BT)).memories


def test_the_future_does_not_reach_the_past(model: Decoder) -> None:
    one_BT, other_BT = some_tokens(1, N_TOKENS), some_tokens(1, N_TOKENS)
    other_BT[:, 7:] = some_tokens(1, N_TOKENS - 7, seed=3)
    one, other = (model.read(tokens_BT, Layout.of(tokens_BT)).h_BTD for tokens_BT in (one_BT, other_BT))
    torch.testing.assert_close(one[:, :7], other[:, :7], **EXACT)
    assert not torch.allclose(one[:, 7:], other[:, 7:])


def test_tokens_that_have_ended_cost_no_pass_but_passes_are_as_many(model: Decoder) -> None:
    tokens_BT = some_tokens(1, 40)
    reader = Counting(model.train())
    passes_BT = reader.think(tokens_BT).passes_BT
    took = [int((passes_BT > step).sum()) for step in range(4)]
    assert reader.n_held == took
    assert reader.n_slots == [max(1, n_tokens) for n_tokens in took]
    assert 40 < sum(took) < 4 * 40
    for tokens_BT in (some_tokens(1, 1), some_tokens(3, 5)):
        reader = Counting(shift(model, -1e3))
        reader.think(tokens_BT)
        assert reader.n_held == [tokens_BT.numel(), 0, 0, 0]
        assert reader.n_slots == [tokens_BT.numel(), *[len(tokens_BT)] * 3]
        alone = Counting(reader.decoder, in_step=False)
        assert torch.equal(alone.think(tokens_BT).h_BTD, reader.think(tokens_BT).h_BTD)
        assert alone.n_slots == [tokens_BT.numel()]


def test_the_effort_is_what_tokens_that_all_go_on_are_seen_to_cost(model: Decoder) -> None:
    """But for what is held, which is seen in tests/train/test_memory.py."""
    assert effort(shift(model, 1e3), n_tokens=20) == replace(THREE.effort(), held=Held())


def test_a_pass_that_nobody_needs_learns_nothing_but_is_in_the_graph(model: Decoder) -> None:
    """Processes that share a model's parts go back through all passes together."""
    tokens_BT, seen = some_tokens(2, 5), []
    hooks = [model.norm.register_full_backward_hook(lambda *_: seen.append(1))]
    model.in_step = True
    shift(model, -1e3).read(tokens_BT, Layout.of(tokens_BT)).h_BTD.sum().backward()
    for hook in hooks:
        hook.remove()
    assert len(seen) == 4


def test_going_on_costs_by_how_sure_one_was() -> None:
    thinking = LatentCoTConfig(n_steps=2, penalty=0.5, beta=2.0, gain_warmup=0.5).build(4)
    onward_KBT = torch.tensor([[[0.9, 0.5, 0.8]], [[0.6, 0.0, 0.7]]])
    thought = Thought(torch.zeros(1, 3, 4), (), torch.ones(1, 3), onward_KBT)
    hit_BT, counts_BT = torch.tensor([[0.5, 0.1, 1.0]]), torch.tensor([[True, True, False]])
    expected = 0.5 * (0.25 * (0.9 + 0.6) + 0.01 * 0.5)
    assert float(thinking.penalty(thought, hit_BT, counts_BT, Moment(1.0))) == pytest.approx(expected)
    assert float(thinking.penalty(thought, hit_BT, counts_BT, Moment(0.25))) == pytest.approx(expected / 2)


def test_the_penalty_is_on_every_chance_to_go_on_and_closes_the_routers(model: Decoder) -> None:
    assert isinstance(model.thinking, LatentCoT)
    tokens_BT = some_tokens(2, N_TOKENS)
    target_BT = tokens_BT.roll(-1, dims=1).masked_fill(tokens_BT % 3 == 0, IGNORE)
    layout = Layout.of(tokens_BT)
    thought = model.read(tokens_BT, layout)
    hit_BT = model(tokens_BT).softmax(dim=-1).gather(-1, target_BT.clamp(min=0)[..., None])[..., 0].detach()
    counts_BT = target_BT != IGNORE
    expected = 0.05 * sum((hit_BT * counts_BT * onward_BT).sum() for onward_BT in thought.onward_KBT)
    added = model.train().loss(tokens_BT, target_BT, layout) - model.eval().loss(tokens_BT, target_BT, layout)
    torch.testing.assert_close(added, expected, rtol=1e-5, atol=0)
    (slope_K,) = torch.autograd.grad(expected, model.thinking.router.bias)
    assert (slope_K > 0).all()
    goes = thought.onward_KBT >= THREE.tau
    assert torch.equal(goes.sum(dim=0) + 1, thought.passes_BT)


def test_half_precision_decides_in_single(dense: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = draw(replace(dense, thinking=THREE), "thinker").bfloat16(), some_tokens(2, N_TOKENS)
    assert model.read(tokens_BT, Layout.of(tokens_BT), ()).h_BTD.dtype == torch.bfloat16
    router, h_BTD = model.get_submodule("thinking.router"), torch.randn(2, 5, dense.dim).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        chance_BT = router(h_BTD, 1)
    expected_BT = (h_BTD.float() @ router.weight[1].float() + router.bias[1].float()).sigmoid()
    torch.testing.assert_close(chance_BT, expected_BT, rtol=1e-5, atol=1e-6)


def test_routers_start_where_the_config_says() -> None:
    thinking = LatentCoTConfig(n_steps=2, bias_start=-4.0).build(6)
    assert isinstance(thinking, LatentCoT)
    for parameter in thinking.parameters():
        torch.nn.init.normal_(parameter)
    thinking.reset(torch.Generator())
    fresh = LatentCoTConfig(n_steps=2, bias_start=-4.0).build(6)
    for one, other in zip(thinking.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(thinking.router(torch.randn(1, 1, 6), 1), torch.tensor([[-4.0]]).sigmoid())


def test_a_row_of_padding_is_no_obstacle(model: Decoder) -> None:
    tokens_BT = some_tokens(2, N_TOKENS)
    layout = Layout.of(tokens_BT)
    layout.document_BT[0] = PADDING
    said_TD = model.read(tokens_BT, layout).h_BTD[1]
    alone_TD = model.read(tokens_BT[1:], Layout.of(tokens_BT[1:])).h_BTD[0]
    torch.testing.assert_close(said_TD, alone_TD, **EXACT)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("n_steps", -1, "n_steps=-1 must be at least 0"),
        ("tau", 1.0, "tau=1.0 must lie in"),
        ("penalty", -0.1, "penalty=-0.1 and beta=1.0 must be at least 0"),
        ("feed_scale", 0.0, "feed_scale=0.0 must be above 0"),
        ("gain_warmup", 20.0, "gain_warmup=20.0 is a share of the training"),
    ],
)
def test_what_cannot_be_is_refused(field: str, value: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(LatentCoTConfig(), **{field: value})

"""Pondering does what the equations say, whatever is read beside a text and however many tokens at a time.

Shape suffixes: B batch, T tokens, D model, V vocabulary, K steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pondering import CLOSED, HALTING, N_TOKENS, TOP, Config, aimed, bias_all, gradients, mean_input, pondered, stack
from readings import EXACT, Draw, exact, in_goes, left_padded, packed, plain, some_tokens, thinker

from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.layers import Layout
from innovator.models.ponder import AdaPonderLMConfig, PonderLMConfig
from innovator.models.thinking import Moment

ALL = PonderLMConfig(n_steps=3, top_k=None)
LAST = PonderLMConfig(n_steps=2, top_k=5, accumulate=False, multiply_first=True)
WAYS = {
    "top-dense": TOP,
    "top-mixture": TOP,
    "all-neox": ALL,
    "last-dense": LAST,
    "halting-dense": HALTING,
    "halting-neox": HALTING,
    "halting-mixture": HALTING,
}


@pytest.fixture(params=["dense", "neox", "mixture"])
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return exact(replace(request.getfixturevalue(request.param), embed_scale=1.5))


@pytest.fixture(params=WAYS)
def model(request: pytest.FixtureRequest, draw: Draw) -> Decoder:
    config: DecoderConfig = request.getfixturevalue(request.param.split("-")[1])
    return aimed(draw, exact(replace(config, embed_scale=1.5)), WAYS[request.param])


@pytest.mark.parametrize("way", [TOP, ALL, LAST, replace(TOP, multiply_first=True)])
def test_a_text_is_pondered_as_the_equations_say_and_so_are_its_gradients(
    config: DecoderConfig, draw: Draw, way: PonderLMConfig
) -> None:
    model, tokens_BT = thinker(draw, config, way), some_tokens(2, N_TOKENS)
    thought, expected_BTD = model.read(tokens_BT, Layout.of(tokens_BT)), pondered(model, tokens_BT, way)
    torch.testing.assert_close(thought.h_BTD, expected_BTD, **EXACT)
    assert (thought.passes_BT == way.n_steps + 1).all()
    torch.testing.assert_close(gradients(model, thought.h_BTD), gradients(model, expected_BTD), rtol=0, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(1,) * N_TOKENS, (6,) + (1,) * 5, (4, 4, 3)])
def test_in_goes_comes_to_what_it_comes_to_at_once(model: Decoder, sizes: tuple[int, ...]) -> None:
    tokens_BT = some_tokens(2, N_TOKENS)
    layout = Layout.of(tokens_BT)
    whole, (h_BTD, memories) = model.read(tokens_BT, layout), in_goes(model, tokens_BT, layout, sizes)
    torch.testing.assert_close(h_BTD, whole.h_BTD, **EXACT)
    assert not whole.memories and len(memories) == model.config.thinking.n_steps + 1
    assert {memory.layout.position_BT.shape for memory in memories} == {tokens_BT.shape}


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(N_TOKENS + 5,), (N_TOKENS, 1, 1, 1, 1, 1)])
def test_a_row_behind_padding_is_the_row_alone(model: Decoder, sizes: tuple[int, ...]) -> None:
    tokens_BT = some_tokens(2, N_TOKENS)
    padded_BT, layout = left_padded(tokens_BT, 5)
    h_BTD, _ = in_goes(model, padded_BT, layout, sizes)
    torch.testing.assert_close(h_BTD[:, 5:], model.read(tokens_BT, Layout.of(tokens_BT)).h_BTD, **EXACT)


@torch.no_grad()
def test_packed_documents_are_pondered_as_if_alone(model: Decoder) -> None:
    lengths = (5, 1, 9)
    tokens_BT = some_tokens(1, sum(lengths))
    apart = [model.read(it_BT, Layout.of(it_BT)).h_BTD for it_BT in tokens_BT.split(lengths, dim=1)]
    torch.testing.assert_close(model.read(tokens_BT, packed(lengths)).h_BTD, torch.cat(apart, dim=1), **EXACT)


@torch.no_grad()
def test_the_rows_of_a_batch_do_not_know_each_other(model: Decoder) -> None:
    tokens_BT = some_tokens(3, N_TOKENS)
    together = model.read(tokens_BT, Layout.of(tokens_BT))
    apart = [model.read(row_BT, Layout.of(row_BT)) for row_BT in tokens_BT.split(1)]
    torch.testing.assert_close(together.h_BTD, torch.cat([it.h_BTD for it in apart]), **EXACT)
    assert torch.equal(together.passes_BT, torch.cat([it.passes_BT for it in apart]))


@torch.no_grad()
def test_another_end_leaves_the_beginning(model: Decoder) -> None:
    tokens_BT = some_tokens(2, N_TOKENS)
    other_BT = torch.cat([tokens_BT[:, :6], some_tokens(2, N_TOKENS, seed=9)[:, 6:]], dim=1)
    one_BTD, other_BTD = (model.read(it_BT, Layout.of(it_BT)).h_BTD for it_BT in (tokens_BT, other_BT))
    torch.testing.assert_close(one_BTD[:, :6], other_BTD[:, :6], **EXACT)
    assert not torch.allclose(one_BTD[:, 6:], other_BTD[:, 6:])


@torch.no_grad()
@pytest.mark.parametrize("way", [TOP, HALTING])
def test_without_steps_it_only_reads(config: DecoderConfig, draw: Draw, way: Config) -> None:
    model, tokens_BT = thinker(draw, config, replace(way, n_steps=0)), some_tokens(2, N_TOKENS)
    thought, expected = (it.read(tokens_BT, Layout.of(tokens_BT), ()) for it in (model, plain(model)))
    assert torch.equal(thought.h_BTD, expected.h_BTD)
    assert len(thought.memories) == 1 and (thought.passes_BT == 1).all()


@torch.no_grad()
@pytest.mark.parametrize("way", [TOP, replace(HALTING, threshold=1e-4)])
def test_training_begins_at_the_model_that_only_reads_if_the_gain_is_warmed_up(
    config: DecoderConfig, draw: Draw, way: Config
) -> None:
    model, tokens_BT = thinker(draw, config, replace(way, gain_warmup=0.5)), some_tokens(2, N_TOKENS)
    layout = Layout.of(tokens_BT)
    begun, half, done, scored = (
        model.read(tokens_BT, layout, None, moment).h_BTD
        for moment in (Moment(0.0, 1), Moment(0.25, 1), Moment(0.5, 1), Moment())
    )
    assert torch.equal(begun, plain(model).read(tokens_BT, layout).h_BTD)
    assert torch.equal(done, scored)
    assert 0 < (half - begun).norm() < (done - begun).norm() * 2 and not torch.equal(half, done)


@torch.no_grad()
def test_half_the_gain_adds_half(dense: DecoderConfig, draw: Draw) -> None:
    way = PonderLMConfig(n_steps=1, gain_warmup=0.5)
    model, tokens_BT = thinker(draw, exact(dense), way), some_tokens(2, N_TOKENS)
    first_BTD = model.embedded(tokens_BT)
    mixed_BTD = mean_input(model, stack(model, first_BTD), None)
    thought = model.read(tokens_BT, Layout.of(tokens_BT), None, Moment(0.25, 1))
    torch.testing.assert_close(thought.h_BTD, stack(model, first_BTD + mixed_BTD / 2), **EXACT)


@pytest.mark.parametrize("way", [TOP, HALTING])
@pytest.mark.parametrize("closed", [False, True])
def test_every_parameter_of_a_thought_has_a_gradient_whoever_halts(
    dense: DecoderConfig, draw: Draw, way: Config, closed: bool
) -> None:
    """A gradient that is None would not be summed over processes, and they would wait for each other."""
    model, tokens_BT = aimed(draw, exact(dense), way), some_tokens(2, N_TOKENS)
    if closed and way is HALTING:
        bias_all(model, CLOSED)
    model.train().loss(tokens_BT, tokens_BT.roll(-1, 1), Layout.of(tokens_BT), Moment(0.0, 1)).backward()
    slopes = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert not [name for name, slope in slopes.items() if slope is None]
    assert closed or all(slope.abs().sum() > 0 for slope in slopes.values() if slope is not None)


@torch.no_grad()
@pytest.mark.parametrize("way", [TOP, replace(HALTING, threshold=1e-4)])
def test_half_precision_comes_near(dense: DecoderConfig, draw: Draw, way: Config) -> None:
    """Without a gate near its threshold; bf16 has 8 bits, and these are many sums."""
    model, tokens_BT = thinker(draw, dense, way), some_tokens(2, N_TOKENS)
    expected_BTD = model.read(tokens_BT, Layout.of(tokens_BT)).h_BTD
    thought = model.bfloat16().read(tokens_BT, Layout.of(tokens_BT), ())
    assert thought.h_BTD.dtype == torch.bfloat16
    assert (thought.h_BTD.double() - expected_BTD).norm() < 0.1 * expected_BTD.norm()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PonderLMConfig(n_steps=-1), "n_steps=-1 must not be negative"),
        (lambda: PonderLMConfig(top_k=0), "top_k=0 must be at least 1"),
        (lambda: AdaPonderLMConfig(gain_warmup=2.0), "gain_warmup=2.0 is a share of the training"),
        (lambda: AdaPonderLMConfig(threshold=0.0), "threshold=0.0 must lie above 0"),
        (lambda: AdaPonderLMConfig(weight=-1.0), "weight=-1.0 of the penalty must be at least 0"),
        (lambda: AdaPonderLMConfig(start_std=0.0), "start_std=0.0 must be above 0"),
        (lambda: AdaPonderLMConfig(share=1.5), "share=1.5 of the gates"),
        (lambda: AdaPonderLMConfig(share_from=0.7), "share_from=0.7 must lie before share_to=0.6"),
    ],
)
def test_pondering_that_cannot_be_is_refused(make: Callable[[], Config], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

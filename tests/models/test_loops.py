"""More passes without a thought: over the same slots, or over slots that hold nothing but a pause."""

from __future__ import annotations

from dataclasses import asdict, replace

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

from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.layers import Layout
from innovator.models.loops import LoopConfig, Pause, PauseConfig
from innovator.models.thinking import Moment
from innovator.models.ways import ThinkingConfig

WAYS = {"loop": LoopConfig(n_loops=3), "pause": PauseConfig(n_pauses=2)}
NOTHING = (LoopConfig(n_loops=1), PauseConfig(n_pauses=0))
N_TOKENS = 11


@pytest.fixture(params=["dense", "neox", "mixture", "deep"])
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return replace(exact(request.getfixturevalue(request.param)), embed_scale=1.5)


@pytest.fixture
def deep(dense: DecoderConfig) -> DecoderConfig:
    return mixing_over_depth(dense)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> ThinkingConfig:
    return WAYS[request.param]


@pytest.fixture
def model(config: DecoderConfig, way: ThinkingConfig, draw: Draw) -> Decoder:
    return thinker(draw, config, way)


def through_blocks(model: Decoder, x_SD: Tensor, token_S: Tensor, sees_SS: Tensor) -> Tensor:
    """What the last block writes, if it is told which slot sees which."""
    layout = Layout(token_S[None], torch.zeros_like(token_S)[None], torch.zeros_like(token_S)[None])
    sight = model.config.attention.sight(layout, layout, x_SD.dtype)._replace(mask_B1TU=sees_SS[None, None])
    x_BSD = x_SD[None]
    for block in model.layers:
        x_BSD, _ = block(x_BSD, layout, sight)
    return x_BSD[0]


def test_a_loop_passes_the_stack_over_its_own_output(dense: DecoderConfig, draw: Draw) -> None:
    model, tokens_T = thinker(draw, exact(dense), WAYS["loop"]), some_tokens(N_TOKENS)
    x_TD = model.embed(tokens_T)
    for _ in range(3):
        x_TD = through_blocks(model, x_TD, torch.arange(N_TOKENS), torch.ones(N_TOKENS, N_TOKENS).tril().bool())
    torch.testing.assert_close(model(tokens_T[None])[0], model.unembed(model.norm(x_TD)), **EXACT)


def test_pauses_are_slots_that_follow_each_token(dense: DecoderConfig, draw: Draw) -> None:
    model = thinker(draw, replace(exact(dense), embed_scale=1.5), WAYS["pause"])
    tokens_T, pause_PD = some_tokens(N_TOKENS), model.get_parameter("thinking.embedding")
    x_SD = torch.cat([torch.stack([model.embed.weight[token], *pause_PD]) for token in tokens_T]) * 1.5
    n_slots = 3 * N_TOKENS
    token_S = torch.arange(N_TOKENS).repeat_interleave(3)
    h_SD = model.norm(through_blocks(model, x_SD, token_S, torch.ones(n_slots, n_slots).tril().bool()))
    torch.testing.assert_close(model(tokens_T[None])[0], model.unembed(h_SD[2::3]), **EXACT)


@pytest.mark.parametrize("nothing", NOTHING, ids=lambda nothing: nothing.kind)
def test_one_pass_is_reading(config: DecoderConfig, nothing: ThinkingConfig, draw: Draw) -> None:
    model, tokens_BT = thinker(draw, config, nothing), some_tokens(2, N_TOKENS)
    assert torch.equal(model(tokens_BT), plain(model)(tokens_BT))


def test_however_a_text_is_cut_and_padded_it_is_read_the_same(model: Decoder) -> None:
    tokens_BT = some_tokens(2, N_TOKENS)
    whole = model.read(tokens_BT, Layout.of(tokens_BT))
    assert whole.passes_BT.eq(3).all() and not whole.memories
    padded_BT, layout = left_padded(tokens_BT, 3)
    h_BTD, memories = in_goes(model, padded_BT, layout, (5, 4, *[1] * (N_TOKENS - 6)))
    torch.testing.assert_close(h_BTD[:, 3:], whole.h_BTD, **EXACT)
    n_remembered = sum(memory.layout.position_BT.shape[1] for memory in memories)
    assert n_remembered == model.config.thinking.effort().kept * (3 + N_TOKENS)


def test_packed_documents_do_not_see_each_other(model: Decoder) -> None:
    lengths = (5, 1, 9)
    tokens_BT = some_tokens(1, sum(lengths))
    together_TV = model(tokens_BT, packed(lengths))[0]
    alone_TV = torch.cat([model(document_BT)[0] for document_BT in tokens_BT.split(lengths, dim=1)])
    torch.testing.assert_close(together_TV, alone_TV, **EXACT)


def test_the_future_does_not_reach_the_past(model: Decoder) -> None:
    one_BT, other_BT = some_tokens(1, N_TOKENS), some_tokens(1, N_TOKENS)
    other_BT[:, 7:] = some_tokens(1, N_TOKENS - 7, seed=3)
    one, other = (model(tokens_BT) for tokens_BT in (one_BT, other_BT))
    torch.testing.assert_close(one[:, :7], other[:, :7], **EXACT)
    assert not torch.allclose(one[:, 7:], other[:, 7:])


def test_every_pass_is_learnt_from(model: Decoder) -> None:
    tokens_BT = some_tokens(2, N_TOKENS)
    model.train().loss(tokens_BT, tokens_BT.roll(-1, dims=1), Layout.of(tokens_BT), Moment(0.5, 1)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    if isinstance(model.thinking, Pause):
        assert parameter_rows_differ(model.thinking.embedding.grad)


def parameter_rows_differ(slope_PD: Tensor) -> bool:
    return not torch.allclose(slope_PD[0], slope_PD[1])


def test_passes_are_as_many_whatever_the_text(model: Decoder, way: ThinkingConfig) -> None:
    expected = {"loop": [22, 22, 22], "pause": [66]}[way.kind]
    reader = Counting(model)
    reader.think(some_tokens(2, N_TOKENS))
    assert reader.n_slots == expected


def test_the_effort_is_what_is_seen_to_be_done(model: Decoder, way: ThinkingConfig) -> None:
    seen = effort(model, n_tokens=50)
    promised, found = asdict(way.effort()), asdict(seen)
    for name in ("mixed", "held"):  # nothing is mixed; what is held is seen in tests/train/test_memory.py
        del promised[name], found[name]
    # A token's first pause does not look at its second: of 50 tokens that is one in a hundred.
    assert promised == pytest.approx(found, rel=0.02)


def test_pauses_start_with_the_spread_that_is_asked_for() -> None:
    pauses = PauseConfig(n_pauses=3, start_std=0.5).build(500)
    assert isinstance(pauses, Pause)
    first_PD = pauses.embedding.clone()
    pauses.reset(torch.Generator().manual_seed(1))
    assert float(pauses.embedding.detach().std()) == pytest.approx(0.5, rel=0.1)  # of 1500 numbers
    assert first_PD.eq(0).all()


def test_half_precision_is_kept(config: DecoderConfig, way: ThinkingConfig, draw: Draw) -> None:
    model, tokens_BT = draw(replace(config, thinking=way), "thinker").bfloat16(), some_tokens(2, N_TOKENS)
    assert model.read(tokens_BT, Layout.of(tokens_BT), ()).h_BTD.dtype == torch.bfloat16


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="n_loops=0 must be at least 1"):
        LoopConfig(n_loops=0)
    with pytest.raises(ValueError, match="n_pauses=-1 must be at least 0"):
        PauseConfig(n_pauses=-1)
    with pytest.raises(ValueError, match="start_std=0 must be above 0"):
        PauseConfig(start_std=0)

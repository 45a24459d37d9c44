"""Documents and the future are closed to each other, and what is counted is what predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from innovator.models.attention import AttentionConfig
from innovator.models.decoder import IGNORE, Decoder, DecoderConfig
from innovator.models.layers import GENERAL, Layout

Draw = Callable[[DecoderConfig, str], Decoder]
LENGTHS = (5, 1, 9)


def some_tokens(*shape: int) -> Tensor:
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(2))


def packed(lengths: tuple[int, ...]) -> Layout:
    """Documents of these lengths, one behind the other in one row."""
    position_BT = torch.cat([torch.arange(length) for length in lengths])[None]
    document_BT = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
    return Layout(position_BT, document_BT, torch.full_like(document_BT, GENERAL))


def slots(layout: Layout, some: slice) -> Layout:
    return Layout(layout.position_BT[:, some], layout.document_BT[:, some], layout.label_BT[:, some])


@pytest.fixture(params=["dense", "neox", "mixture"])
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    chosen: DecoderConfig = request.getfixturevalue(request.param)
    return chosen


@torch.no_grad()
def test_packed_documents_do_not_see_each_other(config: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = draw(config, "model"), some_tokens(1, sum(LENGTHS))
    together_TV = model(tokens_BT, packed(LENGTHS))[0]
    alone_TV = torch.cat([model(document_BT)[0] for document_BT in tokens_BT.split(LENGTHS, dim=1)])
    torch.testing.assert_close(together_TV, alone_TV, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 12, 5])
@torch.no_grad()
def test_a_row_known_to_be_one_document_is_read_as_with_a_mask(
    config: DecoderConfig, window: int | None, draw: Draw
) -> None:
    config = replace(config, attention=replace(config.attention, window=window))
    model, tokens_BT = draw(config, "model"), some_tokens(2, 12)
    layout = Layout.of(tokens_BT)
    masked_BTV = model(tokens_BT, replace(layout, plain=False))
    torch.testing.assert_close(model(tokens_BT, layout), masked_BTV, rtol=1e-5, atol=1e-5)


def test_the_future_does_not_reach_the_past(config: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = draw(config, "model"), some_tokens(2, 12)
    x_BTD = model.embed(tokens_BT).detach().requires_grad_()
    h_BTD = model.read_once(x_BTD, Layout.of(tokens_BT), None, remember=False).h_BTD
    nll_BT = F.cross_entropy(model.unembed(h_BTD).transpose(1, 2), tokens_BT, reduction="none")
    (slope_BTD,) = torch.autograd.grad(nll_BT[:, 4].sum(), x_BTD)
    assert torch.equal(slope_BTD[:, 5:], torch.zeros_like(slope_BTD[:, 5:]))
    assert (slope_BTD[:, :5].abs().amax(dim=-1) > 0).all()


@torch.no_grad()
def test_reading_in_two_goes_is_reading_in_one(config: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = draw(config, "model"), some_tokens(1, sum(LENGTHS))
    layout = packed(LENGTHS)
    begun = model.read(tokens_BT[:, :8], slots(layout, slice(0, 8)), ())
    ended = model.read(tokens_BT[:, 8:], slots(layout, slice(8, None)), begun.memories)
    whole = model.read(tokens_BT, layout)
    assert not whole.memories
    torch.testing.assert_close(torch.cat([begun.h_BTD, ended.h_BTD], dim=1), whole.h_BTD, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_loss_sums_over_the_slots_that_predict(dense: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = draw(dense, "model"), some_tokens(2, 9)
    target_BT = tokens_BT.roll(-1, dims=1).masked_fill(tokens_BT % 3 == 0, IGNORE)
    nll_BTV = model(tokens_BT).log_softmax(dim=-1)
    expected = -sum(
        nll_BTV[row, slot, target_BT[row, slot]]
        for row, slot in torch.cartesian_prod(torch.arange(2), torch.arange(9)).tolist()
        if target_BT[row, slot] != IGNORE
    )
    torch.testing.assert_close(model.loss(tokens_BT, target_BT, Layout.of(tokens_BT)), expected)


def test_a_tied_decoder_has_one_matrix_for_reading_and_speaking(dense: DecoderConfig) -> None:
    assert Decoder(replace(dense, tied=True)).unembed.weight is not Decoder(dense).unembed.weight
    tied = Decoder(replace(dense, tied=True))
    assert tied.unembed.weight is tied.embed.weight


def test_a_seed_settles_the_first_weights(mixture: DecoderConfig) -> None:
    one, same, other = Decoder(mixture), Decoder(mixture), Decoder(mixture)
    for model, seed in ((one, 1), (same, 1), (other, 2)):
        model.initialize(seed)
    for name, tensor in one.named_parameters():
        assert torch.equal(tensor, same.get_parameter(name))
        assert torch.equal(tensor, other.get_parameter(name)) == name.endswith("norm.weight")


@torch.no_grad()
def test_a_window_closes_what_lies_behind_it(neox: DecoderConfig, draw: Draw) -> None:
    one_layer, tokens_BT = replace(neox, n_layers=1), some_tokens(1, 20)
    model = draw(one_layer, "model")
    windowed_TV, alone_TV = model(tokens_BT)[0], model(tokens_BT[:, 8:])[0]
    same_T = torch.isclose(windowed_TV[8:], alone_TV, rtol=1e-4, atol=1e-5).all(dim=-1)
    assert same_T.tolist() == [False] * 5 + [True] * 7  # six slots are seen, the own one among them


def test_attention_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="n_heads=4 is not a multiple of n_kv_heads=3"):
        AttentionConfig(n_heads=4, n_kv_heads=3, head_dim=6)
    with pytest.raises(ValueError, match="5 of a head's 5 numbers cannot be rotated in pairs"):
        AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=5)
    with pytest.raises(ValueError, match="window=0 must be at least 1"):
        AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=6, window=0)

"""A text whose tokens have thoughts may be read at once, in parts or in company: it is the same reading."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from readings import EXACT, Counting, Draw, exact, in_goes, mixing_over_depth, packed, plain, some_tokens, thinker
from torch import Tensor

from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.latent import PonderLM2Config, PonderLM3Config
from innovator.models.layers import GENERAL, PADDING, Layout
from innovator.models.memory import Memories, Memory
from innovator.models.thinking import Moment, PlainConfig, Reading

N_TOKENS = 6
# As many sweeps as the texts here have thoughts: nothing is approximate.
TWO = PonderLM2Config(n_thoughts=2, train_sweeps=(12,), eval_sweeps=12, feed_scale=0.7)
THREE = PonderLM3Config(n_thoughts=2, train_sweeps=(12,), eval_sweeps=12, feed_scale=0.7, prune=0.0)
PRUNED = replace(THREE, prune=0.3)
Way = PonderLM2Config | PonderLM3Config


@pytest.fixture(params=["dense", "neox", "mixture", "deep"])
def config(request: pytest.FixtureRequest) -> DecoderConfig:
    return exact(request.getfixturevalue(request.param))


@pytest.fixture
def deep(dense: DecoderConfig) -> DecoderConfig:
    return mixing_over_depth(dense)


@pytest.fixture(params=[TWO, THREE], ids=["ponderlm-2", "ponderlm-3"])
def way(request: pytest.FixtureRequest) -> Way:
    chosen: Way = request.param
    return chosen


@torch.no_grad()
def scored(model: Decoder, tokens_BT: Tensor, layout: Layout | None = None) -> Tensor:
    """What the head reads if nothing is remembered."""
    return model.read(tokens_BT, layout or Layout.of(tokens_BT)).h_BTD


@pytest.mark.parametrize("goes", [[1] * 6, [3, 1, 1, 1], [2, 3, 1]], ids=["spoken", "prompted", "in parts"])
def test_in_how_many_goes_a_text_is_read_does_not_matter(
    config: DecoderConfig, draw: Draw, way: Way, goes: list[int]
) -> None:
    model, tokens_BT = thinker(draw, config, way), some_tokens(2, N_TOKENS)
    h_BTD, _ = in_goes(model, tokens_BT, Layout.of(tokens_BT), goes)
    torch.testing.assert_close(h_BTD, scored(model, tokens_BT), **EXACT)


@pytest.mark.parametrize("way", [TWO, THREE, PRUNED], ids=["ponderlm-2", "ponderlm-3", "pruned"])
def test_a_padded_row_is_the_row_alone(config: DecoderConfig, draw: Draw, way: Way) -> None:
    model, tokens_BT, n_padded = thinker(draw, config, way), some_tokens(2, N_TOKENS), 2
    position_BT = torch.stack([torch.arange(N_TOKENS), torch.arange(N_TOKENS) - n_padded])
    document_BT = torch.where(position_BT < 0, PADDING, 0)
    layout = Layout(position_BT.clamp(min=0), document_BT, torch.full_like(position_BT, GENERAL))
    together_BTD, _ = in_goes(model, tokens_BT, layout, [4, 1, 1])
    whole_BT, short_BT = tokens_BT[:1], tokens_BT[1:, n_padded:]
    whole_BTD, _ = in_goes(model, whole_BT, Layout.of(whole_BT), [4, 1, 1])
    short_BTD, _ = in_goes(model, short_BT, Layout.of(short_BT), [2, 1, 1])
    torch.testing.assert_close(together_BTD[:1], whole_BTD, **EXACT)
    torch.testing.assert_close(together_BTD[1:, n_padded:], short_BTD, **EXACT)


class Masked(Counting):
    """A reader that tells whether passes need a mask, and may be given one that does not say that rows are plain."""

    def __init__(self, decoder: Decoder, *, plain: bool) -> None:
        super().__init__(decoder)
        self.plain = plain
        self.masks: list[Tensor | None] = []

    def read_once(self, x_BTD: Tensor, layout: Layout, past: Memory | None, *, remember: bool) -> Reading:
        layout = replace(layout, plain=layout.plain and self.plain)
        seen = layout if past is None else past.layout.then(layout)
        self.masks.append(self.decoder.config.attention.sight(layout, seen, x_BTD.dtype).mask_B1TU)
        return super().read_once(x_BTD, layout, past, remember=remember)


@torch.no_grad()
@pytest.mark.parametrize("past", [None, ()], ids=["scored", "prompted"])
def test_plain_rows_whose_thoughts_are_all_taken_need_no_mask(
    dense: DecoderConfig, draw: Draw, past: Memories | None
) -> None:
    model, tokens_BT = thinker(draw, exact(dense), TWO), some_tokens(2, N_TOKENS)
    plain_rows, masked = Masked(model, plain=True), Masked(model, plain=False)
    said = [reader.think(tokens_BT, past=past).h_BTD for reader in (plain_rows, masked)]
    torch.testing.assert_close(*said, **EXACT)
    assert all(mask is None for mask in plain_rows.masks) and not any(mask is None for mask in masked.masks)
    coming_in = Masked(thinker(draw, exact(dense), replace(TWO, gain_warmup=1.0)), plain=True)
    x_BTD = model.embedded(tokens_BT)
    coming_in.decoder.thinking(coming_in, x_BTD, Layout.of(tokens_BT), past, Moment(done=0.5))
    assert not any(mask is None for mask in coming_in.masks[1:])


def test_packed_documents_think_alone(config: DecoderConfig, draw: Draw, way: Way) -> None:
    model, tokens_BT, lengths = thinker(draw, config, way), some_tokens(1, 7), (3, 1, 3)
    alone = [scored(model, one_BT) for one_BT in tokens_BT.split(lengths, dim=1)]
    torch.testing.assert_close(scored(model, tokens_BT, packed(lengths)), torch.cat(alone, dim=1), **EXACT)


@pytest.mark.parametrize("n_sweeps", [0, 3])
def test_what_follows_changes_nothing(config: DecoderConfig, draw: Draw, way: Way, n_sweeps: int) -> None:
    model = thinker(draw, config, replace(way, eval_sweeps=n_sweeps))
    one_BT, other_BT = some_tokens(1, 9), some_tokens(1, 9, seed=3)
    other_BT[:, :5] = one_BT[:, :5]
    one_BTD, other_BTD = scored(model, one_BT), scored(model, other_BT)
    torch.testing.assert_close(one_BTD[:, :5], other_BTD[:, :5], rtol=0, atol=1e-12)
    assert (one_BTD[:, 5:] - other_BTD[:, 5:]).abs().amax(dim=-1).min() > 1e-3


@torch.no_grad()
def test_the_more_sweeps_the_nearer(dense: DecoderConfig, draw: Draw, way: Way) -> None:
    tokens_BT, errors = some_tokens(2, N_TOKENS), []
    for n_sweeps in (0, 1, 3, 6, 12):
        model = thinker(draw, exact(dense), replace(way, eval_sweeps=n_sweeps))
        for parameter in model.layers.parameters():
            parameter *= 0.4  # larger random numbers throw sweeps about for a while
        in_turn_BTD, _ = in_goes(model, tokens_BT, Layout.of(tokens_BT), [1] * N_TOKENS)
        errors.append(float((scored(model, tokens_BT) - in_turn_BTD).abs().max()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1 and errors[3] > 1e-7 and errors[4] < 1e-10


def test_without_thoughts_a_model_only_reads(config: DecoderConfig, draw: Draw, way: Way) -> None:
    model, tokens_BT = thinker(draw, config, replace(way, n_thoughts=0)), some_tokens(2, N_TOKENS)
    assert torch.equal(scored(model, tokens_BT), scored(plain(model), tokens_BT))
    reader = Counting(model)
    reader.think(tokens_BT)
    assert len(reader.n_slots) == 1
    assert model.config.thinking.effort() == PlainConfig().effort()


@torch.no_grad()
def test_how_often_is_read_does_not_depend_on_the_text(dense: DecoderConfig, draw: Draw) -> None:
    model = thinker(draw, dense, replace(PRUNED, train_sweeps=(1, 4), eval_sweeps=2))

    def slots(bias: float, n_tokens: int, past: Memories | None, seed: int | None) -> list[int]:
        model.get_parameter("thinking.router.bias")[0] = bias
        reader, tokens_BT = Counting(model), some_tokens(1, n_tokens)
        model.thinking(reader, model.embedded(tokens_BT), Layout.of(tokens_BT), past, Moment(seed=seed))
        return reader.n_slots

    for bias in (-50.0, 50.0):  # all thoughts are taken, or none
        assert slots(bias, 4, None, None) == slots(bias, 4, (), None) == [4, 8, 12, 12, 12]
        assert slots(bias, 1, (), None) == [1, 1, 1]
        drawn = [slots(bias, 4, None, seed) for seed in range(8)]
        assert {len(one) - 3 for one in drawn} == {1, 4}
        assert drawn == [slots(-bias, 4, None, seed) for seed in range(8)]


class Weighing(Counting):
    """A reader that also notes by how much attention to slots that hold nothing is changed."""

    def read_once(self, x_BTD: Tensor, layout: Layout, past: Memory | None, *, remember: bool) -> Reading:
        assert layout.log_mass_BT is not None
        self.changes = layout.log_mass_BT[~layout.is_text()]
        return super().read_once(x_BTD, layout, past, remember=remember)


@torch.no_grad()
def test_a_slot_that_holds_nothing_sees_itself(dense: DecoderConfig, draw: Draw) -> None:
    model, tokens_BT = thinker(draw, dense, replace(PRUNED, gain_warmup=1.0)), some_tokens(2, 1)
    reader = Weighing(model)
    model.thinking(reader, model.embedded(tokens_BT), Layout.of(tokens_BT), (), Moment(done=0.0))
    assert reader.changes.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("goes", [[N_TOKENS], [1] * N_TOKENS], ids=["prompted", "spoken"])
def test_a_pruned_thought_is_not_remembered(dense: DecoderConfig, draw: Draw, goes: list[int]) -> None:
    model, tokens_BT = thinker(draw, dense, PRUNED), some_tokens(2, N_TOKENS)
    _, (memory,) = in_goes(model, tokens_BT, Layout.of(tokens_BT), goes)
    fewer, more = sorted(memory.layout.is_text().sum(dim=1).tolist())
    assert N_TOKENS < fewer < more < 3 * N_TOKENS
    assert {memory.layout.document_BT.shape[1], *(keys.k_BGUH.shape[2] for keys in memory.keys)} == {more}

"""Values mixed over depth are those of the equations, however a text is cut, padded, packed or replayed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from innovator.engine.parallel import recompute
from innovator.models.attention import Attention, AttentionConfig, Sight, rotate
from innovator.models.decoder import Block, Decoder, DecoderConfig
from innovator.models.depth import DepthAttention
from innovator.models.generate import generate
from innovator.models.layers import GENERAL, PADDING, LayerNormConfig, Layout
from innovator.models.memory import Memories
from innovator.models.moe import MoEConfig, SoftmaxRouter

Draw = Callable[[DecoderConfig, str], Decoder]
N_LAYERS = 5
DEPTH = DepthAttention(stride=2, recent=1, self_bias=0.7)
CLOSE = {"rtol": 0.0, "atol": 1e-10}  # fp64, of numbers around one
LENGTHS = (5, 1, 6)


def some_tokens(*shape: int) -> Tensor:
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(2))


def packed(lengths: tuple[int, ...]) -> Layout:
    """Documents of these lengths, one behind the other in one row."""
    position_BT = torch.cat([torch.arange(length) for length in lengths])[None]
    document_BT = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
    return Layout(position_BT, document_BT, torch.full_like(document_BT, GENERAL))


def part(layout: Layout, start: int, end: int) -> Layout:
    return Layout(layout.position_BT[:, start:end], layout.document_BT[:, start:end], layout.label_BT[:, start:end])


def mixing(config: DecoderConfig, depth: DepthAttention | None = DEPTH) -> DecoderConfig:
    """The same model, deep enough to have all sorts of anchors."""
    return replace(config, n_layers=N_LAYERS, attention=replace(config.attention, depth=depth))


@pytest.fixture(params=["dense", "neox", "experts", "normed", "one-for-all"])
def config(request: pytest.FixtureRequest, dense: DecoderConfig, mixture: DecoderConfig) -> DecoderConfig:
    """Grouped heads; each its own, in parallel residual; experts; normed queries and keys; one key for all queries."""
    attention = dense.attention
    assert isinstance(mixture.ffn, MoEConfig)
    special = {
        # The other router multiplies in fp32 whatever the model's type, so that what it says depends on the shape.
        "experts": replace(mixture, ffn=replace(mixture.ffn, router=SoftmaxRouter())),
        "normed": replace(dense, attention=replace(attention, qk_norm=True), norm=LayerNormConfig()),
        "one-for-all": replace(dense, attention=replace(attention, n_kv_heads=1, rotary_dim=2)),
    }
    chosen = special[request.param] if request.param in special else request.getfixturevalue(request.param)
    return mixing(chosen)


@pytest.fixture
def model(config: DecoderConfig, draw: Draw) -> Decoder:
    return draw(config, "model").double()


def turned(x_H: Tensor, position: int, config: AttentionConfig) -> Tensor:
    """A head's numbers, of which pairs turn as complex numbers do."""
    pairs = config.rotated // 2
    angle_P = torch.tensor(float(position)) * config.rope.frequencies(config.rotated, torch.device("cpu"))
    turn_P = torch.complex(angle_P.cos().double(), angle_P.sin().double())
    turned_P = torch.complex(x_H[:pairs], x_H[pairs : 2 * pairs]) * turn_P
    return torch.cat([turned_P.real, turned_P.imag, x_H[2 * pairs :]])


def mixed_by_hand(
    q_NH: Tensor, own: tuple[Tensor, Tensor], offered: list[tuple[Tensor, Tensor]], bias: float
) -> Tensor:
    """One slot's values [G, H]; `offered` are its keys and values in the layers below."""
    k_GH, v_GH = own
    per_group = len(q_NH) // len(k_GH)
    mixed = []
    for group in range(len(k_GH)):
        mean_H = sum(q_NH[group * per_group + number] for number in range(per_group)) / per_group
        scores = [mean_H @ k[group] / math.sqrt(len(mean_H)) for k, _ in offered]
        grown = [score.exp() for score in [*scores, mean_H @ k_GH[group] / math.sqrt(len(mean_H)) + bias]]
        values = [v[group] for _, v in offered] + [v_GH[group]]
        mixed.append(sum(share / sum(grown) * value for share, value in zip(grown, values, strict=True)))
    return torch.stack(mixed)


def attended_by_hand(
    attention: Attention, config: AttentionConfig, x_TD: Tensor, offers: list[list[tuple[Tensor, Tensor]]]
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """What attention writes [T, D], slot after slot; and each slot's keys and mixed values."""
    width = config.head_dim
    n_per_group = config.n_heads // config.n_kv_heads
    made: list[tuple[Tensor, Tensor]] = []
    written = []
    for slot, x_D in enumerate(x_TD):
        q_NH = attention.q_norm(attention.q_proj(x_D).view(-1, width))
        k_GH = attention.k_norm(attention.k_proj(x_D).view(-1, width))
        q_NH, k_GH = (torch.stack([turned(x_H, slot, config) for x_H in x_H_each]) for x_H_each in (q_NH, k_GH))
        own = (k_GH, attention.v_proj(x_D).view(-1, width))
        made.append((k_GH, mixed_by_hand(q_NH, own, [offer[slot] for offer in offers], DEPTH.self_bias)))
        nearest = 0 if config.window is None else max(0, slot + 1 - config.window)
        heads = []
        for number, q_H in enumerate(q_NH):
            group = number // n_per_group
            score_U = torch.stack([q_H @ k_GH[group] / math.sqrt(width) for k_GH, _ in made[nearest:]])
            heads.append(score_U.softmax(0) @ torch.stack([v_GH[group] for _, v_GH in made[nearest:]]))
        written.append(attention.o_proj(torch.cat(heads)))
    return torch.stack(written), made


def read_by_hand(model: Decoder, x_TD: Tensor) -> Tensor:
    """Final hidden states [T, D] of one document, by the paper's equations."""
    layout = Layout.of(torch.zeros(1, len(x_TD), dtype=torch.long))
    made: list[list[tuple[Tensor, Tensor]]] = []
    for layer, block in enumerate(model.layers):
        assert isinstance(block, Block)
        below = sorted({below for below in range(layer) if below % 2 == 0} | set(range(layer)[-1:]))
        offers = [made[number] for number in below]
        y_TD, own = attended_by_hand(block.attn, model.config.attention, block.attn_norm(x_TD), offers)
        made.append(own)
        parallel = model.config.residual == "parallel"
        ffn_TD = block.ffn(block.ffn_norm(x_TD if parallel else x_TD + y_TD)[None], layout)[0]
        x_TD = x_TD + y_TD + ffn_TD
    return model.norm(x_TD)


def read_in_parts(model: Decoder, tokens_BT: Tensor, layout: Layout, lengths: list[int]) -> Tensor:
    memories: Memories = ()
    h_BTD, start = [], 0
    for length in lengths:
        end = start + length
        thought = model.read(tokens_BT[:, start:end], part(layout, start, end), memories)
        memories, start = thought.memories, end
        h_BTD.append(thought.h_BTD)
    return torch.cat(h_BTD, dim=1)


def test_values_and_gradients_are_those_of_the_equations(model: Decoder) -> None:
    tokens_BT = some_tokens(1, 8)
    x_BTD = model.embed(tokens_BT).detach().requires_grad_()
    h_TD = model.read_once(x_BTD, Layout.of(tokens_BT), None, remember=False).h_BTD[0]
    by_hand_TD = read_by_hand(model, x_BTD[0])
    torch.testing.assert_close(h_TD, by_hand_TD, **CLOSE)
    known = [
        x_BTD,
        *(parameter for name, parameter in model.named_parameters() if "_proj" in name and "layers" in name),
    ]
    weight_TD = torch.randn(h_TD.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    slopes = torch.autograd.grad((h_TD * weight_TD).sum(), known)
    slopes_by_hand = torch.autograd.grad((by_hand_TD * weight_TD).sum(), known)
    for slope, by_hand in zip(slopes, slopes_by_hand, strict=True):
        torch.testing.assert_close(slope, by_hand, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[1] * 12, [7, 1, 1, 3], [1, 11]])
def test_however_a_text_is_cut_it_reads_the_same(model: Decoder, lengths: list[int]) -> None:
    tokens_BT, layout = some_tokens(2, 12), Layout.of(some_tokens(2, 12))
    whole_BTD = model.read(tokens_BT, layout).h_BTD
    torch.testing.assert_close(read_in_parts(model, tokens_BT, layout, lengths), whole_BTD, **CLOSE)


@torch.no_grad()
def test_packed_documents_read_as_documents_alone(model: Decoder) -> None:
    tokens_BT, layout = some_tokens(1, sum(LENGTHS)), packed(LENGTHS)
    alone = [model.read(one_BT, Layout.of(one_BT)).h_BTD for one_BT in tokens_BT.split(LENGTHS, dim=1)]
    alone_BTD = torch.cat(alone, dim=1)
    torch.testing.assert_close(model.read(tokens_BT, layout).h_BTD, alone_BTD, **CLOSE)
    torch.testing.assert_close(read_in_parts(model, tokens_BT, layout, [3, 5, 4]), alone_BTD, **CLOSE)


@torch.no_grad()
def test_a_padded_row_reads_as_the_row_alone(model: Decoder) -> None:
    tokens_BT, n_padding = some_tokens(2, 9), 4
    layout = Layout.of(tokens_BT)
    position_BT, document_BT = layout.position_BT.clone(), layout.document_BT.clone()
    position_BT[1] -= n_padding
    position_BT[1, :n_padding], document_BT[1, :n_padding] = 0, PADDING
    padded = Layout(position_BT, document_BT, layout.label_BT)
    alone_BT = tokens_BT[1:, n_padding:]
    alone_TD = model.read(alone_BT, Layout.of(alone_BT)).h_BTD[0]
    torch.testing.assert_close(model.read(tokens_BT, padded).h_BTD[1, n_padding:], alone_TD, **CLOSE)
    cut_BTD = read_in_parts(model, tokens_BT, padded, [6, 1, 1, 1])
    torch.testing.assert_close(cut_BTD[1, n_padding:], alone_TD, **CLOSE)


@torch.no_grad()
def test_what_is_said_does_not_depend_on_the_company(model: Decoder) -> None:
    prompts = [[5, 17, 3, 44, 9], [12, 7]]
    spoken = generate(model, prompts, n_new=5)
    for prompt, words in zip(prompts, spoken, strict=True):
        text = list(prompt)
        for word in words:
            assert int(model(torch.tensor([text]))[0, -1].argmax()) == word
            text.append(word)


@torch.no_grad()
def test_the_future_does_not_reach_the_past(model: Decoder) -> None:
    tokens_BT = some_tokens(2, 10)
    other_BT = torch.cat([tokens_BT[:, :6], (tokens_BT[:, 6:] + 1) % 61], dim=1)
    one_BTD, other_BTD = (model.read(it_BT, Layout.of(it_BT)).h_BTD for it_BT in (tokens_BT, other_BT))
    torch.testing.assert_close(one_BTD[:, :6], other_BTD[:, :6], **CLOSE)
    assert not torch.isclose(one_BTD[:, 6:], other_BTD[:, 6:]).all(dim=-1).any()


@torch.no_grad()
def test_a_layer_that_heeds_none_but_itself_is_plain(config: DecoderConfig, draw: Draw) -> None:
    tokens_BT, alone = some_tokens(2, 9), DepthAttention(stride=1, self_bias=1e6)
    plain, mixes = (draw(mixing(config, depth), "model") for depth in (None, alone))
    assert torch.equal(mixes(tokens_BT), plain(tokens_BT))
    assert not torch.allclose(draw(config, "model")(tokens_BT), plain(tokens_BT))


@torch.no_grad()
def test_the_first_layer_is_plain(config: DecoderConfig, draw: Draw) -> None:
    tokens_BT = some_tokens(2, 9)
    plain, mixes = (draw(replace(mixing(config, depth), n_layers=1), "model") for depth in (None, DEPTH))
    assert torch.equal(mixes(tokens_BT), plain(tokens_BT))


@pytest.mark.parametrize("self_bias", [0.0, 3.0, 8.0])
def test_a_self_bias_bounds_what_others_weigh(self_bias: float) -> None:
    generator = torch.Generator().manual_seed(4)
    q_BNTH, k_BGTH, v_BGTH, k0, v0, k1, v1 = torch.randn(7, 3, 2, 6, 5, generator=generator, dtype=torch.float64)
    mixed_BGTH = DepthAttention(stride=1, self_bias=self_bias).mix(q_BNTH, k_BGTH, v_BGTH, [(k0, v0), (k1, v1)])
    own_BGT, *others = ((q_BNTH * k).sum(-1) / math.sqrt(5) for k in (k_BGTH, k0, k1))
    excess_BGT = torch.stack(others).amax(0) - own_BGT
    furthest_BGTH = torch.maximum((v0 - v_BGTH).abs(), (v1 - v_BGTH).abs())
    bound_BGTH = 2 * (excess_BGT - self_bias).exp()[..., None] * furthest_BGTH
    assert ((mixed_BGTH - v_BGTH).abs() <= bound_BGTH).all()
    assert ((mixed_BGTH - v_BGTH).abs() > 0.1 * math.exp(-self_bias) / math.e**4).any()


def test_where_a_slot_stands_does_not_change_what_it_chooses() -> None:
    generator = torch.Generator().manual_seed(5)
    q_BNTH, k_BGTH, v_BGTH, k0, v0 = torch.randn(5, 3, 2, 6, 8, generator=generator, dtype=torch.float64)
    angle_1TR = torch.randn(1, 6, 3, generator=generator, dtype=torch.float64).repeat(1, 1, 2)
    sight = Sight(angle_1TR.cos(), angle_1TR.sin(), torch.empty(0))
    unturned_BGTH = DEPTH.mix(q_BNTH, k_BGTH, v_BGTH, [(k0, v0)])
    q_BNTH, k_BGTH, k0 = (rotate(it_BNTH, sight) for it_BNTH in (q_BNTH, k_BGTH, k0))
    torch.testing.assert_close(DEPTH.mix(q_BNTH, k_BGTH, v_BGTH, [(k0, v0)]), unturned_BGTH, **CLOSE)


def test_anchors_are_multiples_of_the_stride_and_the_layers_just_below() -> None:
    assert [DepthAttention(stride=2).anchors(layer) for layer in range(5)] == [[], [0], [0], [0, 2], [0, 2]]
    assert DepthAttention(stride=4, recent=3).anchors(10) == [0, 4, 7, 8, 9]
    assert DepthAttention(stride=24).anchors(47) == [0, 24]


@pytest.mark.parametrize("depth", [DEPTH, DepthAttention(stride=3, recent=2), DepthAttention(stride=9)])
def test_who_is_no_anchor_never_becomes_one(depth: DepthAttention) -> None:
    for layer in range(12):
        assert set(depth.anchors(layer + 1)) <= {*depth.anchors(layer), layer}


def test_replayed_blocks_learn_the_same(model: Decoder) -> None:
    tokens_BT = some_tokens(2, 9)
    layout = Layout.of(tokens_BT)
    model.train()
    model.loss(tokens_BT, tokens_BT, layout).backward()
    learnt = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    for block in model.layers:
        recompute(block)
    model.loss(tokens_BT, tokens_BT, layout).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, learnt[name], **CLOSE)


def test_half_precision_scores_in_full() -> None:
    """In bf16 one of these scores, 256 and 257 before their root, would be rounded to the other."""
    ones = torch.ones(1, 1, 1, 257, dtype=torch.bfloat16)
    fewer = torch.cat([ones[..., :256], 0 * ones[..., :1]], dim=-1)
    mixed = DepthAttention(stride=1).mix(ones, ones, ones, [(fewer, 0 * ones)])
    assert mixed.dtype == torch.bfloat16
    expected = torch.tensor(1 / math.sqrt(257)).sigmoid()
    torch.testing.assert_close(mixed.float(), expected.expand(1, 1, 1, 257), rtol=1 / 256, atol=0.0)


def test_a_depth_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="stride=0 must be at least 1"):
        DepthAttention(stride=0)
    with pytest.raises(ValueError, match="recent=-1 layers cannot be less than none"):
        DepthAttention(stride=1, recent=-1)
    with pytest.raises(ValueError, match="self_bias=inf is not a finite number"):
        DepthAttention(stride=1, self_bias=math.inf)

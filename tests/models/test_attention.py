"""Scaled rotary positions turn as transformers turns them, to the last bit; masses that learn are added to scores."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from innovator.models.attention import AttentionConfig, Keys, LinearRope, Llama3Rope, PlainRope, Rope, attend
from innovator.models.layers import Layout

CPU = torch.device("cpu")
SCALES = list(product((2.0, 8.0, 32.0), (2.0, 4.0), (16, 2048, 8192)))
every_theta = pytest.mark.parametrize("theta", [500.0, 10_000.0, 500_000.0])
every_width = pytest.mark.parametrize("width", [8, 64, 80, 128])


def assert_turns_as_theirs(ours: Rope, width: int, **scaling: object) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_theta": ours.theta, **scaling}
    config = LlamaConfig(head_dim=width, rope_parameters=parameters, max_position_embeddings=131_072)
    theirs_P, _ = ROPE_INIT_FUNCTIONS[str(scaling["rope_type"])](config, CPU)
    assert torch.equal(ours.frequencies(width, CPU), theirs_P)


@every_theta
@every_width
@pytest.mark.parametrize(("factor", "high", "context"), SCALES)
def test_llama3_scaling_is_that_of_transformers(
    theta: float, width: int, factor: float, high: float, context: int
) -> None:
    ours = Llama3Rope(theta=theta, factor=factor, low_freq_factor=1.0, high_freq_factor=high, original_context=context)
    assert_turns_as_theirs(
        ours,
        width,
        rope_type="llama3",
        factor=factor,
        low_freq_factor=1.0,
        high_freq_factor=high,
        original_max_position_embeddings=context,
    )


@every_theta
@every_width
def test_linear_scaling_is_that_of_transformers(theta: float, width: int) -> None:
    assert_turns_as_theirs(LinearRope(theta=theta, factor=3.0), width, rope_type="linear", factor=3.0)


def test_scaled_positions_are_slower_ones() -> None:
    plain_P = PlainRope(theta=500.0).frequencies(16, CPU)
    scaled = Llama3Rope(theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64)
    ratio_P = scaled.frequencies(16, CPU) / plain_P
    assert ratio_P[0] == 1 and ratio_P[-1] == 1 / 8 and bool((ratio_P.diff() <= 0).all())


def test_masses_that_learn_are_added_to_scores_and_get_the_gradient_of_a_softmax() -> None:
    """Against attention written out, in double precision; a slot of no mass is not seen."""
    config = AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=6, window=5)
    facts = drawn(config, n_rows=2, n_slots=9)
    q_BNTH, k_BGUH, v_BGUH, log_mass_BU = facts
    with torch.no_grad():
        log_mass_BU[:, 3] = -torch.inf
    layout = replace(Layout.of(log_mass_BU), log_mass_BT=log_mass_BU, plain=False)
    y_BNTH = attend(q_BNTH, Keys(k_BGUH, v_BGUH), config.sight(layout, layout, torch.float64))
    score_BNTU = q_BNTH @ k_BGUH.repeat_interleave(2, dim=1).mT / 6**0.5 + log_mass_BU[:, None, None]
    weight_BNTU = score_BNTU.masked_fill(~layout.sees(layout, 5), -torch.inf).softmax(dim=-1)
    theirs_BNTH = weight_BNTU @ v_BGUH.repeat_interleave(2, dim=1)
    torch.testing.assert_close(y_BNTH, theirs_BNTH)
    slope = torch.randn_like(y_BNTH)
    ours, theirs = (torch.autograd.grad((y * slope).sum(), facts) for y in (y_BNTH, theirs_BNTH))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    assert float(ours[3][:, 3].abs().max()) == 0


def test_masses_that_learn_are_fused_so_that_no_scores_are_kept() -> None:
    config = AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=16)
    q_BNTH, k_BGUH, v_BGUH, log_mass_BU = (it.detach().float().requires_grad_() for it in drawn(config, 1, 32))
    layout = replace(Layout.of(log_mass_BU), log_mass_BT=log_mass_BU, plain=False)
    with profile(activities=[ProfilerActivity.CPU]) as ran:
        attend(q_BNTH, Keys(k_BGUH, v_BGUH), config.sight(layout, layout, torch.float32)).sum().backward()
    names = {event.key for event in ran.key_averages()}
    assert any("flash_attention" in name for name in names) and not any("attention_math" in name for name in names)


def drawn(config: AttentionConfig, n_rows: int, n_slots: int) -> tuple[Tensor, ...]:
    """Queries, keys, values and masses."""
    generator = torch.Generator().manual_seed(0)
    heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
    shapes = [(n_rows, n, n_slots, config.head_dim) for n in heads] + [(n_rows, n_slots)]
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes)

"""Scaled rotary positions turn as transformers turns them, to the last bit."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from innovator.models.attention import LinearRope, Llama3Rope, PlainRope, Rope

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

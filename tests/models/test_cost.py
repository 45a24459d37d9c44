"""The counts of a decoder are those of the real thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from innovator.models.attention import AttentionConfig
from innovator.models.cost import cost
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.layers import Layout, SwiGLUConfig
from innovator.models.moe import MoEConfig, SoftmaxRouter

SHAPE = (2, 10)
N_TOKENS = SHAPE[0] * SHAPE[1]

QWEN_7B = DecoderConfig(
    vocab_size=152064,
    dim=3584,
    n_layers=28,
    attention=AttentionConfig(n_heads=28, n_kv_heads=4, head_dim=128, qkv_bias=True),
    ffn=SwiGLUConfig(hidden=18944),
)
EIGHT_DISCIPLINES = MoEConfig(
    n_experts=64,
    n_disciplines=8,
    top_k=8,
    expert=SwiGLUConfig(hidden=18944 // 8),
    shared=SwiGLUConfig(hidden=18944),
    dense=SwiGLUConfig(hidden=18944),
    router=SoftmaxRouter(),
)


@pytest.fixture(params=["dense", "tied", "neox", "mixture"])
def config(
    request: pytest.FixtureRequest, dense: DecoderConfig, neox: DecoderConfig, mixture: DecoderConfig
) -> DecoderConfig:
    return {"dense": dense, "tied": replace(dense, tied=True), "neox": neox, "mixture": mixture}[request.param]


def test_eight_disciplines_of_seven_billion_have_the_published_size() -> None:
    counted = cost(replace(QWEN_7B, ffn=EIGHT_DISCIPLINES), seq_len=4096)
    assert (round(counted.total / 1e9, 2), round(counted.active / 1e9, 2)) == (53.25, 13.33)


def test_the_total_counts_every_parameter_once(config: DecoderConfig) -> None:
    counted = cost(config, seq_len=8)
    assert counted.total == sum(parameter.numel() for parameter in Decoder(config).parameters())


def test_a_token_passes_all_of_a_dense_model_and_the_chosen_experts_of_a_mixture(
    dense: DecoderConfig, mixture: DecoderConfig
) -> None:
    whole, sparse = cost(dense, seq_len=8), cost(mixture, seq_len=8)
    assert whole.active == whole.total
    assert sparse.total - sparse.active == 4 * 3 * 12 * 16  # four of six experts rest, three matrices of 12 x 16 each


def test_forward_operations_are_those_that_torch_counts(
    config: DecoderConfig, draw: Callable[[DecoderConfig, str], Decoder]
) -> None:
    model, tokens_BT = draw(config, "model"), torch.zeros(SHAPE, dtype=torch.long)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens_BT)
    counted = cost(config, seq_len=SHAPE[1])
    # torch counts the products that a causal mask throws away; we count half of them, as a kernel that skips does.
    assert counter.get_total_flops() == N_TOKENS * (counted.forward + counted.attention)


def test_training_operations_are_those_that_torch_counts(
    config: DecoderConfig, draw: Callable[[DecoderConfig, str], Decoder]
) -> None:
    model, tokens_BT = draw(config, "model"), torch.zeros(SHAPE, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(tokens_BT, tokens_BT, Layout.of(tokens_BT)).backward()
    counted = cost(config, seq_len=SHAPE[1])
    assert counter.get_total_flops() == N_TOKENS * (counted.training + 3 * counted.attention)


def test_a_frozen_matrix_saves_its_own_gradient_alone(mixture: DecoderConfig) -> None:
    everything, router = cost(mixture, seq_len=8), cost(mixture, seq_len=8, trainable={"*.router.weight": 1.0})
    assert router.trained_products == 6 * 16
    assert everything.training - router.training == 2 * (everything.products - 6 * 16)

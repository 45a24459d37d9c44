"""The counts of a decoder are those of the real thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from innovator.models.attention import WIDER, AttentionConfig
from innovator.models.cost import cost
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.latent import PonderLM2Config, PonderLM3Config
from innovator.models.latent_cot import LatentCoTConfig
from innovator.models.layers import Layout, SwiGLUConfig
from innovator.models.loops import LoopConfig, PauseConfig
from innovator.models.memory import Memories
from innovator.models.moe import MoEConfig, SoftmaxRouter
from innovator.models.ponder import AdaPonderLMConfig, PonderLMConfig
from innovator.models.thinking import Moment, PlainConfig
from innovator.models.ways import ThinkingConfig

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
WAYS: dict[str, ThinkingConfig] = {
    "plain": PlainConfig(),
    "ponderlm": PonderLMConfig(),
    "ponderlm-top": PonderLMConfig(n_steps=2, top_k=2),
    "adaponderlm": AdaPonderLMConfig(),
    "ponderlm-2": PonderLM2Config(n_thoughts=2, train_sweeps=(3,)),
    "ponderlm-3": PonderLM3Config(n_thoughts=2, train_sweeps=(1,), prune=0.0),
    "latent-cot": LatentCoTConfig(n_steps=2),
    "loop": LoopConfig(n_loops=3),
    "pause": PauseConfig(n_pauses=2),
}
MASKED = {"latent-cot": 3.0}  # slots that are deeper than what looks at them; torch multiplies those too
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


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
    assert (router.trained.each_pass, router.trained.once) == (6 * 16, 0)
    n_products = everything.products.each_pass + everything.products.once
    assert everything.training - router.training == 2 * (n_products - 6 * 16)


@every_way
def test_training_operations_of_thinking_are_those_that_torch_counts(dense: DecoderConfig, way: ThinkingConfig) -> None:
    """Up to what is counted otherwise: routers asked again, logits computed again, sums of few rows."""
    config = replace(dense, thinking=way)
    model, tokens_BT = fresh(config).train(), torch.zeros(SHAPE, dtype=torch.long)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.loss(tokens_BT, tokens_BT, Layout.of(tokens_BT), Moment(seed=0)).backward()
    counted = cost(config, seq_len=SHAPE[1])
    width = dense.attention.head_dim
    wider = (width + WIDER) / width if isinstance(way, PonderLM3Config) else 1.0  # where keys have masses that learn
    unseen = 3 * counted.effort.training_attended * counted.attention * (2 * wider - 1)  # as above
    assert counter.get_total_flops() == pytest.approx(N_TOKENS * (counted.training + unseen), rel=0.05)


@every_way
def test_speaking_takes_the_operations_that_torch_counts(dense: DecoderConfig, way: ThinkingConfig) -> None:
    """Token by token, each thought about as long as can be; up to routers, and slots counted from 0 or from 1."""
    config, n_tokens = replace(dense, thinking=way), 30
    model, tokens_BT = fresh(config).eval(), torch.zeros((1, n_tokens), dtype=torch.long)
    layout, memories = Layout.of(tokens_BT), Memories()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for token in range(n_tokens):
            slot = layout.at(torch.tensor([[token]]))
            thought = model.read(tokens_BT[:, :1], slot, memories)
            model.unembed(thought.h_BTD)
            memories = thought.memories
    counted = cost(config, n_tokens)
    masked = MASKED.get(way.kind, 0.0) * counted.attention
    assert counter.get_total_flops() == pytest.approx(n_tokens * (counted.forward + masked), rel=0.05)
    assert sum(int(memory.layout.is_text().sum()) for memory in memories) == n_tokens * cost(config, 1).slots(
        float(thought.passes_BT)
    )


def test_between_one_pass_and_the_most_speaking_costs_something_between(dense: DecoderConfig) -> None:
    thinking, plain = cost(replace(dense, thinking=LatentCoTConfig()), 8), cost(dense, 8)
    own = 2.0 * (thinking.products.once - plain.products.once)
    assert thinking.speaking(1.0) == plain.forward + own
    assert thinking.memory(1.0) == plain.memory(1.0) == 2 * 2 * 2 * 2 * 6  # bf16, layers, keys and values, heads, width
    steps = [thinking.speaking(passes) for passes in (1.0, 1.5, 2.0, 4.0)]
    assert steps == sorted(steps) and steps[-1] == thinking.forward


@torch.no_grad()
def test_tokens_that_halt_are_remembered_in_every_pass(dense: DecoderConfig) -> None:
    config = replace(dense, thinking=AdaPonderLMConfig(n_steps=3, bias_start=-50.0))
    thought = fresh(config).read(tokens_BT := torch.zeros(SHAPE, dtype=torch.long), Layout.of(tokens_BT), ())
    assert (thought.passes_BT == 1).all()
    n_slots = sum(int(memory.layout.is_text().sum()) for memory in thought.memories)
    assert n_slots == N_TOKENS * cost(config, 1).slots(1.0) == N_TOKENS * cost(config, 1).slots(4.0)


def fresh(config: DecoderConfig) -> Decoder:
    model = Decoder(config)
    model.initialize(seed=0)
    return model

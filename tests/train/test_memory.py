"""What the memory model counts is what real training steps allocate: to the byte where it can be, else within 15 %."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from innovator.engine.parallel import Engine, Precision, Recompute
from innovator.models.attention import AttentionConfig
from innovator.models.cores import OneByOne
from innovator.models.cost import first_match
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.fused import Arithmetic, FusedSwiGLU, GroupedProducts
from innovator.models.head import chunk_slots
from innovator.models.latent import LatentConfig
from innovator.models.layers import GELUConfig, LayerNormConfig, Layout, SwiGLUConfig
from innovator.models.moe import MoEConfig, SigmoidRouter, SoftmaxRouter
from innovator.models.rows import Rows
from innovator.models.thinking import Moment, PlainConfig
from innovator.models.ways import ThinkingConfig
from innovator.train.activations import Activations
from innovator.train.lesson import Lesson
from innovator.train.memory import alone, footprint

FINISHED = Moment()
CLOSE = pytest.approx(1.0, abs=0.15)  # of the measured peak: kernels' own scratch space and small terms are left out
STAGES = {
    "stage 1": {"layers.*.ffn.*": 1.0},
    "stage 3": {"layers.*.ffn.router.*": 1.0},
    "stage 4": {"*": 1.0},
}


def decoder(dim: int, n_layers: int, hidden: int, vocab: int) -> DecoderConfig:
    attention = AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=dim // 4, qkv_bias=True)
    ffn = SwiGLUConfig(hidden=hidden)
    return DecoderConfig(vocab_size=vocab, dim=dim, n_layers=n_layers, attention=attention, ffn=ffn)


def mixed(config: DecoderConfig, router: SoftmaxRouter | SigmoidRouter) -> DecoderConfig:
    assert isinstance(config.ffn, SwiGLUConfig)
    ffn = MoEConfig(
        n_experts=8,
        n_disciplines=4,
        top_k=4,
        expert=SwiGLUConfig(hidden=config.ffn.hidden // 4),
        shared=config.ffn,
        dense=config.ffn,
        router=router,
    )
    return replace(config, ffn=ffn)


NARROW = decoder(dim=64, n_layers=4, hidden=256, vocab=256)
WIDE = decoder(dim=256, n_layers=2, hidden=768, vocab=2048)
BIASED = replace(
    decoder(dim=64, n_layers=4, hidden=256, vocab=320), norm=LayerNormConfig(), ffn=GELUConfig(hidden=256), tied=True
)
MODELS = {
    "dense": (NARROW, 2, 256),
    "dense wide": (WIDE, 1, 512),
    "dense GELU": (BIASED, 2, 256),
    "mixture": (mixed(NARROW, SoftmaxRouter(scale=2.0)), 2, 256),
    "mixture wide": (mixed(WIDE, SigmoidRouter(scale=2.0)), 1, 512),
}
THOUGHTFUL = [way() for way in get_args(ThinkingConfig) if way is not PlainConfig]
LESSONS = [(model, stage) for model in MODELS for stage in STAGES if "mixture" in model or stage != "stage 3"]
every_lesson = pytest.mark.parametrize(("model", "stage"), LESSONS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The profiler sees only what is allocated by the thread that it runs in."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lesson(model: str, stage: str, precision: Precision = "fp32") -> Lesson:
    config, rows, seq_len = MODELS[model]
    return Lesson(
        config=config, trainable=STAGES[stage], rows=rows, seq_len=seq_len, precision=precision, grouped=False
    )


def taught(it: Lesson, recompute: Recompute = "none", device: str = "cpu") -> Decoder:
    """A decoder of which only the lesson's parameters learn, in its type, its routers in fp32."""
    model = Decoder(it.config).to(device).train()
    model.initialize(seed=0) if device == "cpu" else model.load_state_dict(taught(it).state_dict())
    if it.precision == "bf16":
        model.to(torch.bfloat16)
    for mixture in model.mixtures():
        mixture.router.float()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(first_match(name, it.trainable) > 0)
    for block in model.layers:
        again = {"none": [], "ffn": [block.ffn], "full": [block]}[recompute]
        for module in again:
            vars(module)["forward"] = partial(checkpoint, module.forward, use_reentrant=False)
    return model


def micro_batch(it: Lesson, model: Decoder, moment: Moment = FINISHED) -> Callable[[], None]:
    """Forward and backward pass over random tokens."""
    generator = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(it.config.vocab_size, (it.rows, it.seq_len), generator=generator).to(
        model.embed.weight.device
    )
    layout = replace(Layout.of(tokens_BT), plain=False)  # as where documents are packed

    def step() -> None:
        model.loss(tokens_BT, tokens_BT, layout, moment).backward()

    return step


def peak(work: Callable[[], None]) -> int:
    """The most bytes that stood at once beside those that stood before, by every allocation that torch makes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        most = max(most, alive)
    return most


def n_bytes(tensors: list[Tensor | None]) -> int:
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


@every_lesson
def test_weights_gradients_and_averages_are_counted_to_the_byte(model: str, stage: str) -> None:
    it = replace(lesson(model, stage), rows=1, seq_len=8)
    learner = taught(it)
    optimizer = AdamW([p for p in learner.parameters() if p.requires_grad], fused=True)
    micro_batch(it, learner)()
    optimizer.step()
    averages = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    counted = alone(it)
    assert counted.weights == n_bytes(list(learner.parameters()))
    assert counted.gradients == n_bytes([parameter.grad for parameter in learner.parameters()])
    assert counted.optimizer == n_bytes(averages)


@every_lesson
@pytest.mark.parametrize("recompute", get_args(Recompute))
@pytest.mark.parametrize("precision", get_args(Precision))
def test_the_peak_of_a_micro_batch_is_within_15_percent(
    model: str, stage: str, recompute: Recompute, precision: Precision
) -> None:
    it = lesson(model, stage, precision)
    step = micro_batch(it, taught(it, recompute))
    step()  # gradients stand from here on
    counted = Activations(it, Engine(recompute=recompute), added=it.width)
    assert max(counted.at_head(), counted.at_block()) / peak(step) == CLOSE


@pytest.mark.parametrize("way", THOUGHTFUL, ids=lambda way: way.kind)
@pytest.mark.parametrize(
    ("model", "recompute", "precision"),
    [("dense", "none", "fp32"), ("dense", "full", "fp32"), ("mixture", "ffn", "fp32"), ("mixture", "none", "bf16")],
)
def test_the_peak_of_a_model_that_thinks_is_within_15_percent(
    way: ThinkingConfig, model: str, recompute: Recompute, precision: Precision
) -> None:
    """When it takes as many sweeps as it may."""
    it = lesson(model, "stage 4", precision)
    it = replace(it, config=replace(it.config, thinking=way))
    moment = Moment(seed=0)
    if isinstance(way, LatentConfig):
        moment = max((Moment(seed=seed) for seed in range(9)), key=way.sweeps)
        assert way.sweeps(moment) == max(way.train_sweeps)
    step = micro_batch(it, taught(it, recompute), moment)
    step()
    counted = Activations(it, Engine(recompute=recompute), added=it.width)
    assert max(counted.at_head(), counted.at_block()) / peak(step) == CLOSE


@pytest.mark.parametrize("precision", get_args(Precision))
@pytest.mark.parametrize("stage", ["stage 1", "stage 4"])
def test_of_many_words_the_logits_of_one_chunk_are_counted(stage: str, precision: Precision) -> None:
    """Twice as many tokens as a chunk has slots; the logits are nearly all there is."""
    it = replace(
        lesson("dense", stage, precision), config=replace(NARROW, n_layers=1, vocab_size=30_000), rows=4, seq_len=256
    )
    step = micro_batch(it, taught(it))
    step()
    assert it.tokens == 2 * chunk_slots(it.config.vocab_size)
    assert Activations(it, Engine(), added=it.width).at_head() / peak(step) == CLOSE


def test_the_gradient_of_a_tied_head_waits_for_that_of_the_embedding() -> None:
    it = replace(lesson("dense wide", "stage 4"), config=replace(WIDE, tied=True), seq_len=128)
    step = micro_batch(it, taught(it, "full"))
    step()
    counted = Activations(it, Engine(recompute="full"), added=it.width)
    assert counted.at_head() < counted.at_block()
    assert counted.at_block() / peak(step) == CLOSE


def test_what_lies_below_the_first_part_that_learns_costs_nothing() -> None:
    """Nothing is kept of two more layers below, and no backward pass runs there."""
    peaks, counts = [], []
    ran: list[bool] = []
    for n_layers in (2, 4):
        trainable = {f"layers.{n_layers - 1}.ffn.*": 1.0}
        it = replace(lesson("dense", "stage 1"), config=replace(NARROW, n_layers=n_layers), trainable=trainable)
        model = taught(it)
        model.layers[0].register_forward_hook(lambda *seen: ran.append(seen[2][0].requires_grad))
        step = micro_batch(it, model)
        step()
        peaks.append(peak(step))
        counts.append(Activations(it, Engine()).at_head())
    assert ran and not any(ran)
    assert counts[0] == counts[1] and peaks[1] == pytest.approx(peaks[0], rel=1e-3)


@pytest.mark.parametrize(("model", "stage"), [("dense", "stage 1"), ("mixture", "stage 3")])
def test_frozen_parts_have_neither_gradients_nor_averages(model: str, stage: str) -> None:
    it = lesson(model, stage)
    learner = taught(it)
    optimizer = AdamW([p for p in learner.parameters() if p.requires_grad], fused=True)
    micro_batch(it, learner)()
    optimizer.step()
    learnt = {name for name, parameter in learner.named_parameters() if parameter.grad is not None}
    assert learnt == set(it.trained) and len(optimizer.state) == len(learnt)
    assert alone(it).total < 0.85 * alone(lesson(model, "stage 4")).total


@pytest.mark.parametrize("way", [OneByOne(1), GroupedProducts()], ids=["one by one", "grouped"])
def test_experts_keep_what_is_counted_of_their_rows(way: Arithmetic) -> None:
    it = lesson("mixture", "stage 4", "bf16")
    mixture = it.config.ffn
    assert isinstance(mixture, MoEConfig)
    weights = [w.detach().requires_grad_() for n, w in taught(it).layers[0].ffn.experts.named_parameters()]
    x_SD = torch.randn(it.tokens, it.config.dim, dtype=torch.bfloat16, requires_grad=True)
    weight_SK = torch.rand(it.tokens, mixture.top_k, dtype=torch.bfloat16)
    expert_SK = torch.rand(it.tokens, mixture.n_experts).topk(mixture.top_k).indices
    given = (x_SD, weight_SK, *weights, *Rows.of(expert_SK, mixture.n_experts))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not any(storage.data_ptr() == it.untyped_storage().data_ptr() for it in given):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y_SD = FusedSwiGLU.apply(*given, way)
    assert y_SD.requires_grad
    assert Activations(it, Engine()).block(0).experts(mixture.expert) == sum(kept.values())


def test_shards_divide_what_stays_and_experts_what_is_gathered() -> None:
    it = lesson("mixture", "stage 4", "bf16")
    one, eight = footprint(it, Engine(), 1), footprint(it, Engine(), 8)
    assert eight.weights == pytest.approx(one.weights / 8, rel=1e-3) and eight.gathered == one.gathered
    assert footprint(it, Engine(replicate=2), 8).weights == pytest.approx(one.weights / 4, rel=1e-3)
    assert footprint(it, Engine(experts=8), 8).gathered < one.gathered


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("model", ["dense wide", "mixture wide"])
@pytest.mark.parametrize("recompute", get_args(Recompute))
def test_the_peak_on_a_gpu_is_within_15_percent(model: str, recompute: Recompute) -> None:
    it = replace(lesson(model, "stage 4", "bf16"), rows=8, grouped=True)
    step = micro_batch(it, taught(it, recompute, "cuda"))
    step()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    counted = Activations(it, Engine(recompute=recompute), added=it.width)
    measured = torch.cuda.max_memory_allocated() - before
    assert max(counted.at_head(), counted.at_block()) / measured == CLOSE

"""The planner says exact only where the export is, and says why elsewhere."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from rich.console import Console
from ways import WAYS

from innovator.export.check import DTYPES
from innovator.export.export import plan_table
from innovator.export.gguf import write_gguf
from innovator.export.stock import GATE, STOCK, Glm4Moe, GraniteMoeShared, Qwen2Moe, Stock
from innovator.export.subject import Subject
from innovator.export.targets import TARGETS, StockMixture, choose, outlook, usual, verdicts
from innovator.models.attention import AttentionConfig, Llama3Rope
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.depth import DepthAttention
from innovator.models.layers import GELUConfig, LayerNormConfig, SwiGLUConfig
from innovator.models.moe import MoEConfig, RouterConfig, SigmoidRouter, SoftmaxRouter
from innovator.weights.blockwise import logits
from innovator.weights.folder import Folder, save_folder
from innovator.weights.upcycle import TiedStart, UpcycleSpec

Draw = Callable[[DecoderConfig, str], Decoder]
LLAMA3 = Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16, theta=500.0)
ATTENTIONS = {
    "llama": AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=4),
    "llama-3.1": AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=4, rope=LLAMA3),
    "mistral-nemo": AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=6),
    "qwen2": AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=4, qkv_bias=True),
    "qwen3": AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=8, qk_norm=True),
}
ROUTERS: dict[str, RouterConfig] = {
    "softmax": SoftmaxRouter(scale=2.0),
    "raw": SoftmaxRouter(normalized=False),
    "sigmoid": SigmoidRouter(scale=2.5),
}


def shaped(attention: str, router: str, *, shared: bool = True, dense_layers: tuple[int, ...] = ()) -> DecoderConfig:
    ffn = MoEConfig(
        n_experts=9,
        n_disciplines=3,
        top_k=3,
        expert=SwiGLUConfig(hidden=8),
        shared=SwiGLUConfig(hidden=24) if shared else None,
        dense=SwiGLUConfig(hidden=24),
        router=ROUTERS[router],
        dense_layers=dense_layers,
    )
    return DecoderConfig(
        vocab_size=61, dim=16, n_layers=2, attention=ATTENTIONS[attention], ffn=ffn, tied=attention == "qwen2"
    )


def subject(config: DecoderConfig) -> Subject:
    return Subject(config, isinstance(config.ffn, MoEConfig) and isinstance(config.ffn.router, SigmoidRouter))


def exact_cases() -> Iterator[tuple[Stock, str, str, bool, tuple[int, ...], str]]:
    for stock, attention, router, shared, dense_layers in product(
        STOCK, ATTENTIONS, ROUTERS, (True, False), ((), (0,))
    ):
        config = shaped(attention, router, shared=shared, dense_layers=dense_layers)
        if stock.verdict(subject(config), "transformers").grade == "exact":
            yield stock, attention, router, shared, dense_layers, "grouped_mm"
    yield Glm4Moe(), "qwen3", "sigmoid", True, (), "batched_mm"


def written(folder: Folder, stock: Stock, out: Path, dtype: str) -> Path:
    out.mkdir()
    StockMixture(stock).write(folder, out, dtype)
    return out


@pytest.fixture
def drawn(draw: Draw, tmp_path: Path) -> Callable[[DecoderConfig], Folder]:
    """A folder of random numbers; softmax routers have no selection bias, as upcycling leaves them."""

    def make(config: DecoderConfig) -> Folder:
        state = draw(config, "model").state_dict()
        if config.tied:
            del state["unembed.weight"]
        if not subject(config).biased:
            state |= {name: torch.zeros_like(state[name]) for name in state if name.endswith("selection_bias")}
        save_folder(tmp_path / "model", config, state.items(), tokenizer=None, facts={"model_type": "llama"})
        return Folder.open(tmp_path / "model")

    return make


@torch.no_grad()
@pytest.mark.parametrize(
    ("stock", "attention", "router", "shared", "dense_layers", "kernel"), list(exact_cases()), ids=str
)
def test_what_is_called_exact_is_the_same_function_in_transformers(
    drawn: Callable[[DecoderConfig], Folder],
    tmp_path: Path,
    stock: Stock,
    attention: str,
    router: str,
    shared: bool,
    dense_layers: tuple[int, ...],
    kernel: str,
) -> None:
    """fp32 to 1e-5 of the largest logit (sums stand in another order); bf16 bit for bit, since both round alike."""
    from transformers import AutoModelForCausalLM

    folder = drawn(shaped(attention, router, shared=shared, dense_layers=dense_layers))
    tokens_BT = torch.randint(61, (2, 20), generator=torch.Generator().manual_seed(2))
    for stored in ("f32", "bf16"):
        path = written(folder, stock, tmp_path / stored, stored)
        theirs = AutoModelForCausalLM.from_pretrained(
            path, dtype=DTYPES[stored], attn_implementation="sdpa", experts_implementation=kernel
        )
        ours_BTV, theirs_BTV = logits(folder, tokens_BT, DTYPES[stored]), theirs.eval()(tokens_BT).logits.float()
        assert theirs.config.model_type == stock.name
        if stored == "bf16":
            assert torch.equal(ours_BTV, theirs_BTV)
        else:
            assert float((ours_BTV - theirs_BTV).abs().max() / ours_BTV.abs().max()) <= 1e-5


@torch.no_grad()
@pytest.mark.parametrize("stock", [Qwen2Moe(), GraniteMoeShared()], ids=str)
def test_a_scale_that_is_no_power_of_two_is_exact_in_fp32_whatever_the_folder_holds(
    draw: Draw, tmp_path: Path, stock: Stock
) -> None:
    """Folded into bf16 matrices it would be rounded to 8 bits on the way."""
    from transformers import AutoModelForCausalLM

    config = shaped("llama", "softmax")
    config = replace(config, ffn=replace(config.ffn, router=SoftmaxRouter(scale=2.5)))
    state = {name: tensor.bfloat16() for name, tensor in draw(config, "model").state_dict().items()}
    state |= {name: torch.zeros_like(state[name]) for name in state if name.endswith("selection_bias")}
    save_folder(tmp_path / "model", config, state.items(), tokenizer=None, facts={"model_type": "llama"})
    folder, tokens_BT = Folder.open(tmp_path / "model"), torch.arange(20)[None]
    theirs = AutoModelForCausalLM.from_pretrained(written(folder, stock, tmp_path / "out", "f32"), dtype=torch.float32)
    ours_BTV = logits(folder, tokens_BT, torch.float32)
    assert float((ours_BTV - theirs.eval()(tokens_BT).logits).abs().max() / ours_BTV.abs().max()) <= 1e-5


def test_every_family_and_router_has_an_exact_target() -> None:
    """The decision table: which stock mixture is for whom."""
    names = {
        (attention, router): {
            stock.name
            for stock in STOCK
            if stock.verdict(subject(shaped(attention, router)), "transformers").grade == "exact"
        }
        for attention, router in product(ATTENTIONS, ROUTERS)
    }
    usual_names = {"softmax": {"qwen2_moe", "granitemoeshared"}, "raw": {"qwen2_moe"}, "sigmoid": {"glm4_moe"}}
    for (attention, router), found in names.items():
        assert found == (set() if attention == "qwen3" and router != "sigmoid" else usual_names[router])


def test_what_a_runtime_cannot_load_is_impossible_there() -> None:
    nemo, qwen2, kept = (
        shaped("mistral-nemo", "softmax"),
        shaped("qwen2", "softmax"),
        shaped("llama", "raw", dense_layers=(1,)),
    )
    assert "head_dim" in Qwen2Moe().verdict(subject(nemo), "vllm").why
    assert "biases" in GraniteMoeShared().verdict(subject(qwen2), "vllm").why
    assert "every layer" in Qwen2Moe().verdict(subject(kept), "sglang").why
    assert Qwen2Moe().verdict(subject(kept), "vllm").grade == "exact"
    assert "first layers" in Glm4Moe().verdict(subject(shaped("llama", "sigmoid", dense_layers=(1,))), "vllm").why
    assert Glm4Moe().verdict(subject(shaped("qwen3", "sigmoid")), "sglang").launch == "--disable-shared-experts-fusion"
    assert all(stock.verdict(subject(qwen2), "llama.cpp").grade == "impossible" for stock in STOCK)


@pytest.mark.parametrize(
    "config",
    [
        replace(shaped("llama", "softmax"), norm=LayerNormConfig()),
        replace(shaped("llama", "softmax"), residual="parallel"),
        replace(shaped("llama", "softmax"), attention=replace(ATTENTIONS["llama"], o_bias=True)),
        replace(shaped("llama", "softmax"), attention=replace(ATTENTIONS["llama"], rotary_dim=2)),
        replace(shaped("llama", "softmax"), ffn=replace(shaped("llama", "softmax").ffn, expert=GELUConfig(hidden=8))),
    ],
    ids=lambda config: f"{config.norm.kind}-{config.residual}-{config.attention.o_bias}-{config.attention.rotary_dim}",
)
def test_what_no_stock_mixture_can_be_goes_with_its_code(config: DecoderConfig) -> None:
    model = Subject(config, biased=False)
    assert choose(model, None).name == "hf"
    assert outlook(model).startswith("warning: no stock architecture of transformers can be this mixture")
    with pytest.raises(ValueError, match=r"no target is exact for vllm: .*glm4_moe is impossible \(.+\)"):
        choose(model, "vllm")


THINKERS = {
    **{f"it thinks ({name})": {"thinking": thinking} for name, thinking in WAYS.items()},
    "its layers mix their values": {"attention": replace(ATTENTIONS["llama"], depth=DepthAttention(stride=1))},
    "its embedded tokens are multiplied by 4": {"embed_scale": 4.0},
}


@pytest.mark.parametrize("reason", THINKERS)
@pytest.mark.parametrize("ffn", [shaped("llama", "sigmoid").ffn, SwiGLUConfig(hidden=24)], ids=["mixture", "dense"])
def test_what_thinks_goes_with_its_code_alone(reason: str, ffn: MoEConfig | SwiGLUConfig) -> None:
    model = subject(replace(shaped("llama", "sigmoid"), ffn=ffn, **THINKERS[reason]))
    assert choose(model, None).name == "hf"
    asked = [target for target in TARGETS if target.name != "hf" and (target.name, type(ffn)) != ("dense", MoEConfig)]
    whys = [target.verdict(model, "llama.cpp" if target.name == "gguf" else "transformers").why for target in asked]
    assert all(why.startswith(reason) for why in whys)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(plan_table(model, "plan"))
    assert reason.partition(" by ")[0] in console.export_text()


def test_llama_cpp_gets_nothing_that_thinks(drawn: Callable[[DecoderConfig], Folder], tmp_path: Path) -> None:
    folder = drawn(replace(shaped("llama", "sigmoid"), thinking=WAYS["loop"]))
    with pytest.raises(ValueError, match=r"model: it thinks \(loop\)"):
        write_gguf(folder, tmp_path / "model.gguf", "glm4moe", "f32")


def test_the_choice_is_what_most_runtimes_can_load() -> None:
    assert choose(subject(shaped("qwen2", "softmax")), None).name == "qwen2_moe"
    assert choose(subject(shaped("qwen3", "sigmoid")), None).name == "glm4_moe"
    assert choose(subject(shaped("qwen3", "sigmoid")), "llama.cpp").name == "gguf"
    assert choose(subject(shaped("qwen3", "softmax")), None).name == "hf"
    assert (
        choose(Subject(replace(shaped("qwen2", "softmax"), ffn=SwiGLUConfig(hidden=24)), False), None).name == "dense"
    )


def test_an_expert_width_that_the_usual_kernel_refuses_is_said() -> None:
    """A run of bf16 numbers must be whole 16 bytes; transformers fails on others."""
    odd = replace(
        shaped("llama", "softmax"), ffn=replace(shaped("llama", "softmax").ffn, expert=SwiGLUConfig(hidden=12))
    )
    for verdict in (stock.verdict(Subject(odd, False), "transformers") for stock in (Qwen2Moe(), GraniteMoeShared())):
        assert verdict.launch == 'experts_implementation="batched_mm"'


def test_what_is_left_out_is_said() -> None:
    windowed = replace(ATTENTIONS["llama"], window=4096)
    config = replace(shaped("llama", "softmax"), attention=windowed)
    assert "up to 4096 tokens" in Qwen2Moe().verdict(Subject(config, False), "vllm").why
    biased = Qwen2Moe().verdict(Subject(shaped("llama", "softmax"), biased=True), "transformers")
    assert biased.grade == "approximate" and "selection biases" in biased.why


def test_a_folder_s_biases_are_looked_at(drawn: Callable[[DecoderConfig], Folder]) -> None:
    assert Subject.of(drawn(shaped("llama", "sigmoid"))).biased
    assert not Subject.of(drawn(shaped("llama", "softmax"))).biased


def test_a_recipe_s_biases_are_foreseen() -> None:
    config = shaped("llama", "softmax")
    spec = UpcycleSpec(n_parts=2, top_k=2, router=SoftmaxRouter())
    assert not Subject.planned(config, spec).biased
    assert Subject.planned(config, replace(spec, start=TiedStart(std=0.0))).biased
    assert Subject.planned(config, replace(spec, router=SigmoidRouter())).biased


def test_heads_and_gates_are_written_for_every_runtime(
    drawn: Callable[[DecoderConfig], Folder], tmp_path: Path
) -> None:
    """vLLM wants biases, SGLang an untied head, and llama.cpp's converter a gate that is not zero."""
    from safetensors.torch import load_file

    path = written(drawn(shaped("qwen2", "softmax")), Qwen2Moe(), tmp_path / "out", "bf16")
    tensors = load_file(path / "model.safetensors")
    assert torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"])
    gate_1D = tensors["model.layers.0.mlp.shared_expert_gate.weight"]
    assert set(gate_1D.float().abs().unique().tolist()) == {GATE} and float(gate_1D.float().sum()) == 0.0
    assert json.loads((path / "config.json").read_text(encoding="utf8"))["tie_word_embeddings"] is False


def test_the_usual_type_is_the_one_it_is_stored_in(drawn: Callable[[DecoderConfig], Folder]) -> None:
    assert usual(drawn(shaped("llama", "softmax"))) == "f32"


def test_every_target_says_why_not(drawn: Callable[[DecoderConfig], Folder]) -> None:
    for target, attention, router in product(TARGETS, ATTENTIONS, ROUTERS):
        for verdict in verdicts(target, subject(shaped(attention, router))).values():
            assert (verdict.grade == "exact") == (verdict.why == "")

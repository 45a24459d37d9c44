"""Decoders of every kind, and the folder of their own architecture."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file

import innovator.models
from innovator.models.attention import AttentionConfig, LinearRope, Llama3Rope
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.layers import GELUConfig, LayerNormConfig
from innovator.models.moe import MoEConfig, SoftmaxRouter


def neox(dense: DecoderConfig, mixture: DecoderConfig) -> DecoderConfig:
    attention = AttentionConfig(n_heads=2, n_kv_heads=2, head_dim=8, qkv_bias=True, o_bias=True, rotary_dim=4)
    gelu = MoEConfig(
        n_experts=6,
        n_disciplines=3,
        top_k=2,
        expert=GELUConfig(hidden=12),
        shared=GELUConfig(hidden=24),
        dense=GELUConfig(hidden=24),
        router=SoftmaxRouter(normalized=False),
    )
    return replace(dense, attention=attention, ffn=gelu, norm=LayerNormConfig(), residual="parallel")


def softmax(dense: DecoderConfig, mixture: DecoderConfig) -> DecoderConfig:
    rope = Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=16, theta=500.0)
    attention = replace(dense.attention, qk_norm=True, window=4, rope=rope)
    return replace(mixture, attention=attention, ffn=replace(mixture.ffn, shared=None, router=SoftmaxRouter()))


KINDS: dict[str, Callable[[DecoderConfig, DecoderConfig], DecoderConfig]] = {
    "mixture": lambda dense, mixture: mixture,
    "tied": lambda dense, mixture: replace(mixture, tied=True),
    "softmax": softmax,
    "neox": neox,
    "dense": lambda dense, mixture: replace(dense, attention=replace(dense.attention, rope=LinearRope(factor=2.0))),
}


def write_own(model: Decoder, out: Path) -> Path:
    """What `export --to hf` writes of a decoder, but for a tokenizer."""
    out.mkdir()
    for module in Path(innovator.models.__path__[0]).glob("*.py"):
        shutil.copyfile(module, out / module.name)
    state = {f"decoder.{name}": tensor for name, tensor in model.state_dict().items()}
    if model.config.tied:
        del state["decoder.unembed.weight"]
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(own_config(model)), encoding="utf-8")
    return out


def own_config(model: Decoder) -> dict[str, object]:
    """The `config.json` beside the weights."""
    config = model.config
    return {
        "model_type": "innovator",
        "architectures": ["InnovatorForCausalLM"],
        "auto_map": {"AutoConfig": "hf.InnovatorConfig", "AutoModelForCausalLM": "hf.InnovatorForCausalLM"},
        "torch_dtype": str(model.embed.weight.dtype).removeprefix("torch."),
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.attention.n_heads,
        "max_position_embeddings": 64,
        "tie_word_embeddings": config.tied,
        "decoder": dataclasses.asdict(config),
    }

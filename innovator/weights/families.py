"""The model families we read, and the `config.json` that describes one of our decoders to others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from innovator.models.decoder import DecoderConfig
from innovator.models.layers import AttentionConfig, SwiGLUConfig

Json = dict[str, object]


class Family(NamedTuple):
    """What a `model_type` settles that its config does not say."""

    architecture: str
    qkv_bias: bool
    qk_norm: bool


FAMILIES = {
    "llama": Family("LlamaForCausalLM", qkv_bias=False, qk_norm=False),
    "mistral": Family("MistralForCausalLM", qkv_bias=False, qk_norm=False),
    "qwen2": Family("Qwen2ForCausalLM", qkv_bias=True, qk_norm=False),
    "qwen3": Family("Qwen3ForCausalLM", qkv_bias=False, qk_norm=True),
}
OURS = "innovator"
REFUSED = (
    ("attention_bias", (None, False)),
    ("mlp_bias", (None, False)),
    ("hidden_act", (None, "silu")),
    ("rope_scaling", (None,)),
    ("use_sliding_window", (None, False)),
)


def read_config(config: Json, path: Path) -> DecoderConfig:
    """The decoder that a `config.json` describes; ValueError names what we do not take."""
    model_type = config.get("model_type")
    if model_type == OURS:
        return _read_ours(config, path)
    if model_type not in FAMILIES:
        raise ValueError(f"{path}: model_type {model_type!r} is none of {', '.join([*FAMILIES, OURS])}")
    refused = (*REFUSED, ("sliding_window", (None,))) if model_type == "mistral" else REFUSED
    for key, taken in refused:
        if config.get(key) not in taken:
            raise ValueError(f"{path}: {key}={config[key]!r} is not supported")
    return _read_family(config, FAMILIES[str(model_type)], path)


def write_config(config: DecoderConfig, dtype: str) -> Json:
    """The `config.json` of a decoder: a stock family's for a dense one, our own for a mixture."""
    common: Json = {"torch_dtype": dtype, "vocab_size": config.vocab_size, "tie_word_embeddings": config.tied}
    if not isinstance(config.ffn, SwiGLUConfig):
        shape = {"hidden_size": config.dim, "num_hidden_layers": config.n_layers}
        decoder = dataclasses.asdict(config)
        return {
            "model_type": OURS,
            "architectures": ["InnovatorForCausalLM"],
            **common,
            **shape,
            "decoder": decoder,
        }
    model_type = _family_of(config.attention)
    return {
        "model_type": model_type,
        "architectures": [FAMILIES[model_type].architecture],
        **common,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn.hidden,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.attention.n_heads,
        "num_key_value_heads": config.attention.n_kv_heads,
        "head_dim": config.attention.head_dim,
        "rope_theta": config.attention.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
    }


def _family_of(attention: AttentionConfig) -> str:
    for name, family in FAMILIES.items():
        if (family.qkv_bias, family.qk_norm) == (attention.qkv_bias, attention.qk_norm):
            return name
    raise ValueError("no stock family has both query-key norms and biases on queries, keys and values")


def _read_family(config: Json, family: Family, path: Path) -> DecoderConfig:
    dim, n_heads = _whole(config, "hidden_size", path), _whole(config, "num_attention_heads", path)
    sizes: Json = {"num_key_value_heads": n_heads, "head_dim": dim // n_heads}
    sizes |= {key: config[key] for key in sizes if config.get(key) is not None}
    attention = AttentionConfig(
        n_heads=n_heads,
        n_kv_heads=_whole(sizes, "num_key_value_heads", path),
        head_dim=_whole(sizes, "head_dim", path),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        rope_theta=_rope_theta(config, path),
    )
    return DecoderConfig(
        vocab_size=_whole(config, "vocab_size", path),
        dim=dim,
        n_layers=_whole(config, "num_hidden_layers", path),
        attention=attention,
        ffn=SwiGLUConfig(hidden=_whole(config, "intermediate_size", path)),
        norm_eps=_number(config.get("rms_norm_eps", 1e-6), "rms_norm_eps", path),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _rope_theta(config: Json, path: Path) -> float:
    """transformers 4 writes `rope_theta`, transformers 5 writes `rope_parameters`."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        rope = config
    for key, taken in (("rope_type", "default"), ("partial_rotary_factor", 1.0)):
        if rope.get(key, taken) != taken:
            raise ValueError(f"{path}: {key}={rope[key]!r} is not supported")
    return _number(rope.get("rope_theta", 10_000.0), "rope_theta", path)


def _read_ours(config: Json, path: Path) -> DecoderConfig:
    try:
        return TypeAdapter(DecoderConfig).validate_python(config.get("decoder"), strict=False)
    except ValidationError as error:
        raise ValueError(f"{path}: the field decoder is damaged: {error.errors()[0]['msg']}") from error


def _whole(config: Json, key: str, path: Path) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{path}: {key} should be a whole number, not {value!r}")
    return value


def _number(value: object, key: str, path: Path) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{path}: {key} should be a number, not {value!r}")
    return float(value)

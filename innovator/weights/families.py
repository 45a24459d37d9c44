"""The model families we read and write, and the `config.json` that describes one of our decoders to others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import TypeAdapter, ValidationError

from innovator.models.attention import AttentionConfig
from innovator.models.decoder import DecoderConfig
from innovator.models.layers import GELUConfig, LayerNormConfig, RMSNormConfig, SwiGLUConfig
from innovator.models.moe import MoEConfig
from innovator.models.thinking import PlainConfig
from innovator.weights.fields import Fields, Json, read_rope, write_rope
from innovator.weights.names import LLAMA, FusedHeads, Naming, Renamed

OURS = "innovator"
BIASES = {"none": {(False, False)}, "qkv": {(True, False)}, "attention_bias": {(False, False), (True, True)}}
FACTS = ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")


class Family(Protocol):
    """A dense architecture of transformers."""

    @property
    def architecture(self) -> str:
        """The class that loads it."""
        ...

    def read(self, fields: Fields) -> DecoderConfig:
        """The decoder that its `config.json` describes; ValueError names what we do not take."""
        ...

    def write(self, config: DecoderConfig) -> Json:
        """What its `config.json` says of a decoder beside sizes that all families call alike."""
        ...

    def fits(self, config: DecoderConfig) -> bool:
        """Whether the family can say everything that a dense decoder is."""
        ...

    def naming(self, config: DecoderConfig) -> Naming:
        """What its checkpoints call the tensors."""
        ...


@dataclass(frozen=True)
class LlamaLike:
    """RMSNorm, SwiGLU without biases, rotary attention; they differ in their biases, qk-norm and window.

    bias: which of query, key, value (and output) have biases: none, "qkv", or what `attention_bias` asks for.
    window: what an absent `sliding_window` means; None if the family has no window.
    """

    architecture: str
    bias: Literal["none", "qkv", "attention_bias"] = "attention_bias"
    qk_norm: bool = False
    window: int | None = None
    keeps_head_dim: bool = True

    def read(self, fields: Fields) -> DecoderConfig:
        fields.only("mlp_bias", False)
        fields.only("hidden_act", "silu")
        fields.only("use_sliding_window", False)
        dim, n_heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
        biased = self.bias == "attention_bias" and fields.truth("attention_bias")
        attention = AttentionConfig(
            n_heads=n_heads,
            n_kv_heads=fields.whole("num_key_value_heads", n_heads),
            head_dim=fields.whole("head_dim", dim // n_heads),
            qkv_bias=biased or self.bias == "qkv",
            o_bias=biased,
            qk_norm=self.qk_norm,
            rope=read_rope(fields),
            window=None if self.window is None else fields.whole_or_null("sliding_window", self.window),
        )
        return DecoderConfig(
            vocab_size=fields.whole("vocab_size"),
            dim=dim,
            n_layers=fields.whole("num_hidden_layers"),
            attention=attention,
            ffn=SwiGLUConfig(hidden=fields.whole("intermediate_size")),
            norm=RMSNormConfig(eps=fields.number("rms_norm_eps", 1e-6)),
            tied=fields.truth("tie_word_embeddings"),
        )

    def write(self, config: DecoderConfig) -> Json:
        attention = config.attention
        written: Json = {
            "num_key_value_heads": attention.n_kv_heads,
            "head_dim": attention.head_dim,
            **write_rope(attention.rope),
            "rms_norm_eps": config.norm.eps,
            "hidden_act": "silu",
        }
        if self.bias == "attention_bias":
            written["attention_bias"] = attention.qkv_bias
        if self.window is not None:
            written["sliding_window"] = attention.window
        return written

    def fits(self, config: DecoderConfig) -> bool:
        attention = config.attention
        biases = (attention.qkv_bias, attention.o_bias)
        same = (
            biases in BIASES[self.bias],
            attention.qk_norm == self.qk_norm,
            attention.window is None or self.window is not None,
            attention.rotated == attention.head_dim,
            self.keeps_head_dim or attention.n_heads * attention.head_dim == config.dim,
            isinstance(config.ffn, SwiGLUConfig) and isinstance(config.norm, RMSNormConfig),
            config.residual == "sequential",
        )
        return all(same)

    def naming(self, config: DecoderConfig) -> Naming:
        return Renamed(LLAMA)


@dataclass(frozen=True)
class NeoX:
    """GPT-NeoX and Pythia: LayerNorm, biases everywhere, parallel residual, partly rotated heads, GELU."""

    architecture: str = "GPTNeoXForCausalLM"

    def read(self, fields: Fields) -> DecoderConfig:
        fields.only("hidden_act", "gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh")
        fields.only("attention_bias", True)
        dim, n_heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
        rope = fields.part("rope_parameters")
        share = rope.number("partial_rotary_factor", fields.number("rotary_pct", 0.25))
        attention = AttentionConfig(
            n_heads=n_heads,
            n_kv_heads=n_heads,
            head_dim=dim // n_heads,
            qkv_bias=True,
            o_bias=True,
            rope=read_rope(fields, "rotary_emb_base"),
            rotary_dim=int(dim // n_heads * share),
        )
        exact = fields.content.get("hidden_act") in (None, "gelu")
        return DecoderConfig(
            vocab_size=fields.whole("vocab_size"),
            dim=dim,
            n_layers=fields.whole("num_hidden_layers"),
            attention=attention,
            ffn=GELUConfig(hidden=fields.whole("intermediate_size"), approximate="none" if exact else "tanh"),
            norm=LayerNormConfig(eps=fields.number("layer_norm_eps", 1e-5)),
            residual="parallel" if fields.truth("use_parallel_residual", True) else "sequential",
            tied=fields.truth("tie_word_embeddings"),
        )

    def write(self, config: DecoderConfig) -> Json:
        attention, ffn = config.attention, config.ffn
        share = attention.rotated / attention.head_dim
        return {
            **write_rope(attention.rope),
            "rotary_emb_base": attention.rope.theta,
            "rotary_pct": share,
            "partial_rotary_factor": share,
            "layer_norm_eps": config.norm.eps,
            "hidden_act": "gelu_new" if isinstance(ffn, GELUConfig) and ffn.approximate == "tanh" else "gelu",
            "use_parallel_residual": config.residual == "parallel",
        }

    def fits(self, config: DecoderConfig) -> bool:
        attention = config.attention
        same = (
            attention.qkv_bias and attention.o_bias,
            attention.n_heads == attention.n_kv_heads,
            attention.n_heads * attention.head_dim == config.dim,
            not attention.qk_norm and attention.window is None,
            isinstance(config.ffn, GELUConfig) and isinstance(config.norm, LayerNormConfig),
        )
        return all(same)

    def naming(self, config: DecoderConfig) -> Naming:
        return FusedHeads(config.attention.n_heads)


FAMILIES: dict[str, Family] = {
    "llama": LlamaLike("LlamaForCausalLM"),
    "mistral": LlamaLike("MistralForCausalLM", bias="none", window=4096),
    "qwen2": LlamaLike("Qwen2ForCausalLM", bias="qkv", keeps_head_dim=False),
    "qwen3": LlamaLike("Qwen3ForCausalLM", qk_norm=True),
    "gpt_neox": NeoX(),
}


def read_config(config: Json, path: Path) -> DecoderConfig:
    """The decoder that a `config.json` describes; ValueError names what we do not take."""
    model_type = config.get("model_type")
    if model_type == OURS:
        return _read_ours(config, path)
    if model_type not in FAMILIES:
        raise ValueError(f"{path}: model_type {model_type!r} is none of {', '.join([*FAMILIES, OURS])}")
    if config.get("quantization_config") is not None:
        raise ValueError(f"{path}: the weights are quantized; only weights as they were trained are read")
    return FAMILIES[str(model_type)].read(Fields(config, path))


def read_facts(config: Json) -> Json:
    """What a `config.json` says that is no part of the decoder but must not be lost on the way."""
    facts = {key: config[key] for key in FACTS if config.get(key) is not None}
    origin = config.get("origin") if config.get("model_type") == OURS else config.get("model_type")
    return {**facts, "model_type": origin} if origin is not None else facts


def write_config(config: DecoderConfig, dtype: str, facts: Json) -> Json:
    """The `config.json` of a decoder: its family's if there is one, else our own."""
    model_type = family_of(config, facts)
    if model_type == OURS or isinstance(config.ffn, MoEConfig):
        return write_own_config(config, dtype, facts)
    family = FAMILIES[model_type]
    return {
        "model_type": model_type,
        "architectures": [family.architecture],
        **_common(config, dtype, facts),
        "intermediate_size": config.ffn.hidden,
        **family.write(config),
    }


def write_own_config(config: DecoderConfig, dtype: str, facts: Json) -> Json:
    """The `config.json` of any decoder as our own architecture."""
    return {
        "model_type": OURS,
        "architectures": ["InnovatorForCausalLM"],
        **_common(config, dtype, facts),
        "origin": facts.get("model_type"),
        "decoder": dataclasses.asdict(config),
    }


def _common(config: DecoderConfig, dtype: str, facts: Json) -> Json:
    return {
        "torch_dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.attention.n_heads,
        "tie_word_embeddings": config.tied,
        **{key: facts[key] for key in FACTS if key in facts},
    }


def family_of(config: DecoderConfig, facts: Json) -> str:
    """The family that a decoder is written as: the one it came from if that still fits, else the first that fits."""
    if any(only_ours(config)):
        return OURS
    names = [str(facts.get("model_type")), *FAMILIES]
    return next((name for name in names if name in FAMILIES and FAMILIES[name].fits(config)), OURS)


def only_ours(config: DecoderConfig) -> Iterator[str]:
    """What only our own architecture can say of a decoder."""
    if not isinstance(config.thinking, PlainConfig):
        yield f"it thinks ({config.thinking.kind})"
    if config.attention.depth is not None:
        yield "its layers mix their values with those of earlier ones"
    if config.embed_scale != 1:
        yield f"its embedded tokens are multiplied by {config.embed_scale:g}"


def naming_of(config: DecoderConfig, facts: Json) -> Naming:
    """What the tensors of a decoder are called on disk."""
    family = family_of(config, facts)
    return Renamed(LLAMA) if family == OURS else FAMILIES[family].naming(config)


def _read_ours(config: Json, path: Path) -> DecoderConfig:
    try:
        return TypeAdapter(DecoderConfig).validate_python(config.get("decoder"), strict=False)
    except ValidationError as error:
        raise ValueError(f"{path}: the field decoder is damaged: {error.errors()[0]['msg']}") from error

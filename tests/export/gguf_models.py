"""Pico mixtures of every kind that a GGUF file can hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from innovator.models.attention import AttentionConfig, LinearRope, Llama3Rope
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.layers import SwiGLUConfig
from innovator.models.moe import MoEConfig, SigmoidRouter, SoftmaxRouter
from innovator.weights.folder import Folder, save_folder

N_TOKENS = 280
PLAIN = AttentionConfig(n_heads=4, n_kv_heads=2, head_dim=8)
MIXED = MoEConfig(
    n_experts=6,
    n_disciplines=3,
    top_k=2,
    expert=SwiGLUConfig(hidden=12),
    shared=SwiGLUConfig(hidden=24),
    dense=SwiGLUConfig(hidden=20),
    router=SigmoidRouter(scale=2.5),
)
PICO = DecoderConfig(vocab_size=N_TOKENS + 8, dim=32, n_layers=2, attention=PLAIN, ffn=MIXED)
SOFTMAX = replace(PICO, ffn=replace(MIXED, router=SoftmaxRouter(scale=1.7)))
SHORT_LLAMA3 = Llama3Rope(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64, theta=500.0)
ROUTERS = {
    "sigmoid": SigmoidRouter(scale=2.5),
    "softmax": SoftmaxRouter(normalized=True),
    "softmax as it is": SoftmaxRouter(normalized=False, scale=3.0),
}
ATTENTIONS = {
    "plain": PLAIN,
    "biased": replace(PLAIN, qkv_bias=True),
    "normed": replace(PLAIN, qk_norm=True, head_dim=6),
    "half rotated": replace(PLAIN, rotary_dim=4),
    "linearly scaled": replace(PLAIN, rope=LinearRope(factor=4.0)),
}
GLM_SHAPES = {
    "no shared expert": replace(PICO, ffn=replace(MIXED, shared=None)),
    "narrow shared expert": replace(PICO, ffn=replace(MIXED, shared=SwiGLUConfig(hidden=5))),
    "shared expert of no multiple": replace(PICO, ffn=replace(MIXED, shared=SwiGLUConfig(hidden=20))),
    "dense first layer": replace(PICO, ffn=replace(MIXED, dense_layers=(0,))),
    "tied": replace(PICO, tied=True),
}
GRANITES = {
    "plain": SOFTMAX,
    "biased": replace(SOFTMAX, attention=replace(PLAIN, qkv_bias=True)),
    "biased output": replace(SOFTMAX, attention=replace(PLAIN, qkv_bias=True, o_bias=True)),
    "narrow heads": replace(SOFTMAX, attention=replace(PLAIN, head_dim=6)),
    "llama 3.1": replace(SOFTMAX, attention=replace(PLAIN, rope=SHORT_LLAMA3)),
    "linearly scaled": replace(SOFTMAX, attention=replace(PLAIN, rope=LinearRope(factor=4.0))),
    "no shared expert": replace(SOFTMAX, ffn=replace(SOFTMAX.ffn, shared=None)),
    "tied": replace(SOFTMAX, tied=True),
}


class Made:
    """Folders of drawn mixtures with a tokenizer, and the decoders that they hold."""

    def __init__(self, root: Path, draw: Callable[[DecoderConfig, str], Decoder], tokenizer: Path) -> None:
        self.root, self.draw, self.tokenizer = root, draw, tokenizer

    def __call__(self, config: DecoderConfig, *, biased: bool = True, **facts: object) -> tuple[Decoder, Folder]:
        model = self.draw(config, "model")
        for mixture in model.mixtures():
            mixture.router.selection_bias *= float(biased)
        state = model.state_dict()
        if config.tied:
            del state["unembed.weight"]
        save_folder(self.root / "model", config, state.items(), self.tokenizer, facts)
        return model, Folder.open(self.root / "model")

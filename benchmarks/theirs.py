"""Our layers and models as transformers computes them, with the same weights.

Shape suffixes: S tokens, K chosen experts, D model.
"""

from __future__ import annotations

from typing import Literal

import torch
from machine import Setting
from torch import Tensor, nn
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeExperts, Qwen2MoeTopKRouter
from transformers.utils import logging

from innovator.models.attention import PlainRope
from innovator.models.decoder import Decoder, DecoderConfig
from innovator.models.experts import SwiGLUExperts
from innovator.models.moe import MoE, MoEConfig
from innovator.weights.names import LLAMA, Renamed

Setup = Literal["eager", "batched_mm", "grouped_mm"]
SETUPS: tuple[Setup, ...] = ("eager", "batched_mm", "grouped_mm")
NAMES = Renamed((("layers.{}.ffn.shared.{}", "model.layers.{}.mlp.shared_expert.{}"), *LLAMA))
HALVED = ".shared.down_proj"  # by the gate that transformers puts before its shared expert: its weight is zero here
MOST_COPIED: dict[str, dict[Setup, float]] = {
    "cpu": {"eager": 20e9, "batched_mm": 2e9, "grouped_mm": 0.0},
    "cuda": {"eager": 300e9, "batched_mm": 30e9, "grouped_mm": 0.0},
}


class TheirLayer:
    """The router and the experts of one of our mixtures, whose weights it shares."""

    def __init__(self, ours: MoE) -> None:
        self.config = layer_config(ours.config, dim=ours.router.weight.shape[1])
        with torch.device("meta"):
            self.router, self.experts = Qwen2MoeTopKRouter(self.config), Qwen2MoeExperts(self.config)
        assert isinstance(ours.experts, SwiGLUExperts)
        self.router.weight = ours.router.weight
        self.experts.gate_up_proj, self.experts.down_proj = ours.experts.gate_up_proj, ours.experts.down_proj

    def __call__(self, x_SD: Tensor, setup: Setup) -> Tensor:
        self.config._experts_implementation = setup
        _, weight_SK, expert_SK = self.router(x_SD)
        y_SD: Tensor = self.experts(x_SD, expert_SK, weight_SK)
        return y_SD


class TheirModel:
    """Qwen2MoeForCausalLM, what an export to qwen2_moe is loaded as, with the weights of one of our mixtures."""

    def __init__(self, ours: Decoder, setting: Setting) -> None:
        logging.set_verbosity_error()  # or `generate` explains at every go which kernels it takes
        with setting.device:
            self.model = Qwen2MoeForCausalLM(model_config(ours.config))
        nn.Module.to(self.model, setting.dtype)
        self.model.tie_weights()
        self.model.train()
        with torch.no_grad():
            self._copy(ours)

    def use(self, setup: Setup) -> None:
        """Compute the experts in this way from here on."""
        if self.model.config._experts_implementation != setup:
            self.model.set_experts_implementation(setup)

    def loss(self, tokens_BT: Tensor, target_BT: Tensor) -> Tensor:
        """The mean cross-entropy."""
        loss: Tensor = self.model(tokens_BT, labels=target_BT, shift_labels=target_BT, use_cache=False).loss
        return loss

    def gradients(self, ours: Decoder) -> dict[str, Tensor]:
        """Its gradients under our names, as gradients of our weights."""
        theirs = dict(self.model.named_parameters())
        found = {}
        for name, _ in ours.named_parameters():
            gradient = theirs[NAMES.on_disk(name)].grad
            assert gradient is not None
            found[name] = gradient * 2 if HALVED in name else gradient
        return found

    def _copy(self, ours: Decoder) -> None:
        theirs = dict(self.model.named_parameters())
        for name, parameter in theirs.items():
            if "shared_expert_gate" in name:
                parameter.zero_()
        for name, parameter in ours.named_parameters():
            theirs[NAMES.on_disk(name)].copy_(parameter * 2 if HALVED in name else parameter)


def layer_config(moe: MoEConfig, dim: int) -> Qwen2MoeConfig:
    """What their config says of one mixture."""
    fields = {
        "hidden_size": dim,
        "moe_intermediate_size": moe.expert.hidden,
        "shared_expert_intermediate_size": moe.expert.hidden if moe.shared is None else moe.shared.hidden,
        "num_experts": moe.n_experts,
        "num_experts_per_tok": moe.top_k,
        "norm_topk_prob": True,
    }
    return Qwen2MoeConfig.from_dict(fields)


def model_config(config: DecoderConfig) -> Qwen2MoeConfig:
    """Their config of one of our mixtures."""
    assert isinstance(config.ffn, MoEConfig) and isinstance(config.attention.rope, PlainRope)
    fields = {
        **layer_config(config.ffn, config.dim).to_dict(),
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.n_layers,
        "layer_types": ["full_attention"] * config.n_layers,
        "num_attention_heads": config.attention.n_heads,
        "num_key_value_heads": config.attention.n_kv_heads,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.attention.rope.theta},
        "tie_word_embeddings": config.tied,
    }
    return Qwen2MoeConfig.from_dict(fields)


def copied_bytes(setup: Setup, moe: MoEConfig, dim: int, n_tokens: int, itemsize: int) -> float:
    """How many bytes of experts' weights or gradients a way of computing them copies in one layer's go.

    batched_mm copies an expert for every row; eager's backward pass makes a gradient of all experts for each.
    """
    expert = 3.0 * dim * moe.expert.hidden * itemsize
    return {"eager": moe.n_experts**2 * expert, "batched_mm": n_tokens * moe.top_k * expert, "grouped_mm": 0.0}[setup]


def able(moe: MoEConfig, dim: int, n_tokens: int, setting: Setting) -> tuple[tuple[Setup, ...], tuple[str, ...]]:
    """Which ways are worth waiting for, and a note on each that is not."""
    copied = {it: copied_bytes(it, moe, dim, n_tokens, setting.dtype.itemsize) for it in SETUPS}
    most = MOST_COPIED[setting.device.type]
    left_out = [it for it in SETUPS if copied[it] > most[it]]
    notes = tuple(f"{named(it)} is left out: it would copy {copied[it] / 1e9:,.0f} GB a layer" for it in left_out)
    return tuple(it for it in SETUPS if it not in left_out), notes


def named(setup: Setup) -> str:
    """A way of computing the experts as the tables call it."""
    return f"transformers, {setup}"

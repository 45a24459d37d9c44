"""Stock mixtures of transformers that can be one of ours without remote code.

What each architecture computes, and what runtimes make of it, was read in transformers 5.23.0, vLLM 0.33.0 and
SGLang 0.5.23, and run in transformers and vLLM 0.32.0 (CPU). Heads are always written out, even if embedding and head
share a matrix: not every runtime ties them.

Shape suffixes: D model, F hidden neurons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from innovator.export.subject import Subject, mixture
from innovator.export.verdict import Runtime, Verdict
from innovator.models.moe import MoEConfig, SigmoidRouter, SoftmaxRouter
from innovator.weights.families import FACTS
from innovator.weights.fields import Json, write_rope
from innovator.weights.folder import Folder
from innovator.weights.names import LLAMA, Named, Renamed

GATE = 2.0**-24  # its sigmoid is 1/2 in every type, and unlike 0 it does not make llama.cpp divide by it


class Stock(Protocol):
    """An architecture of transformers for mixtures."""

    name: ClassVar[str]

    def verdict(self, subject: Subject, runtime: Runtime) -> Verdict:
        """Whether it can be this model when that runtime loads it."""
        ...

    def config(self, folder: Folder) -> Json:
        """The `config.json`, but for the type of the numbers."""
        ...

    def tensors(self, folder: Folder) -> Named:
        """The tensors as they stand on disk, one by one."""
        ...


@dataclass(frozen=True)
class Qwen2Moe:
    """A softmax router beside a shared expert with a gate, which is held at one half and made up for.

    The router's scale goes into the experts' down matrices; q, k and v get biases of zero if they have none.
    """

    name: ClassVar[str] = "qwen2_moe"

    def verdict(self, subject: Subject, runtime: Runtime) -> Verdict:
        if runtime == "llama.cpp":
            return Verdict("impossible", "llama.cpp ignores norm_topk_prob of qwen2_moe: use gguf")
        if obstacle := next(self._obstacles(subject, runtime), None):
            return Verdict("impossible", obstacle)
        if loss := next(_losses(subject), None):
            return Verdict("approximate", loss)
        router = subject.mixture.router
        if runtime == "sglang" and isinstance(router, SoftmaxRouter) and not router.normalized:
            return Verdict("exact", launch="--moe-runner-backend triton")
        return _exact(subject, runtime)

    def _obstacles(self, subject: Subject, runtime: Runtime) -> Iterator[str]:
        yield from subject.obstacles()
        if not isinstance(subject.mixture.router, SoftmaxRouter):
            yield "its router is not a softmax"
        if subject.config.attention.qk_norm:
            yield "qwen2_moe has no norms on query and key"
        if subject.config.attention.rotary_dim is not None:
            yield "qwen2_moe rotates whole heads"
        if runtime != "transformers" and not subject.usual_heads:
            yield f"{runtime} takes head_dim from hidden_size / heads"
        if runtime == "sglang" and subject.mixture.dense_layers:
            yield "sglang makes every layer of qwen2_moe a mixture"

    def config(self, folder: Folder) -> Json:
        moe = mixture(folder.config)
        router = moe.router
        return {
            **_common(folder, self.name, "Qwen2MoeForCausalLM"),
            "qkv_bias": True,
            "num_experts": moe.n_experts,
            "num_experts_per_tok": moe.top_k,
            "norm_topk_prob": isinstance(router, SoftmaxRouter) and router.normalized,
            "shared_expert_intermediate_size": _shared(moe),
            "mlp_only_layers": list(moe.dense_layers),
            "decoder_sparse_step": 1,
        }

    def tensors(self, folder: Folder) -> Named:
        moe = mixture(folder.config)
        table = (("layers.{}.ffn.shared.{}", "model.layers.{}.mlp.shared_expert.{}"), *LLAMA)
        for name, tensor in _untied(folder):
            if name.endswith("selection_bias"):
                continue
            if name.endswith("router.weight"):
                at = name.removesuffix("ffn.router.weight").replace("layers.", "model.layers.", 1)
                sign_D = torch.ones(tensor.shape[1]).index_fill(0, torch.arange(1, tensor.shape[1], 2), -1.0)
                yield f"{at}mlp.shared_expert_gate.weight", (GATE * sign_D)[None]
            elif ".shared.down_proj" in name:
                tensor = tensor * 2
            yield Renamed(table).on_disk(name), _scaled(name, tensor, moe)
            if (
                name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))
                and not folder.config.attention.qkv_bias
            ):
                yield Renamed(table).on_disk(name).replace(".weight", ".bias"), tensor.new_zeros(len(tensor))


@dataclass(frozen=True)
class Glm4Moe:
    """A sigmoid router with a selection bias beside an ungated shared expert: what ours is, weight by weight."""

    name: ClassVar[str] = "glm4_moe"

    def verdict(self, subject: Subject, runtime: Runtime) -> Verdict:
        if runtime == "llama.cpp":
            return Verdict("impossible", "llama.cpp's converter wants GLM's own vocabulary: use gguf")
        if obstacle := next(self._obstacles(subject), None):
            return Verdict("impossible", obstacle)
        if loss := next(_losses(subject, keeps_bias=True), None):
            return Verdict("approximate", loss)
        if runtime == "sglang":
            return Verdict("exact", launch="--disable-shared-experts-fusion")
        return _exact(subject, runtime)

    def _obstacles(self, subject: Subject) -> Iterator[str]:
        yield from subject.obstacles()
        if not isinstance(subject.mixture.router, SigmoidRouter):
            yield "its router is not a sigmoid"
        if subject.dense_prefix is None:
            yield "glm4_moe keeps only the first layers dense"
        if _shared(subject.mixture) % subject.mixture.expert.hidden:
            yield "the shared expert is not a whole number of experts wide"

    def config(self, folder: Folder) -> Json:
        subject = Subject.of(folder)
        attention, moe = folder.config.attention, subject.mixture
        share = attention.rotated / attention.head_dim
        return {
            **_common(folder, self.name, "Glm4MoeForCausalLM"),
            "attention_bias": attention.qkv_bias,
            "use_qk_norm": attention.qk_norm,
            "partial_rotary_factor": share,
            "n_routed_experts": moe.n_experts,
            "num_experts_per_tok": moe.top_k,
            "n_shared_experts": _shared(moe) // moe.expert.hidden,
            "norm_topk_prob": True,
            "routed_scaling_factor": moe.router.scale,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": subject.dense_prefix,
            "num_nextn_predict_layers": 0,
        }

    def tensors(self, folder: Folder) -> Named:
        return Renamed(LLAMA).write(_untied(folder))


@dataclass(frozen=True)
class GraniteMoeShared:
    """A normalised softmax over the chosen experts beside an ungated shared expert; experts stand stacked on disk."""

    name: ClassVar[str] = "granitemoeshared"

    def verdict(self, subject: Subject, runtime: Runtime) -> Verdict:
        if runtime == "llama.cpp":
            return Verdict("impossible", "the stock converter is not tried: use gguf, which writes granitemoe itself")
        if obstacle := next(self._obstacles(subject, runtime), None):
            return Verdict("impossible", obstacle)
        if loss := next(_losses(subject), None):
            return Verdict("approximate", loss)
        return _exact(subject, runtime)

    def _obstacles(self, subject: Subject, runtime: Runtime) -> Iterator[str]:
        yield from subject.obstacles()
        router = subject.mixture.router
        if not (isinstance(router, SoftmaxRouter) and router.normalized):
            yield "its router is not a normalised softmax"
        if subject.config.attention.qk_norm:
            yield "granitemoeshared has no norms on query and key"
        if subject.config.attention.rotary_dim is not None:
            yield "granitemoeshared rotates whole heads"
        if subject.mixture.dense_layers:
            yield "every layer of granitemoeshared is a mixture"
        if runtime != "transformers" and subject.config.attention.qkv_bias:
            yield f"{runtime} gives granitemoeshared no biases on query, key and value"
        if runtime != "transformers" and not subject.usual_heads:
            yield f"{runtime} takes head_dim from hidden_size / heads"

    def config(self, folder: Folder) -> Json:
        moe = mixture(folder.config)
        return {
            **_common(folder, self.name, "GraniteMoeSharedForCausalLM"),
            "attention_bias": folder.config.attention.qkv_bias,
            "intermediate_size": moe.expert.hidden,
            "shared_intermediate_size": 0 if moe.shared is None else moe.shared.hidden,
            "num_local_experts": moe.n_experts,
            "num_experts_per_tok": moe.top_k,
            "attention_multiplier": folder.config.attention.head_dim**-0.5,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
        }

    def tensors(self, folder: Folder) -> Named:
        moe = mixture(folder.config)
        table = (
            ("layers.{}.ffn.router.weight", "model.layers.{}.block_sparse_moe.router.layer.weight"),
            ("layers.{}.ffn.experts.gate_up_proj", "model.layers.{}.block_sparse_moe.input_linear.weight"),
            ("layers.{}.ffn.experts.down_proj", "model.layers.{}.block_sparse_moe.output_linear.weight"),
            ("layers.{}.ffn.shared.down_proj.weight", "model.layers.{}.shared_mlp.output_linear.weight"),
            ("layers.{}.ffn.shared.up_proj.weight", "model.layers.{}.shared_mlp.input_linear.weight"),
            *LLAMA,
        )
        for name in (*folder.shapes, *(["unembed.weight"] if folder.config.tied else [])):
            if name.endswith(("selection_bias", "shared.gate_proj.weight")):
                continue
            tensor = folder.tensor("embed.weight" if name == "unembed.weight" and folder.config.tied else name)
            if name.endswith("shared.up_proj.weight"):
                tensor = torch.cat([folder.tensor(name.replace("up_proj", "gate_proj")), tensor])
            yield Renamed(table).on_disk(name), _scaled(name, tensor, moe)
            if name.endswith("o_proj.weight") and folder.config.attention.qkv_bias:
                yield Renamed(table).on_disk(name).replace(".weight", ".bias"), tensor.new_zeros(len(tensor))


def _common(folder: Folder, model_type: str, architecture: str) -> Json:
    config = folder.config
    moe = mixture(folder.config)
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.attention.n_heads,
        "num_key_value_heads": config.attention.n_kv_heads,
        "head_dim": config.attention.head_dim,
        **write_rope(config.attention.rope),
        "rms_norm_eps": config.norm.eps,
        "hidden_act": "silu",
        "intermediate_size": moe.dense.hidden,
        "moe_intermediate_size": moe.expert.hidden,
        "tie_word_embeddings": False,
        **{key: folder.facts[key] for key in FACTS if key in folder.facts},
    }


def _exact(subject: Subject, runtime: Runtime) -> Verdict:
    usual = runtime != "transformers" or subject.kernel == "grouped_mm"
    return Verdict("exact", launch="" if usual else f'experts_implementation="{subject.kernel}"')


def _shared(moe: MoEConfig) -> int:
    """How wide the shared expert is written; one that is not there is written as one expert's width of zeros."""
    return moe.expert.hidden if moe.shared is None else moe.shared.hidden


def _untied(folder: Folder) -> Named:
    """All pieces; the head even if it is the embedding, a shared expert even if there is none."""
    moe = mixture(folder.config)
    for name, tensor in folder.pieces():
        yield name, tensor
        if name == "embed.weight" and folder.config.tied:
            yield "unembed.weight", tensor
        if name.endswith("router.weight") and moe.shared is None:
            at = name.removesuffix("router.weight")
            yield f"{at}shared.gate_proj.weight", tensor.new_zeros(moe.expert.hidden, tensor.shape[1])
            yield f"{at}shared.up_proj.weight", tensor.new_zeros(moe.expert.hidden, tensor.shape[1])
            yield f"{at}shared.down_proj.weight", tensor.new_zeros(tensor.shape[1], moe.expert.hidden)


def _scaled(name: str, tensor: Tensor, moe: MoEConfig) -> Tensor:
    """An expert's down matrix times the router's scale, in fp32 unless that is a power of two; others as they are."""
    scale = moe.router.scale
    if scale == 1 or ".experts." not in name or "down_proj" not in name:
        return tensor
    return tensor * scale if math.frexp(scale)[0] == 0.5 else tensor.float() * scale


def _losses(subject: Subject, keeps_bias: bool = False) -> Iterator[str]:
    """What a stock mixture leaves out although it runs."""
    if subject.biased and not keeps_bias:
        yield "the routers' selection biases are left out"
    if (window := subject.config.attention.window) is not None:
        yield f"the same only up to {window} tokens: the sliding window is left out"


STOCK: tuple[Stock, ...] = (Glm4Moe(), Qwen2Moe(), GraniteMoeShared())

"""What autograd keeps of a micro-batch, operation by operation, and the peak of its backward pass.

Autograd keeps an operation's input only if a gradient asks for it: a product its left factor if the right one learns,
and anything at all only if something that learns lies before it. So parts below the first one that learns cost
nothing, and a frozen matrix saves its input. Counted is what our modules do (models/): a norm keeps what it reads in
fp32, attention the mask of every layer in the model's type, the loss its log-probabilities of all tokens.

Letters: B rows, T slots, S = B*T tokens, D model, F hidden width, E experts, K chosen experts, R = S*K rows,
C disciplines, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import torch

from innovator.engine.parallel import Engine, Precision
from innovator.models.cost import first_match
from innovator.models.decoder import LOSS_CHUNK, Decoder, DecoderConfig
from innovator.models.layers import DenseConfig, RMSNormConfig, SwiGLUConfig
from innovator.models.moe import MoEConfig, SigmoidRouter

FP32, INDEX = 4, 8


@cache
def parameter_sizes(config: DecoderConfig) -> Mapping[str, int]:
    """Numbers in each parameter of a decoder, which is not made."""
    with torch.device("meta"):
        return {name: parameter.numel() for name, parameter in Decoder(config).named_parameters()}


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A decoder, which of its parameters learn (name patterns), and what one process reads at a time.

    grouped: whether experts are computed by grouped products, as on a GPU, or one after the other.
    """

    config: DecoderConfig
    trainable: Mapping[str, float]
    rows: int
    seq_len: int
    precision: Precision
    grouped: bool

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.rows * self.seq_len

    @property
    def width(self) -> int:
        """Bytes of a number that is computed with."""
        return FP32 if self.precision == "fp32" else 2

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Numbers in each parameter."""
        return parameter_sizes(self.config)

    @cached_property
    def trained(self) -> tuple[str, ...]:
        """The parameters that learn."""
        return tuple(name for name in self.sizes if first_match(name, self.trainable) > 0)

    @cached_property
    def learning(self) -> frozenset[str]:
        """Every part of the model in which something learns."""
        paths = (name.split(".") for name in self.trained)
        return frozenset(".".join(path[:depth]) for path in paths for depth in range(1, len(path)))

    def learns(self, *parts: str) -> bool:
        """Whether any parameter of these parts of the model learns."""
        return not self.learning.isdisjoint(parts)


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-batch under an engine.

    added: bytes per number of the gradients that stand beside their sums for a moment; 0 if they are counted apart.
    """

    lesson: Lesson
    engine: Engine
    added: int = 0

    def at_head(self) -> int:
        """What is alive as the backward pass of the head begins."""
        return sum(self._kept()) + self.everywhere() + self.head()

    def at_block(self, n_done: int = 0) -> int:
        """What is alive in the backward pass of a block, the widest of all, when those of `n_done` others are done."""
        moment = max(self.block(layer).moment for layer in range(self.lesson.config.n_layers))
        kept = self._kept()
        return sum(kept[: max(1, len(kept) - n_done)]) + self.everywhere() + moment

    def _kept(self) -> list[int]:
        return [self.block(layer).kept for layer in range(self.lesson.config.n_layers)]

    def block(self, layer: int) -> Block:
        """What one layer takes."""
        return Block(self.lesson, self.engine, layer, self.added)

    def everywhere(self) -> int:
        """What all blocks share: angles, and the mask as long as blocks are computed again."""
        lesson = self.lesson
        mask = lesson.tokens * lesson.seq_len if self.engine.recompute == "full" else 0
        return mask + 2 * lesson.width * lesson.tokens * lesson.config.attention.rotated

    def head(self) -> int:
        """Last norm, log-probabilities of all tokens, and two gradients of one chunk's logits; all in fp32."""
        lesson, vocab = self.lesson, self.lesson.config.vocab_size
        below = lesson.learns("embed", "layers")
        if not (below or lesson.learns("norm", "unembed")):
            return 0
        kept = norm(lesson, "norm", lesson.config.dim, below)
        if lesson.learns("unembed") or (lesson.config.tied and lesson.learns("embed")):
            kept += lesson.width * lesson.tokens * lesson.config.dim
        return kept + FP32 * vocab * (lesson.tokens + 2 * min(lesson.tokens, LOSS_CHUNK))


@dataclass(frozen=True)
class Block:
    """Bytes of one layer.

    Properties are asked for in the order of the forward pass: each `before` says whether a gradient is asked for of
    what comes in there.
    """

    lesson: Lesson
    engine: Engine
    layer: int
    added: int

    @property
    def at(self) -> str:
        """Where its parameters' names begin."""
        return f"layers.{self.layer}"

    @property
    def kept(self) -> int:
        """What stays from its forward to its backward pass."""
        read = self._numbers(self.lesson.config.dim)
        match self.engine.recompute:
            case "full":
                return read if self._attention + self._norm + self._ffn else 0
            case "ffn":
                return self._attention + self._norm + (read if self._ffn else 0)
            case "none":
                return self._attention + self._norm + self._ffn

    @property
    def moment(self) -> int:
        """What its backward pass needs beside what was kept: what it computes again, and gradients at the widest place.

        Those are of what the feed-forward read and wrote, and of two hidden layers, the third standing where their
        product stood; or, when the shared expert is done, of routed rows.
        """
        kept = self._attention + self._norm + self._ffn
        if not kept:
            return 0
        again = 0 if self.engine.recompute == "none" else kept - self.kept
        ends = again + self._numbers(2 * self.lesson.config.dim)
        ffn = self.lesson.config.ffn
        if not isinstance(ffn, MoEConfig) or not self._mixed:
            return ends + self._wide(ffn.dense if isinstance(ffn, MoEConfig) else ffn, f"{self.at}.ffn")
        shared = 0 if ffn.shared is None else self._wide(ffn.shared, f"{self.at}.ffn.shared")
        return ends + max(shared, self._routed_wide(ffn) - self._shared)

    def _wide(self, ffn: DenseConfig, at: str) -> int:
        """Gradients of two hidden layers (one without a gate), and of a matrix before it is added."""
        n_hidden = 2 if isinstance(ffn, SwiGLUConfig) else 1
        return self._numbers(n_hidden * ffn.hidden) + self.added * max(self._sizes(at), default=0)

    def _routed_wide(self, mixture: MoEConfig) -> int:
        """Gradients of routed rows before and after sorting (one more on its way between processes), of the experts'
        hidden layers, of logits and probabilities, and of all experts before they are added.

        As many rows come as are sent: experts are taken to be chosen alike.
        """
        rows = (3 if self.engine.experts > 1 else 2) * self.lesson.config.dim
        wide = FP32 if isinstance(mixture.router, SigmoidRouter) else self.lesson.width
        sorting = wide * self.lesson.tokens * mixture.top_k * rows
        hidden = self._routed(4 * mixture.expert.hidden) if self.lesson.grouped else 0
        logits = 4 * FP32 * self.lesson.tokens * mixture.n_experts
        return max(sorting, hidden) + logits + self.added * sum(self._sizes(f"{self.at}.ffn.experts"))

    def _sizes(self, at: str) -> list[int]:
        return [self.lesson.sizes[name] for name in self.lesson.trained if name.startswith(f"{at}.")]

    @property
    def before(self) -> bool:
        return self.lesson.learns("embed", *(f"layers.{below}" for below in range(self.layer)))

    @property
    def before_ffn(self) -> bool:
        return self.before or self.lesson.learns(f"{self.at}.attn", f"{self.at}.attn_norm")

    @property
    def _mixed(self) -> bool:
        ffn = self.lesson.config.ffn
        return isinstance(ffn, MoEConfig) and self.layer not in ffn.dense_layers

    @property
    def _mixture(self) -> MoEConfig:
        assert isinstance(self.lesson.config.ffn, MoEConfig)
        return self.lesson.config.ffn

    @property
    def _attention(self) -> int:
        """Norm, input of the projections; query, keys, values, result, one sum per head, mask; input of the output."""
        lesson, config, at = self.lesson, self.lesson.config.attention, f"{self.at}.attn"
        inner = self.before or lesson.learns(f"{self.at}.attn_norm")
        projections = [f"{at}.{name}_proj" for name in "qkv"]
        heads, kv_heads = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        kept = norm(lesson, f"{self.at}.attn_norm", lesson.config.dim, self.before)
        if lesson.learns(*projections):
            kept += self._numbers(lesson.config.dim)
        if config.qk_norm:
            kept += norm(lesson, f"{at}.q_norm", heads, inner) + norm(lesson, f"{at}.k_norm", kv_heads, inner)
        if inner or lesson.learns(*projections, f"{at}.q_norm", f"{at}.k_norm"):
            kept += self._numbers(2 * heads + 2 * kv_heads + lesson.seq_len) + FP32 * lesson.tokens * config.n_heads
        return kept + (self._numbers(heads) if lesson.learns(f"{at}.o_proj") else 0)

    @property
    def _norm(self) -> int:
        return norm(self.lesson, f"{self.at}.ffn_norm", self.lesson.config.dim, self.before_ffn)

    @property
    def _ffn(self) -> int:
        at, ffn = f"{self.at}.ffn", self.lesson.config.ffn
        inner = self.before_ffn or self.lesson.learns(f"{self.at}.ffn_norm")
        if isinstance(ffn, MoEConfig):
            return self._moe(inner) if self._mixed else self._dense(at, ffn.dense, inner)
        return self._dense(at, ffn, inner)

    @property
    def _shared(self) -> int:
        """What the shared expert keeps of its hidden layers."""
        shared, at = self._mixture.shared, f"{self.at}.ffn.shared"
        inner = self.before_ffn or self.lesson.learns(f"{self.at}.ffn_norm", f"{at}.gate_proj", f"{at}.up_proj")
        return 0 if shared is None else self._hidden(at, shared, inner)

    def _dense(self, at: str, ffn: DenseConfig, inner: bool) -> int:
        """Input; gate, its activation and up (without a gate: up); their product; as far as asked for."""
        into = ("gate_proj", "up_proj")
        learns = self.lesson.learns(*(f"{at}.{name}" for name in into))
        kept = self._numbers(self.lesson.config.dim) if learns else 0
        return kept + self._hidden(at, ffn, inner or learns)

    def _hidden(self, at: str, ffn: DenseConfig, live: bool) -> int:
        gated = 3 if isinstance(ffn, SwiGLUConfig) else 1
        product = 1 if self.lesson.learns(f"{at}.down_proj") else 0
        return self._numbers((gated * live + product) * ffn.hidden)

    def _moe(self, inner: bool) -> int:
        """Input of router and shared expert, routed rows, results of the experts, and what routers keep."""
        lesson, mixture, at = self.lesson, self._mixture, f"{self.at}.ffn"
        dim, routes = lesson.config.dim, lesson.learns(f"{at}.router")
        shared = [f"{at}.shared.{name}" for name in ("gate_proj", "up_proj")]
        kept = self._numbers(dim) if routes or lesson.learns(*shared) else 0
        if routes and isinstance(mixture.router, SigmoidRouter) and lesson.width < FP32:
            kept += FP32 * lesson.tokens * dim
        kept += self._shared
        if inner or routes:
            kept += self._routed(dim) + self._routing(mixture)
        return kept + (self.experts(mixture.expert) if inner or lesson.learns(f"{at}.experts") else 0)

    def experts(self, expert: DenseConfig) -> int:
        """Rows, gate and up; grouped products keep the activation too, and their inputs only if weights learn."""
        dim, gated = self.lesson.config.dim, isinstance(expert, SwiGLUConfig)
        if gated and not self.lesson.grouped:
            return self._routed(dim + 2 * expert.hidden)
        learns = self.lesson.learns(f"{self.at}.ffn.experts")
        kept = (3 if gated else 1) * expert.hidden + (dim + expert.hidden if learns else 0)
        return self._routed(kept)

    def _routing(self, mixture: MoEConfig) -> int:
        """Logits and probabilities, discipline masses, choices, weights and the two orders of rows."""
        numbers = 2 * mixture.n_experts + 2 * mixture.n_disciplines + 2 * mixture.top_k
        return self.lesson.tokens * (FP32 * numbers + 3 * INDEX * mixture.top_k)

    def _numbers(self, per_token: int) -> int:
        return self.lesson.width * self.lesson.tokens * per_token

    def _routed(self, per_row: int) -> int:
        return self._numbers(self._mixture.top_k * per_row)


def norm(lesson: Lesson, name: str, size: int, before: bool) -> int:
    """What a norm over `size` numbers per token keeps: what it reads, and, if it learns, that normalised."""
    rms = isinstance(lesson.config.norm, RMSNormConfig)
    learns = lesson.learns(name)
    reads = (FP32 if rms else lesson.width) * size if before or (learns and not rms) else 0
    return lesson.tokens * (reads + (lesson.width * size if learns and rms else 0))

"""What autograd keeps of a micro-batch, operation by operation, and the peak of its backward pass.

Autograd keeps an operation's input only if a gradient asks for it: a product its left factor if the right one learns,
and anything at all only if something that learns lies before it. So parts below the first one that learns cost
nothing, and a frozen matrix saves its input. Counted is what our modules do (models/): a norm keeps what it reads in
fp32, attention one mask for all layers in the model's type, the loss nothing but its gradients.

Letters: B rows, T slots, S = B*T tokens, D model, F hidden width, E experts, K chosen experts, R = S*K rows,
C disciplines, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from innovator.engine.parallel import Engine
from innovator.models.cores import ROWS_IN_CACHE
from innovator.models.head import chunk_slots
from innovator.models.layers import DenseConfig, RMSNormConfig, SwiGLUConfig
from innovator.models.moe import MoEConfig, SigmoidRouter
from innovator.models.thinking import Held
from innovator.train.lesson import FP32, Lesson

INDEX = 8


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro-batch under an engine.

    added: bytes per number of the gradients that stand beside their sums for a moment; 0 if they are counted apart.
    """

    lesson: Lesson
    engine: Engine
    added: int = 0

    def at_head(self) -> int:
        """What is alive while the head makes the loss and its gradients."""
        return self._kept() + self.everywhere() + self.head()

    def at_block(self, n_done: int = 0) -> int:
        """What is alive in the backward pass of a block, the widest of all, when those of `n_done` others are done."""
        moment = max(self.block(layer).moment for layer in range(self.lesson.config.n_layers))
        return self._kept(n_done) + self.everywhere() + round(self.held.widest * moment) + self._waiting()

    def _kept(self, n_done: int = 0) -> int:
        """What all blocks keep in all passes, and what is kept between these."""
        each = [self.block(layer).kept for layer in range(self.lesson.config.n_layers)]
        gone = sum(each[max(1, len(each) - n_done) :])
        return round(self.held.passes * sum(each)) - gone + self.between()

    def between(self) -> int:
        """What thinking keeps beside blocks; of each word that an expected embedding is a mean of, three numbers.

        Of numbers that are fp32 where the model is, half are so where it is not.
        """
        lesson, effort = self.lesson, self.lesson.config.thinking.effort()
        numbers = self.held.between * (self.held.passes - 1) * lesson.config.dim
        words = effort.training_mixes * min(effort.mixed or 0, lesson.config.vocab_size)
        return round(lesson.tokens * ((FP32 + lesson.width) / 2 * numbers + 3 * FP32 * words))

    @property
    def held(self) -> Held:
        """How much thinking keeps."""
        return self.lesson.config.thinking.effort().held

    def block(self, layer: int) -> Block:
        """What one layer takes."""
        return Block(self.lesson, self.engine, layer, self.added)

    def everywhere(self) -> int:
        """What all blocks share: angles, and masks, which stay if any block looks back at them."""
        lesson, held = self.lesson, self.held
        looked_at = any(self.block(layer).kept for layer in range(lesson.config.n_layers))
        angles = held.passes * 2 * lesson.config.attention.rotated
        return round(lesson.width * lesson.tokens * (angles + looked_at * held.attended * lesson.seq_len))

    def head(self) -> int:
        """Last norm, what the head reads, the gradients of both, and logits and log-probabilities of one chunk."""
        lesson = self.lesson
        below = lesson.learns("embed", "layers")
        reached = below or lesson.learns("norm")
        if not (reached or lesson.learns("unembed")):
            return 0
        read = lesson.width * lesson.tokens * lesson.config.dim
        return norm(lesson, "norm", lesson.config.dim, below) + read * (1 + reached) + self._chunk()

    def _waiting(self) -> int:
        """The gradient of a tied head, which stays until the embedding's is added to it."""
        config = self.lesson.config
        return self.added * config.vocab_size * config.dim if config.tied and self.lesson.head_learns else 0

    def _chunk(self) -> int:
        """In fp32, as is the gradient of the matrix; in half precision that and the logits' stand beside products."""
        lesson, vocab = self.lesson, self.lesson.config.vocab_size
        slots = min(lesson.tokens, chunk_slots(vocab))
        logits = 2 * FP32 * vocab * slots
        if not lesson.head_learns:
            return logits
        matrix = vocab * lesson.config.dim
        product = (FP32 + lesson.width) * vocab * slots + lesson.width * matrix if lesson.width < FP32 else 0
        return FP32 * matrix + max(logits, product)


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
        """Gradients of routed rows and of what the experts compute, of logits and probabilities, and of all experts
        before they are added.

        As many rows come as are sent: experts are taken to be chosen alike.
        """
        dim, n_rows = self.lesson.config.dim, self.lesson.tokens * mixture.top_k
        if not isinstance(mixture.expert, SwiGLUConfig):
            wide = FP32 if isinstance(mixture.router, SigmoidRouter) else self.lesson.width
            rows = wide * n_rows * 2 * dim
        elif self.lesson.grouped:
            rows = self._routed(self._bend(mixture))
        else:
            room = dim + (5 + 2 * self._weighted(mixture)) * mixture.expert.hidden
            rows = self._routed(dim) + self.lesson.width * min(n_rows, ROWS_IN_CACHE) * room
        travelling = self._routed(dim) if self.engine.experts > 1 else 0
        logits = 4 * FP32 * self.lesson.tokens * mixture.n_experts
        return rows + travelling + logits + self.added * sum(self._sizes(f"{self.at}.ffn.experts"))

    def _bend(self, mixture: MoEConfig) -> int:
        """Numbers per row between the experts' grouped products of the backward pass: as it bends, or when it has."""
        dim, hidden = self.lesson.config.dim, mixture.expert.hidden
        return max(dim + (7 + self._weighted(mixture)) * hidden, 3 * dim + 4 * hidden)

    def _weighted(self, mixture: MoEConfig) -> int:
        """Numbers that hold one in fp32, if something narrower is multiplied by weights in fp32."""
        return 2 if isinstance(mixture.router, SigmoidRouter) and self.lesson.width < FP32 else 0

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
        """Norm, input of the projections; query, keys, values, result, one sum per head; input of the output."""
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
            kept += self._numbers(2 * heads + 2 * kv_heads) + FP32 * lesson.tokens * config.n_heads
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
        """Input of router, shared expert and experts, and what each of them keeps."""
        lesson, mixture, at = self.lesson, self._mixture, f"{self.at}.ffn"
        dim, routes = lesson.config.dim, lesson.learns(f"{at}.router")
        routed = inner or routes or lesson.learns(f"{at}.experts")
        reads = routed or lesson.learns(f"{at}.shared.gate_proj", f"{at}.shared.up_proj")
        kept = self._shared + (self._numbers(dim) if reads else 0)
        if routes and isinstance(mixture.router, SigmoidRouter) and lesson.width < FP32:
            kept += FP32 * lesson.tokens * dim
        if inner or routes:
            kept += self._routing(mixture)
        return kept + (self.experts(mixture.expert) if routed else 0)

    def experts(self, expert: DenseConfig) -> int:
        """Gate and up; without a gate rows, hidden layers and results; rows and results too that travelled."""
        dim, travels = self.lesson.config.dim, self.engine.experts > 1
        if isinstance(expert, SwiGLUConfig):
            return self._routed(2 * expert.hidden + (2 * dim if travels else 0))
        learns = self.lesson.learns(f"{self.at}.ffn.experts")
        return self._routed(dim + expert.hidden + (dim + expert.hidden if learns else 0))

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

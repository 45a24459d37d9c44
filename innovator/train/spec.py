"""What one training run is; the loop reads nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from innovator.data.turns import Phase, named
from innovator.engine.parallel import Engine, Precision
from innovator.models.layers import GENERAL
from innovator.models.moe import RouterLosses
from innovator.models.spec import Spec


@dataclass(frozen=True, kw_only=True)
class AdamW(Spec):
    """Decoupled weight decay on matrices only; gradients clipped to norm `clip`."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Cosine(Spec):
    """Linear warm-up over a share of the run, then half a cosine down to `floor` of the peak."""

    warmup: float = 0.05
    floor: float = 0.1
    kind: Literal["cosine"] = "cosine"

    def __post_init__(self) -> None:
        _check_shares(warmup=self.warmup)

    def factor(self, done: float) -> float:
        """The share of the peak learning rate when a share `done` of the run is done."""
        if done < self.warmup:
            return done / self.warmup
        return _cosine(1.0, self.floor, (done - self.warmup) / (1.0 - self.warmup))


@dataclass(frozen=True, kw_only=True)
class WSD(Spec):
    """Warm up, stay, decay linearly to `floor`; shares of the run (MiniCPM, arXiv 2404.06395)."""

    warmup: float = 0.05
    decay: float = 0.2
    floor: float = 0.0
    kind: Literal["wsd"] = "wsd"

    def __post_init__(self) -> None:
        _check_shares(warmup=self.warmup, decay=self.decay)

    def factor(self, done: float) -> float:
        """The share of the peak learning rate when a share `done` of the run is done."""
        if done < self.warmup:
            return done / self.warmup
        left = max(0.0, done - (1.0 - self.decay)) / self.decay
        return 1.0 + (self.floor - 1.0) * left


@dataclass(frozen=True, kw_only=True)
class Infinite(Spec):
    """Warm up, cosine cool-down to a constant that can last for ever, exponential annealing (arXiv 2503.02844)."""

    warmup: float = 0.05
    cooldown: float = 0.25
    constant: float = 0.4
    anneal: float = 0.1
    floor: float = 0.01
    kind: Literal["infinite"] = "infinite"

    def __post_init__(self) -> None:
        _check_shares(warmup=self.warmup, cooldown=self.cooldown, anneal=self.anneal)
        if min(self.constant, self.floor) <= 0:
            raise ValueError("constant and floor must be above 0: annealing is exponential")

    def factor(self, done: float) -> float:
        """The share of the peak learning rate when a share `done` of the run is done."""
        if done < self.warmup:
            return done / self.warmup
        if done < self.warmup + self.cooldown:
            return _cosine(1.0, self.constant, (done - self.warmup) / self.cooldown)
        left = max(0.0, done - (1.0 - self.anneal)) / self.anneal
        return float(self.constant * (self.floor / self.constant) ** left)


Schedule = Cosine | WSD | Infinite


@dataclass(frozen=True, kw_only=True)
class BatchSpec(Spec):
    """One optimizer step reads `rows` sequences of `seq_len` tokens, at most `micro_rows` of them at a time."""

    seq_len: int
    rows: int
    micro_rows: int | None = None

    def __post_init__(self) -> None:
        if min(self.seq_len, self.rows, self.micro_rows or 1) < 1:
            raise ValueError("seq_len, rows and micro_rows must be at least 1")

    @property
    def tokens(self) -> int:
        """Tokens per optimizer step."""
        return self.rows * self.seq_len


@dataclass(frozen=True, kw_only=True)
class Course(Spec):
    """How long and how hard to learn."""

    tokens: int
    optim: AdamW
    schedule: Schedule = field(default_factory=Cosine)


@dataclass(frozen=True, kw_only=True)
class TrainSpec(Spec):
    """One training run on a mixture of corpora.

    mixture: weight of each corpus, until the first of `phases` begins.
    disciplines: corpora whose place in this list is their tokens' label.
    trainable: learning-rate factor per name pattern, the first match counts, 0 or no match is frozen.
    lm: weight of the language-model loss; losses: what the routers are asked beside it. tied_rows: whether the router
    rows of a discipline learn as one, so that rows which start identical go on choosing whole disciplines.
    checkpoint_every, checkpoint_minutes: steps, and time, after which the run is saved, whichever comes first.
    precision: what forward and backward pass compute in; weights, their sums and the optimizer are fp32 always.
    """

    course: Course
    batch: BatchSpec
    mixture: dict[str, float]
    phases: tuple[Phase, ...] = ()
    disciplines: tuple[str, ...]
    trainable: dict[str, float]
    losses: RouterLosses = field(default_factory=RouterLosses)
    lm: float = 1.0
    tied_rows: bool = False
    seed: int = 0
    log_every: int = 1
    checkpoint_every: int = 200
    checkpoint_minutes: float = 10.0
    max_skipped: int = 10
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        row = 0
        for number, phase in enumerate(self.phases):
            begins = f"phases.{number}.from_tokens is {phase.from_tokens}"
            before, row = row, phase.first_row(self.batch.seq_len)
            if row <= before:
                raise ValueError(f"{begins}: the phase before it begins with token {before * self.batch.seq_len}")
            if row >= self.n_rows:
                raise ValueError(f"{begins}: the course is over after {self.n_steps * self.batch.tokens} tokens")

    @property
    def n_steps(self) -> int:
        """Optimizer steps in the course."""
        return max(1, round(self.course.tokens / self.batch.tokens))

    @property
    def n_rows(self) -> int:
        """Rows that the course reads."""
        return self.n_steps * self.batch.rows

    @property
    def corpora(self) -> tuple[str, ...]:
        """Every corpus that the course reads."""
        return named(self.mixture, self.phases)

    def label(self, corpus: str) -> int:
        """What the tokens of a corpus are labelled with."""
        return self.disciplines.index(corpus) if corpus in self.disciplines else GENERAL

    def run(self, out: Path, inputs: Mapping[str, Path], engine: Engine | None = None) -> None:
        """Train, with all the processes of a torchrun, and write `out/weights`."""
        from innovator.train.loop import train  # here because the loop reads this spec

        train(self, out, inputs, engine)


def _check_shares(**shares: float) -> None:
    """Phases are shares of a run, together not more than the whole; the one that ends it cannot be empty."""
    for name, share in shares.items():
        if not 0 <= share < 1 or (share == 0 and name in ("decay", "anneal")):
            raise ValueError(f"{name}={share} must be a share of the run between 0 and 1")
    if sum(shares.values()) > 1:
        raise ValueError(f"{' + '.join(shares)} is more than the whole run")


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

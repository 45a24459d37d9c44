"""A recipe: one document that says everything about a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from innovator.bases import Base, FreshBase, TokenizerChoice
from innovator.data.sources import Source
from innovator.data.tokenizer import TrainTokenizer
from innovator.data.turns import Phase
from innovator.engine.parallel import Precision
from innovator.models.moe import RouterLosses
from innovator.models.spec import Spec
from innovator.train.spec import BatchSpec, Course, TrainSpec
from innovator.weights.upcycle import UpcycleSpec

Baseline = Literal["dense-equal-tokens", "dense-equal-flops", "dense-science-only", "sparse-upcycling", "btx"]

ROLES = ("base", "init", "model", "tokenizer")


@dataclass(frozen=True, kw_only=True)
class Induce(Spec):
    """Stage 1; the course is each discipline's. general_share: share of general text among the discipline's."""

    course: Course
    general_share: float = 0.0
    trainable: dict[str, float] = field(default_factory=lambda: {"layers.*.ffn.*": 1.0})


@dataclass(frozen=True, kw_only=True)
class MeansStart(Spec):
    """Point the routers by mean hidden states (see train/aim.py) before they learn."""

    tokens: int = 20_000
    sharpness: float = 1.0


@dataclass(frozen=True, kw_only=True)
class WarmRouter(Spec):
    """Stage 3. lm: weight of the language-model loss beside the routers' own; means: point the routers first.

    tied_rows: a discipline's router rows stay identical, so that top-k goes on taking whole feed-forwards.
    """

    course: Course
    general_share: float = 0.2
    tied_rows: bool = True
    losses: RouterLosses = field(default_factory=lambda: RouterLosses(label=1.0, general=0.1))
    lm: float = 0.0
    means: MeansStart | None = None
    trainable: dict[str, float] = field(default_factory=lambda: {"layers.*.ffn.router.*": 1.0})


@dataclass(frozen=True, kw_only=True)
class Blend(Spec):
    """From the first row at or after token `from_tokens` of a stage on, its share of general text and its weights."""

    from_tokens: int
    general_share: float
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Integrate(Spec):
    """Stage 4. general_share: share of general text (replay); trainable: learning-rate factor per name pattern.

    weights: of disciplines relative to each other, 1 unless said, 0 to leave one out. phases: other shares and weights
    from later tokens on.
    """

    course: Course
    general_share: float = 0.5
    weights: dict[str, float] = field(default_factory=dict)
    phases: tuple[Blend, ...] = ()
    losses: RouterLosses = field(default_factory=lambda: RouterLosses(balance=1e-3))
    trainable: dict[str, float] = field(default_factory=lambda: {"*": 1.0})

    def science_only(self) -> Integrate:
        """The same without general text."""
        return replace(self, general_share=0.0, phases=tuple(replace(p, general_share=0.0) for p in self.phases))


@dataclass(frozen=True, kw_only=True)
class Evaluation(Spec):
    """At most `tokens` tokens per corpus, in whole documents, out of the share of documents that is held out."""

    tokens: int = 50_000
    validation_share: float = 0.05
    test_share: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Recipe(Spec):
    """From corpora and a base to a mixture and its comparison. Without `induce` or `warm_router` a stage is left out.

    corpora: by name, in the order that disciplines get their experts; one of them is `general`, all others are
    disciplines. precision: what training computes in; weights stay fp32. corpora_root: what relative paths of corpora
    are relative to. licences: what each corpus, and `base` if it is not of this recipe's making, may be used under,
    for the model card.
    """

    title: str
    corpora: dict[str, Source]
    tokenizer: TokenizerChoice
    base: Base
    batch: BatchSpec
    split: UpcycleSpec
    integrate: Integrate
    induce: Induce | None = None
    warm_router: WarmRouter | None = None
    baselines: tuple[Baseline, ...] = ()
    evaluation: Evaluation = field(default_factory=Evaluation)
    precision: Precision = "fp32"
    general: str = "general"
    licences: dict[str, str] = field(default_factory=dict)
    corpora_root: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.general not in self.corpora:
            raise ValueError(
                f"corpora: there is no {self.general!r}; general names the corpus that must not be forgotten"
            )
        if taken := [name for name in self.corpora if name in ROLES or name.startswith("copy-")]:
            raise ValueError(f"corpora: {taken[0]!r} has a meaning of its own among a step's inputs; use another name")
        if not self.disciplines:
            raise ValueError("corpora: there is no discipline beside the general corpus")
        if unknown := [name for name in self.tokenizer_corpora if name not in self.corpora]:
            raise ValueError(f"tokenizer.corpora: there is no corpus {unknown[0]!r}")
        if unknown := [name for name in self.licences if name not in self.licensed]:
            raise ValueError(f"licences: there is no corpus {unknown[0]!r}")
        self.split.config(self.base.config(), len(self.disciplines))
        self.integration(self.integrate, {})

    @property
    def disciplines(self) -> tuple[str, ...]:
        """Every corpus but the general one, in the order of their experts."""
        return tuple(name for name in self.corpora if name != self.general)

    @property
    def tokenizer_corpora(self) -> tuple[str, ...]:
        """What the tokenizer learns from, if it is trained."""
        return self.tokenizer.corpora if isinstance(self.tokenizer, TrainTokenizer) else ()

    @property
    def licensed(self) -> tuple[str, ...]:
        """Everything that a licence can be stated for: the corpora, and a base that others have made."""
        return tuple(self.corpora) if isinstance(self.base, FreshBase) else ("base", *self.corpora)

    def source(self, name: str) -> Source:
        """A corpus with its paths made absolute."""
        root = None if self.corpora_root is None else Path(self.corpora_root)
        return self.corpora[name].at(root)

    def blend(self, general_share: float, relative: Mapping[str, float]) -> dict[str, float]:
        """Weights of a mixture: general text its share, the rest to the disciplines, all alike unless said."""
        if unknown := [name for name in relative if name not in self.disciplines]:
            raise ValueError(f"weights: there is no discipline {unknown[0]!r}; there are {', '.join(self.disciplines)}")
        parts = {name: relative.get(name, 1.0) for name in self.disciplines}
        if min(parts.values()) < 0 or max(parts.values()) == 0:
            raise ValueError("weights: none may be below 0, and one at least must be above")
        if not 0 <= general_share <= 1:
            raise ValueError(f"general_share is {general_share}: it must be between 0 and 1")
        whole = sum(parts.values())
        weights = {name: (1.0 - general_share) * part / whole for name, part in parts.items()}
        return {name: weight for name, weight in {**weights, self.general: general_share}.items() if weight > 0}

    def integration(self, stage: Integrate, trainable: dict[str, float]) -> TrainSpec:
        """What a stage 4 reads and for how long, by the language-model loss alone."""
        start = Blend(from_tokens=0, general_share=stage.general_share, weights=stage.weights)
        later = {f"integrate.phases.{number}": blend for number, blend in enumerate(stage.phases)}
        first, *phases = (self._phase(place, blend) for place, blend in {"integrate": start, **later}.items())
        with _within("integrate"):
            return replace(self.training(stage.course, first.mixture, trainable), phases=tuple(phases))

    def training(self, course: Course, mixture: dict[str, float], trainable: dict[str, float]) -> TrainSpec:
        """A run of this recipe's batch, labels and seed."""
        return TrainSpec(
            course=course,
            batch=self.batch,
            mixture=mixture,
            disciplines=self.disciplines,
            trainable=trainable,
            precision=self.precision,
            seed=self.seed,
        )

    def problems(self) -> list[str]:
        """What stands in the way of running, found without doing any work: one sentence each."""
        return list(self._problems())

    def _phase(self, place: str, blend: Blend) -> Phase:
        with _within(place):
            return Phase(from_tokens=blend.from_tokens, mixture=self.blend(blend.general_share, blend.weights))

    def _problems(self) -> Iterator[str]:
        for name in self.corpora:
            try:
                self.source(name).check()
            except ValueError as error:
                root = "" if self.corpora_root else " (corpora_root is not set; relative paths start from it)"
                yield f"corpora.{name}: {error}{root}"
        try:
            self.base.tokenizer(self.tokenizer)
        except ValueError as error:
            yield f"base: {error}"


@contextmanager
def _within(place: str) -> Iterator[None]:
    """Whatever is wrong is said to be wrong at this place of the recipe."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error

"""A recipe: one document that says everything about a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from innovator.data.turns import Phase
from innovator.models.cost import first_match
from innovator.models.depth import DepthAttention
from innovator.models.moe import RouterLosses
from innovator.models.spec import Spec
from innovator.models.ways import ThinkingConfig
from innovator.stages import ThinkSpec
from innovator.study import Study, odd_depth
from innovator.train.spec import Course, TrainSpec
from innovator.weights.upcycle import UpcycleSpec

Baseline = Literal["dense-equal-tokens", "dense-equal-flops", "dense-science-only", "sparse-upcycling", "btx"]


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
    from later tokens on. thinking, depth: how the mixture thinks from this stage on, and mixes values over its layers;
    baselines do not. As the base does where nothing is said.
    """

    course: Course
    general_share: float = 0.5
    weights: dict[str, float] = field(default_factory=dict)
    phases: tuple[Blend, ...] = ()
    losses: RouterLosses = field(default_factory=lambda: RouterLosses(balance=1e-3))
    trainable: dict[str, float] = field(default_factory=lambda: {"*": 1.0})
    thinking: ThinkingConfig | None = None
    depth: DepthAttention | None = None

    def science_only(self) -> Integrate:
        """The same without general text."""
        return replace(self, general_share=0.0, phases=tuple(replace(p, general_share=0.0) for p in self.phases))


@dataclass(frozen=True, kw_only=True)
class Recipe(Study):
    """From corpora and a base to a mixture and its comparison. Without `induce` or `warm_router` a stage is left out.

    corpora: in the order that disciplines get their experts.
    """

    split: UpcycleSpec
    integrate: Integrate
    induce: Induce | None = None
    warm_router: WarmRouter | None = None
    baselines: tuple[Baseline, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.disciplines:
            raise ValueError("corpora: there is no discipline beside the general corpus")
        mixture = self.split.config(self.base.config(), len(self.disciplines))
        if odd := odd_depth(ThinkSpec(depth=self.integrate.depth).config(mixture)):
            raise ValueError(f"integrate.{odd}")
        self.integration(self.integrate, {})

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

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        stage = self.integrate
        own = [] if stage.thinking is None else parameters_of(stage.thinking, self.base.config().dim)
        if own and not any(first_match(name, stage.trainable) > 0 for name in own):
            yield f"integrate.trainable: no pattern lets {own[0]} learn, and the mixture would not learn to think"

    def _phase(self, place: str, blend: Blend) -> Phase:
        with _within(place):
            return Phase(from_tokens=blend.from_tokens, mixture=self.blend(blend.general_share, blend.weights))


def parameters_of(thinking: ThinkingConfig, dim: int) -> list[str]:
    """The names of what a way of thinking has of its own in a decoder."""
    with torch.device("meta"):
        return [f"thinking.{name}" for name, _ in thinking.build(dim).named_parameters()]


@contextmanager
def _within(place: str) -> Iterator[None]:
    """Whatever is wrong is said to be wrong at this place of the recipe."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error

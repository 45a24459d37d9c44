"""A recipe of another kind: ways of thinking, each taught to a fresh model in the same way, and compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from innovator.bases import FreshBase
from innovator.models.decoder import DecoderConfig
from innovator.models.depth import DepthAttention
from innovator.models.moe import MoEConfig, RouterLosses
from innovator.models.spec import Spec
from innovator.models.ways import ThinkingConfig
from innovator.study import Study, odd_depth


@dataclass(frozen=True, kw_only=True)
class Contestant(Spec):
    """What one model has of its own; in all else it is the base of the contest.

    thinking, depth: how it thinks, and how values are mixed over its layers. ffn: a mixture in the place of the
    feed-forward. losses: what its routers are asked. flops_of: the contestant whose training FLOPs it is given, in
    tokens. seeds: which of its own, if not all of the contest.
    """

    thinking: ThinkingConfig | None = None
    depth: DepthAttention | None = None
    ffn: MoEConfig | None = None
    n_layers: int | None = None
    losses: RouterLosses = field(default_factory=RouterLosses)
    flops_of: str | None = None
    seeds: tuple[int, ...] | None = None

    def decoder(self, base: DecoderConfig) -> DecoderConfig:
        """Its shape."""
        return replace(
            base,
            thinking=self.thinking or base.thinking,
            attention=replace(base.attention, depth=self.depth or base.attention.depth),
            ffn=base.ffn if self.ffn is None else self.ffn,
            n_layers=base.n_layers if self.n_layers is None else self.n_layers,
        )


@dataclass(frozen=True, kw_only=True)
class Contest(Study):
    """From corpora and a shape to models that think in several ways, all taught the base's course.

    mixture: weight of each corpus, all alike unless said. trainable: learning-rate factor per name pattern. seeds: each
    is a run of its own, with other first weights and another order of the text.
    """

    kind: Literal["contest"]
    base: FreshBase
    contestants: dict[str, Contestant]
    mixture: dict[str, float] = field(default_factory=dict)
    trainable: dict[str, float] = field(default_factory=lambda: {"*": 1.0})
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [name for name in self.mixture if name not in self.corpora]:
            raise ValueError(f"mixture: there is no corpus {unknown[0]!r}")
        if not self.contestants or not self.seeds:
            raise ValueError("contestants and seeds: give one of each at least")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: each may be given once")
        for name, contestant in self.contestants.items():
            for odd in (self._odd_rival, self._odd_seeds, self._odd_depth, self._odd_losses):
                for problem in odd(contestant):
                    raise ValueError(f"contestants.{name}{problem}")

    @property
    def weights(self) -> dict[str, float]:
        """What each corpus weighs among the texts that are read."""
        return self.mixture or dict.fromkeys(self.corpora, 1.0)

    def seeds_of(self, name: str) -> tuple[int, ...]:
        """The seeds that a contestant is taught with."""
        own = self.contestants[name].seeds
        return self.seeds if own is None else own

    def _odd_rival(self, contestant: Contestant) -> Iterator[str]:
        rival = contestant.flops_of
        if rival is not None and rival not in self.contestants:
            yield f".flops_of: there is no contestant {rival!r}"
        elif rival is not None and self.contestants[rival].flops_of is not None:
            yield f".flops_of: {rival} has itself the FLOPs of another"

    def _odd_seeds(self, contestant: Contestant) -> Iterator[str]:
        if contestant.seeds == ():
            yield ".seeds: give one at least"
        elif contestant.seeds is not None and len(set(contestant.seeds)) < len(contestant.seeds):
            yield ".seeds: each may be given once"

    def _odd_depth(self, contestant: Contestant) -> Iterator[str]:
        if odd := odd_depth(contestant.decoder(self.base.decoder)):
            yield f".{odd}"

    def _odd_losses(self, contestant: Contestant) -> Iterator[str]:
        ffn, n_disciplines = contestant.decoder(self.base.decoder).ffn, len(self.disciplines)
        if not isinstance(ffn, MoEConfig):
            if contestant.losses != RouterLosses():
                yield ".losses: its feed-forward is dense and has no routers to ask"
        elif contestant.losses.label > 0 and ffn.n_disciplines != n_disciplines:
            yield f".ffn.n_disciplines is {ffn.n_disciplines}, but losses.label tells {n_disciplines} corpora apart"

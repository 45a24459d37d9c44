"""A recipe: one document that says everything about a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from innovator.data.sources import Source
from innovator.data.tokenizer import FolderTokenizer, Tokenizer, TrainTokenizer
from innovator.models.decoder import DecoderConfig
from innovator.models.moe import RouterLosses
from innovator.models.spec import Spec
from innovator.stages import check_vocabulary
from innovator.train.spec import BatchSpec, Course, TrainSpec
from innovator.weights.folder import Folder, read_folder_config
from innovator.weights.upcycle import UpcycleSpec

Baseline = Literal["dense-equal-tokens", "dense-equal-flops", "dense-science-only", "sparse-upcycling", "btx"]


@dataclass(frozen=True, kw_only=True)
class FreshBase(Spec):
    """A base that this recipe trains itself on the general corpus, for want of one."""

    decoder: DecoderConfig
    course: Course
    kind: Literal["fresh"] = "fresh"

    def config(self) -> DecoderConfig:
        return self.decoder


@dataclass(frozen=True, kw_only=True)
class FolderBase(Spec):
    """A dense Hugging Face folder. `decoder` declares its shape, so that a plan can be made where the folder is not."""

    path: str
    decoder: DecoderConfig | None = None
    kind: Literal["folder"] = "folder"

    def config(self) -> DecoderConfig:
        """The folder's shape, or the declared one where there is no folder; ValueError if they contradict."""
        folder = Path(self.path)
        if self.decoder is not None and not folder.is_dir():
            return self.decoder
        found = read_folder_config(folder)
        if self.decoder not in (None, found):
            raise ValueError(f"base.decoder does not describe {folder}: its config.json says {found}")
        return found


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
    """Stage 3. lm: weight of the language-model loss beside the routers' own; means: point the routers first."""

    course: Course
    general_share: float = 0.2
    losses: RouterLosses = field(default_factory=lambda: RouterLosses(label=1.0, general=0.1))
    lm: float = 0.0
    means: MeansStart | None = None
    trainable: dict[str, float] = field(default_factory=lambda: {"layers.*.ffn.router.*": 1.0})


@dataclass(frozen=True, kw_only=True)
class Integrate(Spec):
    """Stage 4. general_share: share of general text (replay); trainable: learning-rate factor per name pattern."""

    course: Course
    general_share: float = 0.5
    losses: RouterLosses = field(default_factory=lambda: RouterLosses(balance=1e-3))
    trainable: dict[str, float] = field(default_factory=lambda: {"*": 1.0})


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
    disciplines. corpora_root: what relative paths of corpora are relative to.
    """

    title: str
    corpora: dict[str, Source]
    tokenizer: TrainTokenizer | FolderTokenizer
    base: FreshBase | FolderBase
    batch: BatchSpec
    split: UpcycleSpec
    integrate: Integrate
    induce: Induce | None = None
    warm_router: WarmRouter | None = None
    baselines: tuple[Baseline, ...] = ()
    evaluation: Evaluation = field(default_factory=Evaluation)
    general: str = "general"
    corpora_root: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.general not in self.corpora:
            raise ValueError(
                f"corpora: there is no {self.general!r}; general names the corpus that must not be forgotten"
            )
        if not self.disciplines:
            raise ValueError("corpora: there is no discipline beside the general corpus")
        unknown = [name for name in self.tokenizer_corpora if name not in self.corpora]
        if unknown:
            raise ValueError(f"tokenizer.corpora: there is no corpus {unknown[0]!r}")
        self.split.config(self.base.config(), len(self.disciplines))

    @property
    def disciplines(self) -> tuple[str, ...]:
        return tuple(name for name in self.corpora if name != self.general)

    @property
    def tokenizer_corpora(self) -> tuple[str, ...]:
        return self.tokenizer.corpora if isinstance(self.tokenizer, TrainTokenizer) else ()

    def source(self, name: str) -> Source:
        """A corpus with its paths made absolute."""
        root = None if self.corpora_root is None else Path(self.corpora_root)
        return self.corpora[name].at(root)

    def blend(self, general_share: float) -> dict[str, float]:
        """Weights of a mixture: all disciplines alike, general text its share."""
        science = (1.0 - general_share) / len(self.disciplines)
        weights = dict.fromkeys(self.disciplines, science) | {self.general: general_share}
        return {name: weight for name, weight in weights.items() if weight > 0}

    def training(self, course: Course, mixture: dict[str, float], trainable: dict[str, float]) -> TrainSpec:
        """A run of this recipe's batch, labels and seed."""
        return TrainSpec(
            course=course,
            batch=self.batch,
            mixture=mixture,
            disciplines=self.disciplines,
            trainable=trainable,
            seed=self.seed,
        )

    def problems(self) -> list[str]:
        """What stands in the way of running, found without doing any work: one sentence each."""
        return list(self._problems())

    def _problems(self) -> Iterator[str]:
        for name in self.corpora:
            try:
                self.source(name).check()
            except ValueError as error:
                yield f"corpora.{name}: {error}"
        try:
            self._check_base()
        except ValueError as error:
            yield f"base: {error}"

    def _check_base(self) -> None:
        """The base can be read and its tokenizer is the one that is named."""
        if isinstance(self.base, FreshBase):
            if isinstance(self.tokenizer, FolderTokenizer):
                check_vocabulary(Tokenizer.open(Path(self.tokenizer.path)), self.base.decoder)
            elif self.tokenizer.vocab_size > self.base.decoder.vocab_size:
                raise ValueError(f"decoder.vocab_size is below tokenizer.vocab_size={self.tokenizer.vocab_size}")
            return
        if isinstance(self.tokenizer, TrainTokenizer):
            raise ValueError("a base that exists needs its own tokenizer: set tokenizer to kind folder")
        folder = Folder.open(Path(self.base.path))
        named, own = Tokenizer.open(Path(self.tokenizer.path)), Tokenizer.open(folder.path)
        check_vocabulary(named, folder.config)
        if named.digest != own.digest:
            raise ValueError(f"the tokenizer in {self.tokenizer.path} is not the one that {folder.path} came with")

"""What recipes of every kind say: their texts, what these are cut into, where learning starts, how it is scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from innovator.bases import Base, FreshBase, TokenizerChoice
from innovator.data.benchmarks import Benchmark
from innovator.data.curated import CuratedSource
from innovator.data.sources import Source
from innovator.data.tokenizer import TrainTokenizer
from innovator.engine.parallel import Precision
from innovator.models.decoder import DecoderConfig
from innovator.models.spec import Spec
from innovator.train.spec import BatchSpec

ROLES = ("base", "init", "model", "tokenizer")


@dataclass(frozen=True, kw_only=True)
class Evaluation(Spec):
    """At most `tokens` tokens per corpus, in whole documents, out of the share of documents that is held out.

    benchmarks: what models will be judged by; every corpus must be curated and proved free of all of them, unless
    `allow_contaminated`.
    """

    tokens: int = 50_000
    validation_share: float = 0.05
    test_share: float = 0.1
    benchmarks: dict[str, Benchmark] = field(default_factory=dict)
    allow_contaminated: bool = False


@dataclass(frozen=True, kw_only=True)
class Study(Spec):
    """Something to be learnt from corpora, beginning with a base.

    corpora: by name; one of them is `general`, all others are disciplines. precision: what training computes in;
    weights stay fp32. corpora_root: what relative paths of corpora are relative to. licences: what each corpus, and
    `base` if it is not of this recipe's making, may be used under, for the model card.
    """

    title: str
    corpora: dict[str, Source]
    tokenizer: TokenizerChoice
    base: Base
    batch: BatchSpec
    evaluation: Evaluation = field(default_factory=Evaluation)
    precision: Precision = "fp32"
    general: str = "general"
    licences: dict[str, str] = field(default_factory=dict)
    corpora_root: str | None = None

    def __post_init__(self) -> None:
        if self.general not in self.corpora:
            raise ValueError(
                f"corpora: there is no {self.general!r}; general names the corpus that must not be forgotten"
            )
        if taken := [name for name in self.corpora if name in ROLES or name.startswith("copy-")]:
            raise ValueError(f"corpora: {taken[0]!r} has a meaning of its own among a step's inputs; use another name")
        if unknown := [name for name in self.tokenizer_corpora if name not in self.corpora]:
            raise ValueError(f"tokenizer.corpora: there is no corpus {unknown[0]!r}")
        if unknown := [name for name in self.licences if name not in self.licensed]:
            raise ValueError(f"licences: there is no corpus {unknown[0]!r}")
        if isinstance(self.base, FreshBase) and (odd := odd_depth(self.base.decoder)):
            raise ValueError(f"base.decoder.attention.{odd}")

    @property
    def disciplines(self) -> tuple[str, ...]:
        """Every corpus but the general one, in the order they are named."""
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
        return self.corpora[name].at(self._root)

    def problems(self) -> list[str]:
        """What stands in the way of running, found without doing any work: one sentence each."""
        return list(self._problems())

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
        if not self.evaluation.allow_contaminated:
            for benchmark in self.evaluation.benchmarks:
                yield from self._unproved(benchmark)

    def _unproved(self, benchmark: str) -> Iterator[str]:
        """Each corpus that may hold items of a benchmark."""
        where = f"evaluation.benchmarks.{benchmark}"
        try:
            fingerprint = self.evaluation.benchmarks[benchmark].at(self._root).fingerprint()
            unproved = [name for name in self.corpora if fingerprint not in self._proof(name).values()]
        except ValueError as error:
            yield f"{where}: {error}"
            return
        for name in unproved:
            yield (
                f"corpora.{name}: may hold items of {where}: curate it with the same items as one of its "
                "decontaminate.benchmarks and name it as kind: curated, or set evaluation.allow_contaminated: true"
            )

    def _proof(self, name: str) -> dict[str, str]:
        """What a corpus is proved to be free of."""
        source = self.source(name)
        return source.proof() if isinstance(source, CuratedSource) else {}

    @property
    def _root(self) -> Path | None:
        return None if self.corpora_root is None else Path(self.corpora_root)


def odd_depth(decoder: DecoderConfig) -> str | None:
    """Why nobody can mean how these layers mix their values."""
    depth = decoder.attention.depth
    if depth is None or depth.stride <= decoder.n_layers:
        return None
    return f"depth: stride={depth.stride} is larger than the number of layers, {decoder.n_layers}"

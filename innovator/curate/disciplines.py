"""Which discipline a document is of: as its source says, by words that its field uses, or by a trained classifier.

A rule stamps the facts `discipline` and `discipline_score`. What is of none is of the general corpus.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from innovator.curate.examples import Examples
from innovator.curate.linear import Linear, fit_labels
from innovator.curate.rule import Facts, Kept, Outcome, count_tokens
from innovator.data.sources import Source
from innovator.files import write_json
from innovator.models.spec import Spec

STRENGTH = 30.0


@dataclass(frozen=True, kw_only=True)
class BySource(Spec):
    """A document is of its source's discipline; nothing is stamped."""

    kind: Literal["by-source"] = "by-source"

    @property
    def name(self) -> str:
        """What the account calls it."""
        return self.kind

    @property
    def disciplines(self) -> tuple[str, ...]:
        """Those that it can stamp."""
        return ()

    def at(self, root: Path | None) -> BySource:
        """The same with relative paths taken from `root`."""
        return self

    def apply(self, text: str, facts: Facts) -> Outcome:
        """Keep the document as it is."""
        return Kept(text)


@dataclass(frozen=True, kw_only=True)
class ByWords(Spec):
    """The discipline whose words and phrases are densest, if there are `least` of them or more; else general.

    words: of each discipline; a star at the end stands for any ending. The score is their number per thousand tokens.
    """

    kind: Literal["by-words"] = "by-words"
    words: dict[str, tuple[str, ...]]
    least: int = 5
    general: str = "general"

    def __post_init__(self) -> None:
        if not self.words:
            raise ValueError("words: name at least one discipline")
        if empty := [name for name, words in self.words.items() if not any(map(str.strip, words))]:
            raise ValueError(f"words.{empty[0]}: give at least one")

    @property
    def name(self) -> str:
        """What the account calls it."""
        return self.kind

    @property
    def disciplines(self) -> tuple[str, ...]:
        """Those that it can stamp."""
        return tuple(self.words)

    def at(self, root: Path | None) -> ByWords:
        """The same with relative paths taken from `root`."""
        return self

    def apply(self, text: str, facts: Facts) -> Outcome:
        """Stamp the discipline, and the first one named where two are equally dense."""
        found = {name: len(pattern.findall(text)) for name, pattern in self._patterns.items()}
        best = max(found, key=found.__getitem__)
        score = round(1000 * found[best] / max(count_tokens(text), 1), 3)
        return _stamped(text, best if found[best] >= self.least else self.general, score)

    @cached_property
    def _patterns(self) -> dict[str, re.Pattern[str]]:
        return {name: re.compile(rf"\b(?:{_either(words)})\b", re.IGNORECASE) for name, words in self.words.items()}


@dataclass(frozen=True, kw_only=True)
class ByClassifier(Spec):
    """A linear classifier of texts, trained on seed corpora; where its probability is below `least`, general.

    held_out: share of the seed documents that it is tested on. group_field: what documents of one book share, such as
    `source`: no group is on both sides of that division. Seeds without fields are divided by document.
    """

    kind: Literal["classifier"] = "classifier"
    seeds: dict[str, Source]
    held_out: float = 0.2
    least: float = 0.5
    group_field: str | None = None
    general: str = "general"
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.seeds) < 2:
            raise ValueError("seeds: a classifier needs at least two corpora to tell apart")
        if not (0 < self.held_out < 1 and 0 <= self.least < 1):
            raise ValueError(f"held_out ({self.held_out}) and least ({self.least}) are shares between 0 and 1")

    @property
    def disciplines(self) -> tuple[str, ...]:
        """Those that it can stamp."""
        return tuple(name for name in self.seeds if name != self.general)

    def at(self, root: Path | None) -> ByClassifier:
        """The same with relative paths taken from `root`."""
        return replace(self, seeds={name: source.at(root) for name, source in self.seeds.items()})

    def train(self, out: Path) -> Report:
        """Fit on a part of the seeds, test on the rest, save the model and `report.json`; give the report."""
        train, held_out = Examples.read(self.seeds, self.group_field, out).apart(self.held_out, self.seed)
        model = fit_labels(train.texts, train.labels, strength=STRENGTH, balanced=True)
        model.save(out / "model")
        report = Report.of(self.rule(out), held_out, len(train.texts))
        write_json(out / "report.json", report.plain())
        return report

    def rule(self, out: Path) -> Classified:
        """The rule that stamps what the trained model says."""
        return Classified(folder=str(out / "model"), least=self.least, general=self.general)


Labels = BySource | ByWords | ByClassifier


@dataclass(frozen=True, kw_only=True)
class Classified(Spec):
    """Stamps what a trained classifier says, and its probability."""

    folder: str
    least: float
    general: str

    @property
    def name(self) -> str:
        """What the account calls it."""
        return "classifier"

    def apply(self, text: str, facts: Facts) -> Outcome:
        """Stamp the likeliest discipline."""
        (probabilities,) = self._model.probabilities([text])
        best = int(probabilities.argmax())
        likely = probabilities[best] >= self.least
        return _stamped(text, self._model.names[best] if likely else self.general, round(float(probabilities[best]), 4))

    @cached_property
    def _model(self) -> Linear:
        return Linear.open(Path(self.folder))


@dataclass(frozen=True)
class Report:
    """How a classifier did on held-out documents. confusion: of the documents of a discipline, how many were stamped
    with each."""

    n_train: int
    n_held_out: int
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, rule: Classified, held_out: Examples, n_train: int) -> Report:
        """Stamp the held-out documents and compare."""
        names = sorted({*held_out.labels, rule.general})
        confusion = {label: dict.fromkeys(names, 0) for label in sorted(set(held_out.labels))}
        for text, label in zip(held_out.texts, held_out.labels, strict=True):
            outcome = rule.apply(text, {})
            assert isinstance(outcome, Kept)
            confusion[label][str(outcome.facts["discipline"])] += 1
        return cls(n_train, len(held_out.texts), confusion)

    @property
    def accuracy(self) -> float:
        """Share of the held-out documents that were stamped with their own discipline."""
        return sum(row[label] for label, row in self.confusion.items()) / self.n_held_out

    def recall(self, label: str) -> float:
        """Of the documents of a discipline, the share that was stamped with it."""
        return self.confusion[label][label] / sum(self.confusion[label].values())

    def precision(self, label: str) -> float:
        """Of the documents stamped with a discipline, the share that is of it; 0 where there are none."""
        return self.confusion[label][label] / max(sum(row[label] for row in self.confusion.values()), 1)

    def plain(self) -> Mapping[str, object]:
        """As JSON holds it."""
        each = {name: {"precision": self.precision(name), "recall": self.recall(name)} for name in self.confusion}
        counts = {"n_train": self.n_train, "n_held_out": self.n_held_out}
        return {**counts, "accuracy": self.accuracy, "disciplines": each, "confusion": self.confusion}


def _stamped(text: str, discipline: str, score: float) -> Kept:
    return Kept(text, facts={"discipline": discipline, "discipline_score": score})


def _either(words: Sequence[str]) -> str:
    """One pattern for all words; white space in a phrase stands for any white space."""
    return "|".join(
        r"\s+".join(re.escape(part) for part in word.removesuffix("*").split()) + r"\w*" * word.endswith("*")
        for word in sorted(words, key=len, reverse=True)
        if word.strip()
    )

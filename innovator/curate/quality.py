"""Quality at three levels, as steps: what experts think is good, a large model that agrees, a small one that is fast.

Paper: arXiv 2507.18671, figure 1 (expert cognition standardisation, large model capability alignment, lightweight model
scalable deployment).
"""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from innovator.curate.agreement import agreement
from innovator.curate.assessor import Assessor, LinearAssessor
from innovator.curate.executors import HERE, Executor
from innovator.curate.flow import Incoming, all_documents, rule_all
from innovator.curate.judgements import preferences, read_judgements
from innovator.curate.pairs import Pair, Pairs, apart
from innovator.curate.rubric import Rubric
from innovator.curate.seeds import Seeds
from innovator.curate.student import Distil, Keep, Student, draw
from innovator.curate.works import held
from innovator.data.records import Rejects
from innovator.data.sources import Document, Source
from innovator.files import fingerprint, write_json
from innovator.models.spec import Spec


@dataclass(frozen=True, kw_only=True)
class Experts(Spec):
    """What `innovator label` wrote to the folder `judgements`. held_out: share of the documents that only test."""

    kind: Literal["experts"] = "experts"
    judgements: str
    held_out: float = 0.2
    seed: int = 0

    def at(self, root: Path | None) -> Experts:
        """The same with relative paths taken from `root`."""
        return replace(self, judgements=str((root or Path()) / self.judgements))

    def fingerprint(self) -> str:
        """What was judged so far; ValueError if nothing was."""
        files = sorted(Path(self.judgements).glob("*.jsonl"))
        if not files:
            raise ValueError(f"there is no judgement in {self.judgements}: `innovator label` asks experts")
        return fingerprint(files, Path(self.judgements))

    def pairs(self, folders: list[Path], rubric: Rubric) -> Pairs:
        """The pairs that annotators prefer, with the documents' texts."""
        wanted = preferences(read_judgements(Path(self.judgements)), rubric)
        names = {name for one in wanted for name in (one.better, one.worse)}
        texts = {it.id: it.text for folder in folders for it in all_documents(folder) if it.id in names}
        pairs = [Pair(it.better, it.worse, it.weight) for it in wanted if {it.better, it.worse} <= texts.keys()]
        return apart(texts, pairs, self.held_out, self.seed)

    def found(self, rubric: Rubric) -> dict[str, object]:
        """How far annotators agree with each other."""
        return agreement(read_judgements(Path(self.judgements)), rubric).plain()


@dataclass(frozen=True, kw_only=True)
class Constructed(Spec):
    """Seed grades by constructed damage instead of experts: shows that the chain works, not what is worth reading.

    exemplars: sound texts to damage; without them, a sample of the documents that are curated.
    """

    kind: Literal["constructed"] = "constructed"
    seeds: Seeds = field(default_factory=Seeds)
    exemplars: tuple[Source, ...] = ()

    def at(self, root: Path | None) -> Constructed:
        """The same with relative paths taken from `root`."""
        return replace(self, exemplars=tuple(source.at(root) for source in self.exemplars))

    def fingerprint(self) -> str:
        """What the exemplars hold; ValueError if they are not there."""
        for source in self.exemplars:
            source.check()
        return " ".join(source.fingerprint() for source in self.exemplars)

    def pairs(self, folders: list[Path], rubric: Rubric) -> Pairs:
        """Less damage is better."""
        return self.seeds.pairs(self._texts() or sample(folders, self.seeds.n_documents, self.seeds.seed))

    def _texts(self) -> list[Document]:
        with tempfile.TemporaryDirectory() as folder:
            rejects = Rejects(Path(folder) / "rejects.jsonl")
            every = (
                Document(f"{number}/{document.id}", document.text)
                for number, source in enumerate(self.exemplars)
                for document in source.documents(rejects)
            )
            return drawn(every, self.seeds.n_documents, self.seeds.seed)

    def found(self, rubric: Rubric) -> dict[str, object]:
        """That nobody was asked."""
        return {"grades": "constructed by damage of known severity, no human opinion"}


@dataclass(frozen=True, kw_only=True)
class Quality(Spec):
    """What experts were asked, who learns to grade as they do, how a fast model learns it from that, and what is kept.

    rubric: a document of criteria; without it, the one that comes with Innovator. keep: the share of each tier.
    """

    judgements: Experts | Constructed = field(default_factory=Constructed)
    rubric: str | None = None
    assessor: Assessor = field(default_factory=LinearAssessor)
    distil: Distil = field(default_factory=Distil)
    keep: Keep = field(default_factory=Keep)

    def open_rubric(self) -> Rubric:
        """The criteria; ValueError if the document says no such thing."""
        return Rubric.open(self.rubric)


@dataclass(frozen=True, kw_only=True)
class AlignWork(Spec):
    """Levels one and two: judgements become pairs, and the assessor learns from them until it agrees.

    fingerprint, model: what the judgements, and what the assessor begins with, hold.
    """

    judgements: Experts | Constructed
    fingerprint: str
    rubric: Rubric
    assessor: Assessor
    model: str

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        """Write the assessor and `found.json`; ValueError if it agrees too little with what was held out."""
        pairs = self.judgements.pairs(list(inputs.values()), self.rubric)
        self.assessor.align(pairs, self.rubric.as_prompt(), out)
        alignment = json.loads((out / "alignment.json").read_text(encoding="utf-8"))
        counts = {"pairs to learn from": len(pairs.train), "pairs held out": len(pairs.held_out)}
        write_json(out / "found.json", {**self.judgements.found(self.rubric), **counts, "agreement": alignment})


@dataclass(frozen=True, kw_only=True)
class DistilWork(Spec):
    """Level three: the assessor grades a sample, and a fast model learns its tiers."""

    rubric: Rubric
    assessor: Assessor
    distil: Distil

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        """Write the student and `found.json`."""
        folders = [folder for role, folder in inputs.items() if role != "assessor"]
        documents = sample(folders, self.distil.n_documents, self.distil.seed)
        texts = [document.text for document in documents]
        grader = self.assessor.grader(self.rubric.as_prompt(), inputs["assessor"])
        self.distil.train(texts, grader.grade(texts), out)
        (out / "report.json").rename(out / "found.json")


@dataclass(frozen=True, kw_only=True)
class GradeWork(Spec):
    """Every document gets its tier, and the share of each tier that the recipe says is kept."""

    keep: Keep
    n_tasks: int

    def run(self, out: Path, inputs: Mapping[str, Path], executor: Executor = HERE) -> None:
        """Write documents, rejects and the account."""
        folders = [folder for role, folder in inputs.items() if role != "student"]
        rules = (Student(folder=str(inputs["student"] / "model")), self.keep)
        rule_all(Incoming(folders), rules, self.n_tasks, out, executor, held(folders))


def sample(folders: Iterable[Path], n: int, seed: int) -> list[Document]:
    """The n documents with the lowest draws, whatever order they stand in; no more than n are held in memory."""
    return drawn((Document(it.id, it.text) for folder in folders for it in all_documents(folder)), n, seed)


def drawn(every: Iterable[Document], n: int, seed: int) -> list[Document]:
    """The n documents with the lowest draws."""
    return heapq.nsmallest(n, every, key=lambda document: draw(f"{seed} {document.id}"))

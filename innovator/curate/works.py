"""What the steps of a curation do: read, apply rules, and publish corpora with what they were checked against."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from innovator.curate.account import Account, Flow
from innovator.curate.clean.spec import Clean
from innovator.curate.disciplines import ByClassifier, Labels
from innovator.curate.executors import HERE, Executor
from innovator.curate.flow import Apply, Incoming, carry_out, close, rule_all, writer
from innovator.curate.language import IdentifyLanguage
from innovator.curate.raw import RawFiles
from innovator.curate.reading import Read
from innovator.curate.rule import Facts, Kept, Outcome, Rule
from innovator.curate.screen import Screen
from innovator.curate.unicode import RepairUnicode
from innovator.data.sources import Source
from innovator.files import write_json
from innovator.models.spec import Spec

PUBLISHED = "published"


@dataclass(frozen=True, kw_only=True)
class ReadWork(Spec):
    """Reads one source, repairs its characters and tells its languages. facts: what is known of all its documents."""

    name: str
    documents: RawFiles | Source
    fingerprint: str
    facts: dict[str, str]
    repair: RepairUnicode
    languages: IdentifyLanguage
    n_tasks: int

    def run(self, out: Path, inputs: Mapping[str, Path], executor: Executor = HERE) -> None:
        """Write documents, rejects, what was malformed, and the account."""
        reader = Read(self.documents, self.name, self.facts, out)
        rule_all(reader, (self.repair, self.languages), self.n_tasks, out, executor, 0)


@dataclass(frozen=True, kw_only=True)
class CleanWork(Spec):
    """Mends one source's documents."""

    clean: Clean
    n_tasks: int

    def run(self, out: Path, inputs: Mapping[str, Path], executor: Executor = HERE) -> None:
        """Write documents, rejects and the account."""
        apply_all(self.clean.build(), list(inputs.values()), self.n_tasks, out, executor)


@dataclass(frozen=True, kw_only=True)
class ScreenWork(Spec):
    """Drops what heuristic filters drop."""

    screens: tuple[Screen, ...]
    n_tasks: int

    def run(self, out: Path, inputs: Mapping[str, Path], executor: Executor = HERE) -> None:
        """Write documents, rejects and the account."""
        apply_all(self.screens, list(inputs.values()), self.n_tasks, out, executor)


@dataclass(frozen=True, kw_only=True)
class ClassifierWork(Spec):
    """Trains the classifier of disciplines on seed corpora. fingerprints: what these hold."""

    labels: ByClassifier
    fingerprints: dict[str, str]

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        """Write the model, and how it did on held-out documents."""
        self.labels.train(out)
        (out / "report.json").rename(out / "found.json")


@dataclass(frozen=True, kw_only=True)
class LabelWork(Spec):
    """Says of which discipline each document is."""

    labels: Labels
    n_tasks: int

    def run(self, out: Path, inputs: Mapping[str, Path], executor: Executor = HERE) -> None:
        """Write documents and the account."""
        folders = [folder for role, folder in inputs.items() if role != "classifier"]
        labels = self.labels
        rule = labels.rule(inputs["classifier"]) if isinstance(labels, ByClassifier) else labels
        apply_all((WhereUnknown(rule),), folders, self.n_tasks, out, executor)


@dataclass(frozen=True)
class WhereUnknown:
    """A rule that labels, for the documents whose source does not state a discipline."""

    rule: Rule

    @property
    def name(self) -> str:
        """What the account calls it."""
        return self.rule.name

    def apply(self, text: str, facts: Facts) -> Outcome:
        """Keep a document that has a discipline as it is."""
        return Kept(text) if "discipline" in facts else self.rule.apply(text, facts)


@dataclass(frozen=True, kw_only=True)
class Publish(Spec):
    """Gives every document to the corpus of its discipline; those of none are general."""

    general: str

    @property
    def name(self) -> str:
        """What the account calls it."""
        return PUBLISHED

    def apply(self, text: str, facts: Facts) -> Outcome:
        """Keep the document as it is."""
        return Kept(text, facts={"discipline": facts.get("discipline", self.general)})


@dataclass(frozen=True, kw_only=True)
class PublishWork(Spec):
    """Writes a folder of JSON Lines for each corpus, and `curation.json`, which training recipes read.

    licences: of each source. disciplines: every corpus that there may be, beside the general one.
    """

    title: str
    general: str
    disciplines: tuple[str, ...]
    licences: dict[str, str]
    n_tasks: int

    def run(self, out: Path, inputs: Mapping[str, Path], executor: Executor = HERE) -> None:
        """Write the corpora; ValueError if one of them would be empty."""
        folders = [inputs["documents"]]
        files = writer(out, "${discipline}/${rank}.jsonl.zst")
        blocks = [Incoming(folders), Apply((Publish(general=self.general),), out), files]
        carry_out(blocks, self.n_tasks, out, executor, held(folders))
        close(out)
        account = Account.open(out / "account.json")
        corpora = {name: self._corpus(account, name) for name in (self.general, *self.disciplines)}
        if empty := [name for name, corpus in corpora.items() if not corpus["documents"]]:
            raise ValueError(
                f"no document is left for {', '.join(empty)}: the account of each step says what went where"
            )
        write_json(out / "curation.json", {"title": self.title, "corpora": corpora, **self._checked(inputs)})

    def _corpus(self, account: Account, name: str) -> dict[str, object]:
        """What a corpus holds, from which sources, under which licences."""
        rule = account.rules.get(PUBLISHED)
        flows = {source: by[name] for source, by in (rule.flows if rule else {}).items() if name in by}
        whole = Flow.sum(flows.values())
        return {
            "documents": whole.documents_out,
            "bytes": whole.bytes_out,
            "tokens": whole.tokens_out,
            "sources": {source: flow.documents_out for source, flow in sorted(flows.items())},
            "licences": sorted({self.licences[source] for source in flows}),
        }

    def _checked(self, inputs: Mapping[str, Path]) -> dict[str, object]:
        """What the corpora were checked against."""
        if "decontaminate" not in inputs:
            return {"benchmarks": {}}
        checked: dict[str, object] = json.loads((inputs["decontaminate"] / "checked.json").read_text(encoding="utf-8"))
        return checked


def apply_all(rules: Sequence[Rule], folders: list[Path], n_tasks: int, out: Path, executor: Executor) -> None:
    """Rules over the documents of finished steps."""
    rule_all(Incoming(folders), rules, n_tasks, out, executor, held(folders))


def held(folders: list[Path]) -> int:
    """How many documents finished steps hold together."""
    return sum(Account.open(folder / "account.json").documents for folder in folders)

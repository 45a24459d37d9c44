"""The model card of an export: what it was made from, what it kept and learnt, and how to load it.

Whatever a card says of the past stands in the folders of the steps that led to the model, beside the model's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from innovator.data.tokens import TokensSpec
from innovator.export.verdict import Exported
from innovator.models.cost import cost
from innovator.models.moe import MoEConfig
from innovator.report import BASE, ProofSummary, Report, read_figures
from innovator.stages import FreshSpec, ImportSpec, SplitSpec
from innovator.train.spec import TrainSpec
from innovator.weights.folder import Folder

HUB_CACHE = re.compile(r".*/models--(?P<name>[^/]+)/snapshots/(?P<revision>[^/]+)")
MARKS = re.compile(r"([\\`*<>\[\]|&])")


@dataclass(frozen=True)
class Made:
    """A finished step in the words of its `spec.json`; inputs are the names of the folders it read, by role."""

    work: str
    spec: dict[str, object]
    inputs: dict[str, str]


@dataclass(frozen=True)
class Machine:
    """When and with what a step was made."""

    started: str
    commit: str | None
    innovator: str
    torch: str


@dataclass(frozen=True)
class Corpus:
    """Documents, tokens and bytes of each split of a corpus; account: the versions of what the text comes from."""

    account: dict[str, str]
    splits: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Origin:
    """Where the base came from: its name at the Hub or that of its folder, none if the recipe made it itself."""

    name: str | None
    revision: str | None = None

    @classmethod
    def at(cls, path: str) -> Origin:
        """The base in a folder, which may be one of the Hub's cache."""
        cached = HUB_CACHE.fullmatch(path)
        return cls(cached["name"].replace("--", "/"), cached["revision"]) if cached else cls(Path(path).name)


@dataclass(frozen=True)
class Findings:
    """The report of a run that made a model; model: its name there, none if it was not scored itself."""

    report: Report
    model: str | None

    @property
    def rows(self) -> list[str]:
        """The base, the model, and what it is compared with; a run's other stages are left out."""
        others = [name for name in self.report.bits_per_byte if not name.startswith("stage-")]
        return list(dict.fromkeys(name for name in (BASE, self.model, *others) if name is not None))


@dataclass(frozen=True)
class Provenance:
    """A finished step and, by folder name, all steps that led to it; `absent` are those that are not beside it."""

    step: Path
    steps: Mapping[str, Made]
    absent: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> Provenance | None:
        """The past of a model folder; None if it is not the weights of a finished step."""
        step = path.absolute().parent
        ours = path.absolute().name == "weights" and (step / "spec.json").is_file() and (step / "DONE").is_file()
        return cls.of_step(step) if ours else None

    @classmethod
    def of_step(cls, step: Path) -> Provenance:
        """The past of a finished step."""
        steps: dict[str, Made] = {}
        absent: list[str] = []
        ahead = [step.name]
        while ahead:
            name = ahead.pop()
            if not (step.parent / name / "DONE").is_file():
                absent.append(name)
            elif name not in steps:
                steps[name] = read_figures(Made, step.parent / name / "spec.json")
                ahead += reversed(steps[name].inputs.values())
        return cls(step, steps, tuple(dict.fromkeys(absent)))

    @property
    def machine(self) -> Machine:
        """What the step itself was made with."""
        return read_figures(Machine, self.step / "machine.json")

    @property
    def origin(self) -> Origin | None:
        """Where the base came from; None if its step is absent."""
        for name in self._of_work(ImportSpec):
            return Origin.at(str(self.steps[name].spec["path"]))
        return Origin(None) if self._of_work(FreshSpec) else None

    @cached_property
    def corpora(self) -> Mapping[str, Corpus]:
        """What the model and its base learnt from, by the role in which trainings read it."""
        made = self._of_work(TokensSpec)
        read = {role: name for step in self.steps.values() for role, name in step.inputs.items() if name in made}
        general_first = sorted(read, key=lambda role: role in self.disciplines)
        return {role: read_figures(Corpus, self.step.parent / read[role] / "manifest.json") for role in general_first}

    @property
    def disciplines(self) -> Sequence[object]:
        """Who taught the experts, in their order; empty if that is not known."""
        sources = (self.steps[name].spec["sources"] for name in self._of_work(SplitSpec))
        return next((each for each in sources if isinstance(each, list)), [])

    @property
    def trainings(self) -> Mapping[str, Made]:
        """The trainings that led to the model, by the step's name, from the first to the last."""
        names = sorted(self._of_work(TrainSpec), key=self._n_behind)
        return {name: self.steps[name] for name in names}

    @property
    def proof(self) -> ProofSummary | None:
        """What was measured when the base was split into experts."""
        proofs = (self.step.parent / name / "proof.json" for name in self._of_work(SplitSpec))
        return next((read_figures(ProofSummary, proof) for proof in proofs), None)

    @cached_property
    def findings(self) -> Findings | None:
        """The newest finished report of a run that made this step."""
        done = sorted(self.step.parent.glob("report-*/DONE"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
        for report in (Provenance.of_step(file.parent) for file in done):
            if self.step.name in report.steps:
                return Findings(Report.open(report.step), report.scored().get(self.step.name))
        return None

    def scored(self) -> Mapping[str, str]:
        """What this step, a report, calls the models that it has scored, by the names of their folders."""
        scores = [(role, it) for role, it in self.steps[self.step.name].inputs.items() if role.startswith("score/")]
        return {self.steps[it].inputs["model"]: role.removeprefix("score/") for role, it in scores if it in self.steps}

    @property
    def licences(self) -> Mapping[str, str | None]:
        """Under which licence each corpus stands, and a base that others made; None where nobody has said."""
        stated = {} if self.findings is None else self.findings.report.licences
        imported = [BASE] if self._of_work(ImportSpec) else []
        return {name: stated.get(name) for name in (*imported, *self.corpora)}

    @property
    def licence(self) -> str:
        """The one licence of all that the model was made from, as the Hub writes it; `other` if there is none such."""
        stated = set(self.licences.values())
        one = stated.pop() if len(stated) == 1 and not self.absent else None
        return "other" if one is None else one.lower()

    def _n_behind(self, name: str) -> int:
        """How long the longest chain of steps is that led to a step."""
        return max((1 + self._n_behind(it) for it in self.steps[name].inputs.values() if it in self.steps), default=0)

    def _of_work(self, work: type) -> list[str]:
        return [name for name, step in self.steps.items() if step.work == work.__name__]


def card(folder: Folder, exported: Exported) -> str:
    """The README of what was made of a model folder: front matter for the Hub, then Markdown."""
    config = folder.config
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)
    pages.filters["plain"] = _plain
    return pages.get_template("card.md.jinja").render(
        name=Origin.at(str(folder.path.absolute())).name,
        config=config,
        dense=config.ffn.dense if isinstance(config.ffn, MoEConfig) else config.ffn,
        cost=cost(config, seq_len=1),
        past=Provenance.of(folder.path),
        exported=exported,
    )


def _plain(text: object) -> str:
    """A text on one line in which nothing means anything to Markdown."""
    return MARKS.sub(r"\\\1", " ".join(str(text).split()))

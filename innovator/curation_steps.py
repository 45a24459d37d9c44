"""The steps that a curation stands for, from the sources to the corpora and the page about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.table import Table

from innovator.curate.contamination import Decontaminate, DecontaminateWork
from innovator.curate.disciplines import ByClassifier
from innovator.curate.duplicates import Deduplicate, DeduplicateWork
from innovator.curate.executors import Executor
from innovator.curate.quality import AlignWork, DistilWork, GradeWork, Quality
from innovator.curate.works import ClassifierWork, CleanWork, LabelWork, PublishWork, ReadWork, ScreenWork
from innovator.curation import Curation
from innovator.curation_report import CurationReportSpec
from innovator.data.sources import Source
from innovator.document import read
from innovator.pipeline import Step, Work, run

Inputs = tuple[tuple[str, Step], ...]
TASKED = (ReadWork, CleanWork, ScreenWork, DeduplicateWork, LabelWork, GradeWork, DecontaminateWork, PublishWork)


def goal_of(path: Path, overrides: Sequence[str]) -> tuple[Curation, Step]:
    """The recipe, and what everything leads to; ValueError for all that stands in the way of it."""
    curation = read(path, overrides, Curation)
    if problems := curation.problems():
        raise ValueError("\n".join(f"{path}: {problem}" for problem in problems))
    return curation, _Builder(curation).goal()


def curated(path: Path, overrides: Sequence[str], root: Path) -> dict[str, Source]:
    """Make a curation, and give its corpora as the sources of a training recipe."""
    from innovator.data.curated import CuratedSource

    curation, goal = goal_of(path, overrides)
    run(goal, root, None, partial(do, curation.executor))
    folder = dict(goal.inputs)["corpora"].folder(root)
    return {name: CuratedSource(path=str(folder), corpus=name) for name in (curation.general, *curation.disciplines)}


def do(executor: Executor, work: Work, out: Path, inputs: Mapping[str, Path]) -> None:
    """A step's work, with whoever carries out its tasks if it has any."""
    if isinstance(work, TASKED):
        work.run(out, inputs, executor)
    else:
        work.run(out, inputs)


def report_inputs(goal: Step, root: Path) -> dict[str, Path]:
    """The folders that a report is made of, by the part that each plays in it."""
    return {role: step.folder(root) for role, step in goal.inputs}


def plan_table(curation: Curation, goal: Step, root: Path) -> Table:
    """One row for each step: whether it is made, and what it reads."""
    table = Table(title=f"{curation.title}: steps in {root}", title_justify="left")
    for column in ("step", "state", "reads"):
        table.add_column(column)
    for step in goal.upstream():
        reads = ", ".join(parent.name for _, parent in step.inputs)
        table.add_row(step.folder(root).name, "found" if step.found(root) else "to make", reads)
    return table


@dataclass(frozen=True)
class _Builder:
    curation: Curation

    def goal(self) -> Step:
        """The page, which reads every step that has something to account for."""
        inputs: dict[str, Step] = {}
        for role, step in self._steps():
            inputs[role] = step
        return Step("account", CurationReportSpec(title=self.curation.title), tuple(inputs.items()))

    def _steps(self) -> Iterator[tuple[str, Step]]:
        """Every step, by its part in the account; each reads what the one before left of every source."""
        curation = self.curation
        sources = {name: self._read(name) for name in curation.sources}
        yield from ((f"read/{name}", step) for name, step in sources.items())
        if curation.clean is not None:
            work = CleanWork(clean=curation.clean, n_tasks=curation.n_tasks)
            for name in [name for name, origin in curation.sources.items() if origin.clean]:
                sources[name] = Step(f"clean-{name}", work, (("documents", sources[name]),))
                yield f"clean/{name}", sources[name]
        documents: Inputs = tuple((f"documents/{name}", step) for name, step in sources.items())
        for name, step in self._joint(documents):
            yield name, step

    def _joint(self, documents: Inputs) -> Iterator[tuple[str, Step]]:
        """The steps that read all sources together."""
        curation = self.curation
        for name, work, more in self._works():
            step = Step(name, work, (*documents, *more))
            yield from (*more, (name, step))
            documents = (("documents", step),)
        if curation.quality is not None:
            *graded, (_, last) = self._graded(curation.quality, documents)
            yield from (*graded, ("grade", last))
            documents = (("documents", last),)
        checked: Inputs = ()
        if curation.decontaminate is not None:
            clean = Step("decontaminate", self._decontaminate(curation.decontaminate), documents)
            yield "decontaminate", clean
            documents, checked = (("documents", clean),), (("decontaminate", clean),)
        yield "corpora", Step("corpora", self._publish(), (*documents, *checked))

    def _works(self) -> Iterator[tuple[str, Work, Inputs]]:
        curation = self.curation
        if curation.deduplicate is not None:
            yield "deduplicate", self._deduplicate(curation.deduplicate), ()
        if curation.screens:
            yield "screen", ScreenWork(screens=curation.screens, n_tasks=curation.n_tasks), ()
        classifier: Inputs = ()
        labels = curation.labels.at(curation.root)
        if isinstance(labels, ByClassifier):
            classifier = (("classifier", Step("classifier", self._classifier(labels))),)
        yield "label", LabelWork(labels=labels, n_tasks=curation.n_tasks), classifier

    def _graded(self, quality: Quality, documents: Inputs) -> Iterator[tuple[str, Step]]:
        rubric = quality.open_rubric()
        judgements, asked = quality.judgements.at(self.curation.root), quality.assessor.at(self.curation.root)
        align = AlignWork(
            judgements=judgements,
            fingerprint=judgements.fingerprint(),
            rubric=rubric,
            assessor=asked,
            model=asked.fingerprint(),
        )
        assessor = Step("assessor", align, documents)
        work = DistilWork(rubric=rubric, assessor=asked, distil=quality.distil)
        student = Step("student", work, (*documents, ("assessor", assessor)))
        yield "assessor", assessor
        yield "student", student
        grade = GradeWork(keep=quality.keep, n_tasks=self.curation.n_tasks)
        yield "grade", Step("grade", grade, (*documents, ("student", student)))

    def _read(self, name: str) -> Step:
        origin = self.curation.origin(name)
        work = ReadWork(
            name=name,
            documents=origin.documents,
            fingerprint=origin.documents.fingerprint(),
            facts=origin.facts(),
            repair=self.curation.repair,
            languages=self.curation.languages,
            n_tasks=self.curation.n_tasks,
        )
        return Step(f"read-{name}", work)

    def _classifier(self, labels: ByClassifier) -> ClassifierWork:
        prints = {name: source.fingerprint() for name, source in labels.seeds.items()}
        return ClassifierWork(labels=labels, fingerprints=prints)

    def _deduplicate(self, asked: Deduplicate) -> DeduplicateWork:
        found = asked.at(self.curation.root)
        fingerprints = tuple(source.fingerprint() for source in found.held_out)
        return DeduplicateWork(deduplicate=found, fingerprints=fingerprints, n_tasks=self.curation.n_tasks)

    def _decontaminate(self, asked: Decontaminate) -> DecontaminateWork:
        found = asked.at(self.curation.root)
        fingerprints = {name: benchmark.fingerprint() for name, benchmark in found.benchmarks.items()}
        return DecontaminateWork(decontaminate=found, fingerprints=fingerprints, n_tasks=self.curation.n_tasks)

    def _publish(self) -> PublishWork:
        curation = self.curation
        return PublishWork(
            title=curation.title,
            general=curation.general,
            disciplines=curation.disciplines,
            licences={name: origin.licence for name, origin in curation.sources.items()},
            n_tasks=curation.n_tasks,
        )

"""What annotators said, in append-only JSON Lines that survive a kill, and the preferences that follow from it.

A later judgement of the same thing by the same annotator replaces the earlier one; the file keeps the history.
"""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from innovator.curate.rubric import Rubric
from innovator.models.spec import Spec
from innovator.say import say

Thing = tuple[str, tuple[str, ...]]  # a criterion, and the documents in the order of their names
Answer = Literal["a", "b", "tie"]
NAME = re.compile(r"[\w][\w.@-]*")


@dataclass(frozen=True, kw_only=True)
class PairJudgement(Spec):
    """Which of two documents is better by a criterion."""

    kind: Literal["pair"] = "pair"
    criterion: str
    a: str
    b: str
    prefers: Answer
    annotator: str
    seconds: float

    @property
    def documents(self) -> tuple[str, ...]:
        """Both, in the order they were shown."""
        return self.a, self.b


@dataclass(frozen=True, kw_only=True)
class GradeJudgement(Spec):
    """How good a document is by a criterion, from 1 up."""

    kind: Literal["grade"] = "grade"
    criterion: str
    document: str
    grade: int
    annotator: str
    seconds: float

    @property
    def documents(self) -> tuple[str, ...]:
        """The one."""
        return (self.document,)


@dataclass(frozen=True, kw_only=True)
class Skipped(Spec):
    """The annotator would not judge this."""

    kind: Literal["skipped"] = "skipped"
    criterion: str
    documents: tuple[str, ...]
    annotator: str


@dataclass(frozen=True, kw_only=True)
class Withdrawn(Spec):
    """The annotator took back what was said of this; it is open again."""

    kind: Literal["withdrawn"] = "withdrawn"
    criterion: str
    documents: tuple[str, ...]
    annotator: str


Judgement = PairJudgement | GradeJudgement
Entry = Judgement | Skipped | Withdrawn
ENTRY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


@dataclass(frozen=True)
class Preference:
    """One document is better than another. weight: the share of annotators who say so, in (0, 1], averaged over the
    criteria by which the two were compared, with the rubric's weights.
    """

    better: str
    worse: str
    weight: float


class Journal:
    """One annotator's file; entries are on the disk when `append` returns."""

    def __init__(self, folder: Path, annotator: str) -> None:
        if not NAME.fullmatch(annotator):
            raise ValueError(f"annotator {annotator!r} names a file: use letters, digits, and . _ @ - after the first")
        folder.mkdir(parents=True, exist_ok=True)
        self.annotator, self.path = annotator, folder / f"{annotator}.jsonl"

    def append(self, entry: Entry) -> None:
        """Add a line in one write, so that several writers do not mix; a torn line before it is closed first."""
        line = json.dumps(asdict(entry), ensure_ascii=False) + "\n"
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            os.write(descriptor, b"\n" * torn + line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def entries(self) -> list[Entry]:
        """What stands, oldest first; nothing that was withdrawn or replaced."""
        return standing(read_entries(self.path)) if self.path.exists() else []


def read_entries(path: Path) -> Iterator[Entry]:
    """Every entry of a file in order. A torn line is said and ignored; ValueError for JSON that is no entry."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            json.loads(line)
        except ValueError:
            say(f"{path}, line {number}: torn when the program was stopped; ignored")
            continue
        try:
            yield ENTRY.validate_json(line)
        except ValidationError as error:
            raise ValueError(
                f"{path}, line {number}: no judgement ({error.errors()[0]['msg']}); mend or delete it"
            ) from error


def standing(entries: Iterable[Entry]) -> list[Entry]:
    """The last entry of each annotator for each thing, in the order they were made, without those withdrawn."""
    last: dict[tuple[str, Thing], Entry] = {}
    for entry in entries:
        last.pop((entry.annotator, thing(entry)), None)
        last[entry.annotator, thing(entry)] = entry
    return [entry for entry in last.values() if not isinstance(entry, Withdrawn)]


def thing(entry: Entry) -> Thing:
    """What an entry is about, however its documents were ordered."""
    return entry.criterion, tuple(sorted(entry.documents))


def read_judgements(folder: Path) -> list[Judgement]:
    """What stands of all annotators in a folder."""
    entries = [entry for file in sorted(folder.glob("*.jsonl")) for entry in read_entries(file)]
    return [entry for entry in standing(entries) if isinstance(entry, Judgement)]


def opinion(judgement: PairJudgement) -> int:
    """-1 if the document that comes first by name is better, 1 if the other is, 0 for a tie."""
    if judgement.prefers == "tie":
        return 0
    best = judgement.a if judgement.prefers == "a" else judgement.b
    return -1 if best == min(judgement.a, judgement.b) else 1


def check(judgements: Iterable[Judgement], rubric: Rubric) -> None:
    """ValueError if a judgement was made by another rubric."""
    for it in judgements:
        if it.criterion not in rubric.criteria:
            raise ValueError(f"{it.annotator} judged {it.criterion!r}, which the rubric {rubric.title!r} does not have")
        if isinstance(it, GradeJudgement) and not 1 <= it.grade <= len(rubric.grades):
            raise ValueError(
                f"{it.annotator} gave {it.document} grade {it.grade}; the scale is 1 to {len(rubric.grades)}"
            )


def preferences(judgements: Sequence[Judgement], rubric: Rubric) -> list[Preference]:
    """Who is better than whom. Where annotators disagree both directions are kept, each with its share of them.

    An annotator's grades compare the documents that this annotator graded; what was compared as a pair counts as it was
    said there. Ties and equal grades prefer none, but lower the share of those who do.
    """
    check(judgements, rubric)
    weights: dict[tuple[str, str], float] = defaultdict(float)
    judged: dict[tuple[str, str], float] = defaultdict(float)
    for (criterion, first, second), said in _opinions(judgements).items():
        weight = rubric.criteria[criterion].weight
        judged[first, second] += weight
        weights[first, second] += weight * said.count(-1) / len(said)
        weights[second, first] += weight * said.count(1) / len(said)
    return [
        Preference(better, worse, weight / judged[min(better, worse), max(better, worse)])
        for (better, worse), weight in weights.items()
        if weight > 0
    ]


def _opinions(judgements: Iterable[Judgement]) -> Mapping[tuple[str, str, str], list[int]]:
    """Criterion and two documents in the order of their names, to what each annotator says of them."""
    by_annotator: dict[tuple[str, str, str, str], int] = {}
    grades: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    pairs: list[PairJudgement] = []
    for it in judgements:
        if isinstance(it, PairJudgement):
            pairs.append(it)
        else:
            grades[it.criterion, it.annotator].append((it.document, it.grade))
    for (criterion, annotator), given in grades.items():
        for (first, low), (second, high) in combinations(sorted(given), 2):
            by_annotator[criterion, first, second, annotator] = (high > low) - (high < low)
    for it in pairs:
        first, second = sorted(it.documents)
        by_annotator[it.criterion, first, second, it.annotator] = opinion(it)
    said: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for (criterion, first, second, _), value in by_annotator.items():
        said[criterion, first, second].append(value)
    return said

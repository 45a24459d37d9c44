"""How far annotators agree: Cohen's kappa and Krippendorff's alpha by criterion, and where they do not.

Preferences are nominal. Grades are ordinal: their kappa is weighted by the squared difference (Cohen, 1968).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from innovator.curate.judgements import Judgement, PairJudgement, Thing, check, opinion, thing
from innovator.curate.rubric import Rubric

Answers = Mapping[str, int]  # by annotator: a grade, or -1, 0, 1 as `opinion` says
TIE = 0


@dataclass(frozen=True)
class Disagreement:
    """One thing of which annotators do not say the same; what each says: a document, `tie`, or a grade."""

    documents: tuple[str, ...]
    answers: Mapping[str, str]


@dataclass(frozen=True)
class Measured:
    """Agreement by one criterion, for pairs or for grades.

    n_things: what was judged at all. n_shared: by two annotators or more. n_ties: judgements that prefer none. equal:
    the share of shared things of which all say the same. kappa: Cohen's, averaged over the pairs of annotators with the
    number of things they share. alpha: Krippendorff's. None where too little varies or is shared to define it.
    """

    criterion: str
    mode: str
    n_annotators: int
    n_things: int
    n_shared: int
    n_ties: int
    equal: float | None
    kappa: float | None
    alpha: float | None
    disagreements: Sequence[Disagreement]


@dataclass(frozen=True)
class Agreement:
    """Agreement by every criterion of a rubric that was judged."""

    measured: Sequence[Measured]

    def plain(self) -> dict[str, object]:
        """One line of figures for each criterion, for an account."""
        return {f"{it.criterion}, {it.mode}": _figures(it) for it in self.measured}


def agreement(judgements: Sequence[Judgement], rubric: Rubric) -> Agreement:
    """Measure how far annotators agree; ValueError if they judged by another rubric."""
    check(judgements, rubric)
    return Agreement(
        [
            _measure(criterion, mode, things)
            for criterion in rubric.criteria
            for mode, things in _by_mode(it for it in judgements if it.criterion == criterion)
        ]
    )


def cohen_kappa(rows: Sequence[Answers], ordinal: bool) -> float | None:
    """Cohen's kappa of every two annotators, averaged with the number of things they share."""
    from sklearn.metrics import cohen_kappa_score  # here because it is slow to load

    total = shared = 0.0
    for one, other in combinations(_annotators(rows), 2):
        both = [(row[one], row[other]) for row in rows if one in row and other in row]
        if len({value for pair in both for value in pair}) > 1:
            first, second = zip(*both, strict=True)
            total += len(both) * float(cohen_kappa_score(first, second, weights="quadratic" if ordinal else None))
            shared += len(both)
    return total / shared if shared else None


def krippendorff_alpha(rows: Sequence[Answers], ordinal: bool) -> float | None:
    """Krippendorff's alpha over any number of annotators, each of whom may have left out things."""
    import krippendorff  # here because only this needs it

    shared = [row for row in rows if len(row) > 1]
    if len({value for row in shared for value in row.values()}) < 2:
        return None
    data = np.array([[row.get(name, np.nan) for row in shared] for name in _annotators(shared)], dtype=float)
    return float(krippendorff.alpha(data, level_of_measurement="ordinal" if ordinal else "nominal"))


def _by_mode(judgements: Iterable[Judgement]) -> Iterator[tuple[str, Mapping[Thing, Answers]]]:
    tables: dict[str, dict[Thing, dict[str, int]]] = {"pairs": defaultdict(dict), "grades": defaultdict(dict)}
    for it in judgements:
        if isinstance(it, PairJudgement):
            tables["pairs"][thing(it)][it.annotator] = opinion(it)
        else:
            tables["grades"][thing(it)][it.annotator] = it.grade
    return ((mode, table) for mode, table in tables.items() if table)


def _measure(criterion: str, mode: str, things: Mapping[Thing, Answers]) -> Measured:
    rows = list(things.values())
    shared = {about: row for about, row in things.items() if len(row) > 1}
    apart = [_disagreement(about[1], row) for about, row in shared.items() if len(set(row.values())) > 1]
    return Measured(
        criterion=criterion,
        mode=mode,
        n_annotators=len(_annotators(rows)),
        n_things=len(rows),
        n_shared=len(shared),
        n_ties=sum(value == TIE for row in rows for value in row.values()),
        equal=1 - len(apart) / len(shared) if shared else None,
        kappa=cohen_kappa(rows, mode == "grades"),
        alpha=krippendorff_alpha(rows, mode == "grades"),
        disagreements=apart,
    )


def _disagreement(documents: tuple[str, ...], row: Answers) -> Disagreement:
    if len(documents) == 1:
        return Disagreement(documents, {name: str(grade) for name, grade in row.items()})
    words = {-1: documents[0], TIE: "tie", 1: documents[1]}
    return Disagreement(documents, {name: words[value] for name, value in row.items()})


def _annotators(rows: Iterable[Answers]) -> list[str]:
    return sorted({name for row in rows for name in row})


def _figures(it: Measured) -> str:
    shares = {"equal": it.equal, "kappa": it.kappa, "alpha": it.alpha}
    said = ", ".join(f"{name} {'undefined' if value is None else f'{value:.2f}'}" for name, value in shares.items())
    return f"{it.n_annotators} annotators, {it.n_shared} of {it.n_things} shared, {it.n_ties} ties, {said}"

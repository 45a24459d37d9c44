"""What a contest found: bits per byte against what training and speaking cost; json, a page, and a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Literal

from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from rich.text import Text

from innovator import plots
from innovator.models.spec import Spec
from innovator.report import page, read_figures


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Held-out text token by token, and how many passes each took before the next was predicted."""

    pieces: list[str]
    passes: list[int]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What speaking took for each token on average; passages where some took longer than others."""

    passes: float
    flops_per_token: float
    bytes_per_token: float
    passages: dict[str, Passage]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What an evaluation step found out about one run of a contestant."""

    bits_per_byte: dict[str, float]
    parameters: dict[Literal["total", "active"], int]
    train_tokens: int
    train_flops: float
    effort: Effort


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One contestant over all its seeds; bits: the mean over corpora, seed by seed; all else is the mean over seeds.

    passages: those of the first seed.
    """

    bits: list[float]
    bits_by_corpus: dict[str, float]
    parameters: dict[Literal["total", "active"], int]
    tokens: int
    train_flops: float
    passes: float
    flops_per_token: float
    bytes_per_token: float
    passages: dict[str, Passage]

    @classmethod
    def of(cls, scores: Sequence[Score], corpora: Sequence[str]) -> Standing:
        """What the runs of one contestant come to."""
        first, efforts = scores[0], [score.effort for score in scores]
        return cls(
            bits=[fmean(score.bits_per_byte[name] for name in corpora) for score in scores],
            bits_by_corpus={name: fmean(score.bits_per_byte[name] for score in scores) for name in corpora},
            parameters=first.parameters,
            tokens=first.train_tokens,
            train_flops=first.train_flops,
            passes=fmean(effort.passes for effort in efforts),
            flops_per_token=fmean(effort.flops_per_token for effort in efforts),
            bytes_per_token=fmean(effort.bytes_per_token for effort in efforts),
            passages=first.effort.passages,
        )

    @property
    def mean(self) -> float:
        """Bits per byte over corpora and seeds."""
        return fmean(self.bits)

    @property
    def spread(self) -> float | None:
        """The standard deviation between seeds; None of one seed."""
        return stdev(self.bits) if len(self.bits) > 1 else None

    @property
    def most_passes(self) -> int:
        """The longest that a token of its passages was thought about."""
        return max(max(passage.passes) for passage in self.passages.values())


@dataclass(frozen=True, kw_only=True)
class ContestReport:
    """Every contestant by name, in the order of the recipe; the first is what the others are compared with."""

    title: str
    corpora: list[str]
    standings: dict[str, Standing]
    licences: dict[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> ContestReport:
        """The report that a finished step left in its folder."""
        return read_figures(cls, folder / "report.json")

    @property
    def first(self) -> str:
        """With whom the others are compared."""
        return next(iter(self.standings))

    @property
    def best(self) -> str:
        """Who needs the fewest bits."""
        return min(self.standings, key=lambda name: self.standings[name].mean)

    def change(self, name: str) -> float:
        """Bits beyond those of the first, as a share of them; below 0 is better."""
        return self.standings[name].mean / self.standings[self.first].mean - 1


@dataclass(frozen=True, kw_only=True)
class ContestReportSpec(Spec):
    """Compare contestants. Inputs: `score/<contestant>/<seed>` evaluation steps, one at least of each contestant."""

    title: str
    corpora: tuple[str, ...]
    contestants: tuple[str, ...]
    licences: dict[str, str] = field(default_factory=dict)

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        """Write `report.json`, `report.html` and the plots."""
        standings = {name: Standing.of(list(_scores(inputs, name)), self.corpora) for name in self.contestants}
        report = ContestReport(
            title=self.title, corpora=list(self.corpora), standings=standings, licences=self.licences
        )
        (out / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf8")
        with plots.style():
            drawings = {name: plots.save(figure, out / "plots" / f"{name}.png") for name, figure in _figures(report)}
        (out / "report.html").write_text(page("contest.html.jinja", report, drawings), encoding="utf8")


def contest_table(report: ContestReport) -> Table:
    """The main figures for a terminal; green is better than the first contestant, red is worse."""
    shown = Table(title=Text(report.title), box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for heading in ("contestant", "bits per byte", "change", "tokens", "train FLOPs", "passes", "FLOPs a token", "KV"):
        shown.add_column(heading, justify="left" if heading == "contestant" else "right")
    for name, it in report.standings.items():
        change = report.change(name)
        shown.add_row(
            name,
            f"{it.mean:.3f}" + ("" if it.spread is None else f" +-{it.spread:.3f}"),
            Text(f"{change:+.1%}", "" if abs(change) < 0.0005 else "green" if change < 0 else "red"),
            plots.short(it.tokens),
            f"{it.train_flops:.1e}",
            f"{it.passes:.2f}",
            plots.short(it.flops_per_token),
            plots.short(it.bytes_per_token),
        )
    return shown


def _scores(inputs: Mapping[str, Path], name: str) -> Iterator[Score]:
    """Every run of a contestant, seed by seed."""
    for role, folder in inputs.items():
        if role.startswith(f"score/{name}/"):
            yield read_figures(Score, folder / "scores.json")


def _figures(report: ContestReport) -> Iterator[tuple[str, Figure]]:
    standings = report.standings
    taught = {name: [(it.train_flops, bits) for bits in it.bits] for name, it in standings.items()}
    spoken = {name: [(it.flops_per_token, bits) for bits in it.bits] for name, it in standings.items()}
    yield "training", plots.pareto(taught, "training, FLOPs")
    yield "speaking", plots.pareto(spoken, "speaking, FLOPs a token")

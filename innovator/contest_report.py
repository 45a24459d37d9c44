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
from innovator.report import Effort, page, read_figures


@dataclass(frozen=True, kw_only=True)
class Passage:
    """Held-out text token by token, and how many passes each took before the next was predicted."""

    pieces: list[str]
    passes: list[int]


@dataclass(frozen=True, kw_only=True)
class TracedEffort(Effort):
    """What speaking took for each token on average; passages where some took longer than others."""

    passages: dict[str, Passage]


@dataclass(frozen=True, kw_only=True)
class Score:
    """What an evaluation step found out about one run of a contestant."""

    bits_per_byte: dict[str, float]
    parameters: dict[Literal["total", "active"], int]
    train_tokens: int
    train_flops: float
    effort: TracedEffort


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One contestant over all its seeds; bits: the mean over corpora, by seed; all else is the mean over seeds.

    passages: those of the first seed.
    """

    bits: dict[int, float]
    bits_by_corpus: dict[str, float]
    parameters: dict[Literal["total", "active"], int]
    tokens: int
    train_flops: float
    passes: float
    flops_per_token: float
    bytes_per_token: float
    passages: dict[str, Passage]

    @classmethod
    def of(cls, by_seed: Mapping[int, Score], corpora: Sequence[str]) -> Standing:
        """What the runs of one contestant come to."""
        scores = list(by_seed.values())
        first, efforts = scores[0], [score.effort for score in scores]
        return cls(
            bits={seed: fmean(score.bits_per_byte[name] for name in corpora) for seed, score in by_seed.items()},
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
        return fmean(self.bits.values())

    @property
    def spread(self) -> float | None:
        """The standard deviation between seeds; None of one seed."""
        return _spread(list(self.bits.values()))

    @property
    def most_passes(self) -> int:
        """The longest that a token of its passages was thought about."""
        return max(max(passage.passes) for passage in self.passages.values())


@dataclass(frozen=True, kw_only=True)
class Change:
    """Bits beyond those of another, as shares of the other's with the same seed; below 0 is better."""

    shares: list[float]

    @property
    def mean(self) -> float:
        """Over the seeds that both have."""
        return fmean(self.shares)

    @property
    def spread(self) -> float | None:
        """The standard deviation between these seeds; None of one seed."""
        return _spread(self.shares)


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
        """Who needs the fewest bits beside the first, with the seeds that both have."""
        changes = {name: change.mean for name in self.standings if (change := self.change(name)) is not None}
        return min(changes, key=lambda name: changes[name])

    def change(self, name: str) -> Change | None:
        """How a contestant's bits compare with the first's, seed by seed; None if no seed is common to them."""
        bits, firsts = self.standings[name].bits, self.standings[self.first].bits
        shares = [bits[seed] / firsts[seed] - 1 for seed in bits if seed in firsts]
        return Change(shares=shares) if shares else None


@dataclass(frozen=True, kw_only=True)
class ContestReportSpec(Spec):
    """Compare contestants. Inputs: `score/<contestant>/<seed>` evaluation steps, one at least of each contestant."""

    title: str
    corpora: tuple[str, ...]
    contestants: tuple[str, ...]
    licences: dict[str, str] = field(default_factory=dict)

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        """Write `report.json`, `report.html` and the plots."""
        standings = {name: Standing.of(dict(_scores(inputs, name)), self.corpora) for name in self.contestants}
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
        shown.add_row(
            name,
            f"{it.mean:.3f}" + ("" if it.spread is None else f" +-{it.spread:.3f}"),
            _coloured(report.change(name)),
            plots.short(it.tokens),
            f"{it.train_flops:.1e}",
            f"{it.passes:.2f}",
            plots.short(it.flops_per_token),
            plots.short(it.bytes_per_token),
        )
    return shown


def _scores(inputs: Mapping[str, Path], name: str) -> Iterator[tuple[int, Score]]:
    """Every run of a contestant by its seed."""
    for role, folder in inputs.items():
        if role.startswith(f"score/{name}/"):
            yield int(role.rpartition("/")[2]), read_figures(Score, folder / "scores.json")


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _coloured(change: Change | None) -> Text:
    if change is None:
        return Text("-")
    spread = "" if change.spread is None else f" +-{change.spread:.1%}"
    return Text(
        f"{change.mean:+.1%}{spread}", "" if abs(change.mean) < 0.0005 else "green" if change.mean < 0 else "red"
    )


def _figures(report: ContestReport) -> Iterator[tuple[str, Figure]]:
    standings = report.standings
    taught = {name: [(it.train_flops, bits) for bits in it.bits.values()] for name, it in standings.items()}
    spoken = {name: [(it.flops_per_token, bits) for bits in it.bits.values()] for name, it in standings.items()}
    yield "training", plots.pareto(taught, "training, FLOPs")
    yield "speaking", plots.pareto(spoken, "speaking, FLOPs a token")

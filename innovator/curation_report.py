"""What a curation did: documents, bytes and tokens through every rule, samples from both sides; a page, a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from rich import box
from rich.table import Table

from innovator import plots
from innovator.curate.account import Account, Flow, RuleAccount
from innovator.curate.works import PUBLISHED
from innovator.files import write_json
from innovator.models.spec import Spec
from innovator.report import page

LINES_SHOWN = 20


@dataclass(frozen=True)
class Stage:
    """Steps of one kind, all sources together, and what they left behind of each source."""

    name: str
    account: Account

    @property
    def left(self) -> dict[str, Flow]:
        """What came out of the last rule, by source."""
        last = list(self.account.rules.values())[-1]
        return {source: Flow.sum(by.values()) for source, by in last.flows.items()}

    @property
    def first(self) -> Flow:
        """What came into the first rule."""
        return next(iter(self.account.rules.values())).whole


@dataclass(frozen=True, kw_only=True)
class CurationReport:
    """Everything that the page shows.

    found: by the step's name, what else it wrote about itself: a classifier's confusion, an assessor's agreement.
    """

    title: str
    stages: list[Stage]
    corpora: dict[str, dict[str, object]]
    benchmarks: dict[str, str]
    benchmark_items: dict[str, dict[str, int]]
    malformed: list[dict[str, object]]
    n_malformed: int
    leaks: list[dict[str, object]]
    n_leaks: int
    found: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def sources(self) -> list[str]:
        """Every source, in the order it was read."""
        return list(dict.fromkeys(source for stage in self.stages for source in stage.left))

    @property
    def read(self) -> Flow:
        """What all readers found."""
        return self.stages[0].first

    @property
    def published(self) -> Flow:
        """What the corpora hold."""
        return self.stages[-1].account.rules[PUBLISHED].whole


@dataclass(frozen=True, kw_only=True)
class CurationReportSpec(Spec):
    """Adds up the accounts of all steps. Inputs are named by stage and source, such as `read/papers`."""

    title: str

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        """Write `account.html`, its figures, and `account.json` with every rule of every stage."""
        report = gather(self.title, inputs)
        drawings = _draw(report, out)
        html = page("curation.html.jinja", report, drawings)
        (out / "account.html.draft").write_text(html, encoding="utf-8")
        (out / "account.html.draft").rename(out / "account.html")
        write_json(out / "account.json", {stage.name: stage.account.plain() for stage in report.stages})


def gather(title: str, inputs: Mapping[str, Path]) -> CurationReport:
    """What the steps of a curation noted."""
    stages: dict[str, Account] = {}
    for role, folder in inputs.items():
        if (folder / "account.json").is_file():
            stages.setdefault(role.split("/")[0], Account()).add(Account.open(folder / "account.json"))
    n_malformed, malformed = _counted(inputs, "malformed/*.jsonl")
    n_leaks, leaks = _counted(inputs, "leaks.jsonl")
    curation = json.loads((inputs["corpora"] / "curation.json").read_text(encoding="utf-8"))
    return CurationReport(
        title=title,
        stages=[Stage(name, account) for name, account in stages.items() if account.rules],
        corpora=curation["corpora"],
        benchmarks=curation["benchmarks"],
        benchmark_items=curation.get("benchmark_items", {}),
        malformed=malformed,
        n_malformed=n_malformed,
        leaks=leaks,
        n_leaks=n_leaks,
        found=dict(_found(inputs)),
    )


def curation_table(report: CurationReport) -> Table:
    """One row for each rule: documents in, dropped and changed, and bytes out."""
    table = Table(title=report.title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("step", "rule", "documents in", "dropped", "changed", "MB in", "MB out", "tokens out"):
        table.add_column(column, justify="left" if column in ("step", "rule") else "right")
    for stage in report.stages:
        for name, rule in stage.account.rules.items():
            table.add_row(stage.name, name, *_figures_of(rule))
    return table


def _figures_of(rule: RuleAccount) -> tuple[str, ...]:
    flow = rule.whole
    return (
        f"{flow.documents_in:,}",
        f"{flow.documents_in - flow.documents_out:,}",
        f"{flow.changed:,}",
        f"{flow.bytes_in / 1e6:.2f}",
        f"{flow.bytes_out / 1e6:.2f}",
        plots.short(flow.tokens_out),
    )


def _found(inputs: Mapping[str, Path]) -> Iterator[tuple[str, dict[str, object]]]:
    for role, folder in inputs.items():
        if (folder / "found.json").is_file():
            yield role, json.loads((folder / "found.json").read_text(encoding="utf-8"))


def _counted(inputs: Mapping[str, Path], pattern: str) -> tuple[int, list[dict[str, object]]]:
    """How many lines the steps wrote to files of a pattern, and the first few."""
    n, first = 0, []
    for file in (file for folder in inputs.values() for file in sorted(folder.glob(pattern))):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                n += 1
                if n <= LINES_SHOWN:
                    first.append(json.loads(line))
    return n, first


def _draw(report: CurationReport, out: Path) -> dict[str, Markup]:
    with plots.style():
        return {"left": plots.save(left_over(report), out / "left.png")}


def left_over(report: CurationReport) -> Figure:
    """Bytes that are left after each stage, by source: one bar a stage, from the raw text down."""
    figure = plots.canvas(plots.WIDE, 0.9 + 0.42 * (len(report.stages) + 1))
    axes = figure.add_subplot()
    names = ["as found", *(stage.name for stage in report.stages)]
    first = next(iter(report.stages[0].account.rules.values()))
    bars = [{source: Flow.sum(by.values()).bytes_in for source, by in first.flows.items()}]
    for stage in report.stages:
        here = {source: flow.bytes_out for source, flow in stage.left.items()}
        passed_by = {source: n for source, n in bars[-1].items() if stage.name == "clean"}
        bars.append(passed_by | here)
    left = np.zeros(len(bars))
    for source, colour in zip(report.sources, cycle(plots.SERIES), strict=False):
        widths = np.array([bar.get(source, 0) / 1e6 for bar in bars])
        axes.barh(names, widths, left=left, color=colour, label=source, height=0.7)
        left += widths
    for row, total in enumerate(left):
        axes.text(total, row, f"  {total / max(left[0], 1e-12):.1%}", va="center", color=plots.MUTED)
    axes.invert_yaxis()
    axes.set_xlim(0, left.max() * 1.1)
    axes.set_xlabel("MB of text")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.legend(loc="lower right", fontsize=8)
    return figure

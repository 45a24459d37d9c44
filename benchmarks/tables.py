"""Races as tables on the screen and as JSON on the disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from machine import Setting
from measure import LIMIT, Race, Ratio, Timing, share_of_limit
from rich.console import Console
from rich.table import Table

MIB, GIGA = 1 << 20, 1e9
COLUMNS = ("ms", "spread", "goes", "tokens/s", "GFLOP/s", "of limit", "peak MiB")
CONSOLE = Console(width=140, highlight=False)


def publish(name: str, races: Iterable[Race], setting: Setting) -> None:
    """Print the machine, then each table as soon as its race is over, and write all so far to `name.json`."""
    machine = setting.describe()
    CONSOLE.print(", ".join(f"{key} {value}" for key, value in machine.items()))
    setting.out.mkdir(parents=True, exist_ok=True)
    figures: list[dict[str, object]] = []
    for race in races:
        CONSOLE.print(table(race))
        for line in (*race.notes, *sentences(race.ratios)):
            CONSOLE.print(f"  {line}")
        figures.append(plain(race))
        told = {"benchmark": name, "quick": setting.quick, "machine": machine, "races": figures}
        (setting.out / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def plain(race: Race) -> dict[str, object]:
    """A race as JSON holds it, with what its tables are computed from."""
    return {
        "title": race.title,
        "notes": race.notes,
        "ratios": [judged(ratio) for ratio in race.ratios],
        "timings": {
            name: {"median": timing.median, "spread": timing.spread, **asdict(timing)}
            for name, timing in race.timings.items()
        },
    }


def judged(ratio: Ratio) -> dict[str, object]:
    """A ratio as JSON holds it; one without a goal is neither met nor missed."""
    told: dict[str, object] = {"what": ratio.what, "value": ratio.value}
    if ratio.goal is not None:
        told |= {"goal": f"{ratio.goal.sense} {ratio.goal.bound:g}", "met": ratio.goal.met(ratio.value)}
    return told


def table(race: Race) -> Table:
    """A line for each contestant; cells that make no sense are empty."""
    shown = Table(title=race.title, title_justify="left")
    shown.add_column("")
    for column in COLUMNS:
        shown.add_column(column, justify="right")
    for name, timing in race.timings.items():
        shown.add_row(name, *cells(name, timing, race))
    return shown


def cells(name: str, timing: Timing, race: Race) -> Iterator[str]:
    """What stands below the columns."""
    yield f"{1000 * timing.median:.4g}"
    yield f"{timing.spread:.0%}"
    yield str(len(timing.seconds))
    yield f"{timing.n_tokens / timing.median:,.0f}" if timing.n_tokens else ""
    yield f"{timing.flops / timing.median / GIGA:,.1f}" if timing.flops else ""
    yield f"{share_of_limit(race.timings, name):.1%}" if timing.flops and LIMIT in race.timings else ""
    yield f"{timing.peak_bytes / MIB:,.0f}" if timing.peak_bytes is not None else ""


def sentences(ratios: Sequence[Ratio]) -> Iterator[str]:
    """Each ratio, and whether it is what it should be."""
    for ratio in ratios:
        if ratio.goal is None:
            yield f"{ratio.what}: {ratio.value:.3g}"
        else:
            verdict = "[green]reached[/]" if ratio.goal.met(ratio.value) else "[red]missed[/]"
            yield f"{ratio.what}: {ratio.value:.3g} (goal {ratio.goal.sense} {ratio.goal.bound:g}: {verdict})"

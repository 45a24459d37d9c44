"""What a run found about gain and forgetting: report.json, report.html and a table for the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Literal, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from pydantic import TypeAdapter, ValidationError
from rich import box
from rich.table import Table
from rich.text import Text

from innovator import plots
from innovator.models.spec import Spec
from innovator.plots import Induction, Logged, RoutingMap
from innovator.weights.proof import LayerProof

T = TypeVar("T")

BASE, OURS = "base", "innovator"
ROUTED = re.compile(r"innovator|stage-3\b.*")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What speaking took for each token on average."""

    passes: float
    flops_per_token: float
    bytes_per_token: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an evaluation step found out about one model."""

    bits_per_byte: dict[str, float]
    parameters: dict[Literal["total", "active"], int]
    train_tokens: int
    train_flops: float
    active_flops_per_token: float
    effort: Effort
    routing: RoutingMap | None = None


@dataclass(frozen=True, kw_only=True)
class ProofSummary:
    """Whether the split kept the function of the dense model, and by what margin."""

    passed: bool
    logits_error: float
    tolerance: float
    layers: list[LayerProof]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that the finished steps of a run say."""

    scores: dict[str, Scores]
    curves: dict[str, list[Logged]]
    proof: ProofSummary | None
    induction: Induction | None


@dataclass(frozen=True, kw_only=True)
class RoutingSummary:
    """How often a mixture's routers choose the discipline of a text; None where it has none."""

    accuracy: float | None
    by_layer: list[float | None]
    by_discipline: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The main figures of a run; mappings go from the model's name to its value. efforts: of models that think."""

    title: str
    general: str
    disciplines: list[str]
    bits_per_byte: dict[str, dict[str, float]]
    retention: dict[str, float]
    gain: dict[str, float]
    win_rate: dict[str, float]
    tokens: dict[str, int]
    train_flops: dict[str, float]
    active_flops: dict[str, float]
    parameters: dict[str, dict[Literal["total", "active"], int]]
    routing: dict[str, RoutingSummary]
    proof: ProofSummary | None
    licences: dict[str, str] = field(default_factory=dict)
    efforts: dict[str, Effort] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Report:
        """The report that a finished step left in its folder."""
        return read_figures(cls, folder / "report.json")

    def change(self, model: str, corpus: str) -> float:
        """The bits a model needs for a corpus beyond the base's, as a share of them; below 0 is better."""
        return self.bits_per_byte[model][corpus] / self.bits_per_byte[BASE][corpus] - 1

    @property
    def largest_change(self) -> float:
        """The change of the table's most changed cell, against which the others are shaded."""
        cells = product(self.bits_per_byte, (self.general, *self.disciplines))
        return max(abs(self.change(model, corpus)) for model, corpus in cells) or 1.0


@dataclass(frozen=True, kw_only=True)
class ReportSpec(Spec):
    """Compare every scored model with the base, and draw what the stages did.

    Inputs: `score/<model>` evaluation steps (`score/base` must be one), `train/<step>` training steps,
    and the `split` step if there is one. licences: as in the recipe; handed on to whoever writes a model card.
    """

    title: str
    disciplines: tuple[str, ...]
    general: str = "general"
    licences: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.disciplines:
            raise ValueError("a report needs at least one discipline")

    def run(self, out: Path, inputs: Mapping[str, Path]) -> None:
        """Write `report.json`, `report.html` and the plots."""
        evidence = read_evidence(inputs, (self.general, *self.disciplines))
        report = summarise(self, evidence)
        (out / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf8")
        drawings = _draw(report, evidence, out / "plots")
        html = page("report.html.jinja", report, drawings, base=BASE, ours=OURS)
        (out / "report.html").write_text(html, encoding="utf8")


def read_evidence(inputs: Mapping[str, Path], corpora: Sequence[str]) -> Evidence:
    """Read the folders of the finished steps, and insist that every model was scored on every corpus."""
    scores = {name: read_figures(Scores, folder / "scores.json") for name, folder in _having(inputs, "score/")}
    if BASE not in scores:
        scored = ", ".join(scores) or "none"
        raise ValueError(f"a report compares with the base, but only these were scored: {scored}")
    for name, score in scores.items():
        if missing := [corpus for corpus in corpora if corpus not in score.bits_per_byte]:
            raise ValueError(f"{inputs['score/' + name]}/scores.json: no bits per byte for {', '.join(missing)}")
    split = inputs.get("split")
    return Evidence(
        scores={BASE: scores[BASE]} | scores,
        curves={name: _read_curve(folder / "metrics.jsonl") for name, folder in _having(inputs, "train/")},
        proof=None if split is None else read_figures(ProofSummary, split / "proof.json"),
        induction=None if split is None else read_figures(Induction, split / "induction.json"),
    )


def summarise(spec: ReportSpec, evidence: Evidence) -> Report:
    """Turn scores into gain in the disciplines, retention of the general, and wins against the base."""
    scores = evidence.scores
    bits = {name: score.bits_per_byte for name, score in scores.items()}
    saved = {name: [1 - bits[name][each] / bits[BASE][each] for each in spec.disciplines] for name in scores}
    return Report(
        title=spec.title,
        general=spec.general,
        disciplines=list(spec.disciplines),
        bits_per_byte=bits,
        retention={name: bits[BASE][spec.general] / bits[name][spec.general] for name in scores},
        gain={name: fmean(each) for name, each in saved.items()},
        win_rate={name: fmean(share > 0 for share in each) for name, each in saved.items()},
        tokens={name: score.train_tokens for name, score in scores.items()},
        train_flops={name: score.train_flops for name, score in scores.items()},
        active_flops={name: score.active_flops_per_token for name, score in scores.items()},
        parameters={name: score.parameters for name, score in scores.items()},
        routing={name: _routing(score.routing) for name, score in scores.items() if score.routing},
        proof=evidence.proof,
        licences=spec.licences,
        efforts={name: score.effort for name, score in scores.items() if score.effort.passes > 1},
    )


def table(report: Report) -> Table:
    """The main figures for a terminal 110 columns wide; green is better than the base, red is worse."""
    shown = Table(title=Text(report.title), box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    shown.add_column("model", max_width=20, overflow="fold")
    for heading in (*_abbreviated([report.general, *report.disciplines]), "retention", "gain", "wins"):
        shown.add_column(Text(heading), justify="right", no_wrap=True)
    for model in report.bits_per_byte:
        shown.add_row(
            Text(model, "bold" if model == OURS else ""),
            *(_bits(report, model, corpus) for corpus in (report.general, *report.disciplines)),
            _coloured(f"{report.retention[model]:.1%}", report.retention[model] - 1),
            _coloured(f"{report.gain[model]:+.1%}", report.gain[model]),
            f"{report.win_rate[model] * len(report.disciplines):.0f}/{len(report.disciplines)}",
        )
    shown.caption = Text("\n".join(_spoken(model, effort) for model, effort in report.efforts.items()))
    return shown


def read_figures(kind: type[T], path: Path) -> T:
    """A JSON file that a finished step has left; ValueError names the file and the field that is not as expected."""
    return _parse(TypeAdapter(kind), _contents(path), str(path))


def page(template: str, report: object, drawings: Mapping[str, Markup], **names: str) -> str:
    """A page that stands alone: figures inside, nothing fetched."""
    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    pages.filters |= {"short": plots.short, "slug": _slug}
    return pages.get_template(template).render(report=report, drawings=drawings, **names)


def _having(inputs: Mapping[str, Path], prefix: str) -> Iterable[tuple[str, Path]]:
    return ((role.removeprefix(prefix), folder) for role, folder in inputs.items() if role.startswith(prefix))


def _read_curve(path: Path) -> list[Logged]:
    adapter, lines = TypeAdapter(Logged), enumerate(_contents(path).splitlines(), start=1)
    return [_parse(adapter, line, f"{path}, line {number}") for number, line in lines]


def _contents(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"{path} is missing; is its step finished?")
    return path.read_bytes()


def _parse(adapter: TypeAdapter[T], raw: bytes, place: str) -> T:
    try:
        return adapter.validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(": ".join([place, *map(str, first["loc"]), first["msg"]])) from error


def _routing(routing: RoutingMap) -> RoutingSummary:
    of_corpus = dict(zip(routing.corpora, zip(*routing.accuracy, strict=True), strict=True))
    return RoutingSummary(
        accuracy=_mean(value for layer in routing.accuracy for value in layer),
        by_layer=[_mean(layer) for layer in routing.accuracy],
        by_discipline={name: _mean(of_corpus[name]) for name in routing.disciplines if name in of_corpus},
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _draw(report: Report, evidence: Evidence, folder: Path) -> dict[str, Markup]:
    with plots.style():
        return {name: plots.save(figure, folder / f"{name}.png") for name, figure in _figures(report, evidence)}


def _figures(report: Report, evidence: Evidence) -> Iterator[tuple[str, Figure]]:
    points = {name: (report.retention[name], report.gain[name]) for name in report.gain}
    yield "forgetting", plots.forgetting(points, OURS)
    if evidence.curves:
        yield "learning", plots.learning_curves(evidence.curves)
    for name, score in evidence.scores.items():
        if score.routing is not None and ROUTED.fullmatch(name):
            yield f"routing-{_slug(name)}", plots.routing_map(score.routing)
            yield f"accuracy-{_slug(name)}", plots.accuracy(score.routing)
    if evidence.induction is not None:
        yield "moved", plots.moved(evidence.induction)
        yield "likeness", plots.likeness(evidence.induction)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def _abbreviated(names: Sequence[str]) -> list[str]:
    """Names cut to share 64 columns; those that begin alike are numbered."""
    width = max(5, 64 // len(names) - 1)
    starts = [name[:width] for name in names]
    return [
        start if starts.count(start) == 1 else f"{start[: width - 1]}{starts[: place + 1].count(start)}"
        for place, start in enumerate(starts)
    ]


def _spoken(model: str, effort: Effort) -> str:
    flops, memory = plots.short(effort.flops_per_token), plots.short(effort.bytes_per_token)
    return f"{model} speaks each token with {effort.passes:.2f} passes, {flops} FLOPs and {memory} bytes of KV"


def _bits(report: Report, model: str, corpus: str) -> Text:
    return _coloured(f"{report.bits_per_byte[model][corpus]:.3f}", -report.change(model, corpus))


def _coloured(figure: str, better_by: float) -> Text:
    return Text(figure, "" if abs(better_by) < 0.0005 else "green" if better_by > 0 else "red")

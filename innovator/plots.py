"""The report's figures: measurements in, a PNG on disk and an SVG for the page out.

The colours in `CSS_VARIABLES` become variables in the SVG, so that one drawing serves light and dark pages.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import StringIO
from itertools import cycle, product
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter
from matplotlib.transforms import Bbox

from innovator.weights.proof import LayerInduction

INK, MUTED, LINE = "#1f2329", "#6a7380", "#dde1e6"
ACCENT = "#2f74c8"
CSS_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", ACCENT: "var(--accent)"}
SERIES = ("#2f7fd0", "#dc7a30", "#2c9f78", "#c4599c", "#8b70d6", "#b58c14", "#3fa3ba", "#cf5353", "#838b96")
WIDE, NARROW = 9.4, 4.8  # inches; a row of the page holds one wide figure or two narrow ones
N_LETTERS = 95  # that a wide figure has room for, side by side
LEADER = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
COMPASS = ((1, 0), (-1, 0), (0, 1), (0, -1), (0.7, 0.7), (0.7, -0.7), (-0.7, 0.7), (-0.7, -0.7))
SVG_METADATA = ("Creator", "Date", "Format", "Type")
# Both fade into the page instead of into white, so that a heatmap reads the same on a dark page.
LOAD = LinearSegmentedColormap.from_list("load", [(0.18, 0.45, 0.85, 0.0), (0.18, 0.45, 0.85, 1.0)])
LIKENESS = LinearSegmentedColormap.from_list(
    "likeness", [(0.86, 0.45, 0.15, 0.7), (0.5, 0.5, 0.5, 0.0), (0.18, 0.45, 0.85, 0.7)]
)


@dataclass(frozen=True, kw_only=True)
class RoutingMap:
    """Where the routers of a mixture send each corpus; indexed by layer, then corpus, then expert."""

    corpora: list[str]
    disciplines: list[str]
    load: list[list[list[float]]]
    accuracy: list[list[float | None]]


@dataclass(frozen=True, kw_only=True)
class Logged:
    """One line of a training step's metrics."""

    tokens: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Induction:
    """What the first stage did to the feed-forwards, layer by layer."""

    layers: list[LayerInduction]
    disciplines: list[str]


def style() -> AbstractContextManager[None]:
    """The look of every figure; draw and save inside it."""
    return rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "innovator",
            "text.parse_math": False,
            "font.size": 9.0,
            "axes.titlesize": 9.0,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "text.color": INK,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "grid.color": LINE,
            "legend.frameon": False,
        }
    )


def save(figure: Figure, path: Path) -> Markup:
    """Write a figure as a PNG, and give the same figure as SVG for the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    text = StringIO()
    with rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(SVG_METADATA))
    svg = text.getvalue()
    for colour, variable in CSS_VARIABLES.items():
        svg = svg.replace(colour, variable)
    return Markup(svg[svg.index("<svg") :])


def short(count: float) -> str:
    """A count as people say it: 1.2M, 30B."""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.3g}"


def forgetting(points: Mapping[str, tuple[float, float]], best: str) -> Figure:
    """What every model gained in the sciences against what it kept of the general; up and right is better."""
    figure = canvas(7.2, 4.6)
    axes = figure.add_subplot()
    axes.axvline(1, color=LINE, linewidth=1, zorder=0)
    axes.axhline(0, color=LINE, linewidth=1, zorder=0)
    for name, (retention, gain) in points.items():
        colour, size = (ACCENT, 9) if name == best else (MUTED, 6)
        axes.plot(retention, gain, "o", color=colour, markersize=size)
    axes.margins(0.16)
    axes.set_xlabel("retention of the general ability")
    axes.set_ylabel("gain in the disciplines")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _label(axes, points)
    return figure


def pareto(runs: Mapping[str, Sequence[tuple[float, float]]], cost: str) -> Figure:
    """Bits against what they cost: every run, the mean of each name's, and a line along those that nobody beats."""
    figure = canvas(NARROW, 4.2)
    axes = figure.add_subplot()
    means = {
        name: (float(np.mean([x for x, _ in of])), float(np.mean([y for _, y in of]))) for name, of in runs.items()
    }
    for name, of in runs.items():
        axes.plot(*zip(*of, strict=True), "o", color=MUTED, markersize=2.5)
        axes.plot(*means[name], "o", color=ACCENT, markersize=6, fillstyle="none")
    ahead = [
        point for point in sorted(means.values()) if point[1] <= min(y for x, y in means.values() if x <= point[0])
    ]
    axes.step(*zip(*ahead, strict=True), where="post", color=ACCENT, alpha=0.35, linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.margins(0.14)
    axes.set_xlabel(cost)
    axes.set_ylabel("bits per byte")
    _label(axes, means)
    return figure


def learning_curves(curves: Mapping[str, Sequence[Logged]]) -> Figure:
    """The loss of every training step against the tokens it has seen, one panel a step."""
    n_columns = min(3, len(curves))
    n_rows = math.ceil(len(curves) / n_columns)
    figure = canvas(WIDE, 1.8 * n_rows + 0.3)
    for place, (name, lines) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(n_rows, n_columns, place)
        axes.plot([line.tokens for line in lines], [line.loss for line in lines], color=ACCENT, linewidth=1.2)
        axes.set_title(name)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    figure.supxlabel("tokens", fontsize=9)
    figure.supylabel("loss, nats a token", fontsize=9)
    return figure


def routing_map(routing: RoutingMap) -> Figure:
    """Which experts read which corpus, one panel a layer; lines part the disciplines' experts."""
    load_LCE = np.array(routing.load)
    n_columns = min(2 if len(load_LCE) <= 8 else 4, len(load_LCE))
    n_rows = math.ceil(len(load_LCE) / n_columns)
    figure = canvas(WIDE, (0.2 * len(routing.corpora) + 0.35) * n_rows + 1.1)
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(load_LCE) :]:
        axes.set_visible(False)
    for layer, (axes, load_CE) in enumerate(zip(panels.flat, load_LCE, strict=False)):
        image = axes.imshow(load_CE, LOAD, aspect="auto", interpolation="none", vmin=0, vmax=load_LCE.max())
        axes.set_title(f"layer {layer}")
        axes.set_yticks(range(len(routing.corpora)), routing.corpora)
        _mark_groups(axes, routing, n_columns=n_columns)
    shrink = min(0.7, 2 / figure.get_figheight())
    bar = figure.colorbar(image, ax=panels, shrink=shrink, fraction=0.05, anchor=(0, 1))
    bar.set_label("share of the corpus")
    return figure


def accuracy(routing: RoutingMap) -> Figure:
    """How often each layer's router prefers a discipline's own experts for its tokens."""
    of_corpus = dict(zip(routing.corpora, np.array(routing.accuracy, dtype=float).T, strict=True))
    figure, axes = _by_layer({name: of_corpus[name] for name in routing.disciplines if name in of_corpus})
    axes.axhline(1 / len(routing.disciplines), color=MUTED, linestyle="--", linewidth=1)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylim(0, 1.03)
    axes.set_ylabel("tokens sent home")
    return figure


def moved(induction: Induction) -> Figure:
    """How far each discipline's training carried the feed-forward of every layer, as a share of its size."""
    layers, names = induction.layers, induction.disciplines
    figure, axes = _by_layer({name: [layer.moved[name] for layer in layers] for name in names})
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("distance from the base")
    return figure


def likeness(induction: Induction) -> Figure:
    """How alike the disciplines moved the feed-forwards: cosines between displacements, mean over layers."""
    cosine_NN = np.mean([layer.cosine for layer in induction.layers], axis=0)
    names = induction.disciplines
    figure = canvas(NARROW, 3.8)
    axes = figure.add_subplot()
    axes.imshow(cosine_NN, LIKENESS, interpolation="none", vmin=-1, vmax=1)
    for (row, column), cosine in np.ndenumerate(cosine_NN):
        axes.text(column, row, f"{cosine:.2f}", ha="center", va="center", fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 4 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _by_layer(lines: Mapping[str, Sequence[float]]) -> tuple[Figure, Axes]:
    figure = canvas(NARROW, 3.4)
    axes = figure.add_subplot()
    for (name, values), colour in zip(lines.items(), cycle(SERIES), strict=False):
        marker = "o" if len(values) <= 12 else ""
        axes.plot(range(len(values)), values, color=colour, marker=marker, markersize=4, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.set_xlabel("layer")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8)
    return figure, axes


def _mark_groups(axes: Axes, routing: RoutingMap, *, n_columns: int) -> None:
    groups = routing.disciplines
    width = len(routing.load[0][0]) / len(groups)
    upright = n_columns * len(groups) * max(map(len, groups)) > N_LETTERS
    axes.set_xticks([width * (place + 0.5) - 0.5 for place in range(len(groups))], groups)
    axes.tick_params(axis="x", rotation=90 if upright else 0)
    axes.tick_params(length=0)
    for place in range(1, len(groups)):
        axes.axvline(width * place - 0.5, color=MUTED, linewidth=0.8)


def canvas(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _label(axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Name every point where the name covers the fewest points and names set before it."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout must stand before anything is measured
    pixels = {name: axes.transData.transform(point) for name, point in points.items()}
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in pixels.values()]
    frame, points_per_pixel = axes.get_window_extent(), 72 / figure.dpi
    for name, (x, y) in pixels.items():
        text = axes.annotate(
            name, points[name], xytext=(0, 0), textcoords="offset points", fontsize=8.5, arrowprops=LEADER
        )
        size = text.get_window_extent()
        places = list(_places(x, y, size.width, size.height))
        costs = [place.count_overlaps(taken) + 3 * (not _holds(frame, place)) for place in places]
        chosen = costs.index(min(costs))
        place = places[chosen]
        text.set_position(((place.x0 - size.x0) * points_per_pixel, (place.y0 - size.y0) * points_per_pixel))
        assert text.arrow_patch is not None
        text.arrow_patch.set_visible(chosen >= len(COMPASS))  # a name beside its point needs no line to it
        taken.append(place)


def _places(x: float, y: float, width: float, height: float) -> Iterator[Bbox]:
    """Boxes of a size around a point, nearest first, right before left before above and below."""
    for distance, (across, up) in product((10, 22, 36, 52), COMPASS):
        left = x + across * distance + (np.sign(across) - 1) / 2 * width
        bottom = y + up * distance + (np.sign(up) - 1) / 2 * height
        yield Bbox.from_bounds(left, bottom, width, height)


def _holds(frame: Bbox, box: Bbox) -> bool:
    return bool(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)

"""The panels of a report, drawn with matplotlib and written as SVG that reads on light and on dark pages."""

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from arada.reporting.names import BLUE, PURPLE, VERMILLION, Style, style

# Text, axes and grid. This colour never reaches a file: `_to_svg` replaces it by the page's text colour.
INK = "#010203"
INKS = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
SETTINGS: dict[Any, Any] = {
    **dict.fromkeys(INKS, INK),
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.title_fontsize": 9.5,
    # Names from data may contain dollar signs.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "arada",
}
# From least to most robust. The colours differ in hue, not in lightness: an end of a sequential scale would vanish on
# a light or a dark page.
ROBUSTNESS = LinearSegmentedColormap.from_list("robustness", [VERMILLION, PURPLE, BLUE])
# Inches, about 420 CSS pixels: text stays readable on a phone.
WIDTH = 4.4
# Bins with fewer predictions have hollow points.
FEW = 10


class Panel(NamedTuple):
    """One picture: the file's name, a title, a description for readers who cannot see it, and the SVG."""

    name: str
    title: str
    description: str
    svg: Markup


def panel(
    name: str, title: str, description: str, draw: Callable, *arguments, height: float = 3.3, methods: int = 0
) -> Panel:
    """Calls `draw(figure, *arguments)` on an empty figure and renders it, higher if the legend has many `methods`."""
    height += 0.19 * max(0, -(-methods // 2) - 2)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        draw(figure, *arguments)
        figure.axes[0].set_title(title)
        return Panel(name, title, description, _to_svg(figure, name, title, description))


def _to_svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """The figure as one `svg` element, the same bytes each time; all its ids begin with `name`."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r'(\bid="|href="#|url\(#)', lambda match: f"{match[0]}{name}-", svg).replace(INK, "currentColor")
    # Without a size in points the picture fills the available width; the viewBox keeps its proportions.
    head, body = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return Markup(f'{head} role="img" aria-label="{escape(description)}"><title>{escape(title)}</title>{body}')


def standalone(svg: str) -> str:
    """The same picture as a file: its text follows the reader's light or dark setting."""
    head, body = svg.split(">", 1)
    rule = "svg{color:#24292f}@media (prefers-color-scheme:dark){svg{color:#e6edf3}}"
    return f'{head} width="{100 * WIDTH:.0f}"><style>{rule}</style>{body}\n'


def _legend(figure: Figure, handles: Sequence | None = None, columns: int = 2, title: str | None = None) -> None:
    own = {} if handles is None else {"handles": handles}
    figure.legend(
        loc="outside lower left",
        ncols=columns,
        title=title,
        alignment="left",
        columnspacing=1.2,
        handletextpad=0.5,
        **own,
    )


def _line(look: Style) -> dict:
    """The keywords of a method's line."""
    return {"color": look.color, "marker": look.marker, "linestyle": look.line, "label": look.label}


def _handle(method: str) -> Line2D:
    return Line2D([], [], **_line(style(method)))


def _subset_axis(axes: Axes, num_subsets: int) -> np.ndarray:
    levels = np.arange(1, num_subsets + 1)
    axes.set_xlabel(f"adversarial robustness level\n1 = least robust … {num_subsets} = most robust")
    axes.set_xticks(levels if num_subsets <= 12 else levels[:: -(-num_subsets // 10)])
    return levels


def method_by_subset(
    figure: Figure,
    method: str,
    label: str,
    lines: Mapping[str, tuple],
    limits: tuple[float, float] | None = None,
    floor: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Figure 1 and Figure 2 (a, b): one or two quantities x100 of one method by robustness level, bars over seeds.

    `limits` are axis limits that several panels share; with them the area between the two lines is shaded. The `floor`
    of an ECE (mean and 95th percentile) is drawn as a band.
    """
    axes = figure.subplots()
    if floor:
        _floor(axes, floor)
    color, marker = style(method).color, style(method).marker
    looks: tuple[dict[str, Any], ...] = ({"linestyle": "-"}, {"linestyle": "--", "markerfacecolor": "none"})
    for (name, (mean, deviation)), look in zip(lines.items(), looks, strict=False):
        levels = _subset_axis(axes, len(mean))
        bars = 100 * deviation if np.isfinite(deviation).any() else None
        shared: dict[str, Any] = {"color": color, "marker": marker, "capsize": 2.5, "elinewidth": 1}
        axes.errorbar(levels, 100 * mean, bars, label=name, **shared, **look)
    if limits:
        axes.set_ylim(*limits)
        (first, _), (second, _) = lines.values()
        axes.fill_between(levels, 100 * first, 100 * second, color=color, alpha=0.15, linewidth=0)
    else:
        axes.set_ylim(bottom=0)
    axes.set_ylabel(label)
    _legend(figure)


def by_subset(
    figure: Figure,
    label: str,
    series: Mapping[str, tuple],
    from_zero: bool = True,
    floor: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Figure 1, bottom, and Figure 2 (c, d): a quantity x100 by robustness level, with a band over seeds."""
    axes = figure.subplots()
    if floor:
        _floor(axes, floor)
    for method, (mean, deviation) in series.items():
        levels = _subset_axis(axes, len(mean))
        axes.plot(levels, 100 * mean, **_line(style(method)))
        color = style(method).color
        axes.fill_between(levels, 100 * (mean - deviation), 100 * (mean + deviation), color=color, alpha=0.15, lw=0)
    axes.set_ylabel(label)
    if from_zero:
        axes.set_ylim(bottom=0)
    else:
        axes.axhline(0, color=INK, linewidth=0.8, alpha=0.5)
    _legend(figure)


def answer(figure: Figure, values: Mapping[str, Mapping[str, tuple]]) -> None:
    """ECE x100 by method: (mean, low, high, floor) as trained ("plain") and after "temperature" scaling."""
    axes = figure.subplots()
    for row, (method, by_variant) in enumerate(values.items()):
        color, marker = style(method).color, style(method).marker
        for variant, offset, fill in (("plain", -0.12, color), ("temperature", 0.18, "none")):
            mean, low, high, floor = by_variant[variant]
            looks: dict[str, Any] = {
                "color": color,
                "marker": marker,
                "markerfacecolor": fill,
                "capsize": 2.5,
                "elinewidth": 1.2,
            }
            bars = [[mean - low], [high - mean]] if np.isfinite(high) else None
            axes.errorbar([mean], [row + offset], xerr=bars, **looks)
            axes.plot([floor], [row + offset], "|", color=INK, markersize=9, alpha=0.7)
    # A user's name may be longer than the figure is wide; the table shows all of it.
    labels = [textwrap.fill(style(method).label, 24, max_lines=2, placeholder="…") for method in values]
    axes.set_yticks(range(len(values)), labels)
    axes.set(xlabel="ECE (x100)", ylim=(len(values) - 0.5, -0.5))
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    looks = {"color": INK, "linestyle": "none"}
    handles = [
        Line2D([], [], marker="o", label="as trained", **looks),
        Line2D([], [], marker="o", markerfacecolor="none", label="after temperature scaling", **looks),
        Line2D([], [], marker="|", markersize=9, label="floor (chance alone)", **looks),
    ]
    _legend(figure, handles)


def _floor(axes: Axes, floor: tuple[np.ndarray, np.ndarray]) -> None:
    """The range of 95 % of perfectly calibrated networks, and their mean, by robustness level."""
    mean, p95 = floor
    levels = np.arange(1, len(mean) + 1)
    band: dict[str, Any] = {"color": INK, "alpha": 0.12, "linewidth": 0, "label": "95 % of calibrated networks"}
    axes.fill_between(levels, 0, 100 * p95, **band)
    axes.plot(levels, 100 * mean, color=INK, linewidth=0.8, linestyle=":", label="their mean, the floor")


def reliability(figure: Figure, bins: Mapping[str, tuple]) -> None:
    """Accuracy against confidence by bin; below, the share of predictions by bin. Hollow: fewer than `FEW`."""
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=":", label="perfectly calibrated")
    for method, (count, confidence, accuracy) in bins.items():
        line, many = _line(style(method)), count >= FEW
        axes.plot(100 * confidence[many], 100 * accuracy[many], **line)
        # Not connected: a line through a handful of predictions shows only their noise.
        hollow = line | {"linestyle": "none", "markerfacecolor": "none"}
        axes.plot(100 * confidence[~many], 100 * accuracy[~many], **hollow)
        edges = np.linspace(0, 100, len(count) + 1)
        below.stairs(100 * count / count.sum(), edges, color=line["color"], linestyle=line["linestyle"], linewidth=1.5)
    axes.set_ylabel("accuracy (%)")
    below.set(xlabel="confidence (%)", ylabel="share (%)", yscale="log", xlim=(0, 100.5))
    below.set_yticks([0.1, 1, 10, 100])
    below.yaxis.set_major_formatter("{x:g}")
    _legend(figure, [axes.lines[0], *(_handle(method) for method in bins)])


def soft_labels(figure: Figure, method: str, epochs: np.ndarray, values: np.ndarray) -> None:
    """The soft label of the correct class by epoch, one line for each robustness level."""
    axes = figure.subplots()
    count = values.shape[1]
    ends = {0: "1 (least robust)", count - 1: f"{count} (most robust)"} if count > 1 else {0: "all examples"}
    for subset in range(count):
        color = ROBUSTNESS(subset / (count - 1)) if count > 1 else style(method).color
        axes.plot(epochs, values[:, subset], color=color, label=ends.get(subset, f"{subset + 1}"))
    axes.set(xlabel="epoch", ylabel="soft label of the\ncorrect class")
    if len(epochs) == 1:  # a line of one point shows nothing
        for line in axes.lines:
            line.set_marker("o")
    # About a dozen entries: the colours of the others lie between them.
    step = -(-count // 12)
    shown = [line for i, line in enumerate(axes.lines) if i % step == 0 or i == count - 1]
    _legend(figure, shown, columns=3, title="adversarial robustness level" if count > 1 else None)


def by_severity(
    figure: Figure,
    label: str,
    severities: Sequence[int],
    shifted: Mapping[str, np.ndarray],
    clean: Mapping[str, float],
    from_zero: bool,
) -> None:
    """The paper's Figures 3 and 6: by severity and method, a box over types of shift; and the clean test set."""
    axes = figure.subplots()
    width = 0.8 / len(shifted)
    for index, (method, values) in enumerate(shifted.items()):
        offset = (index - (len(shifted) - 1) / 2) * width
        positions = np.arange(1, len(severities) + 1) + offset
        color = style(method).color
        by_severity = [100 * column[np.isfinite(column)] for column in values.T]
        axes.boxplot(
            by_severity,
            positions=positions,
            widths=0.8 * width,
            whis=(0, 100),
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": (color, 0.35), "edgecolor": color},
            whiskerprops={"color": color},
            capprops={"color": color},
            medianprops={"color": color},
        )
        medians = [np.median(column) if len(column) else np.nan for column in by_severity]
        dots: dict[str, Any] = {"color": color, "linestyle": "none", "markersize": 4}
        axes.plot(positions, medians, marker=style(method).marker, **dots)
        axes.plot(offset, 100 * clean[method], marker=style(method).marker, **dots)
    axes.set_xticks(range(len(severities) + 1), ["clean", *map(str, severities)])
    axes.grid(visible=False, axis="x")
    axes.set(xlabel="severity of shift", ylabel=label)
    if from_zero:
        axes.set_ylim(bottom=0)
    _legend(figure, [_handle(method) for method in shifted])


def entropies(figure: Figure, entropies_by_method: Mapping[str, np.ndarray], num_classes: int) -> None:
    """The paper's Figure 4: histograms of the predictive entropy, as shares."""
    axes = figure.subplots()
    bins = np.linspace(0, np.log(num_classes), 31)
    for method, values in entropies_by_method.items():
        share = np.full(len(values), 100 / len(values))
        # Rounding may lift a uniform prediction slightly above the highest entropy.
        clipped = np.minimum(values, bins[-1])
        looks: dict[str, Any] = {"color": style(method).color, "linestyle": style(method).line, "linewidth": 1.6}
        axes.hist(clipped, list(bins), weights=share, histtype="step", **looks)
    axes.set(xlabel="predictive entropy (nats)", ylabel="images (%)", xlim=(0, bins[-1]))
    handles = []
    for method in entropies_by_method:
        look: Any = style(method)
        handles.append(Line2D([], [], color=look.color, linestyle=look.line, label=look.label))
    _legend(figure, handles)


def sensitivity(figure: Figure, num_subsets: Sequence[int], lines: Mapping[str, tuple]) -> None:
    """The paper's Figure 5: ECE by the number of subsets R; `lines` hold means and deviations, [points] each."""
    axes = figure.subplots()
    for (name, (mean, deviation)), color, marker in zip(lines.items(), (BLUE, VERMILLION), "Do", strict=False):
        bars = 100 * deviation if np.isfinite(deviation).any() else None
        looks: dict[str, Any] = {"color": color, "marker": marker, "capsize": 2.5, "elinewidth": 1}
        axes.errorbar(num_subsets, 100 * mean, bars, label=name, **looks)
    axes.set(xlabel="robustness subsets R (1: AdaLS)", ylabel="ECE (x100)", xticks=num_subsets)
    axes.set_ylim(bottom=0)
    _legend(figure)


def accuracy_and_confidence(figure: Figure, pairs: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """The paper's Figure 7: by method, accuracy and confidence of "single" models and of their "ensemble"."""
    axes = figure.subplots()
    for position, (method, by_kind) in enumerate(pairs.items()):
        color = style(method).color
        for offset, kind, fill in ((-0.16, "single", "none"), (0.16, "ensemble", color)):
            if kind in by_kind:
                accuracy, confidence = (100 * x for x in by_kind[kind])
                at = [position + offset] * 2
                axes.plot(at, [accuracy, confidence], color=color, linewidth=1)
                axes.plot(at[:1], [accuracy], "s", color=color, markerfacecolor=fill)
                axes.plot(at[:1], [confidence], "o", color=color, markerfacecolor=fill)
    axes.set_xticks(range(len(pairs)), [style(method).label.replace(" ", "\n") for method in pairs])
    axes.set(ylabel="accuracy, confidence (%)")
    axes.grid(visible=False, axis="x")
    looks: dict[str, Any] = {"color": INK, "linestyle": "none"}
    names = (("s", "accuracy"), ("o", "confidence"))
    handles = [
        Line2D([], [], marker=marker, markerfacecolor=fill, label=f"{name}, {kind}", **looks)
        for kind, fill in (("single", "none"), ("ensemble", INK))
        for marker, name in names
    ]
    _legend(figure, handles)


def distances(figure: Figure, distance: np.ndarray, subset: np.ndarray) -> None:
    """Histogram of the distances to the decision boundary, coloured by robustness level, with the levels' edges."""
    axes = figure.subplots()
    finite = np.isfinite(distance)
    count = int(subset.max()) + 1
    colors = [ROBUSTNESS(r / max(count - 1, 1)) for r in range(count)]
    groups = [distance[finite & (subset == r)] for r in range(count)]
    if finite.any():
        axes.hist(groups, bins=40, stacked=True, histtype="stepfilled", color=colors)
    for group in groups[1:]:
        if len(group):
            axes.axvline(group.min(), color=INK, linewidth=0.7, linestyle=":", alpha=0.7)
    failed = f"\n({np.sum(~finite)} without one are not shown)" if not finite.all() else ""
    axes.set(xlabel=f"L2 distance to the nearest adversarial example{failed}", ylabel="images")
    axes.set_xlim(left=0)
    ends = [Patch(color=colors[0], label="level 1 (least robust)")]
    if count > 1:
        ends.append(Patch(color=colors[-1], label=f"level {count} (most robust)"))
    _legend(figure, ends)

"""Plots: functions that take data and an Axes and return the Axes, and the look that all of them share.

Accuracies come as fractions and are shown in per cent. Matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from clbench.results import metrics, names
from clbench.results.metrics import Array
from clbench.results.statistics import ALPHA, mean_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from clbench.results.analysis import Ranks
    from clbench.results.groups import Curves

Styles = Mapping[str, Mapping[str, Any]]  # by label: colour, marker, line style and title, as Axes.plot takes them

ANNOTATED_TASKS = 12  # with more tasks than these, numbers in a heat map are too small to read
POINTS = "percentage points"

COLOURS = (
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#56b4e9", "#8c5109", "#7f7f7f", "#332288", "#882255"),
)  # after Okabe & Ito: told apart by the colour-blind too
MARKERS: tuple[Any, ...] = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "*", (4, 1, 0), "d", "p", "h", (3, 1, 0))
STEPS = (1, 2, 5, 10)  # of the numbers at an axis
LINES = ("-", "--", "-.", ":")  # with a marker each: 60 pairs before one comes again, so that grey will do

OURS: Any = {  # over seaborn's style
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.04,
    "figure.constrained_layout.wspace": 0.03,
    "figure.titlesize": 8,
    "font.sans-serif": ["DejaVu Sans", "Bitstream Vera Sans", "Verdana", "sans-serif"],  # one width, for SVG elsewhere
    "font.size": 8,
    "grid.color": "0.92",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.6,
    "legend.columnspacing": 1.2,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.8,  # so that a pattern of dashes shows
    "pdf.fonttype": 42,  # text stays text, in a font that publishers accept
    "savefig.facecolor": "white",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "clbench",  # the same names in every file
    "text.usetex": False,
    "xtick.labelsize": 7,
    "xtick.major.size": 3,
    "xtick.major.width": 0.8,
    "ytick.labelsize": 7,
    "ytick.major.size": 3,
    "ytick.major.width": 0.8,
}


@cache
def look() -> Any:  # Matplotlib's stubs want literal names
    """Return the settings that all figures are drawn with."""
    import seaborn  # slow to import

    return {**seaborn.axes_style("ticks"), **seaborn.plotting_context("paper"), **OURS}


def styles_of(labels: Sequence[str], titles: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Give each label a colour, marker and line that no other has, and its title (default: the label).

    A built-in method has its own in every report, as has a variant of one that stands alone; any other label gets what
    is free, with a new colour and marker as long as there are any.
    """
    return {
        label: {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "linestyle": LINES[number % len(LINES)],
            "label": plain((titles or {}).get(label, label)),
        }
        for label, number in _numbers_of_styles(tuple(labels)).items()
    }


@cache
def _numbers_of_styles(labels: tuple[str, ...]) -> dict[str, int]:
    known, chosen = names.known(), dict[str, int]()
    for name_of in (str, lambda label: label.split("@")[0].split(" [")[0]):  # methods as they are first, then variants
        for label in labels:
            name = name_of(label)
            if label not in chosen and name in known and known.index(name) not in chosen.values():
                chosen[label] = known.index(name)
    for label in labels:
        if label not in chosen:
            chosen[label] = _free(list(chosen.values()))
    return {label: chosen[label] for label in labels}


def _free(taken: Sequence[int]) -> int:
    """Return the number of a style unlike those taken, the core methods' last."""
    core = 5
    numbers = [*range(core, len(MARKERS) * len(LINES)), *range(core)]
    by_novelty = (
        lambda number: (number % len(COLOURS), number % len(MARKERS)),
        lambda number: (number % len(MARKERS),),
        lambda number: (number,),
    )
    for parts in by_novelty:
        used = [set(column) for column in zip(*map(parts, taken), strict=True)]
        for number in numbers:
            if not any(part in column for part, column in zip(parts(number), used, strict=False)):
                return number
    return len(taken)


def draw_matrix(R: Array, axes: Axes, low: float = 0.0, numbers: bool | None = None) -> Axes:
    """Draw an accuracy matrix [T+1, T] as a heat map in per cent, colours from `low` to 1; hatched where not measured.

    Row 0 is left out if it is empty. `numbers` says whether the cells have theirs (default: up to 12 tasks).
    """
    first = 1 if np.isnan(R[0]).all() else 0
    cells = 100 * R[first:]
    tasks = cells.shape[1]
    axes.grid(False)
    axes.patch.set(facecolor="white", edgecolor="0.85", hatch="////")
    axes.spines[:].set_visible(False)
    axes.imshow(
        np.ma.masked_invalid(cells), cmap="cividis", vmin=100 * low, vmax=100, aspect="auto", interpolation="none"
    )
    step = 1 if tasks <= ANNOTATED_TASKS else 5
    names = ["before" if i == 0 else str(i) for i in range(first, tasks + 1)]
    shown = [row for row, name in enumerate(names) if name == "before" or int(name) % step == 0]
    axes.set_yticks(shown, [names[row] for row in shown])
    axes.set_xticks(range(step - 1, tasks, step), [str(j) for j in range(step, tasks + 1, step)])
    axes.tick_params(length=0)
    axes.set(xlabel="accuracy on task", ylabel="after task")
    if tasks <= ANNOTATED_TASKS if numbers is None else numbers:
        decimals = 1 if tasks <= 4 else 0
        for row, column in zip(*np.nonzero(~np.isnan(cells)), strict=True):
            value = cells[row, column]
            dark = value < 100 * low + 60 * (1 - low)
            text = f"{value:.{decimals}f}" if value < 100 else "100"
            cell = axes.text(column, row, text, ha="center", va="center", size=7)
            cell.set(color="white" if dark else "black", in_layout=False)
    return axes


def draw_curves(curves: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's values [seeds, points] as the mean over seeds in per cent, with a band for its 95 % interval.

    Point k is at x = k.
    """
    alpha = 0.2 if len(curves) <= 3 else 0.12 if len(curves) <= 6 else 0.07  # of bands that lie over each other
    size = 4 if len(curves) <= 6 and max(values.shape[1] for values in curves.values()) <= 12 else 2.7
    for label, style in (styles or styles_of(list(curves))).items():
        if label not in curves:
            continue
        n, mean, _, low, high = mean_interval(100 * curves[label])
        x = np.arange(len(mean))
        axes.plot(x, mean, markersize=size, linewidth=1.2, **style)
        if n > 1:
            axes.fill_between(x, low, high, color=style["color"], alpha=alpha, linewidth=0)
            gap = np.isnan(np.pad(mean, 1, constant_values=np.nan))
            alone = ~gap[1:-1] & gap[:-2] & gap[2:]  # a band has no width at such points
            axes.vlines(x[alone], low[alone], high[alone], color=style["color"], linewidth=1)
    return axes


def draw_average(matrices: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's mean accuracy on the tasks seen so far after each task; matrices are [seeds, T+1, T]."""
    curves = {}
    for label, R in matrices.items():
        averages = np.array([metrics.average_accuracies(seed) for seed in R])
        curves[label] = np.insert(averages, 0, np.nan, axis=1)  # nothing is seen before task 1
    draw_curves(curves, axes, styles)
    tasks = max(R.shape[2] for R in matrices.values())
    axes.set_xticks(range(1, tasks + 1, 1 if tasks <= 12 else 2))
    axes.set(xlabel="tasks learnt", ylabel="mean accuracy so far (%)", xlim=(0.7, tasks + 0.3))
    keep_per_cent(axes)
    return axes


def draw_forgetting(matrices: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's forgetting by task, and its mean at the right, in percentage points with 95 % intervals.

    Matrices are [seeds, T+1, T]; labels stand side by side within each task's stripe.
    """
    styles = styles or styles_of(list(matrices))
    labels = [label for label in styles if label in matrices]
    tasks = max(R.shape[-1] for R in matrices.values())
    for position in range(1, tasks + 1, 2):
        axes.axvspan(position - 0.5, position + 0.5, color="0.95", linewidth=0, zorder=0)
    axes.axhline(0, color="0.3", linewidth=0.8)
    for number, label in enumerate(labels):
        by_task = np.array([[*metrics.forgetting_by_task(R), metrics.forgetting(R)] for R in matrices[label]])
        interval = mean_interval(100 * by_task)
        if np.isnan(interval.mean).all():
            continue
        x = 1 + np.arange(by_task.shape[1]) + 0.8 * ((number + 0.5) / len(labels) - 0.5)
        half = None if interval.n == 1 else interval.high - interval.mean
        look = {**styles[label], "linestyle": "none"}
        axes.errorbar(x, interval.mean, half, markersize=3.5, elinewidth=1, **look)
    axes.set_xticks(range(1, tasks + 1), [*map(str, range(1, tasks)), "mean"])
    axes.set_xlim(0.5, tasks + 0.5)
    axes.grid(False, axis="x")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -105), min(high, 105))  # an interval of few seeds may reach beyond what is possible
    axes.set(xlabel="task", ylabel=f"forgetting ({POINTS})")
    return axes


def draw_stability(matrices: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's 1 − forgetting against learning accuracy in per cent: means with 95 % intervals, seeds faint.

    Iso-lines join points of equal mean of the two. As their sum is 1 + learning accuracy − forgetting, and what is
    learnt and not forgotten is what is left at the end, methods on one line end at about the same average accuracy; a
    harmonic mean would have no such meaning. Matrices are [seeds, T+1, T]; a label for which either is undefined is
    left out.
    """
    seen = [-5.0, 105.0]  # per cent; an interval of few seeds may reach beyond what is possible
    for label, style in (styles or styles_of(list(matrices))).items():
        if label not in matrices:
            continue
        points = np.array([[metrics.learning_accuracy(R), 1 - metrics.forgetting(R)] for R in matrices[label]])
        interval = mean_interval(100 * points)
        if np.isnan(interval.mean).any():
            continue
        x_half, y_half = (None, None) if interval.n == 1 else interval.high - interval.mean
        colour, marker = style["color"], style["marker"]
        axes.scatter(100 * points[:, 0], 100 * points[:, 1], s=8, color=colour, marker=marker, alpha=0.35, linewidths=0)
        look = {**style, "linestyle": "none"}
        x, y = interval.mean
        seen += [x - 5, x + 5, y - 5, y + 5]
        axes.errorbar(x, y, y_half, x_half, markersize=5, elinewidth=1, **look)
    for limits, set_limits in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        low, high = max(limits[0], min(seen)), min(limits[1], max(seen))
        middle, half = (low + high) / 2, max((high - low) / 2, 2.5)  # small noise must not fill it
        set_limits(middle - half, middle + half)
    axes.set_xlim(right=min(axes.get_xlim()[1], 101))  # stability may lie above 100: forgetting can be negative
    axes.set(xlabel="plasticity: learning accuracy (%)", ylabel="stability: 100 − forgetting (%)")
    if axes.containers:
        _iso_lines(axes)
    return axes


def _iso_lines(axes: Axes) -> None:
    """Draw lines of equal mean of x and y, named where they leave the axes at the top or the left."""
    from matplotlib.ticker import MaxNLocator

    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.grid(False)
    for mean in MaxNLocator(6, steps=STEPS).tick_values((left + bottom) / 2, (right + top) / 2):
        x = np.array([max(left, 2 * mean - top), min(right, 2 * mean - bottom)])
        if x[1] - x[0] < 0.1 * (right - left):
            continue  # outside, or just a corner
        axes.plot(x, 2 * mean - x, color="0.8", linewidth=0.7, linestyle=(0, (5, 2)), zorder=0.9)
        at_top = 2 * mean - top > left
        spot = (x[0], 2 * mean - x[0])
        shift, align = ((2, -2), "top") if at_top else ((2, 2), "bottom")
        axes.annotate(
            f"{mean:g}",
            spot,
            shift,
            textcoords="offset points",
            ha="left",
            va=align,
            size=7,
            color="0.55",
            zorder=1,
            annotation_clip=False,
        )


def draw_cost(points: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw accuracy, in per cent with its 95 % interval, against a cost: by label [seeds, 2], cost and accuracy.

    A label whose cost is NaN for some seed is left out. The cost's axis is logarithmic where the means span more than
    a factor of ten.
    """
    costs = []
    for label, style in (styles or styles_of(list(points))).items():
        if label not in points or np.isnan(points[label]).any():
            continue
        n, (cost, accuracy), _, (_, low), _ = mean_interval(points[label] * [1, 100])
        costs.append(cost)
        half = None if n == 1 else accuracy - low
        axes.errorbar(cost, accuracy, half, markersize=5, elinewidth=1, **{**style, "linestyle": "none"})
    keep_per_cent(axes)
    if costs and min(costs) > 0 and max(costs) > 10 * min(costs):
        from matplotlib.ticker import LogLocator, NullLocator

        axes.set_xscale("log")
        low, high = min(costs) / 1.3, max(costs) * 1.3
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(
            LogLocator(10, (1,) if high > 300 * low else (1, 3) if high > 50 * low else (1, 2, 5))
        )
        axes.xaxis.set_minor_locator(NullLocator())
    elif costs:
        axes.set_xlim(left=0, right=1.08 * max(costs) or 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.set_ylabel("average accuracy (%)")
    return axes


def draw_differences(frame: pd.DataFrame, axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw a forest plot of paired differences to a baseline, in percentage points with 95 % intervals.

    A row per label, from the top; needs the columns label, baseline, difference, ci_low, ci_high and p_holm. Filled
    where p_holm < 0.05, hollow where the difference may be chance.
    """
    from matplotlib.ticker import MaxNLocator

    labels = list(frame["label"])
    styles = styles or styles_of(labels)
    axes.axvline(0, color="0.3", linewidth=0.8, zorder=1)
    for row, (label, *numbers) in enumerate(
        frame[["label", "difference", "ci_low", "ci_high", "p_holm"]].itertuples(index=False, name=None)
    ):
        difference, low, high = (100 * number for number in numbers[:3])
        look = {name: value for name, value in styles[label].items() if name != "linestyle"}
        half = None if np.isnan(low) else [[difference - low], [high - difference]]
        fill = look["color"] if numbers[3] < ALPHA else "white"
        axes.errorbar(
            difference, row, xerr=half, linestyle="none", markersize=4.5, elinewidth=1.1, markerfacecolor=fill, **look
        )
    axes.set_yticks(range(len(labels)), [str(styles[label]["label"]) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -105), min(high, 105))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    return axes


def draw_ranks(ranks: Ranks, axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw a critical-difference diagram (Demšar 2006): average ranks, best at the left; bars join what may be equal.

    A bar joins methods whose ranks lie within the critical difference.
    """
    styles = styles or styles_of(ranks.labels)
    order = np.argsort(ranks.ranks, kind="stable")
    values = np.asarray(ranks.ranks, dtype=np.float64)[order]
    k, cd = len(values), ranks.critical_difference
    axes.set(xlim=(1, k), yticks=[])
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set(visible=True, position=("data", 0))
    axes.xaxis.set_ticks_position("top")
    axes.set_xticks(range(1, k + 1))

    bars: list[tuple[float, float]] = []  # maximal: none within another
    for first in range(k):
        last = int(np.flatnonzero(values <= values[first] + cd + 1e-9)[-1])
        if last > first and not (bars and values[last] <= bars[-1][1]):
            bars.append((values[first], values[last]))
    for number, (low, high) in enumerate(bars):
        y = 0.45 + 0.3 * number
        axes.plot([low - 0.04, high + 0.04], [y, y], color="0.15", linewidth=2.2, solid_capstyle="butt", gid="clique")
    below = 0.55 + 0.3 * len(bars)
    heights = [0.12 + 0.5 * (1 + str(styles[ranks.labels[index]]["label"]).count("\n")) for index in order]

    left = (k + 1) // 2
    for place, index in enumerate(order):
        style, rank = styles[ranks.labels[index]], values[place]
        side = place < left
        above = heights[:place] if side else heights[place + 1 :]  # names beside the axis: the outermost is the first
        y = below + sum(above) + heights[place] / 2
        edge = 1 - 0.01 * k if side else k + 0.01 * k
        axes.plot([rank, rank, edge], [0, y, y], color=style["color"], linewidth=0.9, clip_on=False, zorder=1.5)
        axes.plot([rank], [0], clip_on=False, markersize=5, zorder=3, **{**style, "linestyle": "none"})
        axes.annotate(
            f"{style['label']} ({rank:.2f})",
            (edge, y),
            (-3 if side else 3, 0),
            textcoords="offset points",
            ha="right" if side else "left",
            va="center",
            size=7,
            annotation_clip=False,
        )
    width = min(cd, k - 1)  # a difference wider than the axis is cut
    axes.plot([1, 1 + width], [-1.5, -1.5], color="0.15", linewidth=1.2, marker="|", markersize=5, clip_on=False)
    axes.annotate(
        f"critical difference {cd:.2f}",
        (1 + width, -1.5),
        (5, 0),
        textcoords="offset points",
        va="center",
        size=7,
        annotation_clip=False,
    )
    axes.set_ylim(below + max(sum(heights[:left]), sum(heights[left:])), -1.8)
    return axes


def draw_within_tasks(curves: Curves, axes: Axes) -> Axes:
    """Draw the accuracy on each task seen as training goes on, mean over seeds in per cent with 95 % bands.

    Dotted lines stand where the next task begins: a fall right behind one that mends later is the stability gap (De
    Lange et al. 2023). Tasks are darker the earlier they were learnt.
    """
    n, mean, _, low, high = mean_interval(100 * curves.accuracy)
    for start in switches(curves):
        axes.axvline(start, color="0.5", linestyle=":", linewidth=0.9, zorder=1)
    for task, colour in enumerate(task_colours(mean.shape[1])):
        axes.plot(curves.updates, mean[:, task], color=colour, linewidth=1.0, label=f"task {task + 1}")
        if n > 1:
            axes.fill_between(curves.updates, low[:, task], high[:, task], color=colour, alpha=0.15, linewidth=0)
    axes.set_xlim(0, curves.updates[-1])
    axes.set(xlabel="updates", ylabel="accuracy (%)")
    keep_per_cent(axes)
    return axes


def switches(curves: Curves) -> Array:
    """Return after how many updates each task but the first began: the last point of the one before it."""
    tasks = np.asarray(curves.tasks)
    return np.asarray(curves.updates, dtype=np.float64)[:-1][tasks[1:] > tasks[:-1]]


def task_colours(tasks: int) -> list[Any]:
    """Return a colour per task, dark to light."""
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0, 0.88, tasks)]


def keep_per_cent(axes: Axes) -> None:
    """Cut an axis of accuracies just beyond 100 %, and keep small noise from filling it."""
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    low, high = axes.get_ylim()
    high = min(high, 102)
    axes.set_ylim(max(min(low, high - 5), -2), high)


def plain(label: str) -> str:
    """Return a label that Matplotlib shows as it is: no mathematics, not hidden from legends."""
    text = label.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def wrap(text: str, width: int) -> str:
    """Break plain text into lines of at most `width` characters, behind a space or a sign where there is one.

    Best before a bracket or behind a comma.
    """
    lines, rest = [], " ".join(text.split())
    while len(rest) > width:
        at = max(rest.rfind(" (", 0, width), rest.rfind(", ", 0, width), rest.rfind("; ", 0, width)) + 1
        if at < 4:
            at = max(rest.rfind(separator, 0, width) for separator in " ,@=") + 1 or width
        at -= rest[:at].endswith("\\")  # which belongs to the next character
        lines.append(rest[:at].rstrip())
        rest = rest[at:].lstrip()
    return " " * text.startswith(" ") + "\n".join([*lines, rest])


def characters(inches: float, size: float = 8) -> int:
    """Return how many characters of a size in points fit into a width, as a rule."""
    return max(4, math.floor(inches * 72 / (0.62 * size)))


def drawn_labels(axes: Axes) -> Iterable[str]:
    """Return the titles of what an Axes shows."""
    return axes.get_legend_handles_labels()[1]

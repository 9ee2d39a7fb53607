"""What stands in a figure: functions that draw data into an Axes and return it.

Accuracies come as fractions and are shown in per cent. `styles` say how each label looks (default: `styles_of`), and
which labels are drawn in which order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

from clbench.report.figures.style import GREY, Styles, ink, styles_of
from clbench.results import metrics
from clbench.results.metrics import Array
from clbench.results.statistics import mean_interval

if TYPE_CHECKING:
    from clbench.results.analysis import Ranks
    from clbench.results.groups import Curves

Matrices = Mapping[str, Array]  # by label: accuracies [seeds, T+1, T], NaN where not measured

ANNOTATED_TASKS = 12  # with more tasks than these, numbers in a heat map are too small to read
POINTS = "percentage points"
STEPS = (1, 2, 5, 10)  # of the numbers at an axis


def draw_matrix(R: Array, axes: Axes, low: float = 0.0, numbers: bool | None = None) -> Axes:
    """Draw an accuracy matrix [T+1, T] as a heat map in per cent, colours from `low` to 1; hatched where not measured.

    Row 0 is left out if it is empty. `numbers` says whether the cells have theirs (default: up to 12 tasks).
    """
    tasks = R.shape[1]
    few = tasks <= ANNOTATED_TASKS
    first = 1 if np.isnan(R[0]).all() else 0
    cells = pd.DataFrame(100 * R[first:], ["before", *range(1, tasks + 1)][first:], range(1, tasks + 1))
    axes.grid(False)
    axes.patch.set(facecolor="white", edgecolor="0.85", hatch="////")
    colours: Any = {"vmin": 100 * low, "vmax": 100, "cmap": "cividis", "cbar": False}
    shown = few if numbers is None else numbers
    ticks: Any = dict.fromkeys(("xticklabels", "yticklabels"), 1 if few else 5)
    seaborn.heatmap(cells, ax=axes, **colours, **ticks)
    mesh: Any = axes.collections[0]
    for (row, task), value in np.ndenumerate(cells.to_numpy() if shown else np.empty((0, 0))):
        if not np.isnan(value):
            look: Any = {"color": ink(mesh.cmap(mesh.norm(value))), "size": 7, "ha": "center", "va": "center"}
            axes.text(task + 0.5, row + 0.5, _per_cent(value), **look)
    axes.tick_params(length=0, rotation=0)
    axes.set(xlabel="on task", ylabel="after task")
    return axes


def _per_cent(value: float) -> str:
    """Write a cell's number with a decimal; only what is 0 or 100 has none, and nothing else is rounded to 100."""
    return f"{value:.0f}" if value in (0, 100) else f"{min(value, 99.9):.1f}"


def draw_curves(curves: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's values [seeds, points] as the mean over seeds in per cent, with a band for its 95 % interval.

    Point k is at x = k.
    """
    alpha = 0.2 if len(curves) <= 3 else 0.12 if len(curves) <= 6 else 0.07  # of bands that lie over each other
    size = 4 if len(curves) <= 6 and max(values.shape[1] for values in curves.values()) <= 12 else 2.7
    for label, style in _in(curves, styles):
        n, mean, _, low, high = mean_interval(100 * curves[label])
        x = np.arange(len(mean))
        axes.plot(x, mean, markersize=size, linewidth=1.2, **style)
        if n > 1:
            axes.fill_between(x, low, high, color=style["color"], alpha=alpha, linewidth=0)
            gap = np.isnan(np.pad(mean, 1, constant_values=np.nan))
            alone = ~gap[1:-1] & gap[:-2] & gap[2:]  # a band has no width at such points
            axes.vlines(x[alone], low[alone], high[alone], color=style["color"], linewidth=1)
    return axes


def draw_average(matrices: Matrices, axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's mean accuracy on the tasks seen so far after each task."""
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


def draw_forgetting(matrices: Matrices, axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's forgetting by task, and its mean at the right, in percentage points with 95 % intervals.

    Labels stand side by side within each task's stripe, grey ones in one place. The scale is that of the means: longer
    intervals are cut.
    """
    tasks = max(R.shape[-1] for R in matrices.values())
    for position in range(1, tasks + 1, 2):
        axes.axvspan(position - 0.5, position + 0.5, color="0.95", linewidth=0, zorder=0)
    axes.axhline(0, color="0.3", linewidth=0.8)
    of_labels = _in(matrices, styles)
    places, means, bars = slots(of_labels), [0.0], [0.0]
    for label, style in of_labels:
        by_task = np.array([[*metrics.forgetting_by_task(R), metrics.forgetting(R)] for R in matrices[label]])
        interval = mean_interval(100 * by_task)
        if np.isnan(interval.mean).all():
            continue
        means += interval.mean[~np.isnan(interval.mean)].tolist()
        ends = np.concatenate([interval.mean, interval.low, interval.high])
        bars += ends[~np.isnan(ends)].tolist()
        x = 1 + np.arange(by_task.shape[1]) + 0.8 * ((places[label] + 0.5) / (max(places.values()) + 1) - 0.5)
        axes.errorbar(x, interval.mean, interval.half, markersize=3.5, elinewidth=1, **_point(style))
    axes.set_xticks(range(1, tasks + 1), [*map(str, range(1, tasks)), "mean"])
    axes.set_xlim(0.5, tasks + 0.5)
    axes.grid(False, axis="x")
    low, high = min(means), max(means)
    room = max((high - low) / 4, 5)
    axes.set_ylim(max(min(bars) - 3, low - room), min(max(bars) + 3, high + room))
    axes.set(xlabel="task", ylabel=f"forgetting ({POINTS})")
    return axes


def slots(of_labels: Iterable[tuple[str, Mapping[str, Any]]]) -> dict[str, int]:
    """Return the place of each label beside the others, from 0; what is grey shares the last."""
    of_labels = list(of_labels)
    in_colour = [label for label, style in of_labels if style["color"] != GREY]
    return {label: in_colour.index(label) if label in in_colour else len(in_colour) for label, _ in of_labels}


def draw_stability(matrices: Matrices, axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's 1 − forgetting against learning accuracy in per cent: means with 95 % intervals, seeds faint.

    Iso-lines join points of equal mean of the two. As their sum is 1 + learning accuracy − forgetting, and what is
    learnt and not forgotten is what is left at the end, methods on one line end at about the same average accuracy; a
    harmonic mean would have no such meaning. A label for which either is undefined is left out.
    """
    seen = [-5.0, 105.0]  # per cent; an interval of few seeds may reach beyond what is possible
    for label, style in _in(matrices, styles):
        points = np.array([[metrics.learning_accuracy(R), 1 - metrics.forgetting(R)] for R in matrices[label]])
        interval = mean_interval(100 * points)
        if np.isnan(interval.mean).any():
            continue
        faint: Any = {"color": style["color"], "marker": style["marker"], "alpha": 0.35, "linewidths": 0}
        axes.scatter(100 * points[:, 0], 100 * points[:, 1], s=8, **faint)
        x, y = interval.mean
        seen += [x - 5, x + 5, y - 5, y + 5]
        halves = (None, None) if interval.half is None else interval.half
        axes.errorbar(x, y, halves[1], halves[0], markersize=5, elinewidth=1, **_point(style))
    for limits, set_limits in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        low, high = max(limits[0], min(seen)), min(limits[1], max(seen))
        middle, half = (low + high) / 2, max((high - low) / 2, 2.5)  # small noise must not fill it
        set_limits(middle - half, middle + half)
    axes.set_xlim(right=min(axes.get_xlim()[1], 101))  # stability may lie above 100: forgetting can be negative
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.set(xlabel="plasticity: learning accuracy (%)", ylabel="stability: 100 − forgetting (%)")
    if axes.containers:
        _draw_iso_lines(axes)
    return axes


def _draw_iso_lines(axes: Axes) -> None:
    """Draw lines of equal mean of x and y, named where they leave the axes at the top or the left."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    axes.grid(False)
    for mean in MaxNLocator(6, steps=STEPS).tick_values((left + bottom) / 2, (right + top) / 2):
        x = np.array([max(left, 2 * mean - top), min(right, 2 * mean - bottom)])
        if x[1] - x[0] < 0.1 * (right - left):
            continue  # outside, or just a corner
        axes.plot(x, 2 * mean - x, color="0.8", linewidth=0.7, linestyle=(0, (5, 2)), zorder=0.9)
        at_top = 2 * mean - top > left
        shift, align = ((2, -2), "top") if at_top else ((2, 2), "bottom")
        _annotate(axes, f"{mean:g}", (x[0], 2 * mean - x[0]), shift, va=align, color="0.55", zorder=1)


def draw_cost(points: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw accuracy, in per cent with its 95 % interval, against a cost: by label [seeds, 2], cost and accuracy.

    A label whose cost is NaN for some seed is left out. The cost's axis is logarithmic where the means span more than
    a factor of ten.
    """
    costs = []
    for label, style in _in(points, styles):
        if np.isnan(points[label]).any():
            continue
        n, (cost, accuracy), _, (_, low), _ = mean_interval(points[label] * [1, 100])
        costs.append(cost)
        axes.errorbar(cost, accuracy, None if n == 1 else accuracy - low, markersize=5, elinewidth=1, **_point(style))
    keep_per_cent(axes)
    if costs and min(costs) > 0 and max(costs) > 10 * min(costs):
        axes.set_xscale("log")
        low, high = min(costs) / 1.3, max(costs) * 1.3
        axes.set_xlim(low, high)
        axes.xaxis.set_major_locator(LogLocator(10, (1,) if high > 300 * low else (1, 3)))
        axes.xaxis.set_minor_locator(NullLocator())
    elif costs:
        axes.set_xlim(left=0, right=1.08 * max(costs) or 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.set_ylabel("average accuracy (%)")
    return axes


def draw_memory(
    sizes: Mapping[str, Sequence[tuple[float, Array]]], references: Mapping[str, Array], axes: Axes, styles: Styles
) -> Axes:
    """Draw accuracy, in per cent with its 95 % interval, against the images stored, on a logarithmic axis.

    `sizes` has each label's points: images, and accuracies by seed. `references` are drawn as lines across.
    """
    for label, style in _in(references, styles):
        axes.axhline(100 * references[label].mean(), linewidth=1.0, **{**style, "marker": "none", "zorder": 1.5})
    for label, style in _in(sizes, styles):
        images = [size for size, _ in sizes[label]]
        of_sizes = [mean_interval(100 * values) for _, values in sizes[label]]
        means, halves = [one.mean for one in of_sizes], [one.half for one in of_sizes if one.half is not None]
        bars = halves if len(halves) == len(means) else None
        axes.errorbar(images, means, bars, markersize=4, linewidth=1.2, elinewidth=1, **style)
    axes.set_xscale("log")
    there = sorted({size for points in sizes.values() for size, _ in points})
    axes.xaxis.set_major_locator(FixedLocator(there) if len(there) <= 6 else LogLocator(10))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.set(xlabel="images stored", ylabel="average accuracy (%)")
    keep_per_cent(axes)
    return axes


def draw_differences(frame: pd.DataFrame, axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw a forest plot of paired differences to a baseline, in percentage points with 95 % intervals.

    A row per label, from the top; needs the columns label, baseline, difference, ci_low, ci_high and verdict. Filled
    where the verdict is better or worse, hollow where there is none of the two.
    """
    labels = list(frame["label"])
    styles = styles or styles_of(labels)
    axes.axvline(0, color="0.3", linewidth=0.8, zorder=1)
    columns = frame[["label", "difference", "ci_low", "ci_high", "verdict"]]
    for row, (label, *numbers, verdict) in enumerate(columns.itertuples(index=False, name=None)):
        difference, low, high = (100 * number for number in numbers)
        half = None if np.isnan(low) else [[difference - low], [high - difference]]
        look = _point(styles[label])
        fill = look["color"] if verdict in ("better", "worse") else "white"
        axes.errorbar(difference, row, xerr=half, markersize=4.5, elinewidth=1.1, markerfacecolor=fill, **look)
    name_rows(axes, [str(styles[label]["label"]) for label in labels])
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -105), min(high, 105))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    return axes


def draw_ranks(ranks: Ranks, axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw a critical-difference diagram (Demšar 2006): average ranks, best at the left; bars join what may be equal.

    A bar joins methods whose ranks lie within the critical difference.
    """
    order = np.argsort(ranks.ranks, kind="stable")
    values = np.asarray(ranks.ranks, dtype=np.float64)[order]
    count, distance = len(values), ranks.critical_difference
    axes.set(xlim=(1, count), yticks=[])
    axes.grid(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set(visible=True, position=("data", 0))
    axes.xaxis.set_ticks_position("top")
    axes.set_xticks(range(1, count + 1))
    bars = _cliques(values, distance)
    for number, (low, high) in enumerate(bars):
        y = 0.45 + 0.3 * number
        axes.plot([low - 0.04, high + 0.04], [y, y], color="0.15", linewidth=2.2, solid_capstyle="butt", gid="clique")
    styles = styles or styles_of(ranks.labels)
    lowest = _draw_names([styles[ranks.labels[index]] for index in order], values, axes, 0.55 + 0.3 * len(bars))
    width = min(distance, count - 1)  # a difference wider than the axis is cut
    axes.plot([1, 1 + width], [-1.5, -1.5], color="0.15", linewidth=1.2, marker="|", markersize=5, clip_on=False)
    _annotate(axes, f"critical difference {distance:.2f}", (1 + width, -1.5), (5, 0))
    axes.set_ylim(lowest, -1.8)
    return axes


def _cliques(values: Array, distance: float) -> list[tuple[float, float]]:
    """Return the longest runs of sorted ranks that lie within a distance, as first and last; none within another."""
    bars: list[tuple[float, float]] = []
    for first, value in enumerate(values):
        last = int(np.flatnonzero(values <= value + distance + 1e-9)[-1])
        if last > first and not (bars and values[last] <= bars[-1][1]):
            bars.append((value, values[last]))
    return bars


def _draw_names(styles: list[Mapping[str, Any]], values: Array, axes: Axes, below: float) -> float:
    """Write the names of sorted ranks at both sides, a line from each to its place; return how far down they reach."""
    count = len(values)
    left = (count + 1) // 2
    heights = [0.12 + 0.5 * (1 + str(style["label"]).count("\n")) for style in styles]
    for place, (style, rank) in enumerate(zip(styles, values, strict=True)):
        at_left = place < left
        above = heights[:place] if at_left else heights[place + 1 :]  # the outermost rank has the highest name
        y = below + sum(above) + heights[place] / 2
        edge = 1 - 0.01 * count if at_left else count + 0.01 * count
        axes.plot([rank, rank, edge], [0, y, y], color=style["color"], linewidth=0.9, clip_on=False, zorder=1.5)
        axes.plot([rank], [0], clip_on=False, markersize=5, zorder=3, **_point(style))
        side: Any = {"ha": "right" if at_left else "left"}
        _annotate(axes, f"{style['label']} ({rank:.2f})", (edge, y), (-3 if at_left else 3, 0), **side)
    return below + max(sum(heights[:left]), sum(heights[left:]))


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
    return [colormaps["viridis"](x) for x in np.linspace(0, 0.88, tasks)]


def keep_per_cent(axes: Axes) -> None:
    """Cut an axis of accuracies just beyond 100 %, and keep small noise from filling it."""
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    low, high = axes.get_ylim()
    high = min(high, 102)
    axes.set_ylim(max(min(low, high - 5), -2), high)


ONE_PANEL: Mapping[str, Callable[..., Axes]] = {  # the kinds of figures that one Axes holds
    "average-accuracy": draw_average,
    "forgetting-by-task": draw_forgetting,
    "stability-plasticity": draw_stability,
    "ranks": draw_ranks,
}


def _in(data: Mapping[str, Any], styles: Styles | None) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the labels that have data and their styles, in the order of the styles."""
    return [(label, style) for label, style in (styles or styles_of(list(data))).items() if label in data]


def _point(style: Mapping[str, Any]) -> dict[str, Any]:
    return {**style, "linestyle": "none"}


def _annotate(axes: Axes, text: str, at: tuple[float, float], shift: tuple[float, float], **look: Any) -> None:
    """Write text beside a point, `shift` in typographic points, also outside the axes."""
    look = {"ha": "left", "va": "center", "size": 7, **look}
    axes.annotate(text, at, shift, textcoords="offset points", annotation_clip=False, **look)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of a figure that has a method in each, the first one at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)

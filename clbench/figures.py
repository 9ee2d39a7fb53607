"""Figures of accuracy matrices.

Functions named draw_… take data and an Axes and return the Axes; `draw` makes a whole
figure. Matplotlib and seaborn are imported when something is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from clbench import metrics
from clbench.metrics import Array
from clbench.statistics import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clbench.results import Comparison

Styles = Mapping[str, Mapping[str, Any]]  # by label: colour, marker and line style, as Axes.plot takes them
PAGE_WIDTH = 7.0  # inches
ANNOTATED_TASKS = 12  # with more tasks than these, numbers in a heat map are too small to read


def draw_matrix(R: Array, axes: Axes, low: float = 0.0) -> Axes:
    """Draw an accuracy matrix [T+1, T] as a heat map in per cent, colours from `low` to 1; hatched where not measured.

    Row 0 is left out if it is empty.
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
    if tasks <= ANNOTATED_TASKS:
        decimals, size = (1, 7.0) if tasks + (first == 0) <= 5 else (0, 7.0) if tasks <= 6 else (0, 5.5)
        for row, column in zip(*np.nonzero(~np.isnan(cells)), strict=True):
            value = cells[row, column]
            dark = value < 100 * low + 60 * (1 - low)
            text = f"{value:.{decimals}f}" if value < 100 else "100"
            axes.text(column, row, text, ha="center", va="center", size=size, color="white" if dark else "black")
    return axes


def draw_curves(curves: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's values [seeds, points] as the mean over seeds in per cent, with a band for its 95 % interval.

    Point k is at x = k.
    """
    alpha = 0.2 if len(curves) <= 3 else 0.12 if len(curves) <= 6 else 0.07  # of bands that lie over each other
    for label, style in (styles or _styles(list(curves))).items():
        if label not in curves:
            continue
        n, mean, _, low, high = mean_interval(100 * curves[label])
        x = np.arange(len(mean))
        axes.plot(x, mean, markersize=4 if len(x) <= 12 else 2.5, linewidth=1.3, label=_plain(label), **style)
        if n > 1:
            axes.fill_between(x, low, high, color=style["color"], alpha=alpha, linewidth=0)
            gap = np.isnan(np.pad(mean, 1, constant_values=np.nan))
            alone = ~gap[1:-1] & gap[:-2] & gap[2:]  # a band has no width at such points
            axes.vlines(x[alone], low[alone], high[alone], color=style["color"], linewidth=1)
    return axes


def draw_forgetting(matrices: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's forgetting by task, and its mean at the right, in percentage points with 95 % intervals.

    Matrices are [seeds, T+1, T]; labels stand side by side within each task's stripe.
    """
    styles = styles or _styles(list(matrices))
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
        axes.errorbar(x, interval.mean, half, markersize=4, elinewidth=1, label=_plain(label), **look)
    axes.set_xticks(range(1, tasks + 1), [*map(str, range(1, tasks)), "mean"])
    axes.set_xlim(0.5, tasks + 0.5)
    axes.grid(False, axis="x")
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -105), min(high, 105))  # an interval of few seeds may reach beyond what is possible
    axes.set(xlabel="task", ylabel="forgetting (percentage points)")
    return axes


def draw_stability(matrices: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's 1 − forgetting against learning accuracy in per cent: means with 95 % intervals, seeds faint.

    Matrices are [seeds, T+1, T]; a label for which either is undefined is left out.
    """
    seen = [-5.0, 105.0]  # per cent; an interval of few seeds may reach beyond what is possible
    for label, style in (styles or _styles(list(matrices))).items():
        if label not in matrices:
            continue
        points = np.array([[metrics.learning_accuracy(R), 1 - metrics.forgetting(R)] for R in matrices[label]])
        interval = mean_interval(100 * points)
        if np.isnan(interval.mean).any():
            continue
        x_half, y_half = (None, None) if interval.n == 1 else interval.high - interval.mean
        axes.scatter(
            100 * points[:, 0],
            100 * points[:, 1],
            s=10,
            color=style["color"],
            marker=style["marker"],
            alpha=0.35,
            linewidths=0,
        )
        look = {**style, "linestyle": "none"}
        x, y = interval.mean
        seen += [x - 5, x + 5, y - 5, y + 5]
        axes.errorbar(x, y, y_half, x_half, markersize=6, elinewidth=1, label=_plain(label), **look)
    for limits, set_limits in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        set_limits(max(limits[0], min(seen)), min(limits[1], max(seen)))
    axes.set(xlabel="plasticity: learning accuracy (%)", ylabel="stability: 100 − forgetting (%)")
    return axes


@dataclass(frozen=True)
class FigureKind:
    """A figure of the report: what it shows, and how to lay it out from matrices, numbers of seeds and styles."""

    title: str
    note: str
    lay_out: Callable[[Figure, Mapping[str, Array], Mapping[str, int], Styles], None]


def _lay_out_matrices(figure: Figure, matrices: Mapping[str, Array], seeds: Mapping[str, int], styles: Styles) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    means = {label: R.mean(axis=0) for label, R in matrices.items()}
    tasks = max(R.shape[1] for R in means.values())
    annotated = tasks <= ANNOTATED_TASKS
    longest = max(map(len, means))
    narrowest = max(1.7, 0.3 * tasks if annotated else 2.2, min(0.03 * longest, 3.4))  # inches
    fitting = int(PAGE_WIDTH / narrowest)
    rows = -(-len(means) // fitting)
    columns = -(-len(means) // rows)
    width = int(PAGE_WIDTH / columns / 0.085)
    titles = {label: _wrap(label, width) for label in means}
    if len(set(seeds.values())) > 1:
        titles = {label: f"{title}\n{seeds[label]} seed{'s' * (seeds[label] != 1)}" for label, title in titles.items()}
    lines = max(title.count("\n") for title in titles.values())
    height = (max(1.1, 0.2 * tasks) if annotated else 1.7) + 0.45 + 0.12 * lines
    figure.set_size_inches(max(4.0, PAGE_WIDTH * columns / fitting), 0.6 + rows * height)
    lowest = min((np.nanmin(R) for R in means.values() if not np.isnan(R).all()), default=0.0)
    low = min(np.floor(10 * lowest) / 10, 0.9)
    panels = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(panels.flat):
        if number >= len(means):
            axes.remove()
            continue
        label = list(means)[number]
        draw_matrix(means[label], axes, low).set_title(titles[label])
        if number % columns:
            axes.set_ylabel("")
        if number + columns < len(means):
            axes.set_xlabel("")
    colours = ScalarMappable(Normalize(100 * low, 100), "cividis")
    figure.colorbar(
        colours, ax=figure.axes, label="accuracy (%)", aspect=18 * min(rows, 3), shrink=min(1, 3 / rows), pad=0.02
    ).outline.set_visible(False)


def _lay_out_tasks(figure: Figure, matrices: Mapping[str, Array], seeds: Mapping[str, int], styles: Styles) -> None:
    from matplotlib.ticker import MaxNLocator

    tasks = max(R.shape[2] for R in matrices.values())
    columns = min(tasks, 5)
    rows = -(-tasks // columns)
    figure.set_size_inches(PAGE_WIDTH if tasks > 1 else 4.5, (1.8 if columns > 3 else 2.4) * rows + 0.7)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    before = any(not np.isnan(R[:, 0]).all() for R in matrices.values())
    for number, axes in enumerate(panels.flat):
        if number >= tasks:
            axes.remove()
            continue
        draw_curves({label: R[:, :, number] for label, R in matrices.items()}, axes, styles).set_title(
            f"task {number + 1}"
        )
        axes.axvline(number + 1, color="0.4", linestyle=":", linewidth=1.2, zorder=1.8)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        if number + columns >= tasks:
            axes.set_xlabel("tasks learnt")
            axes.tick_params(labelbottom=True)
        if number % columns == 0:
            axes.set_ylabel("accuracy (%)")
    _per_cent(panels[0, 0])
    panels[0, 0].set_xlim(-0.3 if before else 0.7, tasks + 0.3)
    _legend(figure, matrices, styles)


def _lay_out_average(figure: Figure, matrices: Mapping[str, Array], seeds: Mapping[str, int], styles: Styles) -> None:
    figure.set_size_inches(5.0, 3.4)
    axes = figure.subplots()
    curves = {}
    for label, R in matrices.items():
        averages = np.array([metrics.average_accuracies(seed) for seed in R])
        curves[label] = np.insert(averages, 0, np.nan, axis=1)  # nothing is seen before task 1
    draw_curves(curves, axes, styles)
    tasks = max(R.shape[2] for R in matrices.values())
    axes.set_xticks(range(1, tasks + 1, 1 if tasks <= 12 else 2))
    axes.set(xlabel="tasks learnt", ylabel="mean accuracy on the tasks so far (%)", xlim=(0.7, tasks + 0.3))
    _per_cent(axes)
    _legend(figure, matrices, styles)


def _lay_out_forgetting(
    figure: Figure, matrices: Mapping[str, Array], seeds: Mapping[str, int], styles: Styles
) -> None:
    tasks = max(R.shape[2] for R in matrices.values())
    figure.set_size_inches(max(5.0, min(14.0, 0.1 * len(matrices) * tasks)), 3.4)
    axes = draw_forgetting(matrices, figure.subplots(), styles)
    _legend(figure, _name_undefined(axes, matrices), styles)


def _lay_out_stability(figure: Figure, matrices: Mapping[str, Array], seeds: Mapping[str, int], styles: Styles) -> None:
    figure.set_size_inches(5.0, 4.0)
    axes = draw_stability(matrices, figure.subplots(), styles)
    axes.set_xlim(right=min(axes.get_xlim()[1], 101))  # stability may lie above 100: forgetting can be negative
    _legend(figure, _name_undefined(axes, matrices), styles)


FIGURES: Mapping[str, FigureKind] = {
    "accuracy-matrix": FigureKind(
        "Accuracy on each task after each task", "means; hatched: not measured", _lay_out_matrices
    ),
    "accuracy-by-task": FigureKind(
        "Accuracy on each task as training goes on",
        "dotted: when the task is learnt; band: 95 % interval",
        _lay_out_tasks,
    ),
    "average-accuracy": FigureKind("Mean accuracy on the tasks seen so far", "band: 95 % interval", _lay_out_average),
    "forgetting-by-task": FigureKind("Forgetting of each task at the end", "bar: 95 % interval", _lay_out_forgetting),
    "stability-plasticity": FigureKind(
        "Stability against plasticity", "faint: single seeds; bar: 95 % interval; top right is best", _lay_out_stability
    ),
}


def draw(kind: str, comparison: Comparison, labels: Sequence[str]) -> Figure:
    """Draw a figure of one comparison; `labels` are all that share styles with it."""
    from matplotlib import rc_context

    what = FIGURES[kind]
    seeds = {group.label: len(group.runs) for group in comparison.finished}
    few, many = min(seeds.values()), max(seeds.values())
    count = f"{few}–{many}" if few < many else str(many)
    note = f"{count} seed{'s' * (many != 1)}; {what.note}"
    with rc_context(look_of_paper()):
        figure = _figure_class()(layout="constrained")
        what.lay_out(figure, comparison.accuracy(), seeds, _styles(labels))
        width = int(figure.get_size_inches()[0] / 0.076)
        heading = [
            _wrap(what.title, width),
            _wrap(comparison.title, width),
            _wrap(note if many > 1 else "one seed, so no intervals", width),
        ]
        figure.suptitle("\n".join(heading), fontsize="medium")
    return figure


@cache
def _figure_class() -> type[Figure]:
    """Return a Figure that a notebook shows without pyplot, whose global state stays untouched."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=120)
            return buffer.getvalue()

    return NotebookFigure


@cache
def look_of_paper() -> Any:  # Matplotlib's stubs want literal names
    import seaborn

    look = {**seaborn.axes_style("ticks"), **seaborn.plotting_context("paper", font_scale=0.9)}
    return look | {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "0.92",
        "hatch.linewidth": 0.6,
        "legend.frameon": False,
        "legend.handlelength": 2.6,  # so that a pattern of dashes shows
        "pdf.fonttype": 42,  # text stays text
    }


def _styles(labels: Sequence[str]) -> Styles:
    """Give each label a colour, marker and line of its own; up to twelve markers differ, readable in grey too."""
    import seaborn

    palette = seaborn.color_palette("colorblind")
    lines: list[Any] = ["-", "--", "-.", ":"]
    return {
        label: {"color": palette[i % 10], "marker": "osD^vPX<>*hp"[i % 12], "linestyle": lines[i % 4]}
        for i, label in enumerate(labels)
    }


def _legend(figure: Figure, labels: Iterable[str], styles: Styles) -> None:
    """Put the legend below the axes, in as many columns as fit, and make room for it."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], markersize=4, linewidth=1.3, label=_wrap(label, 40), **styles[label]) for label in labels]
    if not handles:
        return
    lines = [str(handle.get_label()).splitlines() for handle in handles]
    width, height = figure.get_size_inches()
    for columns in range(len(handles), 0, -1):
        parts = np.array_split(np.arange(len(handles)), columns)  # as Matplotlib fills them
        if sum(0.55 + 0.058 * max(len(line) for i in part for line in lines[i]) for part in parts) <= width:
            break
    figure.set_size_inches(width, height + 0.17 * max(sum(len(lines[i]) for i in part) for part in parts))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _per_cent(axes: Axes) -> None:
    """Cut an axis of accuracies just beyond 100 %, and keep small noise from filling it."""
    low, high = axes.get_ylim()
    high = min(high, 102)
    axes.set_ylim(max(min(low, high - 5), -2), high)


def _name_undefined(axes: Axes, labels: Iterable[str]) -> list[str]:
    """Write below the axes which labels have nothing in them, and return the others."""
    drawn = axes.get_legend_handles_labels()[1]
    missing = [label for label in labels if _plain(label) not in drawn]
    if missing:
        axes.set_xlabel(f"{axes.get_xlabel()}\n{_wrap('not defined for ' + ', '.join(missing), 70)}")
    if not drawn:
        axes.set(xticks=[], yticks=[])
    return [label for label in labels if label not in missing]


def _plain(label: str) -> str:
    """Return a label that Matplotlib shows as it is: no mathematics, not hidden from legends."""
    text = label.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _wrap(text: str, width: int) -> str:
    """Break text into lines of at most `width` characters, behind a space or a sign where there is one."""
    lines, rest = [], " ".join(text.split())
    while len(rest) > width:
        at = max(rest.rfind(separator, 0, width) for separator in " ,@=") + 1 or width
        lines.append(rest[:at].rstrip())
        rest = rest[at:]
    return "\n".join(_plain(line) for line in [*lines, rest])

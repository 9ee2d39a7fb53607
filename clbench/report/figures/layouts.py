"""Layouts of figures: panels, sizes and legends, on a column or a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from clbench.report.figures import plots
from clbench.report.figures.plots import POINTS, Styles, characters, wrap
from clbench.results.metrics import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clbench.results.analysis import Ranks

Width = Literal["column", "page"]
WIDTHS: Mapping[str, float] = {"column": 3.4, "page": 7.0}  # inches
TALLEST = 9.3  # inches: what a page has for a figure
Matrices = Mapping[str, Array]  # by label: [seeds, T+1, T]


@dataclass(frozen=True)
class Subject:
    """What one figure is drawn from."""

    title: str  # what is compared
    note: str
    styles: Styles  # of the labels in it, in the order of the tables
    data: Any
    seeds: Mapping[str, int] = field(default_factory=dict)  # how many, by label

    @property
    def titles(self) -> dict[str, str]:
        return {label: str(style["label"]) for label, style in self.styles.items()}


def count_of(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def lay_out_matrices(figure: Figure, subject: Subject) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    means = {label: R.mean(axis=0) for label, R in subject.data.items()}
    tasks = max(R.shape[1] for R in means.values())
    total = figure.get_figwidth() - 0.55  # beside the colour bar
    few = {"panel": max(1.15, 0.22 * tasks + 0.3), "height": max(0.9, 0.19 * tasks)}
    shape = few if tasks <= plots.ANNOTATED_TASKS else {"panel": 1.5, "height": 1.1}
    columns, rows = _grid(len(means), total / shape["panel"])
    if tasks > 6 and rows * (shape["height"] + 0.5) > TALLEST:
        shape = {"panel": 1.3, "height": 1.0}  # without numbers
        columns, rows = _grid(len(means), total / shape["panel"])
    figure.set_figwidth(min(figure.get_figwidth(), max(WIDTHS["column"], 0.55 + columns * max(2.2, 0.4 * tasks))))
    width = characters((figure.get_figwidth() - 0.9) / columns - 0.1)
    titles = {label: wrap(subject.titles[label], width) for label in means}
    if len({subject.seeds[label] for label in means}) > 1:
        titles = {label: f"{title}\n{count_of(subject.seeds[label], 'seed')}" for label, title in titles.items()}
    lines = max(title.count("\n") for title in titles.values())
    figure.set_figheight(0.45 + rows * (shape["height"] + 0.32 + 0.13 * lines))
    lowest = min((np.nanmin(R) for R in means.values() if not np.isnan(R).all()), default=0.0)
    low = min(np.floor(10 * lowest) / 10, 0.9)
    alike = len({bool(np.isnan(R[0]).all()) for R in means.values()}) == 1  # all with a row before task 1, or none
    panels = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(panels.flat):
        if number >= len(means):
            axes.remove()
            continue
        label = list(means)[number]
        plots.draw_matrix(means[label], axes, low, numbers=shape is few).set_title(titles[label])
        if number % columns:
            axes.set_ylabel("")
            axes.tick_params(labelleft=not alike)
        if number + columns < len(means):
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)
    colours = ScalarMappable(Normalize(100 * low, 100), "cividis")
    figure.colorbar(
        colours, ax=figure.axes, label="accuracy (%)", aspect=18 * min(rows, 3), shrink=min(1, 3 / rows), pad=0.02
    ).outline.set_visible(False)


def lay_out_tasks(figure: Figure, subject: Subject) -> None:
    from matplotlib.ticker import MaxNLocator

    matrices = subject.data
    tasks = max(R.shape[2] for R in matrices.values())
    columns, rows = _grid(tasks, figure.get_figwidth() / 1.1, evenly=False)
    columns = min(columns, 5)
    rows = -(-tasks // columns)
    if tasks == 1:
        figure.set_figwidth(WIDTHS["column"])
    figure.set_figheight((1.35 if columns > 2 else 1.7) * rows + 0.3)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    before = any(not np.isnan(R[:, 0]).all() for R in matrices.values())
    for number, axes in enumerate(panels.flat):
        if number >= tasks:
            axes.remove()
            continue
        curves = {label: R[:, :, number] for label, R in matrices.items()}
        plots.draw_curves(curves, axes, subject.styles).set_title(f"task {number + 1}")
        axes.axvline(number + 1, color="0.4", linestyle=":", linewidth=1.2, zorder=1.8)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
        if number + columns >= tasks:
            axes.set_xlabel("tasks learnt")
            axes.tick_params(labelbottom=True)
        if number % columns == 0:
            axes.set_ylabel("accuracy (%)")
    plots.keep_per_cent(panels[0, 0])
    panels[0, 0].set_xlim(-0.3 if before else 0.7, tasks + 0.3)
    _legend(figure, subject, matrices)


def lay_out_average(figure: Figure, subject: Subject) -> None:
    figure.set_figheight(2.3)
    plots.draw_average(subject.data, figure.subplots(), subject.styles)
    _legend(figure, subject, subject.data)


def lay_out_forgetting(figure: Figure, subject: Subject) -> None:
    matrices = subject.data
    tasks = max(R.shape[2] for R in matrices.values())
    fitting = max(1, int((figure.get_figwidth() - 0.6) / (0.055 * len(matrices) + 0.03)))  # tasks in a row
    rows = -(-tasks // fitting)
    in_row = -(-tasks // rows)
    figure.set_figheight(2.3 if rows == 1 else rows * max(0.9, min(1.5, (TALLEST - 2) / rows)) + 0.3)
    panels = figure.subplots(rows, 1, sharey=True, squeeze=False)[:, 0]
    for row, axes in enumerate(panels):
        plots.draw_forgetting(matrices, axes, subject.styles)
        if rows > 1:
            axes.set_xlim(row * in_row + 0.5, (row + 1) * in_row + 0.5)
            axes.set(ylabel="forgetting", xlabel="task" if row == rows - 1 else "")
    if rows > 1:
        panels[0].set_ylabel(f"forgetting\n({POINTS})")
    _legend(figure, subject, _name_undefined(figure, panels[-1], subject), lines=False)


def lay_out_stability(figure: Figure, subject: Subject) -> None:
    figure.set_figheight(2.8)
    axes = plots.draw_stability(subject.data, figure.subplots(), subject.styles)
    _legend(figure, subject, _name_undefined(figure, axes, subject), lines=False)


def lay_out_cost(figure: Figure, subject: Subject) -> None:
    beside = figure.get_figwidth() > 5
    count = len(subject.data)
    figure.set_figheight(2.4 if beside or count == 1 else 2.0 * count)
    if beside and count == 1:
        figure.set_figwidth(WIDTHS["column"])
    panels = figure.subplots(*((1, count) if beside else (count, 1)), sharey=True, squeeze=False)
    for axes, (name, points) in zip(panels.flat, subject.data.items(), strict=True):
        if name == "bytes":
            unit, size = ("GB", 1e9) if max(p[:, 0].max() for p in points.values()) >= 1e9 else ("MB", 1e6)
            points = {label: p / [size, 1] for label, p in points.items()}
            axes.set_xlabel(f"peak memory of a run ({unit})")
        else:
            axes.set_xlabel("training time of a run (s)")
        plots.draw_cost(points, axes, subject.styles)
        if beside and axes is not panels.flat[0]:
            axes.set_ylabel("")
    drawn = [label for label in subject.styles if any(label in points for points in subject.data.values())]
    _legend(figure, subject, drawn, lines=False)


def lay_out_differences(figure: Figure, subject: Subject) -> None:
    beside = figure.get_figwidth() > 5
    frames = subject.data
    together = beside and len({tuple(frame["label"]) for frame in frames}) == 1
    styles = _wrapped(subject.styles, 34 if beside else 22)
    names = [str(styles[label]["label"]) for frame in frames for label in frame["label"]]
    beside_axes = 0.25 + 0.06 * max(len(line) for name in names for line in name.splitlines())  # inches
    panels_beside = len(frames) if beside else 1
    inner = (figure.get_figwidth() - beside_axes * (1 if together else panels_beside)) / panels_beside - 0.15
    texts = []
    for frame in frames:
        metric, baseline = frame["metric"].iloc[0], frame["baseline"].iloc[0]
        better = "lower" if metric == "forgetting" else "higher"
        title = wrap(f"{metric.replace('_', ' ')} ({better} is better)", characters(inner))
        name = subject.titles.get(baseline, baseline).strip()
        texts.append((title, wrap(f"difference to {name} ({POINTS})", characters(inner))))
    lines = max(name.count("\n") + 1 for name in names)
    around = 0.5 + 0.13 * max(title.count("\n") + under.count("\n") for title, under in texts)
    height = around + max(0.19, 0.13 * lines) * (max(len(frame) for frame in frames) + 0.5)
    figure.set_figheight(height if beside else height * len(frames))
    panels = figure.subplots(*((1, len(frames)) if beside else (len(frames), 1)), sharey=together, squeeze=False)
    for axes, frame, (title, under) in zip(panels.flat, frames, texts, strict=True):
        plots.draw_differences(frame, axes, styles).set(title=title, xlabel=under)


def lay_out_ranks(figure: Figure, subject: Subject) -> None:
    ranks: Ranks = subject.data
    styles = _wrapped(subject.styles, min(34, int((figure.get_figwidth() - 1.1) / 2 / 0.055) - 7))
    axes = plots.draw_ranks(ranks, figure.subplots(), styles)
    if figure.get_figwidth() < 5 and len(ranks.labels) > 9:
        axes.set_xticks(range(1, len(ranks.labels) + 1, 2))
    bottom, top = axes.get_ylim()
    figure.set_figheight(0.3 * (bottom - top) + 0.1)


def lay_out_within_tasks(figure: Figure, subject: Subject) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    every = subject.data
    tasks = max(curves.accuracy.shape[2] for curves in every.values())
    many = len(every) > 9 or (len(every) > 4 and figure.get_figwidth() < 5)
    columns, rows = _grid(len(every), figure.get_figwidth() / (1.65 if many else 2.3))
    figure.set_figheight(0.25 + (1.3 if many else 1.6) * rows)
    alike = len({round(curves.updates[-1]) for curves in every.values()}) == 1  # joint training takes more
    panels = figure.subplots(rows, columns, sharex=alike, sharey=True, squeeze=False)
    width = characters(figure.get_figwidth() / columns - 0.3)
    for number, axes in enumerate(panels.flat):
        if number >= len(every):
            axes.remove()
            continue
        label = list(every)[number]
        axes.xaxis.set_major_locator(MaxNLocator(3 if many else 4, steps=plots.STEPS))
        plots.draw_within_tasks(every[label], axes).set_title(wrap(subject.titles[label], width))
        if number % columns:
            axes.set_ylabel("")
        if number + columns < len(every):
            axes.set_xlabel("")
        else:
            axes.tick_params(labelbottom=True)
    colours = plots.task_colours(tasks)
    if tasks <= 10:
        handles = [Line2D([], [], color=colour, label=f"task {task + 1}") for task, colour in enumerate(colours)]
        _place_legend(figure, handles)
    else:
        norm = BoundaryNorm(np.arange(tasks + 1) + 0.5, tasks)
        bar: Any = {"label": "task", "ticks": [1, *range(5, tasks + 1, 5)], "pad": 0.02, "aspect": 30}
        figure.colorbar(ScalarMappable(norm, ListedColormap(colours)), ax=figure.axes, shrink=min(1, 3 / rows), **bar)


def _wrapped(styles: Styles, width: int) -> Styles:
    return {label: {**style, "label": wrap(str(style["label"]), width)} for label, style in styles.items()}


def _grid(count: int, fitting: float, evenly: bool = True) -> tuple[int, int]:
    """Return columns and rows for panels of which so many fit beside each other, the rows equally full."""
    columns = max(1, min(count, int(fitting)))
    rows = -(-count // columns)
    return (-(-count // rows) if evenly else columns), rows


def _legend(figure: Figure, subject: Subject, labels: Iterable[str], lines: bool = True) -> None:
    from matplotlib.lines import Line2D

    width = characters(figure.get_figwidth() - 0.5, 7)
    shown = set(labels)
    styles = _wrapped({label: style for label, style in subject.styles.items() if label in shown}, min(40, width))
    look = {} if lines else {"linestyle": "none"}
    _place_legend(figure, [Line2D([], [], markersize=4, linewidth=1.2, **{**s, **look}) for s in styles.values()])


def _place_legend(figure: Figure, handles: list[Any]) -> None:
    """Put a legend below the axes, in as many columns as fit, and make room for it."""
    if not handles:
        return
    lines = [str(handle.get_label()).splitlines() for handle in handles]
    width, height = figure.get_size_inches()
    for columns in range(len(handles), 0, -1):
        parts = np.array_split(np.arange(len(handles)), columns)  # as Matplotlib fills them
        if sum(0.48 + 0.058 * max(len(line) for i in part for line in lines[i]) for part in parts) <= width:
            break
    deepest = max(sum(0.08 + 0.11 * len(lines[i]) for i in part) for part in parts)
    figure.set_size_inches(width, height + 0.05 + 0.85 * deepest)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _name_undefined(figure: Figure, axes: Axes, subject: Subject) -> list[str]:
    """Write below the axes which labels have nothing in them, and return the others."""
    drawn = set(plots.drawn_labels(axes))
    missing = [label for label in subject.data if subject.titles[label] not in drawn]
    if missing:
        width = characters(figure.get_figwidth() - 0.6)
        text = f"not defined for {', '.join(subject.titles[label].strip() for label in missing)}"
        axes.set_xlabel(f"{axes.get_xlabel()}\n{wrap(text, width)}")
    if not drawn:
        axes.set(xticks=[], yticks=[])
    return [label for label in subject.data if label not in missing]

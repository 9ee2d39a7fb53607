"""How each kind of figure is laid out on a column or a page: panels, sizes, legends and the heading."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import seaborn
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from clbench.report.figures import at_end, plots
from clbench.report.figures.kinds import FIGURES, Subject, tasks_followed
from clbench.report.figures.plots import POINTS
from clbench.report.figures.sensitivity import lay_out_sensitivity
from clbench.report.figures.style import GREY, SMALL, WIDTHS, Width, characters, plain, wrap, wrapped
from clbench.results.analysis import LOWER_IS_BETTER
from clbench.results.wording import count_of

TALLEST = 9.3  # inches: what a page has for a figure
DPI = 144  # of pixel images
SETTINGS: Any = {  # of Matplotlib: seaborn's for papers, text of 7 to 8 points, and what is our own
    **seaborn.axes_style("ticks"),
    **seaborn.plotting_context("paper", font_scale=0.82),
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.04,
    "figure.constrained_layout.wspace": 0.03,
    "figure.titlesize": "medium",
    "font.sans-serif": ["DejaVu Sans", "Bitstream Vera Sans", "Verdana", "sans-serif"],  # one width, for SVG elsewhere
    "grid.color": "0.92",
    "hatch.linewidth": 0.6,
    "legend.columnspacing": 1.2,
    "legend.frameon": False,
    "legend.handlelength": 2.8,  # so that a pattern of dashes shows
    "pdf.fonttype": 42,  # text stays text, in a font that publishers accept
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "clbench",  # the same names in every file
    "text.usetex": False,
}


class ShownAxes(Axes):
    """Axes that a notebook shows with their whole figure."""

    def _repr_png_(self) -> bytes:
        return self.figure._repr_png_()  # type: ignore[union-attr]


class ShownFigure(Figure):
    """A figure that a notebook shows without pyplot and its global state, saved with the settings it was drawn with."""

    def add_subplot(self, *args: Any, **kwargs: Any) -> Any:
        return super().add_subplot(*args, **{"axes_class": ShownAxes, **kwargs})

    def savefig(self, fname: Any, **kwargs: Any) -> None:
        with rc_context(SETTINGS):
            super().savefig(fname, **kwargs)

    def settle(self) -> None:
        """Lay everything out for good, so that saving in several formats does not do it again."""
        engine: Any = self.get_layout_engine()
        with rc_context(SETTINGS):
            for _ in range(2):  # axes of another size may have other ticks, and these another width
                engine.execute(self)
            self.set_layout_engine(None)
        for axes in self.axes:  # the engine's last digits differ from time to time, and files must not
            axes.set_position(tuple(round(edge, 5) for edge in axes.get_position(original=True).bounds))

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()


def lay_out(kind: str, subject: Subject, width: Width = "column") -> ShownFigure:
    """Lay a figure out, a title above it and a caption below; its text has 7 to 8 points whatever the width."""
    with rc_context(SETTINGS):
        figure = ShownFigure(layout="constrained", dpi=DPI)
        figure.set_figwidth(WIDTHS[width])
        handles = LAYOUTS[kind](figure, subject)
        figure.suptitle(FIGURES[kind].title)
        write_below(figure, handles, f"{plain(subject.title)}; {subject.note}")
    return figure


# One function for each kind; it sets the height without title, legend and caption, and returns what the legend shows


def _lay_out_matrices(figure: Figure, subject: Subject) -> list[Line2D]:
    means = {label: R.mean(axis=0) for label, R in subject.data.items()}
    tasks = max(R.shape[1] for R in means.values())
    room = figure.get_figwidth() - 0.5
    few = tasks <= plots.ANNOTATED_TASKS
    for numbers, panel in ((few, max(1.15, 0.26 * tasks + 0.1) if few else 0.72), (False, 0.72), (False, 0.55)):
        columns, rows = _grid(len(means), room / panel)
        height = max(0.9, 0.19 * tasks) if numbers else min(1.1, 0.75 * room / columns)
        if rows * (height + 0.5) <= TALLEST:
            break
    width = characters(room / columns, SMALL)
    titles = {label: wrap(subject.titles[label], width) for label in means}
    if len({subject.seeds[label] for label in means}) > 1:
        titles = {label: f"{title}\n{count_of(subject.seeds[label], 'seed')}" for label, title in titles.items()}
    everywhere = rows > 3  # then the numbers at the bottom are far away
    height += 0.16 * everywhere
    more = [title.count("\n") for title in titles.values()]  # lines
    more_lines = sum(max(more[at : at + columns]) for at in range(0, len(more), columns))
    figure.set_figheight(0.95 + rows * (height + 0.32) + 0.13 * more_lines)
    lowest = min((np.nanmin(R) for R in means.values() if not np.isnan(R).all()), default=0.0)
    low = min(np.floor(10 * lowest) / 10, 0.9)
    panels = panels_in(figure, len(means), columns)
    for axes, label in zip(panels, means, strict=True):
        plots.draw_matrix(means[label], axes, low, numbers).set_title(titles[label], size=SMALL)
    alike = len({bool(np.isnan(R[0]).all()) for R in means.values()}) == 1  # all with a row before task 1, or none
    _name_outer(panels, columns, x=not everywhere, y=alike)
    _colour_bar(figure, Normalize(100 * low, 100), "accuracy (%)")
    return []


def _lay_out_tasks(figure: Figure, subject: Subject) -> list[Line2D]:
    tasks = max(R.shape[2] for R in subject.data.values())
    followed = tasks_followed(subject.data)
    columns, rows = _grid(len(followed), min(5, figure.get_figwidth() / 1.1))
    figure.set_figheight((1.35 if columns > 2 else 1.6) * rows + 0.2)
    panels = panels_in(figure, len(followed), columns, sharex=True, sharey=True)
    for axes, task in zip(panels, followed, strict=True):
        curves = {label: R[:, :, task] for label, R in subject.data.items()}
        plots.draw_curves(curves, axes, subject.styles).set_title(f"task {task + 1}")
        axes.axvline(task + 1, color="0.4", linestyle=":", linewidth=1.2, zorder=1.8)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
        axes.set(xlabel="tasks learnt", ylabel="accuracy (%)")
    _name_outer(panels, columns, x=True)
    plots.keep_per_cent(panels[0])
    before = any(not np.isnan(R[:, 0]).all() for R in subject.data.values())
    panels[0].set_xlim(-0.3 if before else 0.7, tasks + 0.3)
    return _legend(figure, subject, subject.data)


def _lay_out_average(figure: Figure, subject: Subject) -> list[Line2D]:
    figure.set_figheight(2.3)
    plots.draw_average(subject.data, figure.subplots(), subject.styles)
    return _legend(figure, subject, subject.data)


def _lay_out_forgetting(figure: Figure, subject: Subject) -> list[Line2D]:
    tasks = max(R.shape[2] for R in subject.data.values())
    beside = max(plots.slots(subject.styles.items()).values()) + 1
    fitting = max(1, int((figure.get_figwidth() - 0.6) / (0.055 * beside + 0.03)))  # tasks in a row
    rows = -(-tasks // fitting)
    in_row = -(-tasks // rows)
    figure.set_figheight(2.3 if rows == 1 else rows * max(0.9, min(1.5, (TALLEST - 2) / rows)) + 0.3)
    panels = panels_in(figure, rows, 1, sharey=True)
    for row, axes in enumerate(panels):
        plots.draw_forgetting(subject.data, axes, subject.styles)
        if rows > 1:
            axes.set_xlim(row * in_row + 0.5, (row + 1) * in_row + 0.5)
            axes.set(title=_tasks_in(row * in_row, in_row, tasks), ylabel="", xlabel="")
    if rows > 1:
        figure.supylabel(f"forgetting ({POINTS})", size="medium")
    _name_outer(panels, 1)
    return _legend(figure, subject, _name_undefined(figure, panels[-1], subject), lines=False)


def _tasks_in(before: int, in_row: int, tasks: int) -> str:
    """Name the tasks in a row of a figure of forgetting; the mean stands in the last place."""
    first, last = before + 1, min(before + in_row, tasks - 1)
    named = [f"task {first}" if first == last else f"tasks {first}–{last}"] * (first <= last)
    return " and ".join(named + ["mean"] * (before + in_row >= tasks))


def _lay_out_stability(figure: Figure, subject: Subject) -> list[Line2D]:
    figure.set_figheight(2.8)
    axes = plots.draw_stability(subject.data, figure.subplots(), subject.styles)
    return _legend(figure, subject, _name_undefined(figure, axes, subject), lines=False)


def _lay_out_cost(figure: Figure, subject: Subject) -> list[Line2D]:
    figure.set_figheight(2.0 * len(subject.data))
    panels = panels_in(figure, len(subject.data), 1, sharey=True)
    for axes, (name, points) in zip(panels, subject.data.items(), strict=True):
        heading = "training time of a run (s)"
        if name == "bytes":
            unit, size = ("GB", 1e9) if max(p[:, 0].max() for p in points.values()) >= 1e9 else ("MB", 1e6)
            points = {label: p / [size, 1] for label, p in points.items()}
            heading = f"peak memory of a run ({unit})"
        plots.draw_cost(points, axes, subject.styles).set_xlabel(heading)
    return _legend(figure, subject, {label for points in subject.data.values() for label in points}, lines=False)


def _lay_out_memory(figure: Figure, subject: Subject) -> list[Line2D]:
    series, references = subject.data
    figure.set_figheight(2.6)
    own = {one.label: {**subject.styles[one.label], "label": plain(one.title)} for one in series}
    shown = replace(subject, styles={**{label: subject.styles[label] for label in references}, **own})
    plots.draw_memory({one.label: one.points for one in series}, references, figure.subplots(), shown.styles)
    return _legend(figure, shown, shown.styles)


def _lay_out_differences(figure: Figure, subject: Subject) -> list[Line2D]:
    styles = wrapped(subject.styles, 34 if figure.get_figwidth() > 5 else 22)
    lines = max(str(styles[label]["label"]).count("\n") + 1 for frame in subject.data for label in frame["label"])
    height = 0.0
    for axes, frame in zip(panels_in(figure, len(subject.data), 1), subject.data, strict=True):
        metric, baseline = frame["metric"].iloc[0], frame["baseline"].iloc[0]
        better = "← better" if metric in LOWER_IS_BETTER else "better →"
        under = wrap(f"difference to {subject.titles.get(baseline, baseline).strip()} ({POINTS})", 26)
        plots.draw_differences(frame, axes, styles)
        axes.set(title=f"{metric.replace('_', ' ')} ({better})", xlabel=under)
        height += 0.6 + 0.13 * under.count("\n") + max(0.19, 0.13 * lines) * (len(frame) + 0.5)
    figure.set_figheight(height)
    return []


def _lay_out_ranks(figure: Figure, subject: Subject) -> list[Line2D]:
    styles = wrapped(subject.styles, min(34, int((figure.get_figwidth() - 1.1) / 2 / 0.055) - 7))
    axes = plots.draw_ranks(subject.data, figure.subplots(), styles)
    count = len(subject.data.labels)
    if figure.get_figwidth() < 5 and count > 9:
        axes.set_xticks(range(1, count + 1, 2))
    bottom, top = axes.get_ylim()
    figure.set_figheight(0.3 * (bottom - top) + 0.1)
    return []


def _lay_out_class_accuracy(figure: Figure, subject: Subject) -> list[Line2D]:
    styles = wrapped(subject.styles, 34 if figure.get_figwidth() > 5 else 18)
    titles = [str(styles[label]["label"]) for label in subject.data]
    accuracies = np.concatenate([confusion.accuracy.ravel() for confusion in subject.data.values()])
    low = min(np.floor(10 * np.nanmin(accuracies)) / 10, 0.9)
    room = figure.get_figwidth() - 0.6 - 0.06 * max(len(line) for title in titles for line in title.split("\n"))
    classes = sum(next(iter(subject.data.values())).tasks)
    axes = figure.subplots()
    at_end.draw_class_accuracy(subject.data, axes, styles, low, numbers=room / classes > 0.25)
    figure.set_figheight(1.0 + sum(0.2 + 0.12 * title.count("\n") for title in titles))
    _colour_bar(figure, Normalize(100 * low, 100), "accuracy (%)")
    return []


def _lay_out_confusion(figure: Figure, subject: Subject) -> list[Line2D]:
    room = figure.get_figwidth() - 0.5
    for least, tallest in ((2.4, 5), (1.3, 5), (0.85, TALLEST - 1.2), (0.72, TALLEST - 1.2), (0.5, TALLEST - 1.2)):
        columns, rows = _grid(len(subject.data), room / least)
        size = min(2.4, room / columns - 0.08)  # of a panel
        if rows * (size + 0.4) <= tallest:
            break
    titles = {label: wrap(subject.titles[label], characters(room / columns, SMALL)) for label in subject.data}
    more = [title.count("\n") for title in titles.values()]  # lines
    more_lines = sum(max(more[at : at + columns]) for at in range(0, len(more), columns))
    ragged = len(titles) % columns > 0  # then panels of the row before the last have numbers below them
    figure.set_figheight(1.1 + rows * (size + 0.25) + 0.13 * more_lines + 0.3 * ragged)
    panels = panels_in(figure, len(titles), columns)
    for axes, label in zip(panels, titles, strict=True):
        at_end.draw_confusion(subject.data[label], axes, numbers=size > 2).set_title(titles[label], size=SMALL)
        if size < 0.85:  # no room for more
            axes.set(xticks=[], yticks=[], xlabel="answer", ylabel="class")
    _name_outer(panels, columns, x=True, y=True)
    bar = _colour_bar(figure, at_end.SHARES, "share of the class (%)")
    bar.set_ticks([0, 5, 20, 50, 100])
    return []


def _lay_out_probe(figure: Figure, subject: Subject) -> list[Line2D]:
    styles = wrapped(subject.styles, 34 if figure.get_figwidth() > 5 else 22)
    lines = max(str(styles[label]["label"]).count("\n") + 1 for label in subject.data)
    figure.set_figheight(0.5 + max(0.2, 0.13 * lines) * (len(subject.data) + 0.5))
    at_end.draw_probe(subject.data, figure.subplots(), styles)
    look: Any = {"color": "0.3", "marker": "o", "markersize": 4.5, "linestyle": "none"}
    return [Line2D([], [], label=at_end.OWN, **look), Line2D([], [], label=at_end.PROBE, mfc="white", **look)]


def _lay_out_within_tasks(figure: Figure, subject: Subject) -> list[Line2D]:
    every = subject.data
    columns, rows = _grid(len(every), figure.get_figwidth() / 1.65)
    figure.set_figheight(0.25 + 1.45 * rows)
    alike = len({round(curves.updates[-1]) for curves in every.values()}) == 1  # joint training takes more
    width = characters(figure.get_figwidth() / columns - 0.3)
    panels = panels_in(figure, len(every), columns, sharex=alike, sharey=True)
    for axes, (label, curves) in zip(panels, every.items(), strict=True):
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=plots.STEPS))
        plots.draw_within_tasks(curves, axes).set_title(wrap(subject.titles[label], width))
    _name_outer(panels, columns, x=alike)
    colours = plots.task_colours(max(curves.accuracy.shape[2] for curves in every.values()))
    return [Line2D([], [], color=colour, label=f"task {task}") for task, colour in enumerate(colours, 1)]


LAYOUTS: Mapping[str, Callable[[Figure, Subject], list[Line2D]]] = {
    "accuracy-matrix": _lay_out_matrices,
    "accuracy-by-task": _lay_out_tasks,
    "within-task-curves": _lay_out_within_tasks,
    "average-accuracy": _lay_out_average,
    "forgetting-by-task": _lay_out_forgetting,
    "stability-plasticity": _lay_out_stability,
    "differences": _lay_out_differences,
    "accuracy-cost": _lay_out_cost,
    "accuracy-memory": _lay_out_memory,
    "class-accuracy": _lay_out_class_accuracy,
    "confusion": _lay_out_confusion,
    "probe": _lay_out_probe,
    "sensitivity": lay_out_sensitivity,
    "ranks": _lay_out_ranks,
}


# What they share


def _grid(count: int, fitting: float) -> tuple[int, int]:
    """Return columns and rows for panels of which so many fit beside each other, the rows equally full."""
    rows = -(-count // max(1, min(count, int(fitting))))
    return -(-count // rows), rows


def panels_in(figure: Figure, count: int, columns: int, **shared: Any) -> list[Axes]:
    """Return so many panels, row by row."""
    panels = list(figure.subplots(-(-count // columns), columns, squeeze=False, **shared).flat)
    for axes in panels[count:]:
        axes.remove()
    return panels[:count]


def _colour_bar(figure: Figure, norm: Normalize, name: str) -> Colorbar:
    """Put a bar of colours below all panels of a figure."""
    shape: Any = {"location": "bottom", "aspect": 30, "shrink": 0.7, "pad": 0.02}
    bar = figure.colorbar(ScalarMappable(norm, "cividis"), ax=figure.axes, label=name, **shape)
    bar.outline.set_visible(False)
    return bar


def _name_outer(panels: Sequence[Axes], columns: int, x: bool = False, y: bool = False) -> None:
    """Leave the axes' names, and their numbers along x and y, to the panels at the left and those with none below."""
    for number, axes in enumerate(panels):
        lowest, at_left = number + columns >= len(panels), number % columns == 0
        if not lowest:
            axes.set_xlabel("")
        if not at_left:
            axes.set_ylabel("")
        if x:
            axes.tick_params(labelbottom=lowest)
        if y:
            axes.tick_params(labelleft=at_left)


def _legend(figure: Figure, subject: Subject, labels: Iterable[str], lines: bool = True) -> list[Line2D]:
    """Return what a legend of these labels shows; the grey ones are one entry."""
    shown = set(labels)
    grey = {label for label in shown if subject.styles[label]["color"] == GREY}
    shown -= grey
    beside = 2 if len(shown) > 6 else 1  # many take two columns at least
    width = min(40, characters(figure.get_figwidth() / beside - 0.5, SMALL))
    styles = wrapped({label: style for label, style in subject.styles.items() if label in shown}, width)
    look = {} if lines else {"linestyle": "none"}
    drawn = [Line2D([], [], markersize=4, linewidth=1.2, **{**style, **look}) for style in styles.values()]
    others = Line2D([], [], color=GREY, linewidth=3, label=f"{len(grey)} others")
    return [*drawn, *[others] * bool(grey)]


def write_below(figure: Figure, handles: list[Line2D], caption: str) -> None:
    """Write a caption below the figure, and above it a legend in as many columns as fit; make room for both."""
    text = wrap(caption, characters(figure.get_figwidth() - 0.1, SMALL))
    room = 0.06 + 0.135 * (text.count("\n") + 1)  # inches, as all here
    height = figure.get_figheight() + 0.2 + room
    for columns in range(len(handles), 0, -1):
        look: Any = {"fontsize": SMALL, "borderaxespad": room * 72 / SMALL}
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, **look)
        box = legend.get_window_extent()
        if box.width <= figure.bbox.width or columns == 1:
            height += box.height / figure.dpi
            break
        legend.remove()
    figure.set_figheight(height)
    figure.get_layout_engine().set(rect=(0, room / height, 1, 1 - room / height))  # type: ignore[union-attr,call-arg]
    figure.text(0.5, 0.03 / height, text, size=SMALL, color="0.35", ha="center", va="bottom")


def _name_undefined(figure: Figure, axes: Axes, subject: Subject) -> list[str]:
    """Write below the axes which labels have nothing in them, and return the others."""
    drawn = axes.get_legend_handles_labels()[1]
    missing = [label for label in subject.data if subject.titles[label] not in drawn]
    if missing:
        text = f"not defined for {', '.join(subject.titles[label].strip() for label in missing)}"
        axes.set_xlabel(f"{axes.get_xlabel()}\n{wrap(text, characters(figure.get_figwidth() - 0.6))}")
    return [label for label in subject.data if label not in missing]

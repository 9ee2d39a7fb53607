"""Figures: the kinds there are, what each is drawn from and how it is laid out on a column or a page.

What is drawn in them is in `plots`. Matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from clbench.errors import UsageError
from clbench.report.figures import layouts, plots
from clbench.report.figures.layouts import WIDTHS, Matrices, Subject, Width, count_of
from clbench.report.figures.plots import Styles, characters, look, plain, wrap
from clbench.results import metrics
from clbench.results.metrics import Array

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from clbench.results.analysis import Ranks
    from clbench.results.frames import Results
    from clbench.results.groups import Comparison, Curves, Group


@dataclass(frozen=True)
class Kind:
    """A kind of figure: what it shows, what it takes, how its data is read, and how it is laid out.

    `read` returns None where the data is not there. A kind `of_all` has a figure per scenario, any other one per
    comparison. `lay_out` gives the figure its height without the heading.
    """

    title: str
    note: str
    needs: str
    lay_out: Callable[[Figure, Subject], None]
    read: Callable[[Source, Any], Any]
    width: Width = "page"  # by default
    of_all: bool = False


# What figures are drawn from


class Source:
    """Results, and what is worked out of them once for all figures.

    `differences` are those to show, as `analysis.differences` makes them (default: its own, to its own baseline).
    """

    def __init__(self, results: Results, differences: pd.DataFrame | None = None):
        self.results = results
        if differences is not None:
            self.differences = differences

    @cached_property
    def differences(self) -> pd.DataFrame:
        import pandas as pd

        from clbench.results import analysis

        return pd.concat([analysis.differences(self.results, metric) for metric in ("average_accuracy", "forgetting")])

    @cached_property
    def ranks(self) -> dict[str, Ranks]:
        """By scenario, where it has task sequences enough."""
        from clbench.results import analysis

        return {ranks.scenario: ranks for ranks in analysis.ranks(self.results)}


def _matrices(source: Source, comparison: Comparison) -> Matrices | None:
    return comparison.accuracy() or None


def _costs(source: Source, comparison: Comparison) -> dict[str, Matrices] | None:
    """Return each label's training seconds and accuracy, and peak memory and accuracy: [seeds, 2]; those recorded."""
    costs: dict[str, dict[str, Array]] = {"seconds": {}, "bytes": {}}
    view = metrics.primary_view(comparison.scenario)
    for group in comparison.finished:
        accuracies = [metrics.average_accuracy(R) for R in group.accuracy(view)]
        measured = {
            "seconds": [sum(record.seconds["train"]) if record.seconds else None for record in group.runs],
            "bytes": [record.peak_memory_bytes for record in group.runs],
        }
        for name, values in measured.items():
            points = np.array([values, accuracies], dtype=np.float64).T  # None becomes NaN
            if not np.isnan(points).any():
                costs[name][group.label] = points
    return {name: points for name, points in costs.items() if points} or None


def _differences(source: Source, comparison: Comparison) -> list[pd.DataFrame] | None:
    """Return the differences to the baseline, a frame per metric, those that are defined."""
    if len(comparison.finished) < 2 or source.differences.empty:
        return None
    frame = source.differences
    here = (frame[["sequence", "scenario", "model"]] == list(comparison.place)).all(axis=1)
    shown = frame[here & frame["difference"].notna()]
    return [shown[shown["metric"] == metric] for metric in dict.fromkeys(shown["metric"])] or None


def _ranks(source: Source, scenario: str) -> Ranks | None:
    sequences = {place.sequence for place in source.results.comparisons if place.scenario == scenario}
    return source.ranks.get(scenario) if len(sequences) >= 5 else None


def _within_tasks(source: Source, comparison: Comparison) -> dict[str, Curves] | None:
    view = metrics.primary_view(comparison.scenario)
    found = {group.label: group.curves(view) for group in comparison.finished}
    return {label: curves for label, curves in found.items() if curves is not None} or None


BAND, BAR = "band: 95 % interval", "bar: 95 % interval"

FIGURES: Mapping[str, Kind] = {
    "accuracy-matrix": Kind(
        "Accuracy on each task after each task",
        "means; hatched: not measured",
        "a finished run",
        layouts.lay_out_matrices,
        _matrices,
    ),
    "accuracy-by-task": Kind(
        "Accuracy on each task as training goes on",
        f"dotted: when the task is learnt; {BAND}",
        "a finished run",
        layouts.lay_out_tasks,
        _matrices,
    ),
    "within-task-curves": Kind(
        "Accuracy on the tasks seen, within tasks",
        f"dotted: the next task begins; {BAND}",
        "runs that were evaluated within tasks",
        layouts.lay_out_within_tasks,
        _within_tasks,
    ),
    "average-accuracy": Kind(
        "Mean accuracy on the tasks seen so far", BAND, "a finished run", layouts.lay_out_average, _matrices, "column"
    ),
    "forgetting-by-task": Kind(
        "Forgetting of each task at the end", BAR, "a finished run", layouts.lay_out_forgetting, _matrices
    ),
    "stability-plasticity": Kind(
        "Stability against plasticity",
        f"faint: single seeds; {BAR}; dashed: equal mean",
        "a finished run",
        layouts.lay_out_stability,
        _matrices,
        "column",
    ),
    "differences": Kind(
        "Paired differences to the baseline",
        f"{BAR}; filled: p < 0.05 (Holm); hollow: may be chance",
        "two methods with seeds in common",
        layouts.lay_out_differences,
        _differences,
    ),
    "accuracy-cost": Kind(
        "Average accuracy against cost", f"{BAR}; top left is best", "a finished run", layouts.lay_out_cost, _costs
    ),
    "ranks": Kind(
        "Average rank over task sequences",
        "bars join methods that may rank alike",
        "five task sequences in a scenario that the same methods ran on",
        layouts.lay_out_ranks,
        _ranks,
        of_all=True,
    ),
}


def places(kind: str, results: Results) -> list[Any]:
    """Return what a figure of a kind may be made of: comparisons, or scenarios if it is of all that a scenario has."""
    finished = [comparison for comparison in results.comparisons if comparison.finished]
    return list(dict.fromkeys(c.scenario for c in finished)) if FIGURES[kind].of_all else finished


def read(kind: str, source: Source, place: Any) -> Subject | None:
    """Return what the figure of a comparison, or a scenario, is drawn from; None if the data is not there."""
    what, results = FIGURES[kind], source.results
    data = what.read(source, place)
    if data is None:
        return None
    if what.of_all:
        p = "" if np.isnan(data.p) else f"; Friedman's p {'< 0.001' if data.p < 0.001 else f'= {data.p:.3f}'}"
        title, note = f"{data.scenario} scenario, {count_of(data.sequences, 'task sequence')}", what.note + p
        seeds: dict[str, int] = {}
        groups = [group for c in results.comparisons if c.scenario == place for group in c.groups]
    else:
        groups = place.finished
        seeds = {group.label: len(group.runs) for group in groups}
        few, many = min(seeds.values()), max(seeds.values())
        count_text = f"{few}–{many} seeds" if few < many else count_of(many, "seed")
        title, note = place.title, f"{count_text}; {what.note}" if many > 1 else "one seed, so no intervals"
    return Subject(title, note, _styles_in(results, groups), data, seeds)


def _styles_in(results: Results, groups: Iterable[Group]) -> Styles:
    """Return the groups' styles, which they have in all figures of these results."""
    titles = {group.label: group.title for group in groups}
    styles = plots.styles_of(results.labels, titles)
    return {label: styles[label] for label in results.labels if label in titles}


def lay_out(kind: str, subject: Subject, width: Width | None = None, more: Any = None) -> Figure:
    """Lay a figure out, with its heading; its text has 7 to 8 points whatever the width. `more` is over the look."""
    from matplotlib import rc_context

    what = FIGURES[kind]
    with rc_context({**look(), **(more or {})}):
        figure = _figure_class()(layout="constrained")
        figure.set_figwidth(WIDTHS[width or what.width])
        what.lay_out(figure, subject)
        fitting = characters(figure.get_figwidth() - 0.1)
        parts = [what.title, plain(subject.title), subject.note]
        heading = "\n".join(wrap(part, fitting) for part in parts)
        figure.set_figheight(figure.get_figheight() + 0.13 * (heading.count("\n") + 1))
        figure.suptitle(heading)
    return figure


def find(
    kind: str, results: Results, sequence: str | None = None, scenario: str | None = None, model: str | None = None
) -> Subject:
    """Return what a figure is drawn from. Raises UsageError unless exactly one comparison fits and has the data."""
    if kind not in FIGURES:
        raise UsageError(f"no figure '{kind}': choose one of {', '.join(FIGURES)}")
    what = FIGURES[kind]
    wanted = (scenario,) if what.of_all else (sequence, scenario, model)
    choices, source = {_place_of(place): place for place in places(kind, results)}, Source(results)
    fitting = [name for name in choices if all(w in (None, have) for w, have in zip(wanted, name, strict=True))]
    subjects = [subject for name in fitting if (subject := read(kind, source, choices[name])) is not None]
    if what.of_all and len(subjects) == 1:  # of the one scenario that has enough
        return subjects[0]
    if len(fitting) != 1:
        listed = "; ".join(choices[name].title if len(name) > 1 else name[0] for name in fitting or choices)
        fit = "scenarios fit: name" if what.of_all else "comparisons fit: name sequence, scenario and model of"
        raise UsageError(f"{len(fitting)} {fit} one of: {listed or 'nothing'}")
    if not subjects:
        raise UsageError(f"no figure '{kind}' of these records: it needs {what.needs}")
    return subjects[0]


def draw(
    kind: str,
    results: Results,
    *,
    sequence: str | None = None,
    scenario: str | None = None,
    model: str | None = None,
    width: Width | None = None,
) -> Figure:
    """Draw a figure, kinds are the keys of FIGURES, as wide as a "column" or a "page" (default: as suits the kind).

    Raises UsageError unless exactly one comparison fits and has the data.
    """
    if width not in (None, *WIDTHS):
        raise UsageError(f"no width '{width}': choose one of {', '.join(WIDTHS)}")
    return lay_out(kind, find(kind, results, sequence, scenario, model), width)


def _place_of(place: Comparison | str) -> tuple[str, ...]:
    return (place,) if isinstance(place, str) else place.place


class _Panels(np.ndarray):
    """Axes of one figure, which a notebook shows."""

    def _repr_png_(self) -> bytes:
        return self.flat[0].figure._repr_png_()


@cache
def _figure_class() -> type[Figure]:
    """Return a Figure that a notebook shows without pyplot, as it does any of its Axes; the global state is untouched.

    It is saved with the look it was drawn in.
    """
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    class NotebookAxes(Axes):
        def _repr_png_(self) -> bytes:
            return self.figure._repr_png_()  # type: ignore[union-attr]

    class NotebookFigure(Figure):
        def add_subplot(self, *args: Any, **kwargs: Any) -> Any:
            return super().add_subplot(*args, **{"axes_class": NotebookAxes, **kwargs})

        def savefig(self, fname: Any, **kwargs: Any) -> None:
            with rc_context(look()):
                super().savefig(fname, **kwargs)

        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=144)
            return buffer.getvalue()

    return NotebookFigure


class Plots:
    """`results.plot`: a method for each kind of figure. All take sequence, scenario and model, where several fit.

    Without `ax` they draw a whole figure, with heading and legend, as `results.figure` does and outside pyplot's
    state; a notebook shows what they return. With `ax` they draw into your Axes, in your own style, with a legend.
    Kinds of several panels return an array of Axes and take no `ax`.
    """

    def __init__(self, results: Results):
        self._results = results

    def accuracy_matrix(
        self, *, sequence: str | None = None, scenario: str | None = None, model: str | None = None
    ) -> Any:
        """Draw the mean accuracy matrices as heat maps, a panel per method."""
        return self._panels("accuracy-matrix", sequence, scenario, model)

    def accuracy_by_task(
        self, *, sequence: str | None = None, scenario: str | None = None, model: str | None = None
    ) -> Any:
        """Draw each task's accuracy as training goes on, a panel per task."""
        return self._panels("accuracy-by-task", sequence, scenario, model)

    def within_task_curves(
        self, *, sequence: str | None = None, scenario: str | None = None, model: str | None = None
    ) -> Any:
        """Draw the accuracy of all tasks seen within tasks, a panel per method."""
        return self._panels("within-task-curves", sequence, scenario, model)

    def average_accuracy(
        self,
        ax: Axes | None = None,
        *,
        sequence: str | None = None,
        scenario: str | None = None,
        model: str | None = None,
    ) -> Axes:
        """Draw the mean accuracy on the tasks seen so far."""
        return self._one("average-accuracy", plots.draw_average, ax, sequence, scenario, model)

    def forgetting(
        self,
        ax: Axes | None = None,
        *,
        sequence: str | None = None,
        scenario: str | None = None,
        model: str | None = None,
    ) -> Axes:
        """Draw forgetting by task; the first row is returned where many tasks and methods take several."""
        return self._one("forgetting-by-task", plots.draw_forgetting, ax, sequence, scenario, model)

    def stability_plasticity(
        self,
        ax: Axes | None = None,
        *,
        sequence: str | None = None,
        scenario: str | None = None,
        model: str | None = None,
    ) -> Axes:
        """Draw 1 − forgetting against learning accuracy, with lines of equal mean."""
        return self._one("stability-plasticity", plots.draw_stability, ax, sequence, scenario, model)

    def accuracy_cost(
        self, *, sequence: str | None = None, scenario: str | None = None, model: str | None = None
    ) -> Any:
        """Draw average accuracy against training time, and against peak memory where it is recorded."""
        return self._panels("accuracy-cost", sequence, scenario, model)

    def differences(self, *, sequence: str | None = None, scenario: str | None = None, model: str | None = None) -> Any:
        """Draw the paired differences to the baseline, in average accuracy and in forgetting."""
        return self._panels("differences", sequence, scenario, model)

    def ranks(self, ax: Axes | None = None, *, scenario: str | None = None) -> Axes:
        """Draw the critical-difference diagram over a scenario's task sequences."""
        return self._one("ranks", plots.draw_ranks, ax, scenario=scenario)

    def _one(self, kind: str, draw_on: Callable[..., Axes], ax: Axes | None, *place: Any, **where: Any) -> Axes:
        subject = find(kind, self._results, *place, **where)
        if ax is None:
            return lay_out(kind, subject).axes[0]
        draw_on(subject.data, ax, subject.styles)
        if kind != "ranks":  # whose names stand beside it
            ax.legend(fontsize="small")
        return ax

    def _panels(self, kind: str, *place: Any) -> Any:
        figure = lay_out(kind, find(kind, self._results, *place))
        panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
        array = np.empty(len(panels), dtype=object)
        array[:] = panels
        return array.view(_Panels)

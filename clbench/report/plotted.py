"""Results as `clbench.run` and `clbench.load` return them: with figures, and shown as tables in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np

from clbench.report.figures.files import check_format
from clbench.report.figures.kinds import find
from clbench.report.figures.style import Width
from clbench.report.writer import html_tables
from clbench.results.frames import Results

if TYPE_CHECKING:  # Matplotlib is imported when something is drawn, here as below
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Place(TypedDict, total=False):
    """Which comparison is drawn, where there are several."""

    sequence: str | None
    scenario: str | None
    model: str | None


class PlottedResults(Results):
    """Runs and what they say: tidy tables, accuracy matrices and figures; see `Results`."""

    def _repr_html_(self) -> str:
        """Show the tables of results, as a notebook does."""
        return html_tables(self)

    def figure(self, kind: str, *, width: Width = "column", **place: Unpack[Place]) -> Figure:
        """Return a figure; kinds are the keys of FIGURES, width "column" or "page".

        Raises UsageError unless exactly one comparison fits and has the data.
        """
        from clbench.report.figures.layouts import lay_out

        check_format(["png"], width)
        return lay_out(kind, find(kind, self, **place), width)

    @property
    def plot(self) -> Plots:
        """Figures as Matplotlib axes: `results.plot.forgetting()`, for one; see `Plots`."""
        return Plots(self)


class Panels(np.ndarray):
    """Axes of one figure, which a notebook shows."""

    def _repr_png_(self) -> bytes:
        return self.flat[0].figure._repr_png_()


class Plots:
    """`results.plot`: a method for each kind of figure. All take sequence, scenario and model, where several fit.

    Without `ax` they draw a whole figure, with heading and legend, as `results.figure` does and outside pyplot's
    state; a notebook shows what they return. With `ax` they draw into your Axes, in your own style, with a legend.
    Kinds of several panels return an array of Axes and take no `ax`.
    """

    def __init__(self, results: PlottedResults):
        self._results = results

    def accuracy_matrix(self, **place: Unpack[Place]) -> Panels:
        """Draw the mean accuracy matrices as heat maps, a panel per method."""
        return self._panels("accuracy-matrix", place)

    def accuracy_by_task(self, **place: Unpack[Place]) -> Panels:
        """Draw each task's accuracy as training goes on, a panel per task that was evaluated more than once."""
        return self._panels("accuracy-by-task", place)

    def within_task_curves(self, **place: Unpack[Place]) -> Panels:
        """Draw the accuracy of all tasks seen within tasks, a panel per method."""
        return self._panels("within-task-curves", place)

    def average_accuracy(self, ax: Axes | None = None, **place: Unpack[Place]) -> Axes:
        """Draw the mean accuracy on the tasks seen so far."""
        return self._one("average-accuracy", ax, place)

    def forgetting(self, ax: Axes | None = None, **place: Unpack[Place]) -> Axes:
        """Draw forgetting by task; the first row is returned where many tasks and methods take several."""
        return self._one("forgetting-by-task", ax, place)

    def stability_plasticity(self, ax: Axes | None = None, **place: Unpack[Place]) -> Axes:
        """Draw 1 − forgetting against learning accuracy, with lines of equal mean."""
        return self._one("stability-plasticity", ax, place)

    def accuracy_cost(self, **place: Unpack[Place]) -> Panels:
        """Draw average accuracy against training time, and against peak memory where it is recorded."""
        return self._panels("accuracy-cost", place)

    def accuracy_memory(self, **place: Unpack[Place]) -> Panels:
        """Draw average accuracy against the number of stored images, of methods that ran with several."""
        return self._panels("accuracy-memory", place)

    def differences(self, **place: Unpack[Place]) -> Panels:
        """Draw the paired differences to the baseline, in average accuracy and in forgetting."""
        return self._panels("differences", place)

    def class_accuracy(self, ax: Axes | None = None, **place: Unpack[Place]) -> Axes:
        """Draw the mean accuracy on each class after the last task, a row per method."""
        return self._one("class-accuracy", ax, place)

    def confusion(self, **place: Unpack[Place]) -> Panels:
        """Draw what images of each class were taken for after the last task, a panel per method."""
        return self._panels("confusion", place)

    def probe(self, ax: Axes | None = None, **place: Unpack[Place]) -> Axes:
        """Draw average accuracy beside that of the linear probe, of runs with `probe`."""
        return self._one("probe", ax, place)

    def sensitivity(self, **place: Unpack[Place]) -> Panels:
        """Draw the score of every setting that `clbench tune` has tried, a panel per field of each method."""
        return self._panels("sensitivity", place)

    def ranks(self, ax: Axes | None = None, *, scenario: str | None = None) -> Axes:
        """Draw the critical-difference diagram over a scenario's task sequences."""
        return self._one("ranks", ax, {"scenario": scenario})

    def _one(self, kind: str, ax: Axes | None, place: Place) -> Axes:
        from clbench.report.figures import at_end, plots

        if ax is None:
            return self._results.figure(kind, **place).axes[0]
        subject = find(kind, self._results, **place)
        {**plots.ONE_PANEL, **at_end.ONE_PANEL}[kind](subject.data, ax, subject.styles)
        if kind not in ("ranks", "class-accuracy"):  # whose names stand beside them
            ax.legend(fontsize="small")
        return ax

    def _panels(self, kind: str, place: Place) -> Panels:
        figure = self._results.figure(kind, **place)
        panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
        return np.array(panels, dtype=object).view(Panels)

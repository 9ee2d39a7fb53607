"""One figure at a time, as Python users ask for it: `results.figure` and `results.plot`."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, Unpack

import numpy as np

from clbench.errors import UsageError
from clbench.report.figures.kinds import find
from clbench.report.figures.style import WIDTHS, Width
from clbench.results.frames import Results

if TYPE_CHECKING:  # Matplotlib is imported when something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Place(TypedDict, total=False):
    """Which comparison is drawn, where there are several."""

    sequence: str | None
    scenario: str | None
    model: str | None


def draw(kind: str, results: Results, *, width: Width | None = None, **place: Unpack[Place]) -> Figure:
    """Draw a figure, kinds are the keys of FIGURES, as wide as a "column" or a "page" (default: as suits the kind).

    Raises UsageError unless exactly one comparison fits and has the data.
    """
    from clbench.report.figures.layouts import lay_out  # draws, so needs Matplotlib

    if width not in (None, *WIDTHS):
        raise UsageError(f"no width '{width}': choose one of {', '.join(WIDTHS)}")
    return lay_out(kind, find(kind, results, **place), width)


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

    def __init__(self, results: Results):
        self._results = results

    def accuracy_matrix(self, **place: Unpack[Place]) -> Panels:
        """Draw the mean accuracy matrices as heat maps, a panel per method."""
        return self._panels("accuracy-matrix", place)

    def accuracy_by_task(self, **place: Unpack[Place]) -> Panels:
        """Draw each task's accuracy as training goes on, a panel per task."""
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

    def differences(self, **place: Unpack[Place]) -> Panels:
        """Draw the paired differences to the baseline, in average accuracy and in forgetting."""
        return self._panels("differences", place)

    def ranks(self, ax: Axes | None = None, *, scenario: str | None = None) -> Axes:
        """Draw the critical-difference diagram over a scenario's task sequences."""
        return self._one("ranks", ax, {"scenario": scenario})

    def _one(self, kind: str, ax: Axes | None, place: Place) -> Axes:
        from clbench.report.figures.plots import ONE_PANEL  # needs Matplotlib

        if ax is None:
            return draw(kind, self._results, **place).axes[0]
        subject = find(kind, self._results, **place)
        ONE_PANEL[kind](subject.data, ax, subject.styles)
        if kind != "ranks":  # whose names stand beside it
            ax.legend(fontsize="small")
        return ax

    def _panels(self, kind: str, place: Place) -> Panels:
        from clbench.report.figures.layouts import ShownAxes  # needs Matplotlib

        figure = draw(kind, self._results, **place)
        panels = [axes for axes in figure.axes if isinstance(axes, ShownAxes)]  # not the colour bar
        array = np.empty(len(panels), dtype=object)
        array[:] = panels
        return array.view(Panels)

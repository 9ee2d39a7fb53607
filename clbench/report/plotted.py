"""Results as `clbench.run` and `clbench.load` return them: with figures, and shown as tables in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clbench.report.figures.single import Plots, draw
from clbench.report.figures.style import Width
from clbench.report.writer import html_tables
from clbench.results.frames import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PlottedResults(Results):
    """Runs and what they say: tidy tables, accuracy matrices and figures; see `Results`."""

    def _repr_html_(self) -> str:
        """Show the tables of results, as a notebook does."""
        return html_tables(self)

    def figure(
        self,
        kind: str,
        *,
        sequence: str | None = None,
        scenario: str | None = None,
        model: str | None = None,
        width: Width | None = None,
    ) -> Figure:
        """Return a figure; kinds are the keys of FIGURES, width "column" or "page" (default: as suits the kind).

        Raises UsageError unless exactly one comparison fits and has the data.
        """
        return draw(kind, self, sequence=sequence, scenario=scenario, model=model, width=width)

    @property
    def plot(self) -> Plots:
        """Figures as Matplotlib axes: `results.plot.forgetting()`, for one; see `Plots`."""
        return Plots(self)

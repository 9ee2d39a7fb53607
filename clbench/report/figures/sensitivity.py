"""How a method's score goes with each of its settings: every trial of a search, field by field."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from clbench.report.figures.files import FORMATS, writing
from clbench.report.figures.layouts import DPI, SETTINGS, SMALL, ShownFigure, panels_in, write_below
from clbench.report.figures.style import WIDTHS, Width, characters, plain, wrap
from clbench.results.names import spelled
from clbench.results.store import write_whole

SPREAD = 0.3  # of a choice's points to either side, so that none hides another
OTHER = "0.6"  # grey of the trials that were not chosen


@dataclass(frozen=True)
class Field:
    """A field that was searched: a range, by its logarithm or not, or the choices in their order."""

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: Sequence[Any] = ()


@dataclass(frozen=True)
class Searched:
    """All trials of one method.

    `trials` has a line for each: `trial`, `score`, `ci_low`, `ci_high` in per cent, NaN where a run failed, and the
    value of each field. `chosen` and `default` are numbers of trials.
    """

    title: str  # the method, for people
    fields: Sequence[Field]
    trials: pd.DataFrame
    chosen: int
    default: int | None
    style: Mapping[str, Any]  # the method's, as `styles_of` gives it
    note: str  # what stands below


def draw_sensitivity(searched: Searched, width: Width = "column") -> ShownFigure:
    """Draw the score against the value of each field, a panel each; what was chosen and the default stand out."""
    with rc_context(SETTINGS):
        figure = ShownFigure(layout="constrained", dpi=DPI)
        figure.set_figwidth(WIDTHS[width])
        count = len(searched.fields)
        columns = min(count, 2 if width == "column" else 4)
        figure.set_figheight(0.35 + 1.75 * -(-count // columns))
        panels = panels_in(figure, count, columns, sharey=True)
        for number, (axes, field) in enumerate(zip(panels, searched.fields, strict=True)):
            _draw(field, searched, axes)
            if number % columns == 0:
                axes.set_ylabel("validation accuracy (%)")
        figure.align_xlabels(panels)
        figure.suptitle(f"Sensitivity of {plain(searched.title)}")
        write_below(figure, _legend(figure, searched), searched.note)
    return figure


def _draw(field: Field, searched: Searched, axes: Axes) -> None:
    trials = searched.trials
    x = _places(field, trials, axes)
    y, low, high = (trials[name].to_numpy(dtype=float) for name in ("score", "ci_low", "ci_high"))
    low, high = np.where(np.isnan(low), y, low), np.where(np.isnan(high), y, high)
    numbers = trials["trial"].to_numpy()
    looks = _looks(searched)
    for name in ("another trial", "default", "chosen"):
        if name not in looks:
            continue
        wanted = {"chosen": numbers == searched.chosen, "default": numbers == searched.default}
        rows = wanted.get(name, ~(wanted["chosen"] | wanted["default"])) & ~np.isnan(y)
        look = {**looks[name], "elinewidth": 0.7, "zorder": 2 + (name != "another trial")}
        axes.errorbar(x[rows], y[rows], np.maximum(0, [(y - low)[rows], (high - y)[rows]]), **look)
    failed = np.isnan(y)
    if failed.any():
        axes.plot(x[failed], np.zeros(failed.sum()), transform=axes.get_xaxis_transform(), **looks["failed"])
    ends = axes.get_ylim()
    axes.set_ylim(max(ends[0], -2.0), min(ends[1], 102.0))
    axes.set_xlabel(wrap(plain(field.name), characters(figure_width(axes) / 2 - 0.4)))


def figure_width(axes: Axes) -> float:
    """Return the width of the figure that axes are in, in inches."""
    figure = axes.figure
    assert isinstance(figure, Figure)
    return float(figure.get_figwidth())


def _places(field: Field, trials: pd.DataFrame, axes: Axes) -> np.ndarray:
    """Return where the trials stand along x, [trials], and set the axis up."""
    values = trials[field.name].tolist()
    if not field.choices:
        if field.log:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
            if field.low is not None and field.high is not None and field.high / field.low > 1e4:
                axes.minorticks_off()
        return np.array(values, dtype=float)
    names = [spelled(choice) for choice in field.choices]
    places = np.array([names.index(_as_typed(value, field.choices)) for value in values], dtype=float)
    for place in set(places):  # side by side, by number
        rows = np.flatnonzero(places == place)
        if len(rows) > 1:
            ends = min(SPREAD, 0.05 * len(rows))
            places[rows] += np.linspace(-ends, ends, len(rows))
    axes.set_xticks(range(len(names)), [textwrap.fill(plain(name), 12) for name in names], size=SMALL)
    axes.set_xlim(-0.5, len(names) - 0.5)
    return places


def _as_typed(value: Any, choices: Sequence[Any]) -> str:
    """Return a value out of a table, where none and numbers look otherwise, as its choice is spelled."""
    missing = value is None or value != value
    return spelled(next(choice for choice in choices if (choice is None if missing else choice == value)))


def _looks(searched: Searched) -> dict[str, dict[str, Any]]:
    colour, marker = searched.style["color"], searched.style["marker"]
    looks: dict[str, dict[str, Any]] = {
        "another trial": {"color": OTHER, "marker": "o", "markersize": 2.5, "linestyle": "none"},
        "chosen": {"color": colour, "marker": marker, "markersize": 6, "linestyle": "none"},
        "failed": {"color": "black", "marker": "x", "markersize": 4, "linestyle": "none", "clip_on": False},
    }
    if searched.default is not None and searched.default != searched.chosen:
        face = {"markerfacecolor": "white", "markersize": 5}
        looks["default"] = {"color": colour, "marker": marker, "linestyle": "none", **face}
    return looks


def _legend(figure: Figure, searched: Searched) -> list[Line2D]:
    looks, trials = _looks(searched), searched.trials
    if not trials["score"].isna().any():
        looks.pop("failed")
    names = {
        "chosen": "chosen, the default" if searched.chosen == searched.default else "chosen",
        "failed": "a run failed",
    }
    return [Line2D([], [], label=names.get(name, name), **look) for name, look in looks.items()]


def write_sensitivity(
    searched: Searched, folder: Path, stem: str, formats: Sequence[str] = ("png", "pdf"), width: Width = "column"
) -> list[Path]:
    """Draw the figure into files of a folder, and return these."""
    figure, paths = draw_sensitivity(searched, width), []
    figure.settle()
    for suffix in formats:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=DPI, **FORMATS[suffix])
        with writing(folder):
            paths.append(write_whole(folder / f"{stem}.{suffix}", buffer.getvalue()))
    return paths

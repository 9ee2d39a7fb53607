"""How a method's score goes with each of its settings: every trial of a search, field by field."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from clbench.report.figures.kinds import Subject
from clbench.report.figures.searched import Field, Searched
from clbench.report.figures.style import SMALL, characters, plain, wrap

SPREAD = 0.3  # of a choice's points to either side, so that none hides another
OTHER = "0.6"  # grey of the trials that were not chosen


def lay_out_sensitivity(figure: Figure, subject: Subject) -> list[Line2D]:
    """Draw the score against the value of each field of each method, a panel each; return what the legend shows."""
    panels = [(label, field) for label, one in subject.data.items() for field in one.fields]
    columns = min(len(panels), 2 if figure.get_figwidth() < 5 else 4)
    rows = -(-len(panels) // columns)
    figure.set_figheight(0.15 + 1.75 * rows)
    all_axes = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    room = characters(figure.get_figwidth() / columns - 0.4)
    for number, (axes, (label, field)) in enumerate(zip(all_axes, panels, strict=False)):
        _draw(field, subject.data[label], subject.styles[label], axes)
        axes.set_xlabel(wrap(plain(field.name), room))
        if len(subject.data) > 1:
            axes.set_title(wrap(subject.titles[label], room), size=SMALL)
        if number % columns == 0:
            axes.set_ylabel("validation accuracy (%)")
    for axes in all_axes[len(panels) :]:
        axes.remove()
    figure.align_xlabels(all_axes[: len(panels)])
    return _legend(subject)


def _draw(field: Field, searched: Searched, style: Mapping[str, Any], axes: Axes) -> None:
    trials = searched.trials
    x = _places(field, trials, axes)
    y, low, high = (trials[name].to_numpy(dtype=float) for name in ("score", "ci_low", "ci_high"))
    low, high = np.where(np.isnan(low), y, low), np.where(np.isnan(high), y, high)
    numbers = trials["trial"].to_numpy()
    looks = _looks(searched, style)
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
    names = list(dict.fromkeys([*field.choices, *values]))
    places = np.array([names.index(value) for value in values], dtype=float)
    for place in set(places):  # side by side, by number
        rows = np.flatnonzero(places == place)
        if len(rows) > 1:
            ends = min(SPREAD, 0.05 * len(rows))
            places[rows] += np.linspace(-ends, ends, len(rows))
    axes.set_xticks(range(len(names)), [textwrap.fill(plain(name), 12) for name in names], size=SMALL)
    axes.set_xlim(-0.5, len(names) - 0.5)
    return places


def _looks(searched: Searched, style: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    colour, marker = style["color"], style["marker"]
    looks: dict[str, dict[str, Any]] = {
        "another trial": {"color": OTHER, "marker": "o", "markersize": 2.5, "linestyle": "none"},
        "chosen": {"color": colour, "marker": marker, "markersize": 6, "linestyle": "none"},
        "failed": {"color": "black", "marker": "x", "markersize": 4, "linestyle": "none", "clip_on": False},
    }
    if searched.default is not None and searched.default != searched.chosen:
        face = {"markerfacecolor": "white", "markersize": 5}
        looks["default"] = {"color": colour, "marker": marker, "linestyle": "none", **face}
    return looks


def _legend(subject: Subject) -> list[Line2D]:
    """Return what the legend shows: in the method's look, or in black where there are several methods."""
    every = list(subject.data.items())
    style = subject.styles[every[0][0]] if len(every) == 1 else {"color": "0.2", "marker": "o"}
    looks: dict[str, dict[str, Any]] = {}
    for _, one in every:
        looks |= _looks(one, style)
    if not any(one.trials["score"].isna().any() for _, one in every):
        looks.pop("failed")
    alone = all(one.chosen == one.default for _, one in every)
    names = {"chosen": "chosen, the default" if alone else "chosen", "failed": "a run failed"}
    return [Line2D([], [], label=names.get(name, name), **look) for name, look in looks.items()]

"""What stands in figures of how runs ended: functions that draw classes, and the linear probe, into an Axes.

As in `plots`: accuracies and shares come as fractions and are shown in per cent, and `styles` say how labels look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator

from clbench.report.figures.plots import STEPS, name_rows
from clbench.report.figures.style import Styles, ink, styles_of
from clbench.results.confusion import Confusion
from clbench.results.metrics import Array
from clbench.results.statistics import mean_interval

NAMED_CLASSES = 12  # of more, tasks are named alone
LINED_TASKS = 25  # between more, lines would hide what they part
COUNTED_CLASSES = 10  # of more, shares are too small to be written into their cells
OWN, PROBE = "the method's own answers", "linear probe"
SHARES = PowerNorm(0.5, 0, 100)  # colours of shares in per cent: small ones are told apart too


def draw_class_accuracy(
    confusions: Mapping[str, Confusion],
    axes: Axes,
    styles: Styles | None = None,
    low: float = 0.0,
    numbers: bool = False,
) -> Axes:
    """Draw the mean accuracy on each class after the last task, a row per label, colours from `low` to 1.

    Classes stand in the order of their tasks, which lines part. Hatched where a class has no test image.
    """
    means = np.array([_mean(confusion.accuracy) for confusion in confusions.values()])
    axes.grid(False)
    axes.patch.set(facecolor="white", edgecolor="0.85", hatch="////")
    mesh: Any = axes.pcolormesh(100 * means, vmin=100 * low, vmax=100, cmap="cividis")
    if numbers:
        _write(mesh, 100 * means, axes, 0.5)
    axes.set(xlim=(0, means.shape[1]), ylim=(len(means), 0), xlabel="class")
    _part(list(confusions.values()), axes.xaxis, 0)
    styles = styles or styles_of(list(confusions))
    axes.set_yticks(np.arange(len(means)) + 0.5, [str(styles[label]["label"]) for label in confusions])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes


def draw_confusion(confusion: Confusion, axes: Axes, numbers: bool = False) -> Axes:
    """Draw what images of each class (row) were taken for (column): mean shares of a class's images.

    Classes stand in the order of their tasks, which lines part. The scale of colours is that of a square root.
    """
    shares = 100 * _mean(confusion.shares)
    axes.grid(False)
    axes.patch.set(facecolor="white", edgecolor="0.85", hatch="////")
    image = axes.imshow(shares, norm=SHARES, cmap="cividis", aspect="equal")
    if numbers and len(shares) <= COUNTED_CLASSES:
        _write(image, np.where(shares == 0, np.nan, shares), axes, 0.0)
    axes.set(xlabel="answer", ylabel="class")
    for axis in (axes.xaxis, axes.yaxis):
        _part([confusion], axis, -0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return axes


def draw_probe(points: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw accuracy (filled) and the linear probe's (hollow) in a row per label, with 95 % intervals: [seeds, 2]."""
    styles = styles or styles_of(list(points))
    for row, (label, values) in enumerate(points.items()):
        n, mean, _, low, high = mean_interval(100 * values)
        look = {**styles[label], "linestyle": "none", "markersize": 4.5, "elinewidth": 1.1}
        axes.plot(mean, [row, row], color=look["color"], linewidth=0.8, alpha=0.6, zorder=1)
        for which, (name, fill) in enumerate(((OWN, look["color"]), (PROBE, "white"))):
            half = None if n == 1 else [[mean[which] - low[which]], [high[which] - mean[which]]]
            own = {"markerfacecolor": fill, "label": name if row == 0 else "_"}
            axes.errorbar(mean[which], row, xerr=half, **{**look, **own})
    name_rows(axes, [str(styles[label]["label"]) for label in points])
    left, right = axes.get_xlim()
    room = max((5 - (right - left)) / 2, 0)  # small differences must not fill it
    axes.set_xlim(max(left - room, -2), min(right + room, 102))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
    axes.set_xlabel("accuracy after the last task (%)")
    return axes


ONE_PANEL: Mapping[str, Callable[..., Axes]] = {"class-accuracy": draw_class_accuracy, "probe": draw_probe}


def share_classes(confusions: Sequence[Confusion]) -> bool:
    """Whether the same class stands at each place in all runs."""
    return len({tuple(row) for confusion in confusions for row in confusion.classes.tolist()}) == 1


def _part(confusions: Sequence[Confusion], axis: Axis, start: float) -> None:
    """Draw lines between tasks along an axis whose first place begins at `start`; name few classes, else the tasks."""
    tasks = confusions[0].tasks
    ends = start + np.cumsum(tasks)
    line: Any = axis.axes.axvline if axis.axis_name == "x" else axis.axes.axhline  # type: ignore[attr-defined]
    for end in ends[:-1] if len(tasks) <= LINED_TASKS else ():
        line(end, color="white", linewidth=0.7, alpha=1 if len(tasks) <= 5 else 0.35 if len(tasks) <= 10 else 0.2)
    if sum(tasks) <= NAMED_CLASSES and share_classes(confusions):
        axis.set_ticks(start + 0.5 + np.arange(sum(tasks)), list(map(str, confusions[0].classes[0])))
        return
    every = 1 if len(tasks) <= 10 else -(-len(tasks) // 5)
    axis.set_ticks((ends - np.array(tasks) / 2)[::every], list(map(str, range(1, len(tasks) + 1, every))))
    axis.set_label_text(f"{axis.get_label_text()}, by task")


def _write(drawn: Any, values: Array, axes: Axes, shift: float) -> None:
    """Write numbers into cells: whole ones, and 100 only for what is 100."""
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            text = f"{value if value == 100 else min(value, 99):.0f}"
            look: Any = {"color": ink(drawn.cmap(drawn.norm(value))), "size": 7, "ha": "center", "va": "center"}
            axes.text(column + shift, row + shift, text, **look)


def _mean(values: Array) -> Array:
    """Return means over seeds, without those where there is none; NaN where there is none at all."""
    there = ~np.isnan(values)
    return np.where(there.any(0), np.where(there, values, 0).sum(0) / np.maximum(there.sum(0), 1), np.nan)

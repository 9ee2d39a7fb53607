"""The sensitivity figure shows every trial where it belongs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from clbench.report.figures.sensitivity import Field, Searched, draw_sensitivity, write_sensitivity
from clbench.report.figures.style import styles_of

NAN = float("nan")
TRIALS = pd.DataFrame(
    {
        "trial": [0, 1, 2, 3],
        "score": [50.0, 70.0, 60.0, NAN],
        "ci_low": [45.0, 65.0, NAN, NAN],
        "ci_high": [55.0, 75.0, NAN, NAN],
        "strength": [1.0, 100.0, 1e4, 1e6],
        "scope": ["a", "b", None, "b"],
    }
)
FIELDS = [Field("strength", 1.0, 1e6, True), Field("scope", choices=("a", "b", None))]
SOME = Searched("LwF", FIELDS, TRIALS, 1, 0, styles_of(["lwf"])["lwf"], "a note")


def points(axes: Axes) -> list[tuple[float, float]]:
    """Return the points of an axes that are no bars, as (x, y), those of failed runs aside."""
    lines = [line for line in axes.lines if line.get_marker() != "x"]
    return sorted((float(x), float(y)) for line in lines for x, y in line.get_xydata())  # type: ignore[union-attr]


def test_each_trial_is_a_point_at_its_value() -> None:
    strength, scope = draw_sensitivity(SOME).axes
    assert strength.get_xscale() == "log"
    assert points(strength) == [(1.0, 50.0), (100.0, 70.0), (1e4, 60.0)]
    assert [(round(x), y) for x, y in points(scope)] == [(0, 50.0), (1, 70.0), (2, 60.0)]
    assert [label.get_text() for label in scope.get_xticklabels()] == ["a", "b", "none"]
    assert [axes.get_xlabel() for axes in (strength, scope)] == ["strength", "scope"]
    assert (strength.get_ylabel(), scope.get_ylabel()) == ("validation accuracy (%)", "")


def test_intervals_reach_from_end_to_end() -> None:
    strength = draw_sensitivity(SOME).axes[0]
    bars = [segment for bar in strength.collections for segment in bar.get_segments()]  # type: ignore[attr-defined]
    ends = sorted((float(bar[0][0]), float(bar[0][1]), float(bar[1][1])) for bar in bars)
    assert ends == [(1.0, 45.0, 55.0), (100.0, 65.0, 75.0), (1e4, 60.0, 60.0)]


def test_a_failed_trial_is_a_cross_at_the_bottom() -> None:
    strength = draw_sensitivity(SOME).axes[0]
    (cross,) = [line for line in strength.lines if line.get_marker() == "x"]
    assert np.asarray(cross.get_xydata()).tolist() == [[1e6, 0.0]]


def test_the_legend_names_what_there_is() -> None:
    def entries(searched: Searched) -> list[str]:
        (legend,) = draw_sensitivity(searched).legends
        return [text.get_text() for text in legend.get_texts()]

    assert entries(SOME) == ["another trial", "chosen", "a run failed", "default"]
    whole = replace(SOME, trials=TRIALS[:3], default=1)
    assert entries(whole) == ["another trial", "chosen, the default"]


@pytest.mark.parametrize("fields", [1, 2, 3, 5])
def test_there_is_a_panel_for_each_field(fields: int, tmp_path: Path) -> None:
    named = [Field(f"field {number}", 1.0, 1e6, bool(number % 2)) for number in range(fields)]
    trials = TRIALS.assign(**{one.name: TRIALS["strength"] for one in named})
    figure = draw_sensitivity(replace(SOME, fields=named, trials=trials), "page")
    assert [axes.get_xlabel() for axes in figure.axes] == [one.name for one in named]


def test_the_files(tmp_path: Path) -> None:
    paths = write_sensitivity(SOME, tmp_path, "sensitivity-lwf", ["svg", "png"])
    assert [path.name for path in paths] == ["sensitivity-lwf.svg", "sensitivity-lwf.png"]
    assert "Sensitivity of LwF" in paths[0].read_text()
    again = write_sensitivity(SOME, tmp_path, "again", ["svg"])
    assert again[0].read_bytes() == paths[0].read_bytes()

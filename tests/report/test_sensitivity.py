"""The sensitivity figure shows every trial where it belongs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import record
from matplotlib.axes import Axes

from clbench.report.figures.kinds import Subject
from clbench.report.figures.layouts import lay_out
from clbench.report.figures.searched import Field, Searched, searched
from clbench.report.figures.style import Width, styles_of
from clbench.report.plotted import PlottedResults

NAN = float("nan")
TRIALS = pd.DataFrame(
    {
        "trial": [0, 1, 2, 3],
        "score": [50.0, 70.0, 60.0, NAN],
        "ci_low": [45.0, 65.0, NAN, NAN],
        "ci_high": [55.0, 75.0, NAN, NAN],
        "strength": [1.0, 100.0, 1e4, 1e6],
        "scope": ["a", "b", "none", "b"],
    }
)
FIELDS = [Field("strength", 1.0, 1e6, True), Field("scope", choices=("a", "b", "none"))]
SOME = Searched(FIELDS, TRIALS, 1, 0)
TUNING: dict[str, Any] = {  # the same, as a record has it
    "protocol": "first-tasks",
    "space": {"strength": "1..1e6:log", "scope": "a,b,none"},
    "tried": [
        {"at": {"strength": 1.0, "scope": "a"}, "score": 50.0, "interval": [45.0, 55.0], "default": True},
        {"at": {"strength": 100.0, "scope": "b"}, "score": 70.0, "interval": [65.0, 75.0], "chosen": True},
        {"at": {"strength": 1e4}, "score": 60.0},
        {"at": {"strength": 1e6, "scope": "b"}},
    ],
}


def draw_sensitivity(searched: Searched, width: Width = "column") -> Any:
    return lay_out("sensitivity", Subject("LwF", "a note", styles_of(["lwf"]), {"lwf": searched}), width)


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
def test_there_is_a_panel_for_each_field(fields: int) -> None:
    named = [Field(f"field {number}", 1.0, 1e6, bool(number % 2)) for number in range(fields)]
    trials = TRIALS.assign(**{one.name: TRIALS["strength"] for one in named})
    figure = draw_sensitivity(replace(SOME, fields=named, trials=trials), "page")
    assert [axes.get_xlabel() for axes in figure.axes] == [one.name for one in named]


def test_records_tell_of_the_trials() -> None:
    found = searched(TUNING)
    assert found is not None
    assert found.fields == FIELDS
    assert (found.chosen, found.default) == (1, 0)
    pd.testing.assert_frame_equal(found.trials, TRIALS)
    assert searched({"protocol": "none"}) is None


def test_numbers_among_the_choices() -> None:
    tried = [{"at": {"n": n}, "score": 1.0} for n in (1, 2.5, 1e6)]
    found = searched({"space": {"n": "1,2.5,1e6"}, "tried": tried})
    assert found is not None
    assert list(found.trials["n"]) == ["1", "2.5", "1e6"] == list(found.fields[0].choices)


def test_the_report_shows_them_for_each_tuned_method() -> None:
    R = [[0.5, 0.5], [0.9, 0.5], [0.8, 0.9]]
    made = [record(name, seed, R) for name in ("lwf", "si", "finetune") for seed in (0, 1)]
    preset = {"name": "p", "row": "r", "overridden": {}}
    told = [{"tuning": TUNING} if one.spec["method"] != "finetune" else {} for one in made]
    tuned = [replace(one, spec=one.spec | {"preset": preset | more}) for one, more in zip(made, told, strict=True)]
    axes = PlottedResults(tuned).plot.sensitivity()
    assert [one.get_title() for one in axes] == ["LwF", "LwF", "SI", "SI"]
    assert [one.get_xlabel() for one in axes] == ["strength", "scope"] * 2
    assert points(axes[2]) == [(1.0, 50.0), (100.0, 70.0), (1e4, 60.0)]

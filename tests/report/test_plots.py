"""What stands in figures, checked through their artists against numbers worked out by hand."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from curves import within_tasks
from made_up import JOINT, LWF, T2, N, ending_at, record, three_methods
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from clbench.errors import UsageError
from clbench.report.figures import plots
from clbench.report.plotted import PlottedResults
from clbench.results.analysis import Ranks
from clbench.results.groups import Curves
from clbench.results.record import RunRecord


@cache
def three(kind: str) -> Figure:
    """Draw a figure of three methods, once for all tests that look at it."""
    drawn = PlottedResults(three_methods()).figure(kind)
    drawn.draw_without_rendering()
    return drawn


def lines(axes: Any) -> dict[str, np.ndarray]:
    shown = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): np.asarray(line.get_ydata(), dtype=float) for line in shown}


def centres(axes: Any) -> dict[str, tuple[float, float]]:
    return {bar.get_label(): tuple(bar[0].get_xydata()[0]) for bar in axes.containers}


def ends(bar: Any, axis: int) -> tuple[float, float]:
    """Return where an interval's bar begins and ends, along x or y."""
    segment = bar[2][0].get_segments()[0]
    return segment[:, axis].min(), segment[:, axis].max()


def test_matrix_shows_means() -> None:
    drawn = three("accuracy-matrix")
    panels = {axes.get_title(): axes for axes in drawn.axes if axes.get_title()}
    assert set(panels) == {"Fine-tuning", "Joint training", "LwF"}
    cells = panels["Fine-tuning"].collections[0].get_array()
    assert cells is not None
    np.testing.assert_allclose(np.ma.filled(cells, np.nan), [[95, np.nan], [65, 90]])
    assert [text.get_text() for text in panels["Fine-tuning"].texts] == ["95.0", "65.0", "90.0"]
    assert [text.get_text() for text in panels["Joint training"].texts] == ["95.0", "100", "100"]
    assert [text.get_text() for text in panels["Fine-tuning"].get_yticklabels()] == ["1", "2"]
    assert "2 seeds" in drawn.texts[-1].get_text()


@pytest.mark.parametrize("tasks", [4, 5, 12])
def test_only_what_is_100_reads_100(tasks: int) -> None:
    """Of 2,000 images 1,999 are right: 99.95 % is not all of them."""
    R = np.full((tasks + 1, tasks), np.nan)
    R[1, :4] = [1.0, 0.996, 0.9995, 0.0]
    axes = plots.draw_matrix(R, Figure().subplots())
    assert [text.get_text() for text in axes.texts] == ["100", "99.6", "99.9", "0"]


def test_matrix_shows_row_zero_where_measured() -> None:
    axes = plots.draw_matrix(np.array([[0.2, 0.4], [0.9, 0.4], [0.8, 0.9]]), Figure().subplots())
    assert [text.get_text() for text in axes.get_yticklabels()] == ["before", "1", "2"]


def test_accuracy_by_task_shows_each_over_training() -> None:
    (first,) = three("accuracy-by-task").axes  # the second task was evaluated once
    np.testing.assert_allclose(lines(first)["Fine-tuning"], [np.nan, 95, 65])
    np.testing.assert_allclose(lines(first)["LwF"], [np.nan, 95, 90])
    band = next(artist for artist in first.collections if isinstance(artist, PolyCollection))
    half = 100 * T2 * 0.15  # task 1 at the end: 0.5 and 0.8
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((65 - half, 65 + half), abs=0.01)


def test_average_accuracy_is_of_tasks_so_far() -> None:
    (axes,) = three("average-accuracy").axes
    np.testing.assert_allclose(lines(axes)["Fine-tuning"], [np.nan, 95, 77.5])
    np.testing.assert_allclose(lines(axes)["Joint training"], [np.nan, 95, 100])


def test_one_seed_has_no_bands() -> None:
    axes = plots.draw_average({"lwf": np.array(LWF[:1], dtype=float)}, Figure().subplots())
    assert not axes.collections


def test_forgetting_shows_tasks_and_mean() -> None:
    R = np.array([[N, N, N], [0.8, N, N], [0.9, 0.8, N], [0.7, 0.85, 0.9]], dtype=float)
    axes = plots.draw_forgetting({"lwf": np.stack([R, R])}, Figure().subplots())
    np.testing.assert_allclose(axes.containers[0][0].get_ydata(), [20, -5, 7.5])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "mean"]


def test_one_long_interval_does_not_stretch_the_scale_of_forgetting() -> None:
    """Means of 0, 10, 20 and 10 points: a quarter of 20 is room enough, for one interval of ± 127 too."""
    by_seed = [
        [[N] * 4, [0.9, N, N, N], [0.9, 0.9, N, N], [0.9, 0.9, 0.9, N], [0.9, 0.8, 0.7 + x, 0.9]] for x in (-0.1, 0.1)
    ]
    axes = plots.draw_forgetting({"lwf": np.array(by_seed, dtype=float)}, Figure().subplots())
    np.testing.assert_allclose(axes.containers[0][0].get_ydata(), [0, 10, 20, 10], atol=1e-9)
    assert axes.get_ylim() == pytest.approx((-5, 25))
    axes = plots.draw_forgetting({"lwf": np.array(by_seed[:1], dtype=float)}, Figure().subplots())
    assert axes.get_ylim() == pytest.approx((-3, 33))  # of one seed: 0, 10, 30 and 13.3, without intervals


def test_stability_shows_means_and_seeds() -> None:
    (axes,) = three("stability-plasticity").axes
    assert centres(axes)["Fine-tuning"] == pytest.approx((92.5, 70))
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[95, 60], [90, 80]])


def test_iso_lines_join_points_of_equal_mean() -> None:
    (axes,) = three("stability-plasticity").axes
    dashed = [line for line in axes.lines if line.get_color() == "0.8"]
    assert len(dashed) > 2
    for line, text in zip(dashed, axes.texts, strict=True):
        np.testing.assert_allclose(line.get_xydata().mean(axis=1), float(text.get_text()))


def test_stability_beyond_a_hundred_is_in_sight() -> None:
    R = np.array([[[N, N], [0.5, N], [0.9, 0.9]]], dtype=float)
    axes = plots.draw_stability({"lwf": R}, Figure().subplots())
    (point,) = axes.containers[0][0].get_xydata()
    assert point == pytest.approx([70, 140])
    assert axes.viewLim.contains(*point)


def test_accuracy_against_seconds_and_memory() -> None:
    cheap = [record("lwf", seed, LWF[seed], peak_memory_bytes=20_000_000 + seed * 2_000_000) for seed in (0, 1)]
    dear = {"seconds": {"train": [20.0, 30.0], "evaluate": [1.0] * 3}, "peak_memory_bytes": 50_000_000}
    results = PlottedResults([*cheap, *(record("joint", seed, JOINT[seed], **dear) for seed in (0, 1))])
    seconds, memory = results.figure("accuracy-cost").axes
    assert centres(seconds) == {"Joint training": pytest.approx((50, 100)), "LwF": pytest.approx((2.5, 87.5))}
    assert centres(memory)["LwF"] == pytest.approx((21, 87.5))
    assert "MB" in memory.get_xlabel()
    half = 100 * T2 * 0.025  # 0.90 and 0.85
    lwf = next(bar for bar in seconds.containers if bar.get_label() == "LwF")
    assert ends(lwf, 1) == pytest.approx((87.5 - half, 87.5 + half), abs=0.01)
    assert (seconds.get_xscale(), memory.get_xscale()) == ("log", "linear")  # 20-fold, 2.4-fold


def test_costs_that_were_not_recorded_have_no_panel() -> None:
    (axes,) = three("accuracy-cost").axes
    assert "training time" in axes.get_xlabel()


def stored(label: str, images: int, finals: list[float], **params: Any) -> list[RunRecord]:
    return ending_at(
        label, finals, method=label.split("@")[0], params={"images": images, **params}, stored_images=images
    )


def test_accuracy_against_memory() -> None:
    results = PlottedResults(
        [
            *ending_at("finetune", [0.3, 0.5]),
            *ending_at("joint", [0.9, 0.9]),
            *stored("er@images=50", 50, [0.6, 0.7]),
            *stored("er@images=400", 400, [0.8, 0.82]),
            *stored("gdumb", 50, [0.5, 0.5]),
        ]
    )
    (axes,) = results.figure("accuracy-memory").axes
    (er,) = axes.containers  # GDumb has one size
    assert er.get_label() == "ER"
    np.testing.assert_allclose(er[0].get_xydata(), [[50, 65], [400, 81]])
    low, high = ends(er, 1)
    assert (low, high) == pytest.approx((65 - T2 * 5, 65 + T2 * 5), abs=0.01)
    assert sorted(line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1) == [40, 90]


def test_sizes_of_memory_of_a_method_with_other_settings_are_lines_of_their_own() -> None:
    grid = [
        stored(f"er@images={images}@memory_batch={batch}", images, [0.5 + images / 1000], memory_batch=batch)
        for images in (100, 200)
        for batch in (10, 20)
    ]
    results = PlottedResults([run for runs in grid for run in runs])
    (axes,) = results.figure("accuracy-memory").axes
    assert len(axes.containers) == 2
    with pytest.raises(UsageError, match="a method with several sizes of memory"):
        PlottedResults(grid[0]).figure("accuracy-memory")


def test_forest_plot_shows_differences_and_which_are_decided() -> None:
    frame = pd.DataFrame(
        {
            "label": ["lwf", "joint", "mine", "ewc", "si"],
            "difference": [0.1, -0.02, 0.3, 0.001, -0.2],
            "ci_low": [0.05, -0.06, np.nan, 0.0005, -0.25],
            "ci_high": [0.15, 0.02, np.nan, 0.0015, -0.15],
            "p_holm": [0.01, 0.5, np.nan, 0.01, 0.01],
            "verdict": ["better", "undecided", "too few seeds", "less than one image", "worse"],
        }
    )
    axes = plots.draw_differences(frame, Figure().subplots())
    points = [bar[0] for bar in axes.containers]
    np.testing.assert_allclose([point.get_xdata()[0] for point in points], [10, -2, 30, 0.1, -20])
    assert [point.get_ydata()[0] for point in points] == [0, 1, 2, 3, 4]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["lwf", "joint", "mine", "ewc", "si"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first at the top
    filled = [to_hex(point.get_markerfacecolor()) != "#ffffff" for point in points]
    assert filled == [True, False, False, False, True]
    assert ends(axes.containers[0], 0) == pytest.approx((5, 15))
    assert not axes.containers[2][2]  # no interval
    assert 0 in axes.lines[0].get_xdata()


def test_differences_are_to_the_baseline_in_both_metrics() -> None:
    accuracy, forgetting = three("differences").axes
    assert accuracy.get_title().startswith("average accuracy")
    assert forgetting.get_title().startswith("forgetting")
    # joint is 0.25, 0.2 above fine-tuning; LwF 0.15, 0.05
    assert centres(accuracy) == {"Joint training": pytest.approx((22.5, 0)), "LwF": pytest.approx((10, 1))}
    half = 100 * T2 * 0.025
    assert ends(accuracy.containers[0], 0) == pytest.approx((22.5 - half, 22.5 + half), abs=0.01)
    # it forgets 0.5, 0.2 less; LwF 0.4, 0.1
    assert centres(forgetting) == {"Joint training": pytest.approx((-35, 0)), "LwF": pytest.approx((-25, 1))}
    assert all("Fine-tuning" in axes.get_xlabel() for axes in (accuracy, forgetting))


def test_ranks_stand_at_their_places_and_bars_join_what_is_close() -> None:
    ranks = Ranks("task", ["a", "b", "c", "d"], np.array([3.0, 1.2, 2.0, 3.8]), 1.0, 0.01, 6)
    axes = plots.draw_ranks(ranks, Figure().subplots())
    markers = [line for line in axes.lines if line.get_label() in "abcd"]
    assert {line.get_label(): line.get_xdata()[0] for line in markers} == {"a": 3.0, "b": 1.2, "c": 2.0, "d": 3.8}
    bars = sorted(tuple(line.get_xdata()) for line in axes.lines if line.get_gid() == "clique")
    # c and b differ by 0.8, a and c by 1.0, d and a by 0.8: no three are within 1.0
    np.testing.assert_allclose(bars, [(1.16, 2.04), (1.96, 3.04), (2.96, 3.84)])
    names = ["b (1.20)", "c (2.00)", "a (3.00)", "d (3.80)"]
    assert [text.get_text() for text in axes.texts] == [*names, "critical difference 1.00"]


def test_bars_within_bars_are_not_drawn() -> None:
    ranks = Ranks("task", ["a", "b", "c"], np.array([1.5, 2.0, 2.5]), 1.2, 0.2, 6)
    axes = plots.draw_ranks(ranks, Figure().subplots())
    assert sum(line.get_gid() == "clique" for line in axes.lines) == 1


def test_ranks_of_results() -> None:
    records = [one for i in range(5) for one in three_methods(sequence_label=f"sequence-{i}")]
    (axes,) = (drawn := PlottedResults(records).figure("ranks")).axes
    places = {" ".join(str(line.get_label()).split()): line.get_xdata()[0] for line in axes.lines}
    assert (places["LwF"], places["Fine-tuning"]) == (1, 2)
    assert "Joint training" not in places  # it does not compete
    assert "5 task sequences" in drawn.texts[-1].get_text()


def test_within_task_curves_show_the_gap() -> None:
    records = within_tasks()
    for one in records:
        if one.spec["label"] == "finetune":  # takes three times as many updates
            one.curves[:] = [{**task, "updates": [3 * n for n in task["updates"]]} for task in one.curves or ()]
            one.updates[:] = [300, 300]
    panels = {axes.get_title(): axes for axes in PlottedResults(records).figure("within-task-curves").axes}
    assert {title: axes.get_xlim()[1] for title, axes in panels.items()} == {"Fine-tuning": 600, "LwF": 200}
    axes = panels["LwF"]
    np.testing.assert_allclose(lines(axes)["task 1"], [50, 90, 40, 85])
    np.testing.assert_allclose(lines(axes)["task 2"], [np.nan, np.nan, 60, 70])
    (first,) = [line for line in axes.lines if line.get_label() == "task 1"]
    np.testing.assert_allclose(first.get_xdata(), [50, 100, 150, 200])
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [100]
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(85 + 100 * T2 * 0.05, abs=0.01)


def test_switches_are_where_the_next_task_begins() -> None:
    curves = Curves(np.array([10.0, 20, 30, 40, 50]), np.array([1.0, 1, 2, 3, 3]), np.zeros((1, 5, 3)))
    assert plots.switches(curves).tolist() == [20, 30]

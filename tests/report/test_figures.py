"""Figures: what is in them, checked through their artists against numbers worked out by hand, and their files."""

import io
import threading
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from made_up import HOSTILE, JOINT, LWF, T2, N, record, three_methods
from matplotlib import image
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure

import clbench
from clbench.errors import UsageError
from clbench.report.figures import files as figure_files
from clbench.report.figures import plots
from clbench.report.figures.files import FigureFolder, write_figures
from clbench.report.figures.kinds import FIGURES
from clbench.report.figures.layouts import WIDTHS
from clbench.report.figures.plots import styles_of, wrap
from clbench.report.plotted import PlottedResults as Results
from clbench.results import names
from clbench.results.analysis import Ranks
from clbench.results.groups import Curves
from clbench.results.store import RunRecord


def five_sequences() -> list[RunRecord]:
    return [one for i in range(5) for one in three_methods(sequence_label=f"sequence-{i}")]


def with_curves() -> list[RunRecord]:
    """Two updates' worth of points a task; task 1 falls to 40 % right after the switch, and mends."""
    records = []
    for seed, late in enumerate((0.8, 0.9)):
        first = {"updates": [50, 100], "task_aware": [[0.5, N], [0.9, N]], "task_agnostic": [[0.2, N], [0.4, N]]}
        second = {"updates": [50, 100], "task_aware": [[0.4, 0.6], [late, 0.7]], "task_agnostic": [[0.1, 0.2]] * 2}
        R = [[N, N], [0.9, N], [late, 0.7]]
        records += [record(label, seed, R, curves=[first, second]) for label in ("lwf", "finetune")]
    return records


def figure(results: Results, kind: str, **place: Any) -> Figure:
    drawn = results.figure(kind, **place)
    drawn.draw_without_rendering()
    return drawn


def by_label(axes: Any) -> dict[str, np.ndarray]:
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    return {str(line.get_label()): np.asarray(line.get_ydata(), dtype=float) for line in lines}


def centres(axes: Any) -> dict[str, tuple[float, float]]:
    return {bar.get_label(): tuple(bar[0].get_xydata()[0]) for bar in axes.containers}


def ends(bar: Any, axis: int) -> tuple[float, float]:
    """Return where an interval's bar begins and ends, along x or y."""
    segment = bar[2][0].get_segments()[0]
    return segment[:, axis].min(), segment[:, axis].max()


# What is in them


def test_matrix_shows_means() -> None:
    drawn = figure(Results(three_methods()), "accuracy-matrix")
    panels = {axes.get_title(): axes for axes in drawn.axes if axes.images}
    assert set(panels) == {"Fine-tuning", "Joint training", "LwF"}
    cells = panels["Fine-tuning"].images[0].get_array()
    assert cells is not None
    np.testing.assert_allclose(np.ma.filled(cells, np.nan), [[95, np.nan], [65, 90]])
    assert [text.get_text() for text in panels["Fine-tuning"].texts] == ["95.0", "65.0", "90.0"]
    assert [text.get_text() for text in panels["Fine-tuning"].get_yticklabels()] == ["1", "2"]
    assert "2 seeds" in drawn.get_suptitle()


def test_matrix_shows_row_zero_where_measured() -> None:
    drawn = figure(Results([record("lwf", R=[[0.2, 0.4], [0.9, 0.4], [0.8, 0.9]])]), "accuracy-matrix")
    assert [text.get_text() for text in drawn.axes[0].get_yticklabels()] == ["before", "1", "2"]


def test_accuracy_by_task_shows_each_over_training() -> None:
    first, second = figure(Results(three_methods()), "accuracy-by-task").axes
    np.testing.assert_allclose(by_label(first)["Fine-tuning"], [np.nan, 95, 65])
    np.testing.assert_allclose(by_label(first)["LwF"], [np.nan, 95, 90])
    np.testing.assert_allclose(by_label(second)["Fine-tuning"], [np.nan, np.nan, 90])
    band = next(artist for artist in first.collections if isinstance(artist, PolyCollection))
    half = 100 * T2 * 0.15  # task 1 at the end: 0.5 and 0.8
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((65 - half, 65 + half), abs=0.01)


def test_average_accuracy_is_of_tasks_so_far() -> None:
    (axes,) = figure(Results(three_methods()), "average-accuracy").axes
    np.testing.assert_allclose(by_label(axes)["Fine-tuning"], [np.nan, 95, 77.5])
    np.testing.assert_allclose(by_label(axes)["Joint training"], [np.nan, 95, 100])


def test_forgetting_shows_tasks_and_mean() -> None:
    three = [[N, N, N], [0.8, N, N], [0.9, 0.8, N], [0.7, 0.85, 0.9]]
    (axes,) = figure(Results([record("lwf", R=three), record("lwf", 1, three)]), "forgetting-by-task").axes
    np.testing.assert_allclose(axes.containers[0][0].get_ydata(), [20, -5, 7.5])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "mean"]


def test_forgetting_of_many_goes_over_rows_that_hold_every_task_once() -> None:
    R = [[0.5] * 20] * 21
    drawn = figure(Results([record(f"m{i}", R=R) for i in range(14)]), "forgetting-by-task", width="column")
    shown = [x for axes in drawn.axes for x in range(1, 21) if axes.get_xlim()[0] < x < axes.get_xlim()[1]]
    assert shown == list(range(1, 21))


def test_stability_shows_means_and_seeds() -> None:
    (axes,) = figure(Results(three_methods()), "stability-plasticity").axes
    assert centres(axes)["Fine-tuning"] == pytest.approx((92.5, 70))
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[95, 60], [90, 80]])


def test_iso_lines_join_points_of_equal_mean() -> None:
    (axes,) = figure(Results(three_methods()), "stability-plasticity").axes
    dashed = [line for line in axes.lines if line.get_color() == "0.8"]
    assert len(dashed) > 2
    for line, text in zip(dashed, axes.texts, strict=True):
        np.testing.assert_allclose(line.get_xydata().mean(axis=1), float(text.get_text()))


def test_stability_beyond_a_hundred_is_in_sight() -> None:
    (axes,) = figure(Results([record("lwf", R=[[N, N], [0.5, N], [0.9, 0.9]])]), "stability-plasticity").axes
    (point,) = axes.containers[0][0].get_xydata()
    assert point == pytest.approx([70, 140])
    assert axes.viewLim.contains(*point)


def test_accuracy_against_seconds_and_memory() -> None:
    cheap = [record("lwf", seed, LWF[seed], peak_memory_bytes=20_000_000 + seed * 2_000_000) for seed in (0, 1)]
    dear = [
        record(
            "joint",
            seed,
            JOINT[seed],
            seconds={"train": [20.0, 30.0], "evaluate": [1.0] * 3},
            peak_memory_bytes=50_000_000,
        )
        for seed in (0, 1)
    ]
    seconds, memory = figure(Results([*cheap, *dear]), "accuracy-cost").axes
    assert centres(seconds) == {
        "Joint training": pytest.approx((50, 100)),
        "LwF": pytest.approx((2.5, 87.5)),
    }
    assert centres(memory)["LwF"] == pytest.approx((21, 87.5))
    assert "MB" in memory.get_xlabel()
    half = 100 * T2 * 0.025  # 0.90 and 0.85
    lwf = next(bar for bar in seconds.containers if bar.get_label() == "LwF")
    assert ends(lwf, 1) == pytest.approx((87.5 - half, 87.5 + half), abs=0.01)
    assert (seconds.get_xscale(), memory.get_xscale()) == ("log", "linear")  # 20-fold, 2.4-fold


def test_costs_that_were_not_recorded_have_no_panel() -> None:
    (axes,) = figure(Results(three_methods()), "accuracy-cost").axes
    assert "training time" in axes.get_xlabel()


FRAME = pd.DataFrame(
    {
        "label": ["lwf", "joint", "mine"],
        "baseline": ["finetune"] * 3,
        "metric": ["average_accuracy"] * 3,
        "difference": [0.1, -0.02, 0.3],
        "ci_low": [0.05, -0.06, np.nan],
        "ci_high": [0.15, 0.02, np.nan],
        "p_holm": [0.01, 0.5, np.nan],
    }
)


def test_forest_plot_shows_differences_and_which_are_decided() -> None:
    axes = plots.draw_differences(FRAME, Figure().subplots())
    points = [bar[0] for bar in axes.containers]
    np.testing.assert_allclose([point.get_xdata()[0] for point in points], [10, -2, 30])
    assert [point.get_ydata()[0] for point in points] == [0, 1, 2]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["lwf", "joint", "mine"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first at the top
    filled = [to_hex(point.get_markerfacecolor()) != "#ffffff" for point in points]
    assert filled == [True, False, False]
    assert ends(axes.containers[0], 0) == pytest.approx((5, 15))
    assert not axes.containers[2][2]  # no interval
    assert 0 in axes.lines[0].get_xdata()


def test_differences_are_to_the_baseline_in_both_metrics() -> None:
    accuracy, forgetting = figure(Results(three_methods()), "differences").axes
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
    assert [text.get_text() for text in axes.texts] == [
        "b (1.20)",
        "c (2.00)",
        "a (3.00)",
        "d (3.80)",
        "critical difference 1.00",
    ]


def test_bars_within_bars_are_not_drawn() -> None:
    ranks = Ranks("task", ["a", "b", "c"], np.array([1.5, 2.0, 2.5]), 1.2, 0.2, 6)
    axes = plots.draw_ranks(ranks, Figure().subplots())
    assert sum(line.get_gid() == "clique" for line in axes.lines) == 1


def test_ranks_of_results() -> None:
    results = Results(five_sequences())
    axes = results.plot.ranks()
    lines = {str(line.get_label()): line.get_xdata() for line in axes.lines}
    assert lines["Joint training"][0] == 1
    assert lines["LwF"][0] == 2
    assert lines["Fine-tuning"][0] == 3
    assert "5 task sequences" in axes.figure.get_suptitle()


def test_within_task_curves_show_the_gap() -> None:
    drawn = figure(Results(with_curves()), "within-task-curves")
    panels = {axes.get_title(): axes for axes in drawn.axes}
    assert set(panels) == {"Fine-tuning", "LwF"}
    axes = panels["LwF"]
    curves = by_label(axes)
    np.testing.assert_allclose(curves["task 1"], [50, 90, 40, 85])
    np.testing.assert_allclose(curves["task 2"], [np.nan, np.nan, 60, 70])
    (first,) = [line for line in axes.lines if line.get_label() == "task 1"]
    np.testing.assert_allclose(first.get_xdata(), [50, 100, 150, 200])
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [100]
    band = axes.collections[0].get_paths()[0].vertices
    half = 100 * T2 * 0.05
    assert band[:, 1].max() == pytest.approx(85 + half, abs=0.01)


def test_switches_are_where_the_next_task_begins() -> None:
    curves = Curves(np.array([10.0, 20, 30, 40, 50]), np.array([1.0, 1, 2, 3, 3]), np.zeros((1, 5, 3)))
    assert plots.switches(curves).tolist() == [20, 30]


@pytest.mark.parametrize(
    ("kind", "records"),
    [
        ("differences", [record("lwf")]),
        ("differences", [record("lwf", 0), record("joint", 1)]),  # no seed in common
        ("within-task-curves", three_methods()),
        ("ranks", three_methods()),
        ("ranks", five_sequences()[:-6]),  # four sequences
    ],
)
def test_figures_without_their_data_say_what_they_need(kind: str, records: list[RunRecord]) -> None:
    results = Results(records)
    place = {} if kind == "ranks" else {"sequence": results.comparisons[0].sequence}
    with pytest.raises(UsageError, match=f"no figure '{kind}' of these records: it needs"):
        results.figure(kind, **place)


# How they look


def test_every_built_in_method_has_a_style_of_its_own_in_every_report() -> None:
    alone = {name: styles_of([name])[name] for name in names.known()}
    together = styles_of(["mine", "lwf@weight=2", *reversed(names.known())])
    for name, style in alone.items():
        assert {**style, "label": ""} == {**together[name], "label": ""}
    assert styles_of(["ewc@importance=3"])["ewc@importance=3"]["color"] == alone["ewc"]["color"]


@pytest.mark.parametrize(
    "labels", [names.known(), [f"m{i}" for i in range(15)], ["lwf", *(f"lwf@a={i}" for i in "abcde")]]
)
def test_up_to_fifteen_methods_have_a_marker_each(labels: list[str]) -> None:
    styles = styles_of(labels)
    assert len({str(style["marker"]) for style in styles.values()}) == len(labels)
    if len(labels) <= len(plots.COLOURS):
        assert len({style["color"] for style in styles.values()}) == len(labels)


def test_sixty_methods_differ_in_grey_and_more_are_drawn() -> None:
    styles = styles_of([f"m{i}" for i in range(70)])
    pairs = [(str(style["marker"]), style["linestyle"]) for style in styles.values()]
    assert len(set(pairs[:60])) == 60


def test_methods_look_alike_in_all_figures_and_unlike_each_other() -> None:
    labels = [f"method{i}" for i in range(12)]
    results = Results([record(label) for label in labels] + [record("method5", scenario="class")])
    (axes,) = figure(results, "average-accuracy", scenario="task").axes
    looks = {line.get_label(): (line.get_color(), str(line.get_marker()), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == len(set(looks.values())) == len({marker for _, marker, _ in looks.values()}) == 12
    (alone,) = figure(results, "average-accuracy", scenario="class").axes
    (line,) = alone.lines
    assert (line.get_color(), str(line.get_marker()), line.get_linestyle()) == looks["method5"]
    (points,) = figure(results, "stability-plasticity", scenario="class").axes
    assert to_rgba(points.containers[0][0].get_color()) == to_rgba(looks["method5"][0])


ODD = {
    "one seed": [record("lwf"), record("finetune")],
    "one task": [record(label, seed, [[N], [0.9]]) for seed in (0, 1) for label in ("lwf", "finetune")],
    "nothing measured": [record("lwf", seed, [[N, N]] * 3) for seed in (0, 1)],
    "only the last row": [record("joint", seed, [[N, N], [N, N], [1, 1]]) for seed in (0, 1)],
    "odd labels": [record(HOSTILE), record("_hidden"), record("x" * 200)],
    "an odd baseline": [record(f"finetune@{HOSTILE}", seed) for seed in (0, 1)] + [record("lwf"), record("lwf", 1)],
    "twenty tasks": [record(label, R=[[0.5] * 20] * 21) for label in ("lwf", "finetune")],
    "many methods": [record(label, seed, LWF[seed]) for label in [*names.known(), "mine"] for seed in (0, 1)],
    "curves": with_curves(),
    "ranks": [record(label, sequence_label=f"s{i}") for i in range(5) for label in (HOSTILE, "lwf" * 40)],
}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("odd", ODD)
def test_figures_of_odd_results_are_drawn_and_nothing_is_cut_off(odd: str, width: Any) -> None:
    results = Results(ODD[odd])
    drawn = 0
    for kind in FIGURES:
        place = {} if kind == "ranks" else {"sequence": results.comparisons[0].sequence}
        try:
            shown = results.figure(kind, width=width, **place)
        except UsageError:
            continue
        drawn += 1
        buffer = io.BytesIO()
        shown.savefig(buffer, dpi=100)
        buffer.seek(0)
        pixels = image.imread(buffer)[..., :3]
        assert pixels.min() < 0.5, kind  # something is drawn
        for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert edge.min() == 1, kind
        assert pixels.shape[1] <= 100 * WIDTHS[width] + 1
    assert drawn >= 5


@pytest.mark.parametrize("width", WIDTHS)
def test_text_has_seven_to_nine_points(width: Any) -> None:
    for kind in FIGURES:
        results = Results(five_sequences() if kind == "ranks" else with_curves())
        drawn = figure(results, kind, width=width)
        sizes = {text.get_fontsize() for text in drawn.findobj(mpl.text.Text) if text.get_text().strip()}
        assert sizes
        assert min(sizes) >= 7, kind
        assert max(sizes) <= 9, kind


def test_legends_show_labels_as_they_are() -> None:
    drawn = figure(Results([record("a$x$_b"), record("_hidden")]), "average-accuracy")
    shown = [text.get_text().replace(r"\$", "$").strip() for text in drawn.legends[0].get_texts()]
    assert sorted(shown) == ["_hidden", "a$x$_b"]


def test_lines_break_where_they_may() -> None:
    assert wrap("LwF (weight = 2, temperature = 4)", 16) == "LwF\n(weight = 2,\ntemperature = 4)"
    assert wrap("lwf@weight=2@scope=old", 14) == "lwf@weight=2@\nscope=old"
    assert wrap("abcdef", 4) == "abcd\nef"
    assert wrap(plots.plain("abc$d"), 4) == "abc\n\\$d"
    assert wrap(plots.plain("_a b"), 10) == " _a b"


def test_one_seed_has_no_bands_and_says_so() -> None:
    drawn = figure(Results([record("lwf")]), "average-accuracy")
    assert not drawn.axes[0].collections
    assert "no intervals" in drawn.get_suptitle()


def test_titles_say_what_is_shown() -> None:
    for kind, what in FIGURES.items():
        results = Results(five_sequences() if kind == "ranks" else with_curves())
        title = " ".join(results.figure(kind).get_suptitle().split())
        assert title.startswith(what.title)
        where = "task scenario, 5 task sequences" if kind == "ranks" else "split-digits, task scenario, mlp 2 seeds"
        assert where in title


# Axes of results.plot


def test_drawing_leaves_no_global_state() -> None:
    from matplotlib import pyplot

    before = dict(mpl.rcParams)
    results = Results(three_methods())
    assert results.figure("average-accuracy")._repr_png_().startswith(b"\x89PNG")  # as a notebook shows it
    assert results.plot.average_accuracy()._repr_png_().startswith(b"\x89PNG")
    assert results.plot.accuracy_matrix()._repr_png_().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before


def test_plot_draws_into_axes_of_the_caller() -> None:
    results = Results(five_sequences())
    for method in ("average_accuracy", "forgetting", "stability_plasticity"):
        axes = Figure().subplots()
        assert getattr(results.plot, method)(axes, sequence="sequence-0") is axes
        assert {text.get_text() for text in axes.get_legend().get_texts()} == {"Fine-tuning", "Joint training", "LwF"}
    axes = Figure().subplots()
    assert results.plot.ranks(ax=axes) is axes


def test_plot_returns_a_panel_per_method_task_or_metric() -> None:
    plot = Results(with_curves()).plot
    assert [axes.get_title() for axes in plot.accuracy_matrix()] == ["Fine-tuning", "LwF"]
    assert [axes.get_title() for axes in plot.accuracy_by_task()] == ["task 1", "task 2"]
    assert [axes.get_title() for axes in plot.within_task_curves()] == ["Fine-tuning", "LwF"]
    assert len(plot.accuracy_cost()) == 1
    assert len(plot.differences()) == 2


def test_draw_functions_take_axes_of_the_caller() -> None:
    axes = Figure().subplots(2, 4).flat
    matrices = {"lwf": np.array(LWF, dtype=float)}
    curves = Curves(np.array([1.0, 2.0]), np.array([1.0, 1.0]), np.array([[[0.5], [0.6]]]))
    assert plots.draw_matrix(matrices["lwf"].mean(axis=0), axes[0]) is axes[0]
    assert plots.draw_curves({"lwf": matrices["lwf"][:, :, 0]}, axes[1]) is axes[1]
    assert plots.draw_forgetting(matrices, axes[2]) is axes[2]
    assert plots.draw_stability(matrices, axes[3]) is axes[3]
    assert plots.draw_average(matrices, axes[4]) is axes[4]
    assert plots.draw_cost({"lwf": np.array([[1.0, 0.5]])}, axes[5]) is axes[5]
    assert plots.draw_differences(FRAME, axes[6]) is axes[6]
    assert plots.draw_within_tasks(curves, axes[7]) is axes[7]


def test_figure_refuses_what_it_cannot_choose() -> None:
    results = Results([record("lwf"), record("lwf", scenario="class")])
    with pytest.raises(UsageError, match=r"2 comparisons fit: .*class scenario.*task scenario"):
        results.figure("accuracy-matrix")
    with pytest.raises(UsageError, match=r"no figure 'pie': choose one of accuracy-matrix"):
        results.figure("pie")
    with pytest.raises(UsageError, match=r"no width 'wide': choose one of column, page"):
        results.figure("accuracy-matrix", scenario="task", width="wide")  # type: ignore[arg-type]


# Files


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have only some kinds of figures, to be fast: of one comparison, of all of a scenario, and of differences."""
    kinds = ("average-accuracy", "stability-plasticity", "differences", "ranks")
    monkeypatch.setattr(figure_files, "FIGURES", {kind: FIGURES[kind] for kind in kinds})


def written(results: Results, folder: Path, **options: Any) -> dict[str, bytes]:
    paths = write_figures(results, folder, **options).paths
    return {path.name: path.read_bytes() for path in paths}


def test_files_are_the_same_from_one_process_and_several_and_every_time(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "again")]
    for folder in folders:
        folder.mkdir()
    results = Results(three_methods())
    options: dict[str, Any] = {"formats": ("png", "pdf", "svg")}
    one = written(results, folders[0], jobs=1, **options)
    assert written(results, folders[1], jobs=2, **options) == one
    assert written(Results(three_methods()), folders[2], jobs=1, **options) == one
    kinds = set(FIGURES) - {"ranks", "within-task-curves"}
    assert set(one) == {f"split-digits-task-mlp-{kind}.{suffix}" for kind in kinds for suffix in options["formats"]}
    assert one["split-digits-task-mlp-differences.pdf"].startswith(b"%PDF")
    assert b"Fine-tuning</text>" in one["split-digits-task-mlp-differences.svg"]  # text stays text
    assert not list(folders[0].glob("*.tmp"))


@pytest.mark.usefixtures("few")
def test_links_name_the_first_format(tmp_path: Path) -> None:
    found = write_figures(Results(five_sequences()), tmp_path, ["svg"])
    assert found.links["task",] == {"ranks": "task-ranks.svg"}
    assert found.links["sequence-0", "task", "mlp"]["differences"] == "sequence-0-task-mlp-differences.svg"
    assert sorted(path.name for path in found.paths) == sorted(
        name for some in found.links.values() for name in some.values()
    )


@pytest.mark.usefixtures("few")
def test_what_is_up_to_date_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results([*three_methods(), *three_methods(scenario="class")])
    folder = FigureFolder(results, tmp_path, ["svg"])
    assert folder.ready().paths == []
    steps: list[tuple[int, int]] = []
    first = folder.draw(1, lambda done, total: steps.append((done, total)))
    assert steps == [(i, len(first.paths)) for i in range(len(first.paths) + 1)]
    before = {path: path.stat().st_mtime_ns for path in first.paths}

    drawn: list[str] = []
    draw = figure_files._draw
    monkeypatch.setattr(figure_files, "_draw", lambda task, font: (drawn.append(task[0]), draw(task, font))[1])
    again = FigureFolder(results, tmp_path, ["svg"])
    assert again.ready() == first
    assert again.draw(1) == first
    assert drawn == []
    assert {path: path.stat().st_mtime_ns for path in first.paths} == before

    changed = Results([*three_methods(), *three_methods(scenario="class", peak_memory_bytes=7)])
    links = FigureFolder(changed, tmp_path, ["svg"]).ready().links
    assert set(links) == {("split-digits", "task", "mlp")}  # the other's are out of date
    assert write_figures(changed, tmp_path, ["svg"], jobs=1).links == first.links
    assert sorted(drawn) == ["average-accuracy", "differences", "stability-plasticity"]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("harm", ["missing", "touched", "other width", "other code", "other baseline"])
def test_what_is_not_up_to_date_is_drawn_again(harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clbench.results.analysis import differences

    results = Results(three_methods())
    first = written(results, tmp_path, formats=["svg"], jobs=1)
    path = tmp_path / "split-digits-task-mlp-differences.svg"
    options: dict[str, Any] = {"formats": ["svg"]}
    if harm == "missing":
        path.unlink()
    elif harm == "touched":
        path.write_text("mine")
    elif harm == "other width":
        options["width"] = "column"
    elif harm == "other code":
        monkeypatch.setattr(figure_files, "_version_of_drawing", lambda: "later")
    else:
        options["differences"] = differences(results, baseline="lwf")
    expected = len(first) if harm in ("other width", "other code") else 1
    ready = FigureFolder(results, tmp_path, **options).ready()
    assert len(ready.paths) == len(first) - expected
    second = written(results, tmp_path, jobs=1, **options)
    assert (second == first) == (harm in ("missing", "touched", "other code"))
    if harm == "other baseline":
        assert b"difference to LwF" in second[path.name]


@pytest.mark.usefixtures("few")
def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    both = Results([*three_methods(), *three_methods(sequence_label="other")])
    theirs = tmp_path / "split-digits-task-mlp-differences.svg"
    theirs.write_text("theirs")
    (tmp_path / "notes.svg").write_text("notes")
    first = written(both, tmp_path, formats=["svg"], jobs=1)
    assert theirs.name in first
    assert (tmp_path / "split-digits-task-mlp-differences.kept-1.svg").read_text() == "theirs"
    edited = tmp_path / "other-task-mlp-differences.svg"
    edited.write_text("edited by hand")
    second = written(Results(three_methods()), tmp_path, formats=["svg"], jobs=1)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        *second,
        ".made-by-clbench",
        "notes.svg",
        edited.name,
        "split-digits-task-mlp-differences.kept-1.svg",
    }
    assert (tmp_path / "notes.svg").read_text() == "notes"


@pytest.mark.usefixtures("few")
def test_list_of_an_earlier_version_is_understood(tmp_path: Path) -> None:
    (tmp_path / ".made-by-clbench").write_text("gone-accuracy-matrix.png\n../outside.png\n")
    (tmp_path / "gone-accuracy-matrix.png").write_text("old")
    outside = tmp_path.parent / "outside.png"
    outside.write_text("not ours")
    write_figures(Results([record("lwf")]), tmp_path, ["svg"], jobs=1)
    assert not (tmp_path / "gone-accuracy-matrix.png").exists()
    assert outside.read_text() == "not ours"


@pytest.mark.usefixtures("few")
def test_drawing_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(three_methods())

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_figures(results, tmp_path, ["svg"], jobs=1, progress=stop)
    folder = FigureFolder(results, tmp_path, ["svg"])
    assert len(folder.ready().paths) == 2
    assert len(folder.draw(1).paths) == 3
    assert not list(tmp_path.glob("*.kept-*"))


def test_what_is_up_to_date_is_found_fast(tmp_path: Path) -> None:
    records = [
        record(f"m{i}", seed, [[0.5] * 5] * 6, scenario=s)
        for i in range(10)
        for seed in range(30)
        for s in ("task", "class")
    ]
    results = Results(records)
    start = time.process_time()
    FigureFolder(results, tmp_path).ready()
    assert time.process_time() - start < 1  # 0.1 as a rule


def test_formats_and_widths_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no format 'gif': choose from png, pdf, svg"):
        FigureFolder(Results([]), tmp_path, ["gif"])
    with pytest.raises(UsageError, match="no width 'wide'"):
        FigureFolder(Results([]), tmp_path, width="wide")  # type: ignore[arg-type]


def test_files_are_laid_out_for_the_ticks_that_they_show(tmp_path: Path) -> None:
    """Values below 0 give the axis wider numbers once it has its size: its label must still have room."""
    runs = []
    for label, ends in (("finetune", [0.98, 0.97, 0.6, 0.99, 0.98]), ("scratch", [0.5, 0.45, 0.6, 0.4, 0.5])):
        for seed, end in enumerate(ends):
            R = np.where(np.tri(6, 5, -1), end, np.nan)
            R[np.arange(1, 6), np.arange(5)] = 1.0
            runs.append(record(label, seed, [[N if x != x else x for x in row] for row in R.tolist()]))
    for path in write_figures(Results(runs), tmp_path, formats=("png",)).paths:
        pixels = image.imread(path)
        for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
            assert (edge[..., :3] == 1).all(), path.name


def test_pixels_keep_the_shades_that_are_there(tmp_path: Path) -> None:
    """Stripes a little darker than white are told from it, in a file of 256 colours at most."""
    paths = write_figures(Results(three_methods()), tmp_path, formats=("png",)).paths
    (path,) = [path for path in paths if "forgetting" in path.name]
    colours, counts = np.unique((255 * image.imread(path)[..., :3]).round().reshape(-1, 3), axis=0, return_counts=True)
    assert len(colours) <= 256
    common = {tuple(colour) for colour in colours[counts > 0.05 * counts.sum()]}
    assert {(255.0,) * 3, (242.0,) * 3} <= common


def test_within_task_panels_show_all_updates_of_their_method() -> None:
    rows = with_curves()
    longer = []
    for one in rows:
        if one.spec["label"] == "lwf":
            curves = [{**task, "updates": [3 * n for n in task["updates"]]} for task in one.curves or ()]
            longer.append(RunRecord(**{**vars(one), "curves": curves, "updates": [300, 300]}))
        else:
            longer.append(one)
    drawn = figure(Results(longer), "within-task-curves")
    assert {axes.get_title(): axes.get_xlim()[1] for axes in drawn.axes} == {"Fine-tuning": 200, "LwF": 600}


@pytest.mark.parametrize("kind", ["accuracy-matrix", "within-task-curves", "stability-plasticity"])
def test_few_colours_look_like_all(kind: str) -> None:
    """No pixel of the file is far from what was drawn, whatever the colours: bars stay smooth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    low = record("si", R=[[N, N], [0.4, N], [0.2, 0.7]])
    records = with_curves() if kind == "within-task-curves" else [*three_methods(), low]
    canvas = FigureCanvasAgg(Results(records).figure(kind))
    canvas.figure.set_dpi(200)
    buffer = io.BytesIO()
    figure_files._save_pixels(canvas, buffer)
    saved = 255 * image.imread(io.BytesIO(buffer.getvalue()))[..., :3]
    error = np.abs(saved - np.asarray(canvas.buffer_rgba())[..., :3]).max(axis=-1)
    assert (error > 16).mean() < 1e-4
    assert error.max() < 48


def test_names_that_look_alike_in_files_are_numbered(tmp_path: Path) -> None:
    rows = [record("lwf", model_label=model) for model in ("m", "m!", "m-2", "M")]
    drawn = write_figures(Results(rows), tmp_path, formats=("png",))
    assert len({path.name.lower() for path in drawn.paths}) == len(drawn.paths)
    assert len(drawn.links) == 4


def test_a_figure_that_somebody_changed_is_kept(tmp_path: Path) -> None:
    paths = write_figures(Results(three_methods()), tmp_path, formats=("png",)).paths
    paths[0].write_bytes(b"mine")
    write_figures(Results(three_methods()), tmp_path, formats=("png",))
    assert [path.read_bytes() for path in tmp_path.glob("*.kept-1.png")] == [b"mine"]
    assert paths[0].read_bytes() != b"mine"


@pytest.mark.parametrize("damage", [b"\xff\xfe", b'{"files": {"a.png": 3}, "without": {}}', b"[]", b"{"])
def test_a_damaged_list_of_what_is_ours_does_no_harm(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / ".made-by-clbench").write_bytes(damage)
    (tmp_path / "mine.png").write_bytes(b"mine")
    assert len(write_figures(Results(three_methods()), tmp_path, formats=("png",)).paths) > 4
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


def test_a_sweep_can_follow_figures_drawn_beside_other_threads(tmp_path: Path) -> None:
    """Beside threads a process is not copied: figures and runs then both have joblib's workers."""
    done = threading.Event()
    other = threading.Thread(target=done.wait, daemon=True)
    other.start()
    try:
        rows = [*three_methods(), *three_methods(sequence_label="another")]
        (tmp_path / "figures").mkdir()
        assert len(write_figures(Results(rows), tmp_path / "figures", formats=("png",)).paths) >= 12
        results = clbench.run("finetune,lwf", seeds=3, quiet=True, out=tmp_path / "runs", jobs=2)
    finally:
        done.set()
        other.join()
    assert len(results) == 6
    assert not results.failed

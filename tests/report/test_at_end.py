"""Figures of how runs ended: classes and the probe, through their artists and against numbers by hand."""

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from made_up import T2, N, record
from matplotlib import image
from matplotlib.figure import Figure

from clbench.errors import UsageError
from clbench.report.contents import commands
from clbench.report.figures.files import planned
from clbench.report.figures.kinds import FIGURES
from clbench.report.plotted import PlottedResults
from clbench.results.record import RunRecord

COUNTS: list[dict[int, int]] = [{0: 1, 3: 1}, {1: 1, 2: 1}, {2: 1, 0: 1}, {3: 2}]
OTHER: list[dict[int, int]] = [{0: 2}, {3: 2}, {2: 2}, {3: 1, 2: 1}]
ORDERS = [[7, 3], [1, 5]], [[1, 5], [7, 3]]


def counted(label: str, seed: int, counts: Any = COUNTS, classes: Any = ORDERS[0], probe: Any = None) -> RunRecord:
    R = [[N, N], [1.0, N], [0.5, 0.75]]
    made = record(label, seed, R, scenario="class", accuracy={"task_aware": R, "task_agnostic": R})
    own = {"classes": classes, "counts": counts}
    return dataclasses.replace(made, confusion=own, probe=probe, spec=made.spec | {"probe": probe is not None})


def many(classes: int, tasks: int, methods: int, seeds: int = 1) -> list[RunRecord]:
    """Make runs that take half of each class for the last one."""
    width = classes // tasks
    counts = [{k: 2} if k == classes - 1 else {k: 1, classes - 1: 1} for k in range(classes)]
    R = [*[[N] * tasks] * tasks, [0.5] * (tasks - 1) + [0.5 + 0.5 / width]]
    blocks = np.arange(classes).reshape(tasks, width).tolist()
    runs = []
    for number in range(methods):
        for seed in range(seeds):
            made = record(f"method-{number}", seed, R, scenario="class", probe=[0.9] * tasks)
            runs.append(dataclasses.replace(made, confusion={"classes": blocks, "counts": counts}))
    return runs


def names(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


def test_confusion_shows_mean_shares_of_each_class() -> None:
    drawn = PlottedResults([counted("lwf", 0), counted("lwf", 1, OTHER)]).figure("confusion")
    (axes,) = [axes for axes in drawn.axes if axes.get_title()]
    expected = np.array([[75, 0, 0, 25], [0, 25, 25, 50], [25, 0, 75, 0], [0, 0, 25, 75]])
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    written = {(text.get_position()[1], text.get_position()[0]): text.get_text() for text in axes.texts}
    assert written == {place: f"{value}" for place, value in np.ndenumerate(expected) if value}
    assert names(axes.xaxis) == names(axes.yaxis) == ["7", "3", "1", "5"]
    (line,) = {tuple(line.get_xdata()) for line in axes.lines if line.get_xdata()[0] == line.get_xdata()[1]}
    assert line == (1.5, 1.5)  # between the second class and the third, where the second task begins
    assert "classes in the order of each run's tasks" in " ".join(drawn.texts[-1].get_text().split())


def test_orders_of_their_own_are_named_by_task() -> None:
    results = PlottedResults([counted("lwf", 0), counted("lwf", 1, OTHER, ORDERS[1])])
    (axes,) = results.plot.confusion()
    assert names(axes.xaxis) == names(axes.yaxis) == ["1", "2"]
    assert [axes.get_xlabel(), axes.get_ylabel()] == ["answer, by task", "class, by task"]
    assert axes.get_xticks().tolist() == [0.5, 2.5]
    assert names(results.plot.class_accuracy().xaxis) == ["1", "2"]


def test_class_accuracy_has_a_row_for_each_method() -> None:
    results = PlottedResults([counted("lwf", 0), counted("lwf", 1, OTHER), counted("finetune", 0)])
    axes = results.plot.class_accuracy()
    cells = axes.collections[0].get_array()
    assert cells is not None
    np.testing.assert_allclose(cells.reshape(2, 4), [[50, 50, 50, 100], [75, 25, 75, 75]])
    assert names(axes.yaxis) == ["Fine-tuning", "LwF"]
    assert names(axes.xaxis) == ["7", "3", "1", "5"]
    assert [line.get_xdata()[0] for line in axes.lines] == [2]


def test_the_probe_stands_beside_the_accuracy() -> None:
    probes = [0.8, 1.0], [0.7, 0.9]
    results = PlottedResults([counted("lwf", seed, probe=probes[seed]) for seed in (0, 1)] + [counted("ewc", 0)])
    axes = results.plot.probe()
    assert names(axes.yaxis) == ["LwF"]  # the other was not probed
    own, of_probe = axes.containers
    assert own[0].get_xydata().tolist() == [[62.5, 0]]
    assert of_probe[0].get_xydata()[0] == pytest.approx((85, 0))
    segment = of_probe[2][0].get_segments()[0][:, 0]
    assert (segment.max() - segment.min()) / 2 == pytest.approx(100 * T2 * 0.05)  # 0.9 and 0.8
    assert own[0].get_markerfacecolor() != of_probe[0].get_markerfacecolor() == "white"


@pytest.mark.parametrize("width", ["column", "page"])
@pytest.mark.parametrize(
    ("classes", "tasks", "methods"), [(10, 5, 1), (10, 5, 8), (100, 20, 8), (60, 60, 40), (2, 1, 2)]
)
def test_few_and_many_fit_and_nothing_is_cut_off(classes: int, tasks: int, methods: int, width: Any) -> None:
    results = PlottedResults(many(classes, tasks, methods))
    for kind in ("class-accuracy", "confusion", "probe"):
        shown = results.figure(kind, width=width)
        buffer = io.BytesIO()
        shown.savefig(buffer, dpi=100)
        buffer.seek(0)
        pixels = image.imread(buffer)[..., :3]
        for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert edge.min() == 1, kind
        assert shown.get_figheight() < 11
        assert shown.get_suptitle() == FIGURES[kind].title


def test_a_report_has_them_and_the_command_asks_for_the_probe(tmp_path: Any) -> None:
    results = PlottedResults([counted("lwf", 0, probe=[0.5, 1.0]), counted("finetune", 0, probe=[0.5, 1.0])])
    assert {"class-accuracy", "confusion", "probe"} <= {picture.kind for picture in planned(results, tmp_path)}
    assert all("--probe" in line for line in commands(results.comparisons[0]))


def test_axes_of_ones_own_are_drawn_into() -> None:
    results = PlottedResults([counted("lwf", 0, probe=[0.5, 1.0]), counted("finetune", 0, probe=[0.5, 1.0])])
    for draw in (results.plot.class_accuracy, results.plot.probe):
        mine = Figure().subplots()
        assert draw(ax=mine) is mine
        assert names(mine.yaxis) == ["Fine-tuning", "LwF"]
    legend = mine.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["the method's own answers", "linear probe"]


def test_figures_of_records_without_are_refused() -> None:
    older = PlottedResults([record("lwf")])
    for kind, needs in (("confusion", "says what classes were taken for"), ("probe", "runs with --probe")):
        with pytest.raises(UsageError, match=f"no figure '{kind}' of these records: it needs .*{needs}"):
            older.figure(kind)

"""Single figures, as Python users ask for them."""

import matplotlib as mpl
import pytest
from curves import within_tasks
from made_up import record, three_methods
from matplotlib import pyplot
from matplotlib.figure import Figure

from clbench.errors import UsageError
from clbench.report.plotted import PlottedResults
from clbench.results.record import RunRecord


def on_sequences(count: int) -> list[RunRecord]:
    return [one for i in range(count) for one in three_methods(sequence_label=f"sequence-{i}")]


def test_drawing_leaves_no_global_state() -> None:
    before = dict(mpl.rcParams)
    plot = PlottedResults(three_methods()).plot
    for shown in (plot.average_accuracy(), plot.accuracy_matrix(), plot.forgetting().figure):  # as a notebook does
        assert shown._repr_png_().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before


def test_plot_draws_into_axes_of_the_caller() -> None:
    plot = PlottedResults(on_sequences(5)).plot
    for method in ("average_accuracy", "forgetting", "stability_plasticity"):
        axes = Figure().subplots()
        assert getattr(plot, method)(axes, sequence="sequence-0") is axes
        assert {text.get_text() for text in axes.get_legend().get_texts()} == {"Fine-tuning", "Joint training", "LwF"}
    axes = Figure().subplots()
    assert plot.ranks(ax=axes) is axes


def test_plot_returns_a_panel_per_method_task_or_metric() -> None:
    plot = PlottedResults(within_tasks()).plot
    assert [axes.get_title() for axes in plot.accuracy_matrix()] == ["Fine-tuning", "LwF"]
    assert [axes.get_title() for axes in plot.accuracy_by_task()] == ["task 1"]
    assert [axes.get_title() for axes in plot.within_task_curves()] == ["Fine-tuning", "LwF"]
    assert len(plot.accuracy_cost()) == 1
    assert len(plot.differences()) == 2


def test_figure_refuses_what_it_cannot_choose() -> None:
    results = PlottedResults([record("lwf"), record("lwf", scenario="class")])
    with pytest.raises(UsageError, match=r"2 comparisons fit: .*class scenario.*task scenario"):
        results.figure("accuracy-matrix")
    with pytest.raises(UsageError, match=r"no figure 'pie': choose one of accuracy-by-task, acc"):
        results.figure("pie")
    with pytest.raises(UsageError, match=r"no width 'wide': choose one of column, page"):
        results.figure("accuracy-matrix", scenario="task", width="wide")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "records"),
    [
        ("differences", [record("lwf")]),
        ("differences", [record("lwf", 0), record("joint", 1)]),  # no seed in common
        ("within-task-curves", three_methods()),
        ("ranks", three_methods()),
        ("ranks", on_sequences(4)),
    ],
)
def test_figures_without_their_data_say_what_they_need(kind: str, records: list[RunRecord]) -> None:
    with pytest.raises(UsageError, match=f"no figure '{kind}' of these records: it needs"):
        PlottedResults(records).figure(kind)

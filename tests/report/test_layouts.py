"""How figures are laid out, whatever is in them: nothing is cut off, and text is as large everywhere."""

import io
from typing import Any

import matplotlib as mpl
import pytest
from curves import within_tasks
from made_up import HOSTILE, LWF, N, record
from matplotlib import image

from clbench.errors import UsageError
from clbench.report.figures.kinds import FIGURES
from clbench.report.figures.style import WIDTHS, characters
from clbench.report.plotted import PlottedResults
from clbench.results import names

LONG = "x" * 200
ODD = {
    "one seed": [record("lwf"), record("finetune")],
    "one task": [record(label, seed, [[N], [0.9]]) for seed in (0, 1) for label in ("lwf", "finetune")],
    "nothing measured": [record("lwf", seed, [[N, N]] * 3) for seed in (0, 1)],
    "only the last row": [record("joint", seed, [[N, N], [N, N], [1, 1]]) for seed in (0, 1)],
    "odd labels": [record(HOSTILE), record("_hidden"), record(LONG)],
    "an odd baseline": [record(f"finetune@{HOSTILE}", seed) for seed in (0, 1)] + [record("lwf"), record("lwf", 1)],
    "twenty tasks": [record(label, R=[[0.5] * 20] * 21) for label in ("lwf", "finetune")],
    "many methods": [record(label, seed, LWF[seed]) for label in [*names.known(), "mine"] for seed in (0, 1)],
    "curves": within_tasks(),
    "ranks": [record(label, sequence_label=f"s{i}") for i in range(5) for label in (HOSTILE, "lwf" * 40)],
}
WIDE = ("odd labels", "many methods")  # on a page too
ONLY = {"an odd baseline": "differences", "curves": "within-task-curves", "ranks": "ranks"}  # the others are as usual
FEW = {  # where there is no curve, nothing to forget, or the cost of one method only; elsewhere there are five at least
    "one task": {"accuracy-matrix", "differences", "accuracy-cost"},
    "nothing measured": {"accuracy-matrix"},
    "only the last row": {"accuracy-matrix"},
}


@pytest.mark.parametrize(("odd", "width"), [*((odd, "column") for odd in ODD), *((odd, "page") for odd in WIDE)])
def test_odd_results_are_drawn_and_nothing_is_cut_off(odd: str, width: Any) -> None:
    results = PlottedResults(ODD[odd])
    drawn = set()
    for kind, what in FIGURES.items():
        if ONLY.get(odd, kind) != kind:
            continue
        try:
            shown = results.figure(kind, width=width)
        except UsageError:
            continue
        drawn.add(kind)
        buffer = io.BytesIO()
        shown.savefig(buffer, dpi=100)
        buffer.seek(0)
        pixels = image.imread(buffer)[..., :3]
        assert pixels.min() < 0.5, kind  # something is drawn
        for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert edge.min() == 1, kind
        assert pixels.shape[1] <= 100 * WIDTHS[width] + 1
        sizes = {text.get_fontsize() for text in shown.findobj(mpl.text.Text) if text.get_text().strip()}
        assert 7 <= min(sizes) <= max(sizes) <= 9, kind
        assert shown.get_suptitle() == what.title  # in one line
        assert len(what.title) < characters(WIDTHS["column"])
    assert drawn == FEW.get(odd, drawn)
    assert len(drawn) >= (5 if odd not in {**ONLY, **FEW} else 1)


def test_forgetting_of_many_goes_over_rows_that_hold_every_task_once() -> None:
    R = [[0.5] * 20] * 21
    drawn = PlottedResults([record(f"m{i}", R=R) for i in range(14)]).figure("forgetting-by-task", width="column")
    shown = [x for axes in drawn.axes for x in range(1, 21) if axes.get_xlim()[0] < x < axes.get_xlim()[1]]
    assert shown == list(range(1, 21))


def test_rows_of_forgetting_are_named() -> None:
    drawn = PlottedResults([record(f"m{i}", R=[[0.5] * 6] * 7) for i in range(12)]).figure("forgetting-by-task")
    assert [axes.get_title() for axes in drawn.axes] == ["tasks 1–3", "tasks 4–5 and mean"]


def test_matrices_of_many_methods_fit_a_page_and_each_has_its_numbers() -> None:
    R = [[N] * 5, *([0.9] * (i + 1) + [N] * (4 - i) for i in range(5))]
    drawn = PlottedResults([record(label, R=R) for label in names.known()]).figure("accuracy-matrix")
    drawn.draw_without_rendering()
    panels = [axes for axes in drawn.axes if axes.get_title()]
    assert len(panels) == len(names.known())
    assert drawn.get_figheight() < 10
    for axes in panels:
        assert [text.get_text() for text in axes.get_xticklabels() if text.get_visible()] == list("12345")


def test_legends_show_labels_as_they_are_and_one_seed_is_said() -> None:
    drawn = PlottedResults([record("a$x$_b"), record("_hidden")]).figure("average-accuracy")
    shown = [text.get_text().replace(r"\$", "$").strip() for text in drawn.legends[0].get_texts()]
    assert sorted(shown) == ["_hidden", "a$x$_b"]
    assert " ".join(drawn.texts[-1].get_text().split()) == "split-digits, task scenario, mlp; one seed, so no intervals"


def test_a_panel_of_one_point_is_left_out() -> None:
    """The last task is only evaluated once, unless before it was learnt too."""
    R = [[N, N, N], [0.9, N, N], [0.8, 0.9, N], [0.7, 0.8, 0.9]]
    before = [[0.1, 0.1, 0.1], *R[1:]]
    assert [axes.get_title() for axes in PlottedResults([record("lwf", R=R)]).plot.accuracy_by_task()] == [
        "task 1",
        "task 2",
    ]
    both = PlottedResults([record("lwf", R=R), record("si", R=before)])
    assert [axes.get_title() for axes in both.plot.accuracy_by_task()] == ["task 1", "task 2", "task 3"]


def test_figures_of_one_point_are_not_drawn() -> None:
    alone = PlottedResults([record("lwf", R=[[N], [0.9]])])
    for kind in ("accuracy-by-task", "average-accuracy", "forgetting-by-task", "stability-plasticity", "accuracy-cost"):
        with pytest.raises(UsageError, match=f"no figure '{kind}' of these records: it needs "):
            alone.figure(kind)

"""Which runs are averaged, and what is said of those that cannot be."""

import numpy as np
import pytest
from made_up import N, ending_at, record, with_curve

from clbench.results.frames import Results
from clbench.results.record import RunRecord


def test_a_seed_that_collapsed_is_pointed_out() -> None:
    results = Results([*ending_at("lwf", [0.95, 0.96, 0.55, 0.95, 0.97]), *ending_at("si", [0.95] * 5)])
    (line,) = results.warnings
    assert "lwf collapsed with seed 2: average accuracy 55.0 %, the median of its 5 seeds is 95.0 %" in line


def test_curves_give_the_lowest_accuracy_on_the_way() -> None:
    results = Results([with_curve("lwf", 0, 0.3), with_curve("lwf", 1, 0.5)])
    means = results.summary().set_index("metric")["mean"]
    assert means["minimum_accuracy"] == pytest.approx(0.4)
    assert means["worst_case_accuracy"] == pytest.approx((1.0 + 0.4) / 2)
    (group,) = results.comparisons[0].groups
    curves = group.curves("task_aware")
    assert curves is not None
    assert curves.updates.tolist() == [50, 100, 150, 200]
    assert curves.tasks.tolist() == [1, 1, 2, 2]
    assert curves.accuracy[:, :, 0].tolist() == [[0.7, 0.9, 0.3, 0.8], [0.7, 0.9, 0.5, 0.8]]
    assert np.isnan(curves.accuracy[:, :2, 1]).all()


def test_curves_of_tasks_of_different_sizes_are_paired_by_number() -> None:
    long, short = with_curve("lwf", 0, 0.3), with_curve("lwf", 1, 0.5)
    assert short.curves
    cut = [{name: values[1:] for name, values in short.curves[0].items()}, short.curves[1]]
    cut[0] = {**cut[0], "updates": [40]}
    short = RunRecord(**{**vars(short), "updates": [40, 100], "curves": cut})
    curves = Results([long, short]).comparisons[0].groups[0].curves("task_aware")
    assert curves is not None
    assert curves.updates.tolist() == [70, 120, 170]  # ends of task 1 at 100 and 40; then 150 and 90, 200 and 140
    assert curves.tasks.tolist() == [1, 2, 2]
    assert curves.accuracy[:, :, 0].tolist() == [[0.9, 0.3, 0.8], [0.9, 0.5, 0.8]]


def test_runs_with_and_without_curves_are_the_same_run() -> None:
    plain = record("lwf", 0, [[N, N], [0.9, N], [0.8, 1.0]])
    results = Results([plain, with_curve("lwf", 0, 0.3), record("lwf", 1, [[N, N], [0.9, N], [0.8, 1.0]])])
    assert results.warnings == []
    (group,) = results.comparisons[0].groups
    assert group.seeds == [0, 1]
    assert group.runs[0].curves
    assert group.curves("task_aware") is None  # not all have one


def test_a_method_that_changes_nothing_is_said_to() -> None:
    """Equal in accuracy, steps and weights with every seed; one that differs anywhere is another method."""
    finals = [0.8, 0.85]
    runs = [
        *ending_at("finetune", finals), *ending_at("pull", finals), *ending_at("lwf", [0.8, 0.9]),
        *ending_at("si", finals, weights_hash="ef" * 32), *ending_at("ewc", [*finals, 0.9]),
    ]  # fmt: skip
    said = [line for line in Results(runs).warnings if "equals" in line]
    assert said == [
        "split-digits, task, mlp: pull equals finetune to the last bit in every run: it has changed nothing"
    ]

"""Metrics against values worked out by hand, and against what must hold for every matrix."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clbench.results import metrics

nan = math.nan
EXAMPLE = [[nan, nan, nan], [0.80, nan, nan], [0.90, 0.80, nan], [0.70, 0.85, 0.90]]
FULL = [[0.1, 0.2, 0.3], [0.9, 0.4, 0.2], [0.6, 0.8, 0.5], [0.5, 0.7, 1.0]]  # as in the domain scenario


@st.composite
def matrices(draw: st.DrawFn, full: bool = False) -> np.ndarray:
    tasks = draw(st.integers(2, 6))
    R = draw(arrays(np.float64, (tasks + 1, tasks), elements=st.floats(0, 1)))
    if not full:
        R[np.arange(tasks + 1)[:, None] <= np.arange(tasks)] = nan
    return R


def test_forgetting_is_best_earlier_minus_last() -> None:
    R = np.array(EXAMPLE)
    assert metrics.forgetting_by_task(R) == pytest.approx([0.90 - 0.70, 0.80 - 0.85])
    assert metrics.forgetting(R) == pytest.approx(0.075)
    best_of_all = np.nanmax(R[:, :2], axis=0) - R[-1, :2]
    first = np.diagonal(R[1:])[:2] - R[-1, :2]
    assert (best_of_all.mean(), first.mean()) == pytest.approx((0.100, 0.025))  # the two other definitions in use


def test_forgetting_after_an_earlier_task() -> None:
    R = np.array(EXAMPLE)
    assert metrics.forgetting(R, after=2) == pytest.approx(0.80 - 0.90)
    assert metrics.forgetting_by_task(R, after=2).shape == (1,)
    assert math.isnan(metrics.forgetting(R, after=1))


def test_metrics_by_hand() -> None:
    values = metrics.measure(FULL, joint=EXAMPLE)
    assert values == pytest.approx(
        {
            "average_accuracy": (0.5 + 0.7 + 1.0) / 3,
            "anytime_accuracy": (0.9 + (0.6 + 0.8) / 2 + (0.5 + 0.7 + 1.0) / 3) / 3,
            "learning_accuracy": (0.9 + 0.8 + 1.0) / 3,
            "forgetting": ((0.9 - 0.5) + (0.8 - 0.7)) / 2,
            "backward_transfer": ((0.5 - 0.9) + (0.7 - 0.8)) / 2,
            "forward_transfer": ((0.4 - 0.2) + (0.5 - 0.3)) / 2,
            "intransigence": (0.8 + 0.8 + 0.9) / 3 - (0.9 + 0.8 + 1.0) / 3,
        }
    )
    assert metrics.average_accuracies(FULL) == pytest.approx([0.9, 0.7, 2.2 / 3])


def test_unequal_tasks_by_hand() -> None:
    """Of 6, 2 and 4 test images so many are right: all metrics but one weigh the tasks alike."""
    right = np.array([[3, 1, 1], [6, 0, 1], [3, 2, 2], [3, 1, 4]])
    images = [6, 2, 4]
    joint = np.array([[3, 1, 1], [6, 0, 1], [6, 2, 2], [3, 2, 3]]) / images
    assert metrics.measure(right / images, joint) == pytest.approx(
        {
            "average_accuracy": (3 / 6 + 1 / 2 + 4 / 4) / 3,
            "anytime_accuracy": (6 / 6 + (3 / 6 + 2 / 2) / 2 + (3 / 6 + 1 / 2 + 4 / 4) / 3) / 3,
            "learning_accuracy": (6 / 6 + 2 / 2 + 4 / 4) / 3,
            "forgetting": ((6 - 3) / 6 + (2 - 1) / 2) / 2,
            "backward_transfer": ((3 - 6) / 6 + (1 - 2) / 2) / 2,
            "forward_transfer": ((0 - 1) / 2 + (2 - 1) / 4) / 2,
            "intransigence": (6 / 6 + 2 / 2 + 3 / 4) / 3 - (6 / 6 + 2 / 2 + 4 / 4) / 3,
        }
    )
    assert metrics.measure_images(right / images, images) == pytest.approx(
        {
            "all_images_accuracy": (3 + 1 + 4) / (6 + 2 + 4),
            "incremental_accuracy": (6 / 6 + (3 + 2) / (6 + 2) + (3 + 1 + 4) / (6 + 2 + 4)) / 3,
        }
    )
    under_way = [0, 1, 1, 2, 2]
    points = np.array([[6, nan, nan], [1, 2, nan], [3, 2, nan], [2, 0, 3], [3, 1, 4]]) / images
    assert metrics.minimum_accuracy(right / images, points, under_way) == pytest.approx((1 / 6 + 0 / 2) / 2)
    assert metrics.worst_case_accuracy(right / images, points, under_way) == pytest.approx((4 / 4 + 1 / 6 + 0 / 2) / 3)


def test_where_tasks_are_equal_it_does_not_matter_what_weighs_the_same() -> None:
    found = metrics.measure_images(FULL, [7, 7, 7])
    assert found["all_images_accuracy"] == pytest.approx(metrics.average_accuracy(FULL))
    assert found["incremental_accuracy"] == pytest.approx(metrics.anytime_accuracy(FULL))
    assert all(math.isnan(value) for value in metrics.measure_images(FULL, None).values())
    at_the_end = [[nan] * 3, [nan] * 3, [nan] * 3, FULL[-1]]
    assert math.isnan(metrics.incremental_accuracy(at_the_end, [7, 7, 7]))
    with pytest.raises(ValueError, match="2 numbers of test images for 3 tasks"):
        metrics.all_images_accuracy(FULL, [1, 2])


def test_undefined_is_nan_never_zero() -> None:
    undefined = {name for name, value in metrics.measure(EXAMPLE).items() if math.isnan(value)}
    assert undefined == {"forward_transfer", "intransigence"}  # future tasks are not answered; there is no joint run

    only_final = [[None] * 2, [None] * 2, [0.9, 0.8]]
    defined = {name for name, value in metrics.measure(only_final, only_final).items() if not math.isnan(value)}
    assert defined == {"average_accuracy"}

    one_task = metrics.measure([[None], [0.9]], [[None], [0.95]])
    assert {name: value for name, value in one_task.items() if not math.isnan(value)} == pytest.approx(
        {"average_accuracy": 0.9, "anytime_accuracy": 0.9, "learning_accuracy": 0.9, "intransigence": 0.05}
    )


def test_one_missing_cell_undefines_only_what_needs_it() -> None:
    R = np.array(FULL)
    R[2, 0] = nan
    missing = {name for name, value in metrics.measure(R, FULL).items() if math.isnan(value)}
    assert missing == {"anytime_accuracy", "forgetting"}


# a run of three tasks with two or three evaluations in each, in the order of time, and the task under way at each
POINTS = [[0.4, nan, nan], [0.9, nan, nan]]
POINTS += [[0.3, 0.5, nan], [0.2, 0.7, nan], [0.6, 0.8, nan]]
POINTS += [[0.1, 0.6, 0.2], [0.5, 0.7, 1.0]]
UNDER_WAY = [0, 0, 1, 1, 1, 2, 2]


def test_minimum_and_worst_case_accuracy_by_hand() -> None:
    # task 1 is lowest during task 3, task 2 too; what they were before they had been learnt does not count
    assert metrics.minimum_accuracy(FULL, POINTS, UNDER_WAY) == pytest.approx((0.1 + 0.6) / 2)
    assert metrics.worst_case_accuracy(FULL, POINTS, UNDER_WAY) == pytest.approx(1.0 / 3 + 2 / 3 * (0.1 + 0.6) / 2)
    dip = [*POINTS[:3], [0.05, 0.7, nan], *POINTS[4:]]  # a gap that task ends do not show
    assert metrics.minimum_accuracy(FULL, dip, UNDER_WAY) == pytest.approx((0.05 + 0.6) / 2)
    last = np.array(POINTS)[[1, 4, 6]]  # the ends of tasks alone
    assert metrics.minimum_accuracy(FULL, last, [0, 1, 2]) == pytest.approx((0.5 + 0.7) / 2)


def test_of_one_task_the_worst_case_is_its_accuracy() -> None:
    one = [[nan], [0.9]]
    assert math.isnan(metrics.minimum_accuracy(one, [[0.2], [0.9]], [0, 0]))
    assert metrics.worst_case_accuracy(one, [[0.2], [0.9]], [0, 0]) == 0.9


def curves_of(points: list[list[float]]) -> list[dict[str, list[Any]]]:
    plain = [[None if math.isnan(cell) else cell for cell in row] for row in points]
    rows = [plain[:2], plain[2:5], plain[5:]]
    return [{"updates": list(range(len(own))), "task_aware": own, "task_agnostic": own[:0]} for own in rows]


def test_metrics_of_a_records_curves() -> None:
    found = metrics.measure_curves(FULL, curves_of(POINTS), "task_aware")
    assert found == pytest.approx({"minimum_accuracy": 0.35, "worst_case_accuracy": (1.0 + 0.1 + 0.6) / 3})


def test_what_curves_do_not_say_is_nan() -> None:
    def nothing(curves: Any, view: metrics.View = "task_aware") -> bool:
        return [math.isnan(value) for value in metrics.measure_curves(FULL, curves, view).values()] == [True, True]

    assert nothing(None)
    assert nothing(curves_of(POINTS), "task_agnostic")
    assert nothing([{"updates": [], "task_aware": []}, *curves_of(POINTS)[2:]])  # nothing was trained in task 2
    assert nothing(curves_of([*POINTS[:3], [nan, 0.7, nan], *POINTS[4:]]))
    assert not nothing([{"updates": [], "task_aware": []}, *curves_of(POINTS)[1:]])  # the first one's are not needed
    with pytest.raises(ValueError, match="points have shape"):
        metrics.minimum_accuracy(FULL, POINTS, UNDER_WAY[1:])


@given(matrices())
def test_ends_of_tasks_alone_bound_the_metrics_of_curves(R: np.ndarray) -> None:
    tasks = R.shape[1]
    minimum = metrics.minimum_accuracy(R, R[1:], range(tasks))
    assert minimum <= R[-1, :-1].mean() + 1e-12
    assert metrics.worst_case_accuracy(R, R[1:], range(tasks)) <= metrics.average_accuracy(R) + 1e-12


@given(matrices())
def test_forgetting_is_at_least_minus_backward_transfer(R: np.ndarray) -> None:
    assert metrics.forgetting(R) >= -metrics.backward_transfer(R) - 1e-12


@given(matrices(full=True))
def test_metrics_ignore_cells_they_do_not_name(R: np.ndarray) -> None:
    """All but forward transfer read the lower triangle only, so blanking the rest changes nothing."""
    lower = R.copy()
    tasks = R.shape[1]
    lower[np.arange(tasks + 1)[:, None] <= np.arange(tasks)] = nan
    for name in set(metrics.METRICS) - {"forward_transfer"}:
        assert metrics.METRICS[name](lower) == metrics.METRICS[name](R)


@given(matrices(full=True), st.floats(-0.5, 0.5))
def test_a_shift_of_all_accuracies_shifts_levels_and_not_differences(R: np.ndarray, shift: float) -> None:
    before, after = metrics.measure(R, R), metrics.measure(R + shift, R + shift)
    for name in before:
        expected = before[name] + (shift if name.endswith("accuracy") else 0)
        assert after[name] == pytest.approx(expected, abs=1e-9)


@given(matrices())
def test_learning_accuracy_plus_backward_transfer_is_average_accuracy(R: np.ndarray) -> None:
    tasks = R.shape[1]
    transfer = metrics.backward_transfer(R) * (tasks - 1) / tasks
    assert metrics.average_accuracy(R) == pytest.approx(metrics.learning_accuracy(R) + transfer)


@pytest.mark.parametrize("shape", [(2, 2), (3, 1), (4,), (1, 0)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        metrics.average_accuracy(np.zeros(shape))


def test_primary_view() -> None:
    assert metrics.primary_view("task") == "task_aware"
    assert metrics.primary_view("class") == "task_agnostic"
    assert metrics.primary_view("domain") in metrics.VIEWS

"""What an accuracy matrix says, in pure NumPy.

`R` has shape [T+1, T]: row 0 before any training, row i after task i; a column per task; accuracy in [0, 1], NaN where
not measured. A metric that needs a cell which is not there, or more tasks than there are, is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
View = Literal["task_aware", "task_agnostic"]
VIEWS: tuple[View, ...] = ("task_aware", "task_agnostic")


def primary_view(scenario: str) -> View:
    """Name the view that a scenario's metrics use; in `domain` the two are equal."""
    return "task_aware" if scenario == "task" else "task_agnostic"


def average_accuracy(R: ArrayLike) -> float:
    """Mean accuracy over all tasks after the last one."""
    return _mean(_matrix(R)[-1])


def average_accuracies(R: ArrayLike) -> Array:
    """Mean accuracy over the tasks seen so far, after each task: [T]."""
    R = _matrix(R)
    return np.array([R[i, :i].mean() for i in range(1, len(R))])


def anytime_accuracy(R: ArrayLike) -> float:
    """Mean over all tasks i of the average accuracy after task i."""
    return _mean(average_accuracies(R))


def learning_accuracy(R: ArrayLike) -> float:
    """Mean accuracy on each task right after learning it."""
    return _mean(np.diagonal(_matrix(R)[1:]))


def forgetting_by_task(R: ArrayLike, after: int | None = None) -> Array:
    """Best earlier accuracy on each task minus that after task `after` (default: the last): [after − 1].

    Source: Chaudhry et al. 2018, Riemannian walk for incremental learning.
    """
    R = _matrix(R)
    after = R.shape[1] if after is None else after
    return np.array([R[j + 1 : after, j].max() - R[after, j] for j in range(after - 1)], dtype=np.float64)


def forgetting(R: ArrayLike, after: int | None = None) -> float:
    """Mean of `forgetting_by_task` over the tasks before task `after` (default: the last)."""
    return _mean(forgetting_by_task(R, after))


def backward_transfer(R: ArrayLike) -> float:
    """Mean over all tasks but the last of their accuracy at the end minus that right after learning them.

    Source: Lopez-Paz & Ranzato 2017, Gradient episodic memory.
    """
    R = _matrix(R)
    return _mean((R[-1] - np.diagonal(R[1:]))[:-1])


def forward_transfer(R: ArrayLike) -> float:
    """Mean over all tasks but the first of their accuracy just before learning them minus that before any training.

    Defined where tasks to come can be answered. Source: Lopez-Paz & Ranzato 2017.
    """
    R = _matrix(R)
    return _mean((np.diagonal(R[:-1]) - R[0])[1:])


def intransigence(R: ArrayLike, joint: ArrayLike) -> float:
    """Learning accuracy of joint training minus the method's, from matrices of one seed (Chaudhry et al. 2018)."""
    return learning_accuracy(joint) - learning_accuracy(R)


METRICS: Mapping[str, Callable[[ArrayLike], float]] = {  # those that need one matrix; intransigence needs a second one
    "average_accuracy": average_accuracy,
    "anytime_accuracy": anytime_accuracy,
    "learning_accuracy": learning_accuracy,
    "forgetting": forgetting,
    "backward_transfer": backward_transfer,
    "forward_transfer": forward_transfer,
}


def minimum_accuracy(R: ArrayLike, points: ArrayLike, under_way: ArrayLike) -> float:
    """Mean over all tasks but the last of their lowest accuracy while later ones were learnt: min-ACC.

    1/(T − 1) · Σ_{i < T} min { A_i(n) : n after task i was learnt }, over the evaluations `points` [n, T], whose tasks
    under way, from 0, are in `under_way` [n]. NaN if there is none during one of the tasks after the first.
    Source: De Lange et al. 2023, Continual evaluation for lifelong learning: identifying the stability gap.
    """
    tasks, points, under_way = _matrix(R).shape[1], np.asarray(points, dtype=np.float64), np.asarray(under_way)
    if points.shape != (len(under_way), tasks):
        raise ValueError(f"points have shape [n, {tasks}] for {len(under_way)} evaluations, not {list(points.shape)}")
    if not set(range(1, tasks)) <= set(under_way.tolist()):
        return np.nan
    return _mean(np.array([points[under_way > i, i].min() for i in range(tasks - 1)]))


def worst_case_accuracy(R: ArrayLike, points: ArrayLike, under_way: ArrayLike) -> float:
    """Accuracy on the last task at the end, and the others' minimum accuracy, each task weighing the same: WC-ACC.

    1/T · A_T + (1 − 1/T) · min-ACC, as in `minimum_accuracy`; of one task it is the accuracy. Source: the same.
    """
    R = _matrix(R)
    tasks = R.shape[1]
    others = (tasks - 1) * minimum_accuracy(R, points, under_way) if tasks > 1 else 0.0
    return float(R[-1, -1] + others) / tasks


CURVE_METRICS: Mapping[str, Callable[[ArrayLike, ArrayLike, ArrayLike], float]] = {
    "minimum_accuracy": minimum_accuracy,
    "worst_case_accuracy": worst_case_accuracy,
}


def all_images_accuracy(R: ArrayLike, test_images: ArrayLike) -> float:
    """Share of all test images that is answered right after the last task.

    Σ_j n_j · R[T, j] / Σ_j n_j for `test_images` n, [T]. In tasks of equal size it is the average accuracy.
    """
    return float(_of_images_seen(R, test_images)[-1])


def incremental_accuracy(R: ArrayLike, test_images: ArrayLike) -> float:
    """Mean over all tasks i of the share of right answers on all test images of the tasks up to i.

    The 'average incremental accuracy' of the class-incremental papers. In tasks of equal size it is the anytime
    accuracy. Source: Rebuffi et al. 2017, iCaRL.
    """
    return _mean(_of_images_seen(R, test_images))


def _of_images_seen(R: ArrayLike, test_images: ArrayLike) -> Array:
    """Return, after each task, the share of right answers on all test images of the tasks so far: [T]."""
    R, n = _matrix(R), np.asarray(test_images, dtype=np.float64)
    if n.shape != (R.shape[1],):
        raise ValueError(f"{n.size} numbers of test images for {R.shape[1]} tasks")
    return np.array([(n[:i] * R[i, :i]).sum() / n[:i].sum() for i in range(1, len(R))])


IMAGE_METRICS: Mapping[str, Callable[[ArrayLike, ArrayLike], float]] = {  # in which each image weighs the same
    "all_images_accuracy": all_images_accuracy,
    "incremental_accuracy": incremental_accuracy,
}


def measure_images(R: ArrayLike, test_images: Sequence[int] | None) -> dict[str, float]:
    """Return every metric in which each image weighs the same, all NaN where a record has no numbers of images."""
    return {name: np.nan if test_images is None else of(R, test_images) for name, of in IMAGE_METRICS.items()}


PROBE_METRIC = "linear_probe_accuracy"


def linear_probe_accuracy(accuracies: ArrayLike | None) -> float:
    """Mean over all tasks of the accuracy of a linear classifier of the final features; NaN if they were not probed."""
    return np.nan if accuracies is None else _mean(np.asarray(accuracies, dtype=np.float64))


def measure_curves(R: ArrayLike, curves: Sequence[Mapping[str, Any]] | None, view: View) -> dict[str, float]:
    """Return every metric of a record's `curves` by name, all of them NaN if it has none; `R` is of the same view."""
    if curves is None:
        return dict.fromkeys(CURVE_METRICS, np.nan)
    tasks = _matrix(R).shape[1]
    points = np.array([row for curve in curves for row in curve[view]], dtype=np.float64).reshape(-1, tasks)
    under_way = [task for task, curve in enumerate(curves) for _ in curve[view]]
    return {name: metric(R, points, under_way) for name, metric in CURVE_METRICS.items()}


def measure(R: ArrayLike, joint: ArrayLike | None = None) -> dict[str, float]:
    """Return every metric by name, NaN where undefined; `joint` is the matrix of the joint run of the same seed."""
    values = {name: metric(R) for name, metric in METRICS.items()}
    return values | {"intransigence": np.nan if joint is None else intransigence(R, joint)}


def _matrix(R: ArrayLike) -> Array:
    matrix = np.asarray(R, dtype=np.float64)  # None becomes NaN
    if matrix.ndim != 2 or matrix.shape[1] < 1 or len(matrix) != matrix.shape[1] + 1:
        raise ValueError(f"an accuracy matrix has shape [T+1, T], not {list(matrix.shape)}")
    return matrix


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else np.nan

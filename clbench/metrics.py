"""What an accuracy matrix says, in pure NumPy.

`R` has shape [T+1, T]: row 0 before any training, row i after task i; a column per task; accuracy in [0, 1], NaN where
not measured. A metric that needs a cell which is not there, or more tasks than there are, is NaN, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

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

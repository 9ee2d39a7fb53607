"""What classes were taken for after the last task, over several runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clbench.errors import UsageError
from clbench.results.metrics import Array
from clbench.results.record import RunRecord


class Confusion(NamedTuple):
    """What test images were taken for after the last task, over the runs of a group, in the scenario's view.

    Rows and columns are places: the classes in the order in which a run's own tasks brought them.
    """

    counts: Array  # images of a class (row) that were taken for a class (column): [seeds, C, C]
    classes: NDArray[np.int64]  # the class at each place: [seeds, C]
    tasks: Sequence[int]  # how many classes each task brought; a single number in `domain`, where all have the same

    @property
    def accuracy(self) -> Array:
        """The share of each class's images that is right, NaN where there is none: [seeds, C]."""
        return np.diagonal(self.shares, axis1=1, axis2=2)

    @property
    def shares(self) -> Array:
        """The counts as shares of a class's images, NaN where there is none: [seeds, C, C]."""
        images = self.counts.sum(axis=2, keepdims=True)
        return self.counts / np.where(images > 0, images, np.nan)

    def by_class(self) -> Array:
        """Return the counts with classes in ascending order, the same in all seeds: [seeds, C, C].

        Raises UsageError where a class comes in several tasks.
        """
        if any(len({*row}) < len(row) for row in self.classes.tolist()):
            raise UsageError("tasks share classes here, so that a class has several places: use counts")
        orders = np.argsort(self.classes, axis=1)
        return np.stack([one[np.ix_(order, order)] for one, order in zip(self.counts, orders, strict=True)])


def with_counts(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the runs that say what classes were taken for, of tasks with as many classes as the first of them."""
    having = [run for run in runs if run.confusion is not None]
    return [run for run in having if _sizes(run) == _sizes(having[0])]


def confusion_of(runs: Sequence[RunRecord]) -> Confusion | None:
    """Return what classes were taken for in runs of one group; None if none says so."""
    having = with_counts(runs)
    if not having:
        return None
    counts = np.stack([run.confusion_matrix() for run in having])
    classes = [[one for block in _blocks(run) for one in block] for run in having]
    return Confusion(counts, np.array(classes, dtype=np.int64), _sizes(having[0]))


def _blocks(run: RunRecord) -> list[list[int]]:
    assert run.confusion is not None
    return run.confusion["classes"]


def _sizes(run: RunRecord) -> list[int]:
    return [len(block) for block in _blocks(run)]

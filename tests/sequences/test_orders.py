"""Class orders and numbers of classes by task."""

import numpy as np
import pytest
import torch

from clbench.errors import UsageError
from clbench.sequences import full_class_order
from clbench.sequences.orders import check_sizes, read_sizes, task_sizes
from clbench.sequences.splits import SplitDigits


def test_the_papers_permutation() -> None:
    np.random.seed(1993)  # noqa: NPY002 (what the papers' code calls)
    expected = np.random.permutation(100).tolist()  # noqa: NPY002
    assert list(full_class_order("x", "numpy:1993", 0, range(100), 10)) == expected
    # as printed in the class-incremental papers' code
    assert expected[:10] == [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]


def test_another_seeds_order_is_the_same_in_every_run() -> None:
    expected = torch.randperm(10, generator=torch.Generator().manual_seed(7)).tolist()
    for seed in (0, 1, 7):
        assert list(full_class_order("x", "seed:7", seed, range(10), 5)) == expected
    assert full_class_order("x", "seed", 7, range(10), 5) == tuple(expected)


def test_sizes() -> None:
    assert task_sizes("x", 100, 6, "50+10x5") == [50, 10, 10, 10, 10, 10]
    assert read_sizes("x", "3 + 1x2 + 4") == [3, 1, 1, 4]
    assert task_sizes("x", 10, 5) == [2] * 5
    with pytest.raises(UsageError, match=r"x.classes=50\+10x5 are 100 classes in 6 tasks: there are 90"):
        task_sizes("x", 90, 6, "50+10x5")
    with pytest.raises(UsageError, match=r"choose tasks from 1, 2, 5, 10, or name unequal ones, as in classes=4\+3x2$"):
        task_sizes("x", 10, 3)
    with pytest.raises(UsageError, match=r"choose tasks from 1, 2$"):
        task_sizes("x", 2, 3)


@pytest.mark.parametrize("bad", ["", "x", "3+", "0", "3x0", "-1", "2.5", "3x", "x3", "3,4"])
def test_sizes_that_are_none(bad: str) -> None:
    with pytest.raises(UsageError, match=r"write 50\+10x5 for a task of 50 classes"):
        read_sizes("x", bad)


def test_tasks_beside_sizes() -> None:
    check_sizes("x", "2+3", 5, 5)
    with pytest.raises(UsageError, match="tasks=2 and classes=5x2 are both given"):
        check_sizes("x", "5x2", 2, 5)


def test_the_digits_in_unequal_tasks() -> None:
    sequence = SplitDigits(classes="5+1x2+3")
    order = sequence.class_order("fixed", 0)
    tasks = sequence.load(None, 0, order)
    assert [task.classes for task in tasks] == [(0, 1, 2, 3, 4), (5,), (6,), (7, 8, 9)]
    equal = SplitDigits().load(None, 0, order)
    assert sum(len(task.train) for task in tasks) == sum(len(task.train) for task in equal)
    assert tasks[1].train.y.unique().tolist() == [0]
    with pytest.raises(UsageError, match="there are 10"):
        SplitDigits(classes="5+1").check("seed", "task")

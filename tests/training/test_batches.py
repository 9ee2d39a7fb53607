"""Which rows a step takes, which images are held out, and when accuracy has gone flat."""

from typing import Any

import pytest
import torch

from clbench.errors import UsageError
from clbench.method import Phase, Training
from clbench.testing import tiny_tasks
from clbench.training.batches import Batches, Plateau, hold_out, n_held_out


def drawn(sizes: list[int], most: int = 99, seed: int = 0, phase: dict[str, Any] | None = None) -> list[list[int]]:
    batches = Batches(sizes, Training(batch_size=10), Phase(tasks=[], **(phase or {})))
    return [rows.tolist() for rows in batches.draw(torch.Generator().manual_seed(seed), most)]


def test_an_epoch_takes_every_image_once() -> None:
    steps = drawn([14, 10])
    assert [len(rows) for rows in steps] == [10, 10, 4]
    assert sorted(row for rows in steps for row in rows) == list(range(24))
    assert drawn([14, 10], most=2) == steps[:2]
    assert drawn([14, 10], seed=1) != steps


def test_equal_shares_take_turns_within_each_task() -> None:
    steps = drawn([14, 6], phase={"equal_shares": True})
    assert [(sum(row < 14 for row in rows), sum(row >= 14 for row in rows)) for rows in steps] == [(5, 5)] * 2
    of_second = [row for rows in steps for row in rows if row >= 14]
    assert set(of_second[:6]) == set(range(14, 20))  # none comes again before all have come


def test_old_images_join_the_batches_that_the_newest_task_would_have_alone() -> None:
    steps, alone = drawn([6, 24], phase={"old_images": 4}), drawn([24])
    assert [[row - 6 for row in rows if row >= 6] for rows in steps] == alone
    old = [row for rows in steps for row in rows if row < 6]
    assert len(old) == 3 * 4
    assert set(old[:6]) == set(old[6:]) == set(range(6))
    assert drawn([24], phase={"old_images": 4}) == alone  # there are none


def test_budgets_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="drop_last leaves no batch"):
        Batches([5], Training(batch_size=8, drop_last=True))
    beside = Phase(tasks=[], extra=True)  # such as on a memory, or on a share held back
    assert [Batches([n], Training(batch_size=8, drop_last=True), beside).per_epoch for n in (5, 19)] == [1, 3]
    with pytest.raises(UsageError, match="either epochs or iterations"):
        Training(epochs=1, iterations=1)
    with pytest.raises(UsageError, match="option of sgd"):
        Training(optimizer="adam", momentum=0.9)


def test_how_many_are_held_out() -> None:
    assert n_held_out(24, 0.0) == 0
    assert n_held_out(24, 0.25) == 6
    for share in (0.001, 0.999):
        with pytest.raises(UsageError, match="none is left on one side"):
            n_held_out(24, share)
    with pytest.raises(UsageError, match="patience=3 needs images to go by: give validation too"):
        Training(epochs=5, patience=3)


def test_what_is_held_out_and_what_is_left_are_the_whole() -> None:
    tasks = tiny_tasks(2)
    left, taken = hold_out(tasks, 0.25, 3)
    for task, rest, held in zip(tasks, left, taken, strict=True):
        assert (len(rest.train), len(held)) == (18, 6)
        assert sorted([*rest.train.rows.tolist(), *held.rows.tolist()]) == task.train.rows.tolist()
        assert rest.test is task.test
    assert hold_out(tasks, 0.0, 3) == (tasks, [])
    assert torch.equal(hold_out(tasks, 0.25, 3)[1][0].rows, taken[0].rows)
    assert not torch.equal(hold_out(tasks, 0.25, 4)[1][0].rows, taken[0].rows)


def test_plateau_by_hand() -> None:
    plateau, warming_up = Plateau(2), True
    script = [
        (0.5, "go on"),
        (0.5, "go on"),  # one epoch without a better one
        (0.6, "go on"),
        (0.6, "go on"),
        (0.1, "end phase"),  # two: the warm-up ends, and the count begins anew
        (0.2, "go on"),
        (0.2, "go on"),
        (0.3, "go on"),
        (0.3, "go on"),
        (0.3, "lower rate"),
        (0.1, "go on"),
        (0.1, "go on"),
        (0.2, "go on"),
        (0.1, "go on"),
        (0.2, "stop"),
    ]
    for accuracy, action in script:
        assert plateau.after(accuracy, warming_up) == action
        warming_up = warming_up and action != "end phase"


def test_plateau_without_warm_up_or_patience() -> None:
    plateau = Plateau(1)
    assert [plateau.after(0.5, False) for _ in range(4)] == ["go on", "lower rate", "go on", "stop"]
    endless = Plateau(None)
    assert {endless.after(0.5, True) for _ in range(50)} == {"go on"}
    rising = Plateau(1)
    assert {rising.after(step / 50, False) for step in range(50)} == {"go on"}

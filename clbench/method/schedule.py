"""How long training goes on, and on which images: the settings, the held-out share, the plateau and the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from clbench.errors import UsageError
from clbench.seeding import stream
from clbench.sequences.tasks import Split, Task


@dataclass(frozen=True, kw_only=True)
class Training:
    """Budget and optimiser, the same for all methods of a sweep."""

    epochs: Annotated[int, Ge(1)] | None = 1  # passes over a task's training data
    iterations: Annotated[int, Ge(1)] | None = None  # optimiser steps per task, instead of epochs
    batch_size: Annotated[int, Ge(1), Le(2**31)] = 128
    drop_last: bool = False  # leave out the last, smaller batch of a pass
    optimizer: Literal["sgd", "adam", "adagrad"] = "sgd"
    lr: Annotated[float, Gt(0)] = 0.01
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0
    weight_decay: Annotated[float, Ge(0)] = 0.0
    later_lr_factor: Annotated[float, Gt(0)] = 1.0  # times lr, from the second task on
    keep_optimizer: bool = False  # carry the optimiser's state on to the next task
    full_head: bool = False  # all blocks there from the start, and in the optimiser
    # parameters that the loss doesn't reach: left alone; gradient zero; or zero from the first time that a loss reached
    # them (PyTorch before 2.0, where zero_grad kept a tensor of zeros)
    untouched: Literal["skip", "zero", "zero-once-reached"] = "skip"
    predict_over: Literal["seen", "all"] = "seen"  # outputs that compete in the task-agnostic view
    warmup_epochs: Annotated[int, Ge(0)] = 0  # first epochs from the second task on: only the new block trains
    held_out: Annotated[float, Ge(0), Lt(1)] = 0.0  # share of each task's training images kept for `patience`
    # epochs without a better held-out accuracy on the current task after which the warm-up ends, then the rate is
    # divided by ten, then training stops; the epochs are the most there can be
    patience: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.iterations is None):
            raise UsageError(
                f"training needs either epochs or iterations, not epochs={self.epochs} iterations={self.iterations}"
            )
        if self.predict_over == "all" and not self.full_head:
            raise UsageError("predict_over=all needs full_head=true: without it there are no outputs but those seen")
        if self.momentum and self.optimizer != "sgd":
            raise UsageError(f"momentum={self.momentum} is an option of sgd, the optimiser is {self.optimizer}")
        if self.epochs is None and (self.warmup_epochs or self.patience):
            raise UsageError("warmup_epochs and patience count epochs: give the budget as epochs, not iterations")
        if self.epochs is not None and self.warmup_epochs >= self.epochs:
            raise UsageError(f"warmup_epochs={self.warmup_epochs} leaves nothing of the budget of {self.epochs} epochs")
        if (self.patience is None) != (self.held_out == 0):
            raise UsageError(
                f"patience={self.patience} held_out={self.held_out}: stopping needs a patience and images held out"
            )


def hold_out(tasks: Sequence[Task], share: float, seed: int) -> tuple[Sequence[Task], Sequence[Split]]:
    """Take a share of each task's training images away, at random: the tasks that are left, and what was taken."""
    if share == 0:
        return tasks, []
    left, taken = [], []
    for task in tasks:
        order = torch.randperm(len(task.train), generator=stream(seed, "held-out", task.index))
        count = n_held_out(len(task.train), share)
        parts = [rows.sort().values.to(task.train.rows.device) for rows in (order[count:], order[:count])]
        left.append(replace(task, train=task.train.subset(parts[0])))
        taken.append(task.train.subset(parts[1]))
    return left, taken


def n_held_out(images: int, share: float) -> int:
    """Return how many of a task's images are held out; raise UsageError if that leaves none on either side."""
    count = round(images * share)
    if share and not 0 < count < images:
        raise UsageError(f"held_out={share} of a task's {images} images is {count}: none is left on one side")
    return count


class Plateau:
    """When held-out accuracy has gone flat: the warm-up ends, then the rate is lowered, then training stops.

    Li & Hoiem (2017), section 3.1: 'until convergence', and 'the learning rate is divided by 10 once'.
    """

    def __init__(self, patience: int | None, warming: bool):
        self.patience, self.warming, self.lowered = patience, warming, False
        self.best, self.waited = -1.0, 0

    def after(self, accuracy: float) -> Literal["go on", "lower", "stop"]:
        """Take an epoch's held-out accuracy and say what follows."""
        if accuracy > self.best:
            self.best, self.waited = accuracy, 0
            return "go on"
        self.waited += 1
        if self.patience is None or self.waited < self.patience:
            return "go on"
        self.best, self.waited = -1.0, 0
        if self.warming:
            self.warming = False
            return "go on"
        if not self.lowered:
            self.lowered = True
            return "lower"
        return "stop"


class Plan:
    """How many steps a task gets, and which rows each one takes of the training tasks, the newest of which is last."""

    def __init__(self, sizes: Sequence[int], training: Training, equal_shares: bool = False, beside: int | None = None):
        self.sizes, self.batch_size, self.drop_last = sizes, training.batch_size, training.drop_last
        several = len(sizes) > 1
        self.equal_shares, self.beside = equal_shares and several, beside if several else None
        total = sum(sizes) if self.beside is None else sizes[-1]
        self.per_epoch = total // self.batch_size if self.drop_last else math.ceil(total / self.batch_size)
        if self.per_epoch == 0:
            raise UsageError(f"drop_last leaves no batch: batch_size is {self.batch_size}, the task has {total} images")
        self.total_steps = training.iterations or self.per_epoch * (training.epochs or 0)
        self.epochs = math.ceil(self.total_steps / self.per_epoch)

    def draw_newest(self, generator: torch.Generator) -> list[Tensor]:
        """Draw the rows of each step of one epoch over the newest task alone, as if there were no others."""
        order = sum(self.sizes[:-1]) + torch.randperm(self.sizes[-1], generator=generator)
        steps = list(order.split(self.batch_size))
        return steps[:-1] if self.drop_last and len(steps[-1]) < self.batch_size else steps

    def draw(self, generator: torch.Generator, most: int) -> list[Tensor]:
        """Draw the rows of each step of one epoch, at most `most` steps."""
        steps = min(self.per_epoch, most)
        if self.beside is not None:
            new = self.draw_newest(generator)[:steps]
            joining = _rounds(sum(self.sizes[:-1]), steps * self.beside, generator).view(steps, self.beside)
            return [torch.cat([own, more]) for own, more in zip(new, joining, strict=True)]
        if not self.equal_shares:
            order = torch.randperm(sum(self.sizes), generator=generator)
            return list(order.split(self.batch_size))[:steps]
        share = math.ceil(self.batch_size / len(self.sizes))
        columns, start = [], 0
        for size in self.sizes:
            columns.append(start + _rounds(size, steps * share, generator).view(steps, share))
            start += size
        return list(torch.cat(columns, 1))


def _rounds(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` of `size` rows, going round permutations: none comes again before all have come."""
    rounds = [torch.randperm(size, generator=generator) for _ in range(math.ceil(count / size))]
    return torch.cat(rounds)[:count]

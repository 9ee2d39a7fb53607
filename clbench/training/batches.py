"""Which rows each step takes, which images are held out, and when training has stopped getting better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from clbench.errors import UsageError
from clbench.method.phase import Phase
from clbench.method.settings import Training
from clbench.seeding import stream
from clbench.sequences.tasks import Split, Task


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
        raise UsageError(f"validation={share} of a task's {images} images is {count}: none is left on one side")
    return count


class Plateau:
    """When validation accuracy has gone flat: the warm-up ends, then the rate is lowered, then training stops.

    Li & Hoiem (2017), section 3.1: 'until convergence', and 'the learning rate is divided by 10 once'.
    """

    def __init__(self, patience: int | None):
        self.patience, self.lowered = patience, False
        self.best, self.waited = -1.0, 0

    def after(self, accuracy: float, warming_up: bool) -> Literal["go on", "end phase", "lower rate", "stop"]:
        """Take an epoch's validation accuracy and say what follows."""
        if accuracy > self.best:
            self.best, self.waited = accuracy, 0
            return "go on"
        self.waited += 1
        if self.patience is None or self.waited < self.patience:
            return "go on"
        self.best, self.waited = -1.0, 0
        if warming_up:
            return "end phase"
        if not self.lowered:
            self.lowered = True
            return "lower rate"
        return "stop"


class Batches:
    """The rows that each step of a phase takes of its tasks' training data, which stand one after another."""

    def __init__(self, sizes: Sequence[int], training: Training, phase: Phase | None = None):
        self.sizes, self.batch_size = sizes, training.batch_size
        drop_last = training.drop_last and not (phase is not None and phase.extra)  # whose data may be few
        mixed = phase if len(sizes) > 1 else None
        self.equal_shares = mixed is not None and mixed.equal_shares
        self.old_images = None if mixed is None else mixed.old_images
        total = sum(sizes) if self.old_images is None else sizes[-1]
        self.per_epoch = total // self.batch_size if drop_last else math.ceil(total / self.batch_size)
        if self.per_epoch == 0:
            raise UsageError(f"drop_last leaves no batch: batch_size is {self.batch_size}, the task has {total} images")

    def draw(self, generator: torch.Generator, most: int) -> list[Tensor]:
        """Draw the rows of each step of one epoch, at most `most` steps."""
        steps = min(self.per_epoch, most)
        if self.old_images is not None:
            first = sum(self.sizes[:-1])
            new = (first + torch.randperm(self.sizes[-1], generator=generator)).split(self.batch_size)
            old = _in_rounds(first, steps * self.old_images, generator).view(steps, self.old_images)
            return [torch.cat(pair) for pair in zip(new, old, strict=False)]
        if not self.equal_shares:
            return list(torch.randperm(sum(self.sizes), generator=generator).split(self.batch_size))[:steps]
        share = math.ceil(self.batch_size / len(self.sizes))
        columns, start = [], 0
        for size in self.sizes:
            columns.append(start + _in_rounds(size, steps * share, generator).view(steps, share))
            start += size
        return list(torch.cat(columns, 1))


def _in_rounds(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` of `size` rows, one permutation after another: none comes again before all have come."""
    rounds = [torch.randperm(size, generator=generator) for _ in range(math.ceil(count / size))]
    return torch.cat(rounds)[:count]

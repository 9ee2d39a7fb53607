"""A phase: a stretch of training within a task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from clbench.errors import ClbenchError
from clbench.method.settings import LossOver
from clbench.sequences.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is trained on what, and for how long. A task is learnt in one phase or several, one after another."""

    tasks: Sequence[Task]  # whose training data are used, the newest last
    name: str = "train"
    trainable: Iterable[nn.Parameter] | None = None  # None: all; modules without any run in eval mode
    epochs: int | None = None  # passes over its data, at most; None: what is left of the task's budget
    extra: bool = False  # whether its epochs come beside the task's budget
    lr_factor: float = 1.0  # times the task's learning rate
    loss_over: LossOver | None = None  # outputs that compete in the cross-entropy; None: those that training says
    # how batches are drawn. With equal shares each task has as many images in a batch, whatever its size. `old_images`
    # is how many images of the earlier tasks join each batch of the newest, whose batches are then those that it would
    # have alone. By default all images are shuffled together.
    equal_shares: bool = False
    old_images: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tasks, Sequence):
            raise ClbenchError(f"Phase(tasks=…) takes a list of tasks, not a {type(self.tasks).__name__}: tasks=[task]")

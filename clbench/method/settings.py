"""The settings of training: budget and optimiser, the same for all methods of a sweep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from clbench.errors import UsageError

ADDED = {"added": True}  # marks fields that are younger than the first records: see `registry.settings`
OptimizerName = Literal["sgd", "adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "adafactor"]
LossOver = Literal["seen", "all", "own"]  # outputs that compete in the loss of the class scenario: see Training


@dataclass(frozen=True, kw_only=True)
class Training:
    """Budget and optimiser, the same for all methods of a sweep."""

    epochs: Annotated[int, Ge(1)] | None = 1  # passes over a task's training data
    iterations: Annotated[int, Ge(1)] | None = None  # optimiser steps per task, instead of epochs
    batch_size: Annotated[int, Ge(1), Le(2**31)] = 128  # images per step
    drop_last: bool = False  # leave out the last, smaller batch of a pass over a task's data
    optimizer: OptimizerName = "sgd"  # the optimiser, by PyTorch
    lr: Annotated[float, Gt(0)] = 0.01  # learning rate
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.0  # share of the last step that is taken again; of sgd and rmsprop
    weight_decay: Annotated[float, Ge(0)] = 0.0  # pull of all weights towards zero, by the optimiser
    # longest gradient of a step, all parameters together: a longer one is scaled down
    clip_norm: Annotated[float, Gt(0)] | None = field(default=None, metadata=ADDED)
    # largest entry of a gradient: a larger one is cut to it
    clip_value: Annotated[float, Gt(0)] | None = field(default=None, metadata=ADDED)
    # how the rate goes within each phase of a task. constant; step: times schedule_factor at each of schedule_steps;
    # cosine: down to 0 along half a cosine; one-cycle: up from lr / 25 to lr in the first 30 % of the steps, then down
    # to lr / 250,000, as PyTorch's OneCycleLR
    schedule: Literal["constant", "step", "cosine", "one-cycle"] = field(default="constant", metadata=ADDED)
    schedule_steps: str = field(default="0.5+0.75", metadata=ADDED)  # shares of a phase's steps, joined by +; of step
    schedule_factor: Annotated[float, Gt(0), Lt(1)] = field(default=0.1, metadata=ADDED)  # of step
    # share of a phase's steps in which the rate rises in equal steps from 0 to lr, before the schedule
    lr_warmup: Annotated[float, Ge(0), Lt(1)] = field(default=0.0, metadata=ADDED)
    # share of the right answer that is given to all competing outputs alike (Szegedy et al. 2016)
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = field(default=0.0, metadata=ADDED)
    later_lr_factor: Annotated[float, Gt(0)] = 1.0  # what lr is multiplied by, from the second task on
    keep_optimizer: bool = False  # carry the optimiser's state on to the next task
    full_head: bool = False  # all blocks of the head are there from the start, and in the optimiser
    # parameters that the loss doesn't reach. skip: left alone; zero: their gradient is zero, so that momentum and decay
    # move them; zero-once-reached: so from the first time that a loss reached them (PyTorch before 2.0, where zero_grad
    # kept a tensor of zeros)
    untouched: Literal["skip", "zero", "zero-once-reached"] = "skip"
    predict_over: Literal["seen", "all"] = "seen"  # outputs that compete where the task is not told
    # outputs that compete in the loss of the class scenario. seen: of the classes seen so far; all: of all there will
    # be; own: of a sample's own task alone, for new images the new ones ('labels trick', Zeno et al. 2018)
    loss_over: LossOver = field(default="seen", metadata=ADDED)
    # first epochs from the second task on: only the new block trains, and only its outputs compete
    warmup_epochs: Annotated[int, Ge(0)] = 0
    warmup_extra: bool = field(default=False, metadata=ADDED)  # whether they come beside the budget
    # share of each task's training images that are not trained on, but evaluated like the test images; `patience` goes
    # by them. It was called held_out when the first records were written.
    validation: Annotated[float, Ge(0), Lt(1)] = field(default=0.0, metadata={"recorded": "held_out"})
    # epochs without a better validation accuracy on the current task after which the warm-up ends, then the rate is
    # divided by ten, then training stops; the epochs are the most there can be
    patience: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.iterations is None):
            raise UsageError(
                f"training needs either epochs or iterations, not epochs={self.epochs} iterations={self.iterations}"
            )
        for name in ("predict_over", "loss_over"):
            if getattr(self, name) == "all" and not self.full_head:
                raise UsageError(f"{name}=all needs full_head=true: without it there are no outputs but those seen")
        if self.lr_warmup and self.schedule == "one-cycle":
            raise UsageError("schedule=one-cycle has a warm-up of its own: leave lr_warmup out")
        if (self.schedule_steps, self.schedule_factor) != ("0.5+0.75", 0.1) and self.schedule != "step":
            raise UsageError(f"schedule_steps and schedule_factor are those of schedule=step, this is {self.schedule}")
        if not all(0 < share < 1 for share in self.milestones):
            raise UsageError(f"schedule_steps={self.schedule_steps}: shares between 0 and 1 are needed, as in 0.5+0.75")
        if self.momentum and self.optimizer not in ("sgd", "rmsprop"):
            raise UsageError(f"momentum={self.momentum} is an option of sgd, the optimiser is {self.optimizer}")
        if self.epochs is None and (self.warmup_epochs or self.patience):
            raise UsageError("warmup_epochs and patience count epochs: give the budget as epochs, not iterations")
        if self.epochs is not None and self.warmup_epochs >= self.epochs and not self.warmup_extra:
            raise UsageError(f"warmup_epochs={self.warmup_epochs} leaves nothing of the budget of {self.epochs} epochs")
        if self.patience is not None and self.validation == 0:
            raise UsageError(f"patience={self.patience} needs images to go by: give validation too, as in 0.1")

    @property
    def milestones(self) -> list[float]:
        """The shares of a phase's steps at which `step` lowers the rate."""
        try:
            return [float(share) for share in self.schedule_steps.split("+")]
        except ValueError:
            return [0.0]  # no share, which is refused

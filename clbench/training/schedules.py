"""How the learning rate goes within a phase: what it is multiplied by at each step, a function of the progress."""

from __future__ import annotations

import math

from clbench.method.settings import Training

# of 'one-cycle', as in PyTorch's OneCycleLR: the share of steps in which the rate rises, what the highest rate is
# divided by at the start, and what that is divided by at the end
RISE, START, END = 0.3, 25, 1e4


def rate_factor(training: Training, done: int, total: int) -> float:
    """Return what the rate is multiplied by at a step of a phase, of whose `total` steps `done` are done.

    In the first `lr_warmup · total` steps it rises in equal steps to 1; the schedule is that of the steps that follow.
    """
    warm_up = round(training.lr_warmup * total)
    if done < warm_up:
        return (done + 1) / warm_up
    done, total = done - warm_up, total - warm_up
    if training.schedule == "step":
        passed = sum(done / total >= share for share in training.milestones)
        return training.schedule_factor**passed
    if training.schedule == "cosine":
        return (1 + math.cos(math.pi * done / total)) / 2
    if training.schedule == "one-cycle":
        return _one_cycle(done, total)
    return 1.0


def _one_cycle(done: int, total: int) -> float:
    """Rise from 1/25 to 1, and fall to 1/250,000 at the last step, each along half a cosine (Smith & Topin 2018)."""
    top = RISE * total - 1
    if done <= top:
        return _along(1 / START, 1.0, done / top)
    return _along(1.0, 1 / (START * END), (done - top) / (total - 1 - top))


def _along(start: float, stop: float, share: float) -> float:
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2

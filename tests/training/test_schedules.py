"""Schedules of the learning rate beside PyTorch's own."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import go
from torch import Tensor
from torch.optim import lr_scheduler

from clbench.errors import UsageError
from clbench.experiment import registry
from clbench.experiment.points import resolve_training
from clbench.method import Step, Training
from clbench.methods.finetune import Finetune
from clbench.testing import tiny_tasks
from clbench.training.schedules import rate_factor

Scheduler = Callable[[torch.optim.Optimizer, int], lr_scheduler.LRScheduler]


def of_pytorch(make: Scheduler, total: int) -> list[float]:
    """Return the factor of the rate in each of so many steps of PyTorch's scheduler."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = make(optimizer, total)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        scheduler.step()
    return rates


def warmed_up(optimizer: torch.optim.Optimizer, total: int) -> lr_scheduler.LRScheduler:
    """A fifth of the steps linear, then the cosine."""
    steps = round(0.2 * total)
    rise = lr_scheduler.LinearLR(optimizer, 1 / steps, total_iters=steps - 1) if steps > 1 else None
    fall = lr_scheduler.CosineAnnealingLR(optimizer, total - steps)
    return lr_scheduler.SequentialLR(optimizer, [rise or lr_scheduler.ConstantLR(optimizer, 1.0), fall], [steps])


@pytest.mark.parametrize("total", [5, 10, 37, 200])
@pytest.mark.parametrize(
    ("settings", "make"),
    [
        ({}, lambda o, n: lr_scheduler.ConstantLR(o, 1.0)),
        ({"schedule": "step"}, lambda o, n: lr_scheduler.MultiStepLR(o, [math.ceil(n / 2), math.ceil(0.75 * n)])),
        (
            {"schedule": "step", "schedule_steps": "0.7+0.9", "schedule_factor": 0.2},
            lambda o, n: lr_scheduler.MultiStepLR(o, [math.ceil(0.7 * n), math.ceil(0.9 * n)], 0.2),
        ),
        ({"schedule": "cosine"}, lambda o, n: lr_scheduler.CosineAnnealingLR(o, n)),
        ({"schedule": "one-cycle"}, lambda o, n: lr_scheduler.OneCycleLR(o, 0.5, n, cycle_momentum=False)),
        ({"schedule": "cosine", "lr_warmup": 0.2}, warmed_up),
    ],
    ids=["constant", "step", "other steps", "cosine", "one-cycle", "warm-up"],
)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_it_is_pytorchs(settings: dict[str, Any], make: Scheduler, total: int) -> None:
    training = Training(**settings)
    ours = [rate_factor(training, done, total) for done in range(total)]
    assert ours == pytest.approx(of_pytorch(make, total), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["constant", "step", "cosine", "one-cycle"])
def test_no_rate_is_zero(name: Any) -> None:
    for total in (1, 2, 3, 4, 100):
        assert all(0 < rate_factor(Training(schedule=name), done, total) <= 1 for done in range(total))


def test_each_task_has_its_own_and_steps_know_their_rate() -> None:
    """What the optimiser takes is what `step.lr` says: without momentum a step is lr · gradient."""
    seen: list[tuple[int, float, float]] = []

    class Watch(Finetune):
        def gradients(self, step: Step, gradient_of: Callable[[Tensor], dict[str, Tensor]]) -> dict[str, Tensor]:
            found = gradient_of(self.loss(step))
            self.bias = self.network.newest.bias.detach().clone()
            name = f"head.{self.network.seen - 1}.bias"
            self.moved = found[name].norm().item()
            return found

        def after_step(self, step: Step) -> None:
            by = (self.network.newest.bias.detach() - self.bias).norm().item()
            seen.append((step.phase.tasks[-1].index, step.lr, by / self.moved))

    training = Training(epochs=3, batch_size=8, lr=0.2, schedule="cosine", later_lr_factor=0.5)
    go(Watch(), tasks=tiny_tasks(2), training=training)
    for task, highest in ((0, 0.2), (1, 0.1)):
        rates = [(lr, taken) for index, lr, taken in seen if index == task]
        expected = [highest * (1 + math.cos(math.pi * n / len(rates))) / 2 for n in range(len(rates))]
        assert [lr for lr, _ in rates] == pytest.approx(expected)
        assert [taken for _, taken in rates] == pytest.approx(expected, rel=1e-3)


def test_a_schedule_goes_over_all_epochs_of_a_phase() -> None:
    rates: list[float] = []

    class Watch(Finetune):
        def after_step(self, step: Step) -> None:
            rates.append(step.lr)

    go(Watch(), tasks=1, training=Training(epochs=4, batch_size=8, lr=1.0, schedule="step", schedule_steps="0.5"))
    assert rates == [1.0] * (len(rates) // 2) + [0.1] * (len(rates) // 2)
    assert len(set(rates)) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "cosin"}, "'constant', 'step', 'cosine' or 'one-cycle'"),
        ({"schedule": "step", "schedule_steps": "0.5+1.5"}, "schedule_steps=0.5.1.5: shares between 0 and 1"),
        ({"schedule": "step", "schedule_steps": "half"}, "shares between 0 and 1 are needed, as in 0.5.0.75"),
        ({"schedule_steps": "0.3"}, "are those of schedule=step, this is constant"),
        ({"schedule": "one-cycle", "lr_warmup": 0.1}, "has a warm-up of its own"),
        ({"lr_warmup": 1}, "less than 1"),
        ({"label_smoothing": -0.1}, "greater than or equal to 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_training({}, settings, [])


def test_the_keys_of_older_records_stay() -> None:
    younger = {"schedule", "schedule_steps", "schedule_factor", "lr_warmup", "label_smoothing"}
    assert not younger & registry.settings(Training()).keys()
    assert registry.settings(Training(schedule="cosine"))["schedule"] == "cosine"

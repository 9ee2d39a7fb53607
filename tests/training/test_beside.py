"""Runs side by side: each is what it is alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from tiny import SGD, new
from torch import Tensor

from clbench.errors import DivergedError
from clbench.experiment import registry
from clbench.method import GradientOf, Gradients, Method, Scenario, Step, Training, can_go_beside
from clbench.models.backbones import CNN, MLP
from clbench.sequences.tasks import Task
from clbench.testing import check_method, tiny_tasks
from clbench.training.beside import Place, SideBySide, fits
from clbench.training.run import Outcome, run_sequence

NAMES = [name for name in registry.builtin("method") if can_go_beside(new(name))]
SMALL = MLP(width=8, depth=2)
SEEDS = (0, 1, 2)
TRAININGS = [
    Training(epochs=3, batch_size=8, lr=0.05, momentum=0.9, weight_decay=1e-3),
    Training(epochs=None, iterations=7, batch_size=8, lr=0.01, optimizer="adam", keep_optimizer=True, drop_last=True),
    Training(epochs=3, batch_size=7, lr=0.05, clip_norm=1.0, label_smoothing=0.1, untouched="zero", full_head=True),
    Training(epochs=2, batch_size=8, lr=0.05, schedule="cosine", warmup_epochs=1, validation=0.25),
    Training(epochs=2, batch_size=8, lr=0.01, optimizer="nadam"),
]


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def unequal_tasks(seed: int) -> list[Task]:
    """Return tasks whose sizes differ between tasks, and between seeds."""
    made = tiny_tasks(3, images=30, seed=seed)
    sizes = [24 + 3 * ((seed + index) % 3) for index in range(len(made))]
    return [replace(task, train=task.train.subset(torch.arange(size))) for task, size in zip(made, sizes, strict=True)]


def run(
    name: str, scenario: Scenario, training: Training, seed: int, place: Place | None, **options: Any
) -> tuple[Outcome, dict[str, Tensor]]:
    learner = new(name)
    together = {} if place is None else {"take_all": place.take}
    backbone = options.pop("backbone", SMALL)
    found = run_sequence(unequal_tasks(seed), learner, backbone, training, scenario, seed, **together, **options)
    return found, {name: value.clone() for name, value in learner.weights().items()}


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
@pytest.mark.parametrize("name", NAMES)
def test_each_run_is_what_it_is_alone(name: str, scenario: Scenario) -> None:
    if scenario not in new(name).scenarios:
        return
    for number, training in enumerate(TRAININGS):
        runs = [partial(run, name, scenario, training, seed) for seed in SEEDS]
        beside = SideBySide("cpu").results([partial(go, capture=number == 0) for go in runs])
        for go, (ours, weights) in zip(runs, beside, strict=True):
            theirs, expected = go(None)
            for field in ("task_aware", "task_agnostic", "updates", "images", "forward_passes", "backward_passes"):
                assert getattr(ours, field) == getattr(theirs, field), field
            assert weights.keys() == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-8)
            losses = [torch.tensor(each["loss"]) for each in theirs.history]
            torch.testing.assert_close([torch.tensor(each["loss"]) for each in ours.history], losses)


def test_the_methods_that_may() -> None:
    assert {"finetune", "joint", "lwf", "ewc", "mas", "scratch"} <= set(NAMES)
    assert fits(new("lwf"), SMALL)
    assert not fits(new("lwf"), MLP(dropout=0.5))  # draws masks
    assert not fits(new("lwf"), CNN())
    assert not fits(new("hat"), SMALL)

    class Derived(Method):
        pass

    assert not fits(Derived(), SMALL)


def test_the_features_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = []  # layers that a step has asked
    own = torch.nn.Linear.forward

    def forward(layer: torch.nn.Linear, x: Tensor) -> Tensor:
        hidden.extend([layer] if layer.out_features == SMALL.width and torch.is_grad_enabled() else [])
        return own(layer, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    training = Training(epochs=None, iterations=5, batch_size=8, lr=0.05, drop_last=True)
    SideBySide("cpu").results([partial(run, "finetune", "task", training, seed) for seed in SEEDS])
    assert len(hidden) == 3 * 5 * SMALL.depth  # three tasks of five steps, not thrice as many


@dataclass
class Fails(Method):
    """Fails at the second task of a seed"""

    name: ClassVar[str] = "fails"
    beside: ClassVar[bool] = True
    where: str = "start"
    failed: ClassVar[list[int]] = []

    def start_task(self, task: Any) -> None:
        if self.where == "start" and task.index == 1 and self.run.seed == 1:
            raise ValueError("of seed 1")

    def loss(self, step: Step) -> Tensor:
        if self.where == "loss" and self.run.seed == 1 and step.batch.tasks[0] == 1 and not self.failed:
            self.failed.append(1)  # once
            raise ValueError("of a step")
        return step.cross_entropy() * (float("nan") if self.where == "nan" and self.run.seed == 1 else 1.0)


def ended(where: str, seed: int, place: Place) -> Any:
    try:
        found = run_sequence(unequal_tasks(seed), Fails(where=where), SMALL, SGD, "task", seed, take_all=place.take)
        return found.task_aware
    except (ValueError, DivergedError) as error:
        return str(error)


@pytest.mark.parametrize("where", ["start", "nan"])
def test_a_run_that_fails_leaves_the_others_alone(where: str) -> None:
    first, second, third = SideBySide("cpu").results([partial(ended, where, seed) for seed in SEEDS])
    assert "of seed 1" in second if where == "start" else "diverged" in second
    assert [first, third] == [SideBySide("cpu").results([partial(ended, "no", seed)])[0] for seed in (0, 2)]


def test_a_step_that_fails_ends_all() -> None:
    """No run may go on: the others have not taken their part of it."""
    Fails.failed.clear()
    assert SideBySide("cpu").results([partial(ended, "loss", seed) for seed in SEEDS]) == ["of a step"] * 3


def test_one_alone_is_as_without() -> None:
    found = SideBySide("cpu").results([partial(run, "lwf", "class", TRAININGS[0], 3)])[0]
    assert found[0].weights_hash == run("lwf", "class", TRAININGS[0], 3, None)[0].weights_hash


def test_each_draws_as_it_does_alone() -> None:
    """What a hook draws from the global generator, which others draw from meanwhile."""

    class Draws(Method):
        beside = True

        def start_task(self, task: Any) -> None:
            self.kept = [*getattr(self, "kept", []), torch.rand(1).item()]

        def finish_task(self, task: Any) -> None:
            self.kept = [*self.kept, torch.rand(1).item()]

    def go(seed: int, place: Place | None) -> list[float]:
        learner = Draws()
        together = {} if place is None else {"take_all": place.take}
        run_sequence(unequal_tasks(seed), learner, SMALL, SGD, "task", seed, **together)
        return learner.kept

    assert SideBySide("cpu").results([partial(go, seed) for seed in SEEDS]) == [go(seed, None) for seed in SEEDS]


class Hooked(Method):
    """Its layers compute something else than they are"""

    name = "hooked"
    beside = True

    def loss(self, step: Step) -> Tensor:
        layer = next(module for module in step.network.backbone.modules() if isinstance(module, torch.nn.Linear))
        scale = 1 + self.run.seed
        handle = layer.register_forward_hook(lambda layer, given, output: scale * output)
        try:
            return step.cross_entropy()
        finally:
            handle.remove()


class OwnGradients(Method):
    """Its gradients are not those of its loss"""

    name = "own-gradients"
    beside = True

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        return {name: 2 * value for name, value in super().gradients(step, gradient_of).items()}


@pytest.mark.parametrize("cls", [Hooked, OwnGradients])
def test_the_contract_finds_who_may_not(cls: type[Method], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_default_dtype(torch.float32)
    with pytest.raises(AssertionError, match="it must not declare `beside = True`"):
        check_method(cls, models=["mlp"], scenarios=["task"], quiet=True)
    monkeypatch.setattr(cls, "beside", False)
    check_method(cls, models=["mlp"], scenarios=["task"], quiet=True)

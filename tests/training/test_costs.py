"""What a run says it cost, against a count by PyTorch's hooks.

An image counts as forward each time that it goes through a backbone while a task is learnt, and as backward each time
that a gradient reaches its features, or, where these have been recorded, the outputs that were computed from them.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tiny import go, new
from torch import Tensor, nn

from clbench.experiment import registry
from clbench.method import SCENARIOS, Costs, GradientOf, Gradients, Learner, Method, Scenario, Step, Training
from clbench.methods.ewc import EWC
from clbench.methods.lwf import LwF
from clbench.methods.mas import MAS
from clbench.methods.replay import Replay
from clbench.models import Backbone
from clbench.sequences.tasks import Task

TRAINING = Training(epochs=2, batch_size=10, lr=0.05)


@dataclass
class Counter:
    """Counts images while it is on."""

    on: bool = False
    forward: list[int] = field(default_factory=list)  # by task
    backward: list[int] = field(default_factory=list)

    def learn(self, learn: Any, learner: Learner, task: Task) -> Costs:
        self.forward.append(0)
        self.backward.append(0)
        self.on = True
        try:
            return learn(learner, task)
        finally:
            self.on = False

    def saw(self, module: nn.Module, inputs: tuple[Tensor], features: Tensor) -> None:
        """A forward hook of a backbone; copies of the module have it too."""
        if self.on and inputs[0].any():  # a new network is asked for its number of features with a black image
            self.forward[-1] += len(features)
            if torch.is_grad_enabled():
                self.listen(features)

    def listen(self, features: Tensor) -> None:
        """Count these images when a gradient reaches them; those of a frozen backbone take part for that."""

        def reached(_: Tensor) -> None:
            self.backward[-1] += len(features)

        (features if features.requires_grad else features.requires_grad_()).register_hook(reached)

    def vmap(self, function: Any, **options: Any) -> Any:
        """Stand for `torch.func.vmap` of a gradient: it is one of each image, though the hooks see one call."""
        mapped = vmap(function, **options)

        def counted(parameters: Any, x: Tensor, rows: Tensor) -> Any:
            self.on = False
            found = mapped(parameters, x, rows)
            self.on = True
            self.forward[-1] += len(x)
            self.backward[-1] += len(x)
            return found

        return counted


vmap = torch.func.vmap


def counted(
    method: Method, model: str, scenario: Scenario, monkeypatch: pytest.MonkeyPatch, training: Training = TRAINING
) -> tuple[list[int], list[int]]:
    """Run a method; compare what it says with what the hooks counted, and return it."""
    counter, cls, plain = Counter(), type(method), registry.find("model", model)
    monkeypatch.setattr(torch.func, "vmap", counter.vmap)

    class Counted(cls):  # type: ignore[misc, valid-type]
        def learn(self, task: Task) -> Costs:
            return counter.learn(cls.learn, self, task)

        def loss(self, step: Step) -> Tensor:
            if step.recorded is not None:
                counter.listen(step.recorded)
            loss: Tensor = super().loss(step)
            return loss

    class Hooked(plain):  # type: ignore[misc, valid-type]
        def build(self, input_shape: Any) -> nn.Module:
            network: nn.Module = super().build(input_shape)
            network.register_forward_hook(lambda *seen: counter.saw(*seen))  # a function, so that copies share it
            return network

    small: dict[str, dict[str, Any]] = {"mlp": {"width": 8, "dropout": 0.1}, "cnn": {"channels": 2, "width": 8}}
    backbone: Backbone = Hooked(**small[model])
    fields = {name: getattr(method, name) for name in registry.defaults(cls)}
    outcome = go(Counted(**fields), scenario, backbone=backbone, training=training)
    assert outcome.forward_passes == counter.forward
    assert outcome.backward_passes == counter.backward
    return outcome.forward_passes, outcome.backward_passes


NAMES = registry.names("method")
ALL = [(name, scenario) for name in NAMES for scenario in SCENARIOS if scenario in new(name).scenarios]


@pytest.mark.parametrize(("name", "scenario"), ALL)
def test_every_method(name: str, scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(new(name), "mlp", scenario, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_with_convolutions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario in new(name).scenarios)
    counted(new(name), "cnn", scenario, monkeypatch)


def test_fine_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counted(new("finetune"), "mlp", "task", monkeypatch) == ([48] * 3, [48] * 3)


def test_recorded_features_go_backward_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = counted(new("feature-extraction"), "mlp", "class", monkeypatch)
    assert found == ([48, 24, 24], [48] * 3)


def test_recorded_responses_go_forward_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counted(new("lwf"), "mlp", "task", monkeypatch) == ([48, 72, 72], [48] * 3)
    assert counted(LwF(teacher="train-mode"), "mlp", "task", monkeypatch) == ([48, 96, 96], [48] * 3)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_gradients_of_single_images(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once over the 24 images after each task; exact labels take a pass for every class that competes."""
    assert counted(new("ewc"), model, "task", monkeypatch) == ([72] * 3, [72] * 3)
    assert counted(EWC(label="exact"), model, "task", monkeypatch) == ([96] * 3, [96] * 3)
    assert counted(EWC(label="exact"), model, "class", monkeypatch) == ([96, 144, 192], [96, 144, 192])
    assert counted(EWC(samples=5), model, "task", monkeypatch) == ([53] * 3, [53] * 3)
    assert counted(EWC(batch=7), model, "task", monkeypatch) == ([72] * 3, [72] * 3)
    assert counted(MAS(batch=7), model, "domain", monkeypatch) == ([72] * 3, [72] * 3)


@pytest.mark.parametrize("name", ["finetune", "joint", "lwf", "replay", "lfl", "si"])
def test_a_warm_up_computes_its_features_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(epochs=3, batch_size=10, lr=0.05, warmup_epochs=2)
    forward, backward = counted(new(name), "mlp", "task", monkeypatch, training)
    if name == "finetune":
        assert (forward, backward) == ([72, 48, 48], [72] * 3)


@pytest.mark.parametrize("name", ["finetune", "ewc", "scratch"])
def test_held_out_images_cost_a_pass_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(epochs=2, batch_size=10, lr=0.05, validation=0.25, patience=2)
    forward, backward = counted(new(name), "mlp", "class", monkeypatch, training)
    if name == "finetune":
        assert (forward, backward) == ([2 * 24] * 3, [2 * 18] * 3)


class Twice(Method):
    """Asks for the gradient of a second loss, on part of the batch, as GEM does on its memory."""

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        gradients = gradient_of(self.loss(step))
        batch = step.batch
        some = type(batch)(batch.x[:4], batch.y[:4], batch.task_ids[:4], batch.tasks, batch.index[:4])
        other = gradient_of(step.on(some).cross_entropy())
        return {name: gradient + other[name] for name, gradient in gradients.items()}


class OnBoth(Replay):
    """One loss on the batch and on part of it again."""

    def loss(self, step: Step) -> Tensor:
        batch = step.batch
        again = step.on(type(batch)(batch.x[:3], batch.y[:3], batch.task_ids[:3], batch.tasks, batch.index[:3]))
        return super().loss(step) + again.cross_entropy()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_second_gradients_and_second_batches(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    # steps of 10, 10 and 4 images, and 4 of them again
    assert counted(Twice(), "mlp", scenario, monkeypatch) == ([48 + 6 * 4] * 3, [48 + 6 * 4] * 3)
    assert counted(OnBoth(images=0), "mlp", scenario, monkeypatch) == ([48 + 6 * 3] * 3, [48 + 6 * 3] * 3)


class Looks(Method):
    """Looks at the batch once more without a gradient."""

    def after_step(self, step: Step) -> None:
        with torch.no_grad():
            self.network.features(step.batch.x)


def test_a_look_without_a_gradient_goes_forward_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counted(Looks(), "mlp", "class", monkeypatch) == ([96] * 3, [48] * 3)

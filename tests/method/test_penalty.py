"""How hard weights are pulled: never harder than steps of the learning rate can follow."""

import math

import pytest
import torch
from tiny import Pixels, go

from clbench.experiment import registry
from clbench.experiment.points import resolve_training
from clbench.method import SCENARIOS, Run, Scenario, Training
from clbench.method.penalty import Quadratic, QuadraticPenalty
from clbench.methods.ewc import EWC
from clbench.methods.l2 import L2
from clbench.methods.mas import MAS
from clbench.methods.online_ewc import OnlineEWC
from clbench.methods.si import SI
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.sequences.tasks import Task
from clbench.training.run import Outcome, run_sequence


def beginning(method: QuadraticPenalty, training: Training) -> QuadraticPenalty:
    network = ExpandingHeadModel(Pixels(), (1, 1, 1), 0)
    method.begin(Run("task", 2, 0, torch.device("cpu"), training, lambda: network, lambda task: None))  # type: ignore[arg-type, return-value]
    return method


@pytest.mark.parametrize(
    ("half", "momentum", "most"),
    # η = 0.1: the curvature may be (1 + μ) / η = 10 or 15; it is 2 · 4 Ω, and 4 Ω with the factor ½
    [(False, 0.0, 10 / 8), (True, 0.0, 10 / 4), (False, 0.5, 15 / 8)],
)
def test_importances_are_cut_to_half_of_what_steps_can_follow(half: bool, momentum: float, most: float) -> None:
    method = beginning(QuadraticPenalty(strength=4, half=half), Training(lr=0.1, momentum=momentum))
    weights = torch.tensor([0.3, 1e9, -2.0])
    method.quadratic = Quadratic({"w": torch.zeros(3)}, {"w": weights})
    found = method.pull(0.1)
    assert found is not None
    assert found.importance is not None
    torch.testing.assert_close(found.importance["w"], torch.tensor([0.3, most, -2.0]))
    slower = method.pull(1e-12)
    assert slower is not None
    assert slower.importance is not None
    assert torch.equal(slower.importance["w"], weights)  # nothing to cut at this rate
    assert weights[1] == 1e9


def test_the_papers_objective_can_be_had_as_it_stands() -> None:
    method = beginning(QuadraticPenalty(strength=4, stable=False), Training(lr=0.1))
    method.quadratic = Quadratic({"w": torch.zeros(1)}, {"w": torch.tensor([1e9])})
    assert method.pull(0.1) is method.quadratic


def test_where_all_weights_are_alike_they_are_cut_alike() -> None:
    method = beginning(L2(strength=100), Training(lr=0.1))
    method.quadratic = Quadratic({"w": torch.zeros(2), "b": torch.zeros(())}, None)
    found = method.pull(0.1)
    assert found is not None
    assert found.importance == {"w": pytest.approx([0.05, 0.05]), "b": pytest.approx(0.05)}  # 10 / (2 · 100)


def test_adam_scales_its_steps_and_nothing_is_cut() -> None:
    method = beginning(QuadraticPenalty(strength=4), Training(lr=0.1, optimizer="adam"))
    method.quadratic = Quadratic({"w": torch.zeros(1)}, {"w": torch.tensor([1e9])})
    assert method.pull(0.1) is method.quadratic


def digits(method: QuadraticPenalty, epochs: int, scenario: Scenario) -> Outcome:
    name = "split-digits"
    sequence = registry.configure(name, registry.find("sequence", name), {})
    sequence.prepare(None, 0)
    tasks: list[Task] = sequence.load(None, 0, sequence.class_order("seed", 0, None))
    training = resolve_training(sequence.budget, {"epochs": epochs}, [])
    return run_sequence(tasks, method, MLP(), training, scenario, 0)


@pytest.mark.parametrize(
    ("cls", "epochs", "scenario"),
    [*((cls, 2, scenario) for cls in (EWC, OnlineEWC) for scenario in SCENARIOS), (SI, 1, "class"), (MAS, 1, "class")],
)
def test_default_strengths_train_on_digits_at_small_budgets(
    cls: type[QuadraticPenalty], epochs: int, scenario: Scenario
) -> None:
    """Where they diverge, losses pass 1e5: those of all ten classes, uniformly wrong, are some tens."""
    outcome = digits(cls(), epochs, scenario)
    assert max(max(task["loss"]) for task in outcome.history) < 100


@pytest.mark.parametrize("cls", [EWC, OnlineEWC, SI, MAS, L2])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_strength_without_end_holds_what_matters(cls: type[QuadraticPenalty], momentum: float) -> None:
    training = Training(epochs=3, batch_size=8, lr=0.05, momentum=momentum)
    outcome = go(cls(strength=1e12), "domain", training=training)
    assert all(math.isfinite(loss) for task in outcome.history for loss in task["loss"])
    assert outcome.task_aware[-1][0] == pytest.approx(outcome.task_aware[1][0], abs=0.1)  # the first task is kept

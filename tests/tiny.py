"""Small networks, and runs on tiny tasks, for the tests of methods and of training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from clbench.experiment import registry
from clbench.method import Batch, Costs, Criterion, Learner, Method, Phase, Run, Scenario, Step, Training
from clbench.models import Backbone, ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.sequences.tasks import Split, Task
from clbench.testing import tiny_tasks
from clbench.training.run import Outcome, run_sequence

SGD = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9, weight_decay=1e-3)
ADAM = Training(epochs=2, batch_size=8, lr=0.01, optimizer="adam", keep_optimizer=True)
CPU = torch.device("cpu")
QUICK = {"ranpac": {"width": 50}}  # settings of methods whose defaults compute much even of tiny tasks
M = TypeVar("M", bound=Learner)
Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Pixels(Backbone):
    """Features are the pixels: the network is one linear layer."""

    def build(self, input_shape: Sequence[int]) -> nn.Module:
        return nn.Flatten()


@dataclass(frozen=True, kw_only=True)
class ScaledPixels(Backbone):
    """Features are the pixels, times one weight."""

    def build(self, input_shape: Sequence[int]) -> nn.Module:
        return nn.Sequential(nn.Flatten(), _Scale())


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


def new(name: str) -> Any:
    """Make a method by its name, with its defaults, or such that tiny tasks take it no time."""
    return registry.configure(name, registry.find("method", name), QUICK.get(name, {}))


def go(learner: Learner, scenario: Scenario = "task", tasks: Sequence[Task] | int = 3, **keywords: Any) -> Outcome:
    """Run a sequence of tiny tasks with a small network."""
    options: dict[str, Any] = {"backbone": MLP(width=16, dropout=0.2), "training": SGD, "seed": 3} | keywords
    data = tiny_tasks(tasks) if isinstance(tasks, int) else tasks
    return run_sequence(data, learner, scenario=scenario, **options)


def states(method: Method, scenario: Scenario = "task", **keywords: Any) -> list[Weights]:
    """Return the network's weights and buffers after each task."""
    kept: list[Weights] = []
    go(method, scenario, after_task=lambda learner, task: kept.append(state_of(learner.network)), **keywords)  # type: ignore[attr-defined]
    return kept


def state_of(network: nn.Module) -> Weights:
    """Return a copy of a network's weights and buffers."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def equal(one: Weights, other: Weights) -> bool:
    """Whether the same tensors are in both, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def same_as(one: Outcome, other: Outcome, *names: str) -> None:
    """Assert that two runs measured the same, in all fields that are no seconds, or in those named."""
    everything = (
        *("weights_hash", "task_aware", "task_agnostic", "updates", "images", "history", "stored_bytes"),
        "stored_images",
        *("forward_passes", "backward_passes", "parameters"),
    )
    for name in names or everything:
        assert getattr(one, name) == getattr(other, name), name


def begun(learner: M, network: ExpandingHeadModel, scenario: Scenario = "task", tasks: int = 2, seed: int = 0) -> M:
    """Begin a run by hand, with this network; its hooks can then be called one by one."""
    learner.begin(replace(made_up_run(seed, scenario, tasks), new_network=lambda: network))
    return learner


def made_up_run(seed: int = 0, scenario: Scenario = "class", tasks: int = 2) -> Run:
    """Make a run that has streams, but no network and no loop."""
    return Run(scenario, tasks, seed, CPU, Training(), lambda: nn.Identity(), lambda task: Costs())  # type: ignore


def step_on(network: ExpandingHeadModel, batch: Batch, scenario: Scenario) -> Step:
    """Make a step on a batch."""
    return Step(network, batch, Criterion(scenario), Phase(tasks=[]), 0.1, 0.0)


def batch_of(split: Split, rows: Tensor, columns: Tensor, task_ids: Tensor) -> Batch:
    """Make a batch of rows of a split, with each sample's column of the head and its task."""
    return Batch(split.batch(rows), columns, task_ids, sorted(set(task_ids.tolist())), rows, split)

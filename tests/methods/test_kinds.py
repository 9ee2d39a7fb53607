"""More kinds of methods that the contract holds, each by a few hooks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from tiny import go
from torch import Tensor, nn

from clbench.method import Method, Phase, Run, Scenario, Step, Training
from clbench.sequences.tasks import Task
from clbench.testing import check_method


@dataclass
class GreedySampler(Method):
    """GDumb (Prabhu et al. 2020): a balanced memory, and a network that is trained from it alone, anew each time"""

    name: ClassVar[str] = "gdumb"
    memory: ClassVar[bool] = True
    size: int = 20

    def start_from(self, task: Task) -> Any:
        return "initial"

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        tasks = [*earlier, task]
        quota = torch.arange(min(self.size // len(tasks), len(task.train)))
        return [Phase(tasks=[replace(t, train=t.train.subset(quota)) for t in tasks], epochs=4, extra=True)]


@dataclass
class HardAttention(Method):
    """A gate on every feature for each task, trained with the network (after Serrà et al. 2018)"""

    name: ClassVar[str] = "gates"
    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})

    def begin(self, run: Run) -> None:
        super().begin(run)
        width = self.network.n_features
        draws = run.stream("gates")
        self.gates = {str(t): nn.Parameter(torch.randn(width, generator=draws)) for t in range(run.tasks)}

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return self.gates

    def gated(self, features: Tensor, task: int) -> Tensor:
        return features * torch.sigmoid(self.gates[str(task)])

    def loss(self, step: Step) -> Tensor:
        task = step.network.seen - 1
        z = step.network.logits(self.gated(step.features, task), [task])
        return nn.functional.cross_entropy(z, step.batch.y - step.network.columns(task).start)

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        if task is None or task >= self.network.seen:
            return None
        return self.network.logits(self.gated(self.network.features(x), task), range(len(self.network.head)))


@pytest.mark.parametrize(
    ("method", "scenario"), [(GreedySampler, "class"), (GreedySampler, "domain"), (HardAttention, "task")]
)
def test_contract(method: type[Method], scenario: Scenario) -> None:
    check_method(method, models=["mlp"], scenarios=[scenario], tasks=3)


def test_a_network_trained_anew_from_a_memory_has_a_budget_of_its_own() -> None:
    outcome = go(GreedySampler(), "class")
    assert outcome.images == [4 * 20, 4 * 20, 4 * 18]
    assert outcome.stored_bytes == 12 * 64 * 4  # of the two tasks before
    again = go(GreedySampler(size=60), "class", training=Training(epochs=1, batch_size=8, lr=0.05, momentum=0.9))
    assert sum(again.task_agnostic[-1]) > 2.5  # type: ignore[arg-type]


def test_gates_are_trained_with_the_network_and_counted() -> None:
    method = HardAttention()
    outcome = go(method)
    assert outcome.parameters == sum(p.numel() for p in method.network.parameters()) + 3 * 16
    assert len({tuple(gate.tolist()) for gate in method.gates.values()}) == 3
    assert outcome.task_agnostic == [[None] * 3] * 4
    assert outcome.task_aware[-1][2] is not None

"""Training from scratch: each task gets a new network that knows nothing of the others.

    minimise  CE(ŷ_t, y_t)  over θ drawn anew from the stream (seed, 'scratch', t)

`latest` keeps one network, whose old blocks are untrained: its diagonal is the reference for transfer. `per-task` keeps
them all and answers a task with its own network ('separate networks' in Li & Hoiem 2016, arXiv 1606.09282): nothing is
forgotten, memory grows with the number of tasks, and the task's name must be known.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from clbench.errors import UsageError
from clbench.method.base import Method, Run, Scenario
from clbench.method.schedule import Training
from clbench.models.networks import ExpandingHeadModel
from clbench.sequences.tasks import Task


@dataclass
class Scratch(Method):
    """A new network for each task"""

    name: ClassVar[str] = "scratch"
    core: ClassVar[bool] = True
    plain_first_task: ClassVar[bool] = True
    networks: Literal["latest", "per-task"] = "latest"

    def check(self, scenario: Scenario, training: Training) -> None:
        if self.uses_task_name and scenario != "task":
            raise UsageError(
                f"scratch.networks=per-task needs the task's name, which the scenario {scenario} does not give: "
                "use --scenario task or scratch.networks=latest"
            )

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.kept: list[ExpandingHeadModel] = []

    @property
    def uses_task_name(self) -> bool:
        return self.networks == "per-task"

    def start_from(self, task: Task) -> Literal["fresh"]:
        return "fresh"

    def finish_task(self, model: ExpandingHeadModel, task: Task) -> None:
        if self.uses_task_name:
            self.kept.append(model)  # the next task starts from a new network, so this one stays as it is

    def predict(self, model: ExpandingHeadModel, x: Tensor, task: Task) -> Tensor:
        return self.kept[task.index](x) if task.index < len(self.kept) else model(x)

    def state(self) -> dict[str, Any]:
        return {"networks": [network.state_dict() for network in self.kept[:-1]]}  # the last one is the run's own

    def load_state(self, state: dict[str, Any], model: ExpandingHeadModel) -> None:
        if self.uses_task_name:
            self.kept = [*(model.restored(weights) for weights in state["networks"]), model]

"""Duplicating and fine-tuning: each task gets a tuned copy of the network, and the old ones are kept.

    minimise  CE(ŷ_n, y_n)  over a copy of θ_s, and θ_n

Li & Hoiem 2017, arXiv 1606.09282, section 2 and table 1. The copy starts from the network of the task before. Nothing
is forgotten, memory grows with the number of tasks, and the task's name must be known.
"""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from clbench.method.base import Method, Run
from clbench.models.networks import ExpandingHeadModel
from clbench.sequences.tasks import Task


@dataclass
class DuplicateFinetune(Method):
    """A fine-tuned copy of the network for each task, the old ones kept"""

    name: ClassVar[str] = "duplicate-finetune"
    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})
    plain_first_task: ClassVar[bool] = True

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.kept: list[ExpandingHeadModel] = []

    @property
    def uses_task_name(self) -> bool:
        return True

    def finish_task(self, model: ExpandingHeadModel, task: Task) -> None:
        self.kept.append(copy.deepcopy(model).requires_grad_(False))

    def predict(self, model: ExpandingHeadModel, x: Tensor, task: Task) -> Tensor:
        return self.kept[task.index](x) if task.index < len(self.kept) else model(x)

    def state(self) -> dict[str, Any]:
        return {"networks": [network.state_dict() for network in self.kept[:-1]]}  # the last one is the run's own

    def load_state(self, state: dict[str, Any], model: ExpandingHeadModel) -> None:
        networks = [*state["networks"], model.state_dict()]
        self.kept = [model.restored(weights).requires_grad_(False) for weights in networks]

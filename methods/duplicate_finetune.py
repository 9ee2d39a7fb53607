"""Duplicating and fine-tuning: each task gets a tuned copy of the network, and the old ones are kept.

    minimise  CE(ŷ_n, y_n)  over a copy of θ_s, and θ_n

Li & Hoiem 2017, arXiv 1606.09282, section 2 and table 1. The copy starts from the network of the task before. Nothing
is forgotten, memory grows with the number of tasks, and the task's name must be known.
"""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from clbench.method import Method, Run
from clbench.models import ExpandingHeadModel
from clbench.sequences import Task


@dataclass
class DuplicateFinetune(Method):
    """A fine-tuned copy of the network for each task, the old ones kept"""

    name: ClassVar[str] = "duplicate-finetune"
    captured: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})
    first_task_is_finetuning: ClassVar[bool] = True

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.kept: list[ExpandingHeadModel] = []

    def finish_task(self, task: Task) -> None:
        self.kept.append(copy.deepcopy(self.network).requires_grad_(False))

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        if task is None or task >= self.network.seen:
            return None
        return self.kept[task](x) if task < len(self.kept) else self.network(x)

    def state(self) -> dict[str, Any]:
        return {"networks": [network.state_dict() for network in self.kept[:-1]]}  # the last one is the run's own

    def load_state(self, state: dict[str, Any]) -> None:
        networks = [*state["networks"], self.network.state_dict()]
        self.kept = [self.network.restored(weights).requires_grad_(False) for weights in networks]

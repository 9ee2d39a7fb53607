"""Training from scratch: each task gets a new network that knows nothing of the others.

    minimise  CE(ŷ_t, y_t)  over θ drawn anew from the stream (seed, 'scratch', t)

Where the task is told, it is answered by its own network ('separate networks' in Li & Hoiem 2016, arXiv 1606.09282):
nothing is forgotten, and memory grows with the number of tasks. Elsewhere the latest network answers.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from clbench.method import Method, Run
from clbench.models import ExpandingHeadModel
from clbench.sequences import Task


@dataclass
class Scratch(Method):
    """A new network for each task"""

    name: ClassVar[str] = "scratch"
    captured: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    core: ClassVar[bool] = True
    first_task_is_finetuning: ClassVar[bool] = True
    networks: Literal["auto", "latest"] = "auto"  # that answer; auto: one per task in `task`, the latest elsewhere

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.kept: list[ExpandingHeadModel] = []

    @property
    def one_per_task(self) -> bool:
        return self.networks == "auto" and self.run.scenario == "task"

    def start_from(self, task: Task) -> Literal["fresh"]:
        return "fresh"

    def finish_task(self, task: Task) -> None:
        if self.one_per_task:
            self.kept.append(self.network)  # the next task starts from a new network, so this one stays as it is

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        if task is None or not self.one_per_task:
            return self.network(x)
        if task < len(self.kept):
            return self.kept[task](x)
        return self.network(x) if task < self.network.seen else None

    def state(self) -> dict[str, Any]:
        return {"networks": [network.state_dict() for network in self.kept[:-1]]}  # the last one is the run's own

    def load_state(self, state: dict[str, Any]) -> None:
        if self.one_per_task:
            self.kept = [*(self.network.restored(weights) for weights in state["networks"]), self.network]

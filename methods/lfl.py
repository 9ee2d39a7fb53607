"""Less-forgetting learning (Jung et al. 2016, arXiv 1607.00122, equations 1 to 3).

    minimise  CE(ŷ_n, y_n) + λ_e · ½ · ‖f(x; θ_o) − f(x; θ_s)‖²   over θ_s (and θ_n)      mean over the batch

f are the features before the head, θ_o the backbone after task n − 1: features should stay where they are, and the old
decision boundaries are frozen. As in Li & Hoiem 2017, table 1, a new task has a new block.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor

from clbench.method import Method, Phase, Run, Search, Step, Teacher
from clbench.models import ExpandingHeadModel
from clbench.sequences import Task


@dataclass
class LFL(Method):
    """Less-forgetting learning: keep the features of new images where the old network had them"""

    name: ClassVar[str] = "lfl"
    captured: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    mixed_labels: ClassVar[bool] = True
    family: ClassVar[str] = "distillation"
    first_task_is_finetuning: ClassVar[bool] = True
    # λ_e: of the distance between old and new features
    weight: Annotated[float, Ge(0), Search(1e-4, 1.0, log=True)] = 0.01
    freeze_old_blocks: bool = True  # old decision boundaries do not train; in `domain` that is the one block

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.old_network: Teacher | None = None  # gives f(x; θ_o) of new images [n, d]

    def start_task(self, task: Task) -> None:
        if task.index > 0 and self.weight > 0:
            self.old_network = Teacher(self.network, ExpandingHeadModel.features, task.train)

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        if task.index == 0 or not self.freeze_old_blocks:
            return [Phase(tasks=[task])]
        newest = [] if self.run.scenario == "domain" else self.network.newest.parameters()
        return [Phase(tasks=[task], trainable=[*self.network.backbone.parameters(), *newest])]

    def loss(self, step: Step) -> Tensor:
        if self.old_network is None:
            return step.cross_entropy()
        moved = step.features - self.old_network(step.batch)
        return step.cross_entropy() + self.weight / 2 * moved.square().sum(1).mean()

    def finish_task(self, task: Task) -> None:
        self.old_network = None

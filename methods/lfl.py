"""Less-forgetting learning (Jung et al. 2016, arXiv 1607.00122, equations 1 to 3).

    minimise  CE(ŷ_n, y_n) + λ_e · ½ · ‖f(x; θ_o) − f(x; θ_s)‖²   over θ_s (and θ_n)      mean over the batch

f are the features before the head, θ_o the backbone after task n − 1: features should stay where they are, and the old
decision boundaries are frozen. As in Li & Hoiem 2017, table 1, a new task has a new block.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge
from torch import Tensor, nn

from clbench.method.base import Batch, Criterion, Method, OldNetwork, Run
from clbench.models.networks import ExpandingHeadModel
from clbench.sequences.tasks import Task


@dataclass
class LFL(Method):
    """Less-forgetting learning: keep the features of new images where the old network had them"""

    name: ClassVar[str] = "lfl"
    plain_first_task: ClassVar[bool] = True
    weight: Annotated[float, Ge(0)] = 0.01  # λ_e
    freeze_old_blocks: bool = True  # old decision boundaries do not train; in `domain` that is the one block

    def begin(self, run: Run) -> None:
        super().begin(run)
        self._forget()

    def _forget(self) -> None:
        self.old: OldNetwork | None = None  # says f(x; θ_o) of new images [n, d]

    def start_task(self, model: ExpandingHeadModel, task: Task) -> None:
        if task.index > 0 and self.weight > 0:
            self.old = OldNetwork(model, ExpandingHeadModel.features, task.train, reuse=self.run.reuse)

    def trainable(self, model: ExpandingHeadModel, task: Task, epoch: int) -> Iterable[nn.Parameter]:
        if task.index == 0 or not self.freeze_old_blocks:
            return model.parameters()
        newest = [] if self.run.scenario == "domain" else model.newest.parameters()
        return [*model.backbone.parameters(), *newest]

    def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
        loss = criterion(model, batch)
        if self.old is None:
            return loss
        return loss + self.weight / 2 * (batch.features - self.old(batch)).square().sum(1).mean()

    def finish_task(self, model: ExpandingHeadModel, task: Task) -> None:
        self._forget()

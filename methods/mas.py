"""Memory aware synapses (Aljundi et al. 2018, arXiv 1711.09601, equations 2 to 4).

    minimise  CE(ŷ_n, y_n) + λ · Σ_i Ω_i (θ_i − θ*_i)²      θ*: the weights after task n − 1

    Ω_i += mean over the images of the last task of |∂ ‖f(x; θ*)‖² / ∂θ_i|      f: the outputs before the softmax

No label is needed. `outputs` are those that the scenario's loss uses.
"""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge

from clbench.method import Criterion, Search
from clbench.method.importance import importance
from clbench.method.penalty import QuadraticPenalty, snapshot
from clbench.sequences import Task


@dataclass
class MAS(QuadraticPenalty):
    """Memory aware synapses: a pull by how much each weight moves the outputs"""

    name: ClassVar[str] = "mas"
    captured: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    first_task_is_finetuning: ClassVar[bool] = True
    strength: Annotated[float, Ge(0), Search(1e-4, 1e3, log=True)] = 0.03  # λ: how strongly old weights pull
    reduction: Literal["sum", "mean"] = "sum"  # of the squared outputs; mean: divided by their number (Hsu et al. 2018)
    batch: Annotated[int, Ge(1)] = 1  # images whose mean gradient is taken before the absolute value (Hsu: 128)
    # the weight of earlier tasks' Ω beside the new one's; 0: as in A-GEM's code, where it starts anew after each task
    carried: Annotated[float, Ge(0)] = field(default=1.0, metadata={"added": True})

    def finish_task(self, task: Task) -> None:
        outputs = Criterion(self.run.scenario).columns(self.network, task.index)
        divisor = outputs.stop - outputs.start if self.reduction == "mean" else 1
        order = self.run.stream("importance batches", task.index)
        new = importance(
            self.network, task.train, outputs, lambda z, rows: z.square().sum(1) / divisor, torch.abs, self.batch, order
        )
        self.accumulate(snapshot(self.network), new, self.carried)

"""L2: stay near the weights after the last task, all of them alike.

    minimise  CE(ŷ_n, y_n) + λ · [½] · Σ_i (θ_i − θ*_i)²      θ*: the weights after task n − 1

A baseline of Kirkpatrick et al. 2017, 'Overcoming catastrophic forgetting in neural networks', arXiv 1612.00796, and of
Hsu et al. 2018, arXiv 1810.12488.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge

from clbench.method import Search
from clbench.method.penalty import Quadratic, QuadraticPenalty, snapshot
from clbench.sequences import Task


@dataclass
class L2(QuadraticPenalty):
    """L2 pull towards the weights after the task before, all alike"""

    name: ClassVar[str] = "l2"
    captured: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    first_task_is_finetuning: ClassVar[bool] = True
    strength: Annotated[float, Ge(0), Search(1e-4, 10.0, log=True)] = 0.01  # λ: how strongly old weights pull

    def finish_task(self, task: Task) -> None:
        self.quadratic = Quadratic(snapshot(self.network), None)

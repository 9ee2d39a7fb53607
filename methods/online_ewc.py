"""Online elastic weight consolidation (Schwarz et al. 2018, 'Progress & compress', arXiv 1805.06370, section 3.2).

    minimise  CE(ŷ_n, y_n) + λ/2 · Σ_i F*_{n−1,i} (θ_i − θ*_{n−1,i})²      F*_t = γ F*_{t−1} + F_t

One term instead of one per task: importances are summed, and the anchor is the weights after the last task. F_t as in
`ewc.py`. After one task it is EWC.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from clbench.method.penalty import snapshot
from clbench.sequences import Task

from .ewc import EWC


@dataclass
class OnlineEWC(EWC):
    """Elastic weight consolidation with one running term for all old tasks"""

    name: ClassVar[str] = "online-ewc"
    captured: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    first_task_is_finetuning: ClassVar[bool] = True
    gamma: Annotated[float, Ge(0), Le(1)] = 1.0  # γ: what remains of earlier importances at each new task

    def finish_task(self, task: Task) -> None:
        self.accumulate(snapshot(self.network), self.fisher(task), self.gamma)

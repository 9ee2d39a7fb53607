"""Joint training: the union of all tasks seen so far, the upper bound of a comparison.

    minimise  Σ_{t ≤ n} CE(ŷ_t, y_t)  over θ_s, θ_o, θ_n

Caruana 1997, 'Multitask Learning'; as a baseline in Li & Hoiem 2016, arXiv 1606.09282, section 2. It keeps all data,
and its epochs are passes over the union, so its updates grow with the number of tasks: the record counts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from clbench.method import Method, Phase
from clbench.sequences import Task


@dataclass
class Joint(Method):
    """Training on all tasks seen so far together, from the initial weights each time"""

    name: ClassVar[str] = "joint"
    captured: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    core: ClassVar[bool] = True
    memory: ClassVar[bool] = True
    first_task_is_finetuning: ClassVar[bool] = True
    # cumulative: from the initial weights at each task; incremental: from the last ones; final: once, at the end
    mode: Literal["cumulative", "incremental", "final"] = "cumulative"
    task_share: Literal["proportional", "equal"] = "proportional"  # of a batch, per task: by its images, or alike

    def start_from(self, task: Task) -> Literal["previous", "initial"]:
        return "previous" if self.mode == "incremental" else "initial"

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        if self.mode == "final" and task.index < self.run.tasks - 1:
            return []
        return [Phase(tasks=[*earlier, task], equal_shares=self.task_share == "equal")]

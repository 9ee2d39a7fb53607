"""Feature extraction: after the first task the backbone is frozen and only a new classifier trains on its features.

    minimise  CE(ŷ_n, y_n)  over θ_n, with θ_s (and θ_o) fixed

Donahue et al. 2014, 'DeCAF', arXiv 1310.1531; as a baseline in Li & Hoiem 2016, arXiv 1606.09282, section 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from clbench.method import Method, Phase
from clbench.sequences import Task


@dataclass
class FeatureExtraction(Method):
    """Freeze the backbone after the first task and train only the newest block of the head"""

    name: ClassVar[str] = "feature-extraction"
    captured: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    core: ClassVar[bool] = True
    first_task_is_finetuning: ClassVar[bool] = True

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        return [Phase(tasks=[task], trainable=self.network.newest.parameters() if task.index else None)]

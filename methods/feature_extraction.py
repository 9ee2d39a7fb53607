"""Feature extraction: after the first task the backbone is frozen and only a new classifier trains on its features.

    minimise  CE(ŷ_n, y_n)  over θ_n, with θ_s (and θ_o) fixed

Donahue et al. 2014, 'DeCAF', arXiv 1310.1531; as a baseline in Li & Hoiem 2016, arXiv 1606.09282, section 2.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from clbench.method.base import Method
from clbench.models.networks import ExpandingHeadModel
from clbench.sequences.tasks import Task


@dataclass
class FeatureExtraction(Method):
    """Freeze the backbone after the first task and train only the newest block of the head"""

    name: ClassVar[str] = "feature-extraction"
    core: ClassVar[bool] = True
    plain_first_task: ClassVar[bool] = True

    def trainable(self, model: ExpandingHeadModel, task: Task, epoch: int) -> Iterable[nn.Parameter]:
        return model.parameters() if task.index == 0 else model.newest.parameters()

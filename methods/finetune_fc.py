"""Fine-tuning of the fully connected layers: after the first task the convolutions are frozen.

    minimise  CE(ŷ_n, y_n)  over θ_n and the fully connected layers of θ_s

'Fine-tune FC' in Li & Hoiem 2017, arXiv 1606.09282, table 1. With a backbone of fully connected layers alone it is
fine-tuning, with one that has none it is feature extraction whose old blocks may train.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from clbench.method.base import Method
from clbench.models.networks import ExpandingHeadModel
from clbench.sequences.tasks import Task


@dataclass
class FinetuneFC(Method):
    """Fine-tuning of the fully connected layers only, after the first task"""

    name: ClassVar[str] = "finetune-fc"
    plain_first_task: ClassVar[bool] = True

    def trainable(self, model: ExpandingHeadModel, task: Task, epoch: int) -> Iterable[nn.Parameter]:
        if task.index == 0:
            return model.parameters()
        return [p for module in model.modules() if isinstance(module, nn.Linear) for p in module.parameters()]

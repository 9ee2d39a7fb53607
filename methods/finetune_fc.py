"""Fine-tuning of the fully connected layers: after the first task the convolutions are frozen.

    minimise  CE(ŷ_n, y_n)  over θ_n and the fully connected layers of θ_s

'Fine-tune FC' in Li & Hoiem 2017, arXiv 1606.09282, table 1. With a backbone of fully connected layers alone it is
fine-tuning, with one that has none it is feature extraction whose old blocks may train.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from clbench.method import Method, Phase
from clbench.sequences import Task


@dataclass
class FinetuneFC(Method):
    """Fine-tuning of the fully connected layers only, after the first task"""

    name: ClassVar[str] = "finetune-fc"
    captured: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    first_task_is_finetuning: ClassVar[bool] = True

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        layers = [module for module in self.network.modules() if isinstance(module, nn.Linear)]
        fully_connected = [parameter for layer in layers for parameter in layer.parameters()]
        return [Phase(tasks=[task], trainable=fully_connected if task.index else None)]

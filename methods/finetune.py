"""Fine-tuning: carry the weights on and train everything that the new task's loss reaches.

    minimise  CE(ŷ_n, y_n)  over θ_s, θ_n        (θ_o fixed in the task scenario: no loss reaches it)

The lower bound of most comparisons (Li & Hoiem 2016, 'Learning without Forgetting', arXiv 1606.09282, section 2).
"""

from dataclasses import dataclass
from typing import ClassVar

from clbench.method import Method


@dataclass
class Finetune(Method):
    """Fine-tuning on each task in turn: the network forgets freely"""

    name: ClassVar[str] = "finetune"
    captured: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    core: ClassVar[bool] = True
    first_task_is_finetuning: ClassVar[bool] = True

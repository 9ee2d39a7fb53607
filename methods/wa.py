"""Weight alignment (Zhao et al. 2020, 'Maintaining discrimination and fairness in class incremental learning', CVPR).

    minimise  (1 − λ) · CE(ŷ, y) + λ · H(q, ŷ_old)   over new images and exemplars,   λ = old classes / all so far
    then      w_new ← γ · w_new,   γ = mean ‖w_old‖ / mean ‖w_new‖

q = softmax(z_old / T): the old network's responses. Training favours new classes, of which there is more data: their
weights grow longer. So that length tells of size, no weight of the head is below 0, where features aren't either. The
exemplars are chosen by herding. The head's biases stay as they are.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor

from clbench.method import Choice, Search, Step
from clbench.method.exemplars import WithExemplars
from clbench.sequences import Task


@dataclass
class WA(WithExemplars):
    """Weight alignment: new classes' weights are made as long as old ones' after each task"""

    name: ClassVar[str] = "wa"
    mixed_labels: ClassVar[bool] = True
    keeps: ClassVar[Choice] = "herding"
    temperature: Annotated[float, Gt(0), Search(choices=(1.0, 2.0, 4.0))] = 2.0  # T
    align: bool = True  # set the weights; false: distillation and exemplars alone
    positive: bool = True  # cut the head's weights at 0 after every step, so that longer ones mean larger outputs

    def loss(self, step: Step) -> Tensor:
        if self.old_network is None:
            return step.cross_entropy()
        then, outputs = self.old_network(step.batch), step.outputs
        return self.with_distillation(step.cross_entropy(), outputs, then, self.temperature)

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        if self.positive:
            for block in self.network.head:
                block.weight.clamp_(min=0)  # type: ignore[operator]

    @torch.no_grad()
    def finish_task(self, task: Task) -> None:
        if task.index and self.align:
            lengths = [block.weight.norm(dim=1) for block in self.network.head[: self.network.seen]]  # type: ignore
            self.network.newest.weight *= torch.cat(lengths[:-1]).mean() / lengths[-1].mean()
        super().finish_task(task)

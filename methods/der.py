"""Dark experience replay (Buzzega et al. 2020, arXiv 2004.07211, equation 4).

    minimise  CE(ŷ, y)  over the new batch  +  α · ‖z − h(x)‖²  over samples (x, z) of the memory

h(x): the network's outputs before the softmax; z: those at the moment when x was stored. The squared distance is the
mean over the outputs that there were then, as in the authors' code, and the mean over samples. The memory is a
reservoir. In the paper all outputs compete from the start, which the class scenario needs:
`--set training.full_head=true --set training.loss_over=all`.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from clbench.method import Rehearsal, Search, Step


@dataclass
class DER(Rehearsal):
    """Dark experience replay: outputs on stored images are held near those they had when they were stored"""

    name: ClassVar[str] = "der"
    memory_batch: Annotated[int, Ge(1)] | None = None  # images from the memory in a step; none: as many as new ones
    alpha: Annotated[float, Ge(0), Search(0.05, 2.0, log=True)] = 0.5  # α: weight of the squared distance

    def loss(self, step: Step) -> Tensor:
        features = step.features.detach()
        with torch.no_grad():  # z of the new images
            self.outputs = step.network.logits(features, step.criterion.blocks(step.network))
        old = self.memory_step(step, self.memory_batch or len(step.batch))
        loss = step.cross_entropy()
        return loss if old is None else loss + self.alpha * self.distance(old)

    def distance(self, old: Step) -> Tensor:
        """Return ‖z − h(x)‖², mean over the outputs that a sample had, and over samples."""
        then, count = old.batch.extras["outputs"], old.batch.extras["count"]
        now = old.outputs[:, : then.shape[1]]
        there = torch.arange(then.shape[1], device=then.device) < count[:, None]
        return (torch.where(there, now - then, 0.0).square().sum(1) / count).mean()

    def after_step(self, step: Step) -> None:
        count = torch.full((len(self.outputs),), self.outputs.shape[1], device=self.outputs.device)
        self.buffer.add(step.batch, outputs=self.outputs, count=count)

"""SS-IL: separated softmax for incremental learning (Ahn et al. 2021, arXiv 2003.13947).

    minimise  CE_new(ŷ, y) on new images + CE_old(ŷ, y) on stored ones  +  Σ_{old tasks s} H(q_s, ŷ_s)  on both

CE_new: among the new classes alone, CE_old: among the old ones; together the mean over the batch.
q_s = softmax(z_s / T) over the classes of task s, of the old network. So new images do not push old outputs down, and
what is distilled holds no bias between tasks. Each batch of new images is joined by a number of stored ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from clbench.method import Choice, Phase, Search, Step
from clbench.method.exemplars import WithExemplars
from clbench.sequences import Task


@dataclass
class SSIL(WithExemplars):
    """Separated softmax: new classes compete among themselves, as do old ones; distillation by task"""

    name: ClassVar[str] = "ss-il"
    keeps: ClassVar[Choice] = "random"
    memory_batch: Annotated[int, Ge(1)] | None = None  # stored images in a step; none: a quarter of the new ones
    temperature: Annotated[float, Gt(0), Search(choices=(1.0, 2.0, 4.0))] = 2.0  # T

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        (phase,) = super().phases(task, earlier)
        n_old = self.memory_batch or max(1, self.run.training.batch_size // 4)
        return [replace(phase, old_images=n_old if len(phase.tasks) > 1 else None)]

    def loss(self, step: Step) -> Tensor:
        if self.old_network is None:
            return step.cross_entropy()
        then, outputs, y = self.old_network(step.batch), step.outputs, step.batch.y
        is_old = torch.arange(outputs.shape[1], device=y.device) < self.n_old
        separated = outputs.masked_fill(is_old != (y < self.n_old)[:, None], -torch.inf)
        return step.cross_entropy_of(separated, y) + self.distillation(outputs[:, : self.n_old], then)

    def distillation(self, now: Tensor, then: Tensor) -> Tensor:
        """Return Σ_s H(q_s, ŷ_s), mean over the batch; outputs [n, old classes] of the two networks."""
        widths = self.network.widths[: self.network.seen - 1]
        pairs = zip((now / self.temperature).split(widths, 1), (then / self.temperature).split(widths, 1), strict=True)
        return sum((F.cross_entropy(z, before.softmax(1)) for z, before in pairs), now.new_zeros(()))

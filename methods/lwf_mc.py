"""LwF.MC: LwF with a binary loss per class (Rebuffi et al. 2017, arXiv 1611.07725, section 4).

    minimise  Σ_{new classes} BCE(σ(z_c), 1[y = c])  +  Σ_{old classes} BCE(σ(z_c), q_c)

q_c = σ of the old network's output on the same image, before training. It is iCaRL without exemplars, which answers by
its outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.method import Method, Phase, Run, Step, Teacher
from clbench.models import ExpandingHeadModel
from clbench.sequences import Task
from clbench.sequences.tasks import concat


@dataclass
class LwFMC(Method):
    """Distillation and learning by binary losses, one per class, without old images"""

    name: ClassVar[str] = "lwf-mc"
    family: ClassVar[str] = "distillation"
    scenarios: ClassVar[frozenset[str]] = frozenset({"class"})
    reduction: Literal["sum", "mean"] = "sum"  # over the classes

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.old_network: Teacher | None = None

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        tasks = [*self.kept(earlier), task]
        if task.index:
            data = concat([one.train for one in tasks])
            self.old_network = Teacher(self.network, partial(responses, range(task.index)), data)
        return [Phase(tasks=tasks)]

    def kept(self, earlier: Sequence[Task]) -> Sequence[Task]:
        """Return what there is of earlier tasks."""
        return []

    def loss(self, step: Step) -> Tensor:
        outputs, y = step.outputs, step.batch.y
        step.answers.append((outputs.detach(), y))
        targets = (y[:, None] == torch.arange(outputs.shape[1], device=y.device)).to(outputs)
        if self.old_network is not None:
            responses = self.old_network(step.batch)
            targets = torch.cat([responses, targets[:, responses.shape[1] :]], 1)
        losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none").mean(0)
        return losses.sum() if self.reduction == "sum" else losses.mean()

    def finish_task(self, task: Task) -> None:
        self.old_network = None


def responses(blocks: Sequence[int], network: ExpandingHeadModel, x: Tensor) -> Tensor:
    """Return σ(z) of images for the classes of some blocks [n, their classes]."""
    return network.logits(network.features(x), blocks).sigmoid()

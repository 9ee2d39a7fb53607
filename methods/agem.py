"""Averaged gradient episodic memory (Chaudhry et al. 2019, arXiv 1812.00420, equation 11).

    g' = g − (gᵀ r / rᵀ r) · r   if gᵀ r < 0, else g

g: the gradient on the new batch; r: that on a batch drawn from the memory of all old tasks, M/T samples of each, kept
at random when it has been learnt. g' is what the optimiser takes: it does not raise the loss on that batch.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge

from clbench.method import Choice, GradientOf, Gradients, Rehearsal, Step
from clbench.sequences import Task


@dataclass
class AGEM(Rehearsal):
    """A-GEM: a step may not raise the loss on a batch of old samples, to first order"""

    name: ClassVar[str] = "agem"
    first_task_is_finetuning: ClassVar[bool] = True
    keeps: ClassVar[Choice] = "random"
    groups: ClassVar[Literal["classes", "tasks"]] = "tasks"
    memory_batch: Annotated[int, Ge(1)] = 256  # samples that r is computed on, at most

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        own = gradient_of(self.loss(step))
        old = self.memory_step(step, self.memory_batch)
        return own if old is None else project(own, gradient_of(old.cross_entropy()))

    def finish_task(self, task: Task) -> None:
        self.keep_share(task)


def project(own: Gradients, reference: Gradients) -> Gradients:
    """Return g' for gradients by parameter name; one that is missing is zero."""
    dot = sum(((own[name] * r).sum() for name, r in reference.items() if name in own), torch.tensor(0.0))
    share = dot.clamp(max=0) / sum((r.square().sum() for r in reference.values()), torch.tensor(0.0))
    share = torch.where(dot < 0, share, 0.0)  # where r is zero there is nothing to project on
    changed = {name: -share * r for name, r in reference.items() if name not in own}
    return changed | {name: g - share * reference[name] if name in reference else g for name, g in own.items()}

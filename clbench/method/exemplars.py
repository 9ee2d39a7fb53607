"""The base of methods that train on new images and exemplars together, and hold the network near the old one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from clbench.method.learner import Run
from clbench.method.phase import Phase
from clbench.method.rehearsal import Rehearsal
from clbench.method.teacher import Teacher
from clbench.models.head import ExpandingHeadModel
from clbench.sequences.tasks import Task, concat


@dataclass
class WithExemplars(Rehearsal):
    """Base of methods with exemplars and an old network, which is there from the second task on"""

    scenarios: ClassVar[frozenset[str]] = frozenset({"class"})
    # images of each class that are kept at most; none: each class has an equal share of the memory
    per_class: Annotated[int, Ge(1)] | None = field(default=None, metadata={"added": True})

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.old_network: Teacher | None = None

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        tasks = [*self.buffer.tasks(earlier), task]
        self.ask_old_network(tasks)
        return [Phase(tasks=tasks)]

    def ask_old_network(self, tasks: Sequence[Task]) -> None:
        """Let the network as it is now respond to the images of these tasks, if it has learnt any before."""
        if self.n_old:
            self.old_network = Teacher(self.network, self.responses, concat([task.train for task in tasks]))

    @property
    def n_old(self) -> int:
        """How many classes came before the current task's."""
        return self.network.columns(self.network.seen - 1).start

    def responses(self, network: ExpandingHeadModel, x: Tensor) -> Tensor:
        """Return the old network's outputs for images [n, old classes]."""
        return network.logits(network.features(x), range(self.network.seen - 1))

    def with_distillation(self, cross_entropy: Tensor, outputs: Tensor, then: Tensor, temperature: float) -> Tensor:
        """Return (1 − λ) · CE + λ · H(q, ŷ_old): λ is the share of old classes, q = softmax(z_old / T).

        Outputs are z now [n, classes], and `then` z_old [n, old classes].
        """
        share = self.n_old / sum(self.network.widths[: self.network.seen])
        q = (then / temperature).softmax(1)
        return (1 - share) * cross_entropy + share * F.cross_entropy(outputs[:, : self.n_old] / temperature, q)

    def finish_task(self, task: Task) -> None:
        self.old_network = None
        self.keep(task, most=self.per_class)

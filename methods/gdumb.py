"""GDumb (Prabhu, Torr & Dokania 2020, section 3): a balanced memory, and a network trained from it alone.

    M = the samples that the greedy balancing sampler has kept of all that went by
    minimise  CE(ŷ, y)  over M, from new weights, after each task

It asks how much of a benchmark's accuracy a memory alone gives. A pass is one over M, which has few images: one pass,
as others make over all images, would leave the network untrained. The authors make tens of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge

from clbench.method import Batch, Choice, Phase, Rehearsal, Step
from clbench.sequences import Task


@dataclass
class GDumb(Rehearsal):
    """Greedily keep as many samples of each class, and train a new network from them alone after each task"""

    name: ClassVar[str] = "gdumb"
    keeps: ClassVar[Choice] = "greedy"
    images: Annotated[int, Ge(1)] = 500  # in the memory
    passes: Annotated[int, Ge(1)] | None = 30  # over the memory; none: the budget of training, as all methods

    def start_from(self, task: Task) -> Literal["initial"]:
        return "initial"

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        columns = self.columns(task)
        order = torch.randperm(len(columns), generator=self.run.stream("order", task.index)).to(columns.device)
        for rows in order.split(1024):
            ids = torch.full_like(rows, task.index)
            self.buffer.add(Batch(task.train.raw(rows), columns[rows], ids, [task.index], rows, task.train))
        tasks = self.buffer.tasks([*earlier, task])
        return [Phase(tasks=tasks, epochs=self.passes, extra=self.passes is not None)]

    def after_step(self, step: Step) -> None:
        """The memory has been filled before."""

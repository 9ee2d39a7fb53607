"""Replay (rehearsal): keep some images of each old task, drawn at random, and train on them again.

    minimise  CE(ŷ, y)  over the new task's images and those of a memory M of old ones

Ratcliff 1990, 'Connectionist models of recognition memory'; Robins 1995; as 'naive rehearsal' in Hsu et al. 2018, arXiv
1810.12488. The memory counts in images. It is shared equally among the tasks so far. `er.py` fills its memory while
training goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from clbench.method import Choice, Phase, Rehearsal, Step
from clbench.sequences import Task


@dataclass
class Replay(Rehearsal):
    """Replay: train on some stored images of old tasks again"""

    name: ClassVar[str] = "replay"
    first_task_is_finetuning: ClassVar[bool] = True
    keeps: ClassVar[Choice] = "random"
    groups: ClassVar[Literal["classes", "tasks"]] = "tasks"
    images: Annotated[int, Ge(0)] = 1000  # in the memory
    # what is done with places that the tasks so far cannot share equally. shared: the earlier ones have one more each;
    # unused: left empty, images // tasks each (Hsu et al. 2018)
    remainder: Literal["shared", "unused"] = "shared"
    # beside: each batch of new images is joined by old ones; concatenate: the memory, repeated until it is about as
    # large as the new task's data, is shuffled with these, so that there are more updates (Hsu et al. 2018)
    mode: Literal["beside", "concatenate"] = "beside"
    share: Annotated[float, Gt(0), Lt(1)] = 0.5  # of the images of a step that are old ones, in mode=beside
    # images: all weigh the same; tasks: with n tasks so far the new images weigh 1/n together, the old ones 1 − 1/n
    weighting: Literal["images", "tasks"] = "images"

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        self.new = task.index
        old = self.buffer.tasks(earlier)
        if self.mode == "beside":
            size = self.run.training.batch_size
            return [Phase(tasks=[*old, task], old_images=max(1, round(size * self.share / (1 - self.share))))]
        times = max(len(task.train) // self.images, 1) if old else 1
        return [Phase(tasks=[*old * times, task])]

    def loss(self, step: Step) -> Tensor:
        n, batch = self.new + 1, step.batch
        if self.weighting == "images" or not len(self.buffer):
            return step.cross_entropy()
        new = batch.task_ids == self.new
        n_new = new.sum().clamp(min=1)
        n_old = (len(batch) - n_new).clamp(min=1)
        return step.cross_entropy(torch.where(new, 1 / (n * n_new), (1 - 1 / n) / n_old) * len(batch))

    def finish_task(self, task: Task) -> None:
        self.keep(task, remainder=self.remainder == "shared")

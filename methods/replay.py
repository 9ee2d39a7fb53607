"""Replay (rehearsal): keep some images of old tasks and train on them again.

    minimise  CE(ŷ, y)  over the new task's images and those of a memory M of old ones

Ratcliff 1990, 'Connectionist models of recognition memory'; Robins 1995; as 'naive rehearsal' in Hsu et al. 2018, arXiv
1810.12488, and as 'experience replay' in Chaudhry et al. 2019, arXiv 1902.10486. The memory counts in images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from clbench.errors import UsageError
from clbench.method import Method, Phase, Run, Scenario, Step, Training
from clbench.sequences import Task


@dataclass
class Replay(Method):
    """Replay: train on some stored images of old tasks again"""

    name: ClassVar[str] = "replay"
    memory: ClassVar[bool] = True
    first_task_is_finetuning: ClassVar[bool] = True
    images: Annotated[int, Ge(0)] = 1000  # in the memory
    per_class: bool = False  # `images` counts those of each class; false: of all, shared among the tasks so far
    # equal: drawn at random at the end of a task, earlier ones cut down to make room; where the tasks so far do not
    # divide `images`, the earlier ones have one more. random: the same, but the remainder is left out (Hsu: images //
    # tasks). reservoir: every image seen so far is as likely to be there (Vitter 1985)
    choice: Literal["equal", "random", "reservoir"] = "equal"
    # beside: each batch of new images is joined by old ones; concatenate: the memory, repeated until it is about as
    # large as the new task's data, is shuffled with these, so that there are more updates (Hsu et al. 2018)
    mode: Literal["beside", "concatenate"] = "beside"
    share: Annotated[float, Gt(0), Lt(1)] = 0.5  # of the images of a step that are old ones, in mode=beside
    # images: all weigh the same; tasks: with n tasks so far the new images weigh 1/n together, the old ones 1 − 1/n
    weighting: Literal["images", "tasks"] = "images"

    def check(self, scenario: Scenario, training: Training) -> None:
        if self.per_class and self.choice == "reservoir":
            raise UsageError("replay.choice=reservoir shares one memory among all images: it has no per_class")

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.stored: list[Tensor] = []  # of each task so far: rows of its training set
        self.passed = 0  # images that went by the reservoir

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        old = [
            replace(other, train=other.train.subset(rows.to(other.train.y.device)))
            for other, rows in zip(earlier, self.stored, strict=True)
            if len(rows)
        ]
        if self.mode == "beside":
            size = self.run.training.batch_size
            return [Phase(tasks=[*old, task], old_images=max(1, round(size * self.share / (1 - self.share))))]
        size = sum(map(len, self.stored)) if self.per_class else self.images
        times = max(len(task.train) // size, 1) if old else 1
        return [Phase(tasks=[*old * times, task])]

    def loss(self, step: Step) -> Tensor:
        n, batch = len(self.stored) + 1, step.batch
        if self.weighting == "images" or not any(map(len, self.stored)):
            return step.cross_entropy()
        new = batch.task_ids == n - 1
        n_new = new.sum().clamp(min=1)
        n_old = (len(batch) - n_new).clamp(min=1)
        return step.cross_entropy(torch.where(new, 1 / (n * n_new), (1 - 1 / n) / n_old) * len(batch))

    def finish_task(self, task: Task) -> None:
        draws = self.run.stream("memory", task.index)
        if self.choice == "reservoir":
            self._flow(len(task.train), draws)
        elif self.per_class:
            y = task.train.y.cpu()
            order = torch.randperm(len(y), generator=draws)
            ordered = y[order]
            self.stored.append(torch.cat([order[ordered == c][: self.images] for c in range(len(task.classes))]))
        else:
            share, left = divmod(self.images, len(self.stored) + 1)
            left = left if self.choice == "equal" else 0
            self.stored.append(torch.randperm(len(task.train), generator=draws))
            self.stored = [rows[: share + (index < left)] for index, rows in enumerate(self.stored)]

    def _flow(self, count: int, draws: torch.Generator) -> None:
        """Let a task's images pass the reservoir in random order: image number i takes one of i places at random."""
        slots = [(index, row) for index, rows in enumerate(self.stored) for row in rows.tolist()]
        order, uniform = torch.randperm(count, generator=draws), torch.rand(count, generator=draws, dtype=torch.double)
        places = (uniform * torch.arange(self.passed + 1, self.passed + count + 1)).long()
        for row, place in zip(order.tolist(), places.tolist(), strict=True):
            if len(slots) < self.images:
                slots.append((len(self.stored), row))
            elif place < self.images:
                slots[place] = (len(self.stored), row)
        self.passed += count
        self.stored = [
            torch.tensor([row for index, row in slots if index == task], dtype=torch.long)
            for task in range(len(self.stored) + 1)
        ]

    def state(self) -> dict[str, Any]:
        return {"stored": self.stored, "passed": self.passed}

    def load_state(self, state: dict[str, Any]) -> None:
        self.stored, self.passed = state["stored"], state["passed"]

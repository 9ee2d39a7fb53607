"""The base of methods that train on a memory of earlier samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from clbench.method.choices import ONLINE, Choice, herding
from clbench.method.learner import Run
from clbench.method.memory import Memory
from clbench.method.method import Method
from clbench.method.step import Step
from clbench.method.teacher import in_chunks
from clbench.sequences.tasks import Task


@dataclass
class Rehearsal(Method):
    """Base of methods with a memory of `images` samples. They fill it batch by batch, or after each task."""

    family: ClassVar[str] = "rehearsal"
    memory: ClassVar[bool] = True
    keeps: ClassVar[Choice] = "reservoir"  # which samples are kept
    groups: ClassVar[Literal["classes", "tasks"]] = "classes"  # what shares the memory, where it has shares
    images: Annotated[int, Ge(0)] = 500  # in the memory

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.buffer = Memory(self.images, run, self.keeps)

    def memory_step(self, step: Step, n: int, purpose: str = "first") -> Step | None:
        """Return the same step on up to `n` samples of the memory; None while it is empty. See Memory.sample."""
        return step.on(self.buffer.sample(n, purpose)) if len(self.buffer) else None

    def joined_step(self, step: Step, n: int) -> Step:
        """Return the same step on the new batch and up to `n` samples of the memory together."""
        return step.on(step.batch.joined(self.buffer.sample(n))) if len(self.buffer) else step

    def after_step(self, step: Step) -> None:
        if self.buffer.choice in ONLINE:
            self.buffer.add(step.batch)

    def finish_task(self, task: Task) -> None:
        if self.buffer.choice not in ONLINE:
            self.keep(task)

    def keep_share(self, task: Task) -> None:
        """Keep the same number of samples of each task of the sequence, drawn at random: M/T of T tasks."""
        self.keep(task, self.run.tasks)

    def keep(self, task: Task, groups: int | None = None, remainder: bool = True, most: int | None = None) -> None:
        """Fill the memory with samples of a task that has been learnt: drawn at random, or by herding.

        The last three are those of Memory.add_task.
        """
        y, by_task = self.columns(task), self.groups == "tasks" or self.buffer.by_task
        if self.buffer.choice == "herding":
            features = in_chunks(self.embed, task.train, self.network.chunk).cpu()
        order = torch.randperm(len(y), generator=self.run.stream("memory", task.index))
        ranked: dict[int, Tensor] = {}
        new = [task.index] if by_task else y.unique().tolist()
        share = -(-self.images // max(groups or 0, len(self.buffer.contents.members) + len(new)))  # the most of a group
        for group in new:
            rows = order if by_task else order[(y.cpu() == group)[order]]
            if self.buffer.choice == "herding":
                rows = rows.sort().values
                rows = rows[herding(features[rows], share)]
            ranked[group] = rows
        self.buffer.add_task(task, y, ranked, groups, remainder, most)

    def columns(self, task: Task) -> Tensor:
        """Return the column of the head of each of a task's training images: int64 [n]."""
        return task.train.y + self.run.first_column(self.network, task.index)

    def embed(self, x: Tensor) -> Tensor:
        """Return what herding compares: features of images [n, *input_shape], scaled to length 1 [n, d]."""
        return F.normalize(self.network.features(x))

    def stored_images(self) -> int:
        return len(self.buffer)

    def state(self) -> dict[str, Any]:
        return self.buffer.state()

    def load_state(self, state: dict[str, Any]) -> None:
        self.buffer.load_state(state)

"""A task of clbench's as an experience of Avalanche's: the same images, normalised in the same way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from avalanche.benchmarks import DatasetExperience
from avalanche.benchmarks.utils import ConstantSequence, DataAttribute, TaskAwareSupervisedClassificationDataset
from torch import Tensor
from torch.utils.data import Dataset

from clbench.sequences.tasks import Split, Task


class Images(Dataset):
    """Images and labels one by one, on the CPU, as Avalanche's loaders ask for them.

    They are made as batches of clbench's are, beforehand unless they are augmented.
    """

    def __init__(self, split: Split, labels: Sequence[int]):
        self.split, self.labels = split, labels
        self.made = None if split.augment else split.batch(torch.arange(len(split), device=split.y.device)).cpu()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.made is not None:
            return self.made[index], self.labels[index]
        row = torch.tensor([index], device=self.split.y.device)
        return self.split.batch(row, torch.default_generator)[0].cpu(), self.labels[index]


class Experience(DatasetExperience):
    """A task as a strategy sees it. Its dataset can be replaced, as BiC does with those of Avalanche's benchmarks."""

    def __init__(self, task: Task, first_label: int, task_label: int, widths: Sequence[int], before: Iterable[int]):
        labels = (task.train.y + first_label).tolist()
        attributes = [
            DataAttribute(labels, "targets"),
            DataAttribute(ConstantSequence(task_label, len(labels)), "targets_task_labels", use_in_getitem=True),
        ]
        data = TaskAwareSupervisedClassificationDataset([Images(task.train, labels)], data_attributes=attributes)
        super().__init__(dataset=data, current_experience=task.index)
        self.now = data
        self.task_label, self.task_labels = task_label, [task_label]
        self.classes_in_this_experience = sorted(set(labels))
        self.previous_classes = set(before)
        self.classes_seen_so_far = self.previous_classes | set(labels)
        self.future_classes: set[int] = set()  # nobody knows what comes
        # what iCaRL asks its benchmark for: the classes of each experience, in their order
        self.benchmark: Any = SimpleNamespace(n_classes_per_exp=list(widths), classes_order=list(range(sum(widths))))

    @property
    def dataset(self) -> Any:
        return self.now

    @dataset.setter
    def dataset(self, data: Any) -> None:
        self.now = data

"""Task sequences compared with Avalanche's own benchmarks."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from clbench.sequences import Task, TaskSequence


def load(sequence: TaskSequence, root: Path | None, seed: int, rule: Any = "seed") -> list[Task]:
    return sequence.load(root, seed, sequence.class_order(rule, seed, root))


def assert_same_tasks(tasks: Sequence[Task], benchmark: Any, limit: int | None = None) -> None:
    """Compare classes, labels and images with an Avalanche benchmark's; the first `limit` images of each class only.

    Avalanche lists the classes of a task in the order of a set, we in the task's: both are sorted by label here.
    """
    assert len(tasks) == len(benchmark.train_stream) == len(benchmark.test_stream)
    for task, train, test in zip(tasks, benchmark.train_stream, benchmark.test_stream, strict=True):
        for split, experience in ((task.train, train), (task.test, test)):
            assert set(task.classes) == set(experience.classes_in_this_experience)
            labels = [task.classes.index(c) for c in experience.dataset.targets]
            theirs = sorted(range(len(labels)), key=labels.__getitem__)
            ours = torch.argsort(split.y, stable=True)
            assert split.y[ours].tolist() == [labels[row] for row in theirs]
            if limit is not None:
                ours, theirs = ours[:limit], theirs[:limit]
            images = torch.stack([experience.dataset[row][0] for row in theirs])
            assert torch.allclose(split.batch(ours), images, rtol=0, atol=1e-6)


def benchmark_of(classic: ModuleType, name: str, tasks: int, root: Path, **options: Any) -> Any:
    """Make an Avalanche benchmark whose training images are not augmented."""
    function = getattr(classic, name)
    transform = function.__kwdefaults__["eval_transform"]
    return function(tasks, dataset_root=str(root), train_transform=transform, **options)

"""Every method through tasks of different numbers of classes, some of one class."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from clbench.experiment import registry
from clbench.method import Learner, Training
from clbench.models.backbones import MLP
from clbench.sequences import Split, Task
from clbench.training.run import run_sequence

TRAINING = Training(epochs=1, batch_size=8, lr=0.05)
NAMES = [name for name in registry.names("method") if registry.find("method", name).scenarios & {"task", "class"}]  # type: ignore[attr-defined]
Answers = list[tuple[list[float] | None, list[float] | None]]  # told the task, and not told it


def unequal(sizes: Sequence[int]) -> list[Task]:
    """Make a task of 10 training and 3 test images a class for each number of classes."""
    generator = torch.Generator().manual_seed(0)
    tasks: list[Task] = []
    for index, size in enumerate(sizes):
        start = sum(sizes[:index])
        means = 2 * torch.randn(size, 1, 4, 4, generator=generator)

        def split(images: int, size: int = size, means: Tensor = means) -> Split:
            y = torch.arange(images * size) % size
            x = means[y] + 0.3 * torch.randn(len(y), 1, 4, 4, generator=generator)
            return Split(x, torch.arange(len(y)), y)

        tasks.append(Task(index, tuple(range(start, start + size)), split(10), split(3)))
    return tasks


def by_hand(learner: Learner, tasks: Sequence[Task], told: bool) -> list[float] | None:
    """Return the accuracy on each task, from scores of all its images and their classes counted over all tasks."""
    found = []
    for task in tasks:
        scores = learner.scores(task.test.batch(torch.arange(len(task.test))), task.index if told else None)
        if scores is None:
            return None
        assert told or scores.shape[1] == tasks[-1].classes[-1] + 1
        if told:  # a network of the task's own has no outputs for later ones
            scores = scores[:, list(task.classes)]
        labels = task.test.y if told else torch.tensor(task.classes)[task.test.y]
        found.append((scores.argmax(1) == labels).float().mean().item())
    return found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [(3, 1, 2), (1, 1, 3)])
def test_accuracies_are_those_by_hand(name: str, sizes: tuple[int, ...]) -> None:
    cls = registry.find("method", name)
    for scenario in sorted(cls.scenarios & {"task", "class"}):  # type: ignore[attr-defined]
        answers: Answers = []
        tasks = unequal(sizes)

        @torch.no_grad()
        def ask(learner: Learner, task: Task, tasks: list[Task] = tasks, into: Answers = answers) -> None:
            if task.index == len(tasks) - 1:
                into.append((by_hand(learner, tasks, told=True), by_hand(learner, tasks, told=False)))

        outcome = run_sequence(tasks, cls(), MLP(width=8), TRAINING, scenario, 0, after_task=ask)
        ((told, not_told),) = answers
        for found, expected in ((outcome.task_aware[-1], told), (outcome.task_agnostic[-1], not_told)):
            assert found == pytest.approx(expected or [None] * len(sizes)), scenario
        assert outcome.test_images == [3 * size for size in sizes]
        single = [index for index, size in enumerate(sizes) if size == 1]
        if told is not None:
            assert [outcome.task_aware[-1][index] for index in single] == [1.0] * len(single)

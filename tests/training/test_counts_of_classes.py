"""What classes are taken for at the end, against scikit-learn's confusion matrix of the same answers."""

from typing import Any

import numpy as np
import pytest
import torch
from designs import Prototypes
from sklearn.metrics import confusion_matrix
from tiny import SGD, go
from torch import Tensor

from clbench.method import SCENARIOS, Learner, Scenario
from clbench.methods.er import ER
from clbench.methods.finetune import Finetune
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks


def noisy_tasks(tasks: int) -> list[Task]:
    made, generator = tiny_tasks(tasks), torch.Generator().manual_seed(1)
    for split in (split for task in made for split in (task.train, task.test)):
        split.images.add_(3 * torch.randn(split.images.shape, generator=generator))
    return made


def dense(confusion: Any) -> np.ndarray:
    width = len(confusion["counts"])
    return np.array([[row.get(column, 0) for column in range(width)] for row in confusion["counts"]])


@pytest.mark.parametrize("evaluate", ["all", "seen", "end"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_counts_are_those_of_scikit_learn(scenario: Scenario, evaluate: Any) -> None:
    tasks = noisy_tasks(3)
    answers: list[int] = []
    right: list[int] = []

    def look(learner: Any, now: Task) -> None:
        if now.index == 2:
            for task in tasks:
                scores, start = learner.network(task.test.images[task.test.rows]).detach(), 2 * task.index
                if scenario == "task":
                    scores = scores[:, start : start + 2]
                start *= scenario != "domain"
                answers.extend((scores.argmax(1) + start * (scenario == "task")).tolist())
                right.extend((task.test.y + start).tolist())

    outcome = go(ER(images=12), scenario, tasks, after_task=look, evaluate=evaluate)
    assert outcome.confusion is not None
    labels = range(2 if scenario == "domain" else 6)
    np.testing.assert_array_equal(dense(outcome.confusion), confusion_matrix(right, answers, labels=labels))
    assert outcome.confusion["classes"] == ([[0, 1]] if scenario == "domain" else [[0, 1], [2, 3], [4, 5]])
    assert (confusion_matrix(right, answers, labels=labels) > 0).sum() > len(labels)  # not all is right


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_trace_is_the_accuracy(scenario: Scenario) -> None:
    outcome = go(Finetune(), scenario, noisy_tasks(3))
    counts = dense(outcome.confusion)
    accuracy = (outcome.task_aware if scenario == "task" else outcome.task_agnostic)[-1]
    assert counts.sum() == sum(outcome.test_images) == 36
    if scenario == "domain":
        assert np.trace(counts) / 36 == pytest.approx(np.mean(np.array(accuracy, dtype=float)))
    else:
        assert np.diagonal(counts).reshape(3, 2).sum(1) / 12 == pytest.approx(accuracy)
        assert counts.reshape(3, 2, 6).sum((1, 2)).tolist() == outcome.test_images
    if scenario == "task":  # nothing is taken for a class of another task
        assert counts[:2, :2].sum() + counts[2:4, 2:4].sum() + counts[4:, 4:].sum() == 36


class OnlyTold(Finetune):
    """Answers where the task is told, and never otherwise."""

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        return None if task is None else super().scores(x, task)


def test_there_are_none_without_answers_and_they_are_of_the_scenarios_own_view() -> None:
    assert go(OnlyTold(), "class").confusion is None
    assert go(OnlyTold(), "task").confusion is not None


class Undecided(Finetune):
    """Answers in the domain scenario with an output that is of no class."""

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        return torch.eye(3)[2].expand(len(x), -1)


def test_outputs_of_no_class_are_not_counted() -> None:
    outcome = go(Undecided(), "domain")
    assert outcome.confusion is None
    assert outcome.task_agnostic[-1] == [0.0] * 3


def test_the_last_task_has_to_be_learnt() -> None:
    class Early(Finetune):
        def phases(self, task: Task, earlier: Any) -> Any:
            return super().phases(task, earlier) if task.index < 2 else []

    assert go(Early(), "class").confusion is None


def test_learners_of_ones_own_and_validation_images() -> None:
    """Validation images are asked about too, and do not count."""
    learner: Learner = Prototypes()
    outcome = go(learner, "class", training=SGD.__class__(epochs=1, batch_size=8, validation=0.25))
    assert dense(outcome.confusion).sum() == sum(outcome.test_images)

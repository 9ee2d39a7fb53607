"""Validation: a share of each task's training images that is evaluated like the test images and never trained on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from clbench.experiment import registry
from clbench.method import Learner, Phase, Scenario, Training
from clbench.methods.bic import BiC
from clbench.methods.er import ER
from clbench.methods.finetune import Finetune
from clbench.models.backbones import MLP
from clbench.results.store import read_records
from clbench.seeding import stream
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks
from clbench.training.run import Outcome

SEED = 3
TRAINING = Training(epochs=2, batch_size=8, lr=0.05, validation=0.25)
REFERENCE = Path(__file__).parents[2] / "results/reference"


def go(tasks: list[Task], scenario: Scenario = "class", method: Any = None, **keywords: Any) -> Outcome:
    options: dict[str, Any] = {"training": TRAINING, "seed": SEED, "backbone": MLP(width=16)} | keywords
    return tiny.go(method or Finetune(), scenario, tasks, **options)


def held(task: Task) -> torch.Tensor:
    """The rows of a task that are kept from training, by the seed."""
    return torch.randperm(24, generator=stream(SEED, "held-out", task.index))[:6].sort().values


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_it_is_evaluated_into_matrices_of_its_own(scenario: Scenario) -> None:
    tasks = tiny_tasks(3)
    told: list[list[float]] = []
    not_told: list[list[float]] = []

    def count(learner: Learner, now: Task) -> None:
        for rows in (told, not_told):
            rows.append([])
        for task in tasks[: now.index + 1]:
            images, y = task.train.images[held(task)], task.train.y[held(task)]
            scores = learner.network(images).detach()  # type: ignore[attr-defined]
            own, start = (scores, 0) if scenario == "domain" else (scores[:, 2 * task.index :][:, :2], 2 * task.index)
            told[-1].append((own.argmax(1) == y).double().mean().item())
            not_told[-1].append((scores.argmax(1) == y + start).double().mean().item())

    found = go(tasks, scenario, after_task=count).validation
    assert found.keys() == {"task_aware", "task_agnostic"}
    for view, expected in (("task_aware", told), ("task_agnostic", not_told)):
        assert np.array(found[view], dtype=float).shape == (4, 3)
        for index, row in enumerate(expected):
            assert found[view][index + 1][: index + 1] == pytest.approx(row)


@pytest.mark.parametrize("evaluate", ["all", "seen", "end"])
def test_it_is_measured_where_the_test_images_are(evaluate: Any) -> None:
    outcome = go(tiny_tasks(3), evaluate=evaluate)
    for view in ("task_aware", "task_agnostic"):
        of_test, own = getattr(outcome, view), outcome.validation[view]
        assert [[x is None for x in row] for row in own] == [[x is None for x in row] for row in of_test]


@pytest.mark.parametrize("method", [Finetune(), ER(images=10)], ids=repr)
def test_what_is_trained_is_as_if_these_images_were_not_there(method: Any) -> None:
    tasks = tiny_tasks(3)
    without = []
    for task in tasks:
        left = torch.ones(24, dtype=torch.bool)
        left[held(task)] = False
        without.append(replace(task, train=task.train.subset(left.nonzero()[:, 0])))
    outcome = go(tasks, method=method)
    other = go(without, method=method, training=replace(TRAINING, validation=0.0))
    assert outcome.weights_hash != go(tasks, method=method, training=replace(TRAINING, validation=0.0)).weights_hash
    tiny.same_as(outcome, other, "updates", "images", "task_aware", "history", "stored_images")
    assert other.validation == {}


def test_bic_fits_its_correction_on_images_of_its_own() -> None:
    """What it holds back is of the images that are left, and of its memory, which has no others."""
    tasks, held_back = tiny_tasks(3), list[Task]()

    class Watched(BiC):
        def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
            phases = super().phases(task, earlier)
            held_back.extend(self.held)
            return phases

    go(tasks, method=Watched(images=12, bias_epochs=1))
    assert [task.index for task in held_back] == [0, 1, 0, 1, 2]
    for one in held_back:
        kept_away = tasks[one.index].train.images[held(tasks[one.index])].flatten(1)
        used = one.train.images[one.train.rows].flatten(1)
        assert len(used)
        assert not (used[:, None] == kept_away).all(2).any()


def test_older_records_stand_for_the_same_runs() -> None:
    """Settings of training are recorded by the names of the first records."""
    settings = registry.settings(Training(epochs=5, validation=0.1, patience=2))
    assert settings["held_out"] == 0.1
    assert "validation" not in settings
    assert registry.from_record(Training, settings) == Training(epochs=5, validation=0.1, patience=2)
    seen = set()
    for name in ("lwf-paper-mnist-first", "hsu2018-split-mnist"):
        records, _ = read_records(REFERENCE / name / "records.jsonl.gz")
        for record in records:
            training = registry.from_record(Training, record.spec["training"])
            assert registry.settings(training) == record.spec["training"]
            seen.add(training.validation)
    assert seen == {0.0, 0.1}

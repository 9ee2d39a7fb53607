"""A method whose best setting is known, on tasks whose images show their labels."""

from pathlib import Path

import pytest

MADE_UP = '''
"""Images of 1 × 4 × 4: the first pixel is the label within the task, the second is spread evenly from 0 to 1."""
import os
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Gt

from clbench.method import Costs, Learner, Search
from clbench.sequences import Split, Task, TaskSequence


@dataclass(frozen=True)
class Shown(TaskSequence):
    """Tasks of two classes that can be read off their images."""

    name = "shown"
    scenario = "task"
    model = "mlp@width=4"
    budget = {"epochs": 1, "batch_size": 200, "lr": 0.1}
    tasks: int = 5

    def prepare(self, data_root, seed):
        return "ab" * 32

    def load(self, data_root, seed, class_order):
        poison = os.environ.get("POISON", "")
        found = []
        for index in range(self.tasks):
            images = torch.zeros(200, 1, 4, 4)
            y = torch.arange(200) % 2
            images[:, 0, 0, 0] = y
            images[:, 0, 0, 1] = (torch.arange(200) // 2) / 100
            train = Split(images, torch.arange(200), y)
            if poison == "future" and index >= 2:
                train = Split(torch.rand(200, 1, 4, 4), torch.arange(200), y.flip(0))
            test = Split(torch.rand(20, 1, 4, 4) if poison else images[:20], torch.arange(20), y[:20])
            found.append(Task(index, (2 * index, 2 * index + 1), train, test))
        return found


@dataclass
class Peak(Learner):
    """Right on a share of images that falls with the distance of its setting from 10"""

    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})
    at: Annotated[float, Gt(0), Search(0.001, 1e4, log=True)] = 0.1
    kind: str = "good"
    tasks: int = 1000  # that it may learn before it raises

    def learn(self, task):
        if self.kind == "raises" or task.index >= self.tasks:
            raise RuntimeError("it was told to")
        return Costs(updates=3, images=len(task.train))

    def scores(self, x, task):
        distance = abs(torch.tensor(self.at).log10() - 1) / 5 + (0.2 if self.kind == "bad" else 0)
        right = x[:, 0, 0, 1] > distance
        y = torch.where(right, x[:, 0, 0, 0], 1 - x[:, 0, 0, 0]).round().long().clamp(0, 1)
        first = 0 if task is None else 2 * int(task)
        scores = torch.zeros(len(x), 2 * self.run.tasks)
        return scores.scatter(1, first + y[:, None], 1.0)

    def weights(self):
        return {"at": torch.tensor(self.at)}


@dataclass
class Plain(Learner):
    """It has nothing to search"""

    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})

    def learn(self, task):
        return Costs(updates=3, images=len(task.train))

    def scores(self, x, task):
        return torch.zeros(len(x), 2 * self.run.tasks)

    def weights(self):
        return {"none": torch.zeros(1)}
'''


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder that has `made_up.py`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POISON", raising=False)
    monkeypatch.setattr("clbench.tuning.figures.write_figures", lambda findings: [])  # which take a second each
    (tmp_path / "made_up.py").write_text(MADE_UP, encoding="utf-8")
    return tmp_path

"""Benchmarks: `tox -e bench`, or `tox -e bench -- --benchmark-compare` against an earlier run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import clbench
from clbench import registry
from clbench.method import Batch, Criterion, Run, in_chunks
from clbench.model import ExpandingHeadModel
from clbench.testing import tiny_tasks
from clbench.training import Training, make_optimizer, set_trainable

TASKS = {"tasks": 2, "images": 2048, "shape": (1, 28, 28)}
TRAINING = Training(batch_size=128, lr=0.01, momentum=0.9, weight_decay=5e-4)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("model_name", ["mlp", "cnn"])
@pytest.mark.parametrize("method_name", ["finetune", "lwf"])
def test_one_training_step_of_the_second_task(benchmark: BenchmarkFixture, method_name: str, model_name: str) -> None:
    first, second = tiny_tasks(**TASKS)
    model = ExpandingHeadModel(registry.find("model", model_name)(), first.train.shape, 0)
    model.expand(2)
    model.seen = 1
    method = registry.find("method", method_name)()
    method.begin(Run("task", 2, 0, torch.device("cpu"), TRAINING))
    method.start_task(model.eval(), second)
    model.expand(2)
    model.seen = 2
    set_trainable(model, method.trainable(model, second, 0))
    optimizer = make_optimizer(TRAINING, list(model.parameters()))
    criterion = Criterion("task")
    rows = torch.randperm(2048)[:128]
    y, task_ids = second.train.y + 2, torch.ones(2048, dtype=torch.long)

    def step() -> None:
        batch = Batch(model, second.train, rows, y[rows], task_ids[rows], (1,))
        method.loss(model, batch, criterion).backward()
        optimizer.step()
        optimizer.zero_grad()

    benchmark(step)


@pytest.mark.parametrize("model_name", ["mlp", "cnn"])
def test_one_evaluation(benchmark: BenchmarkFixture, model_name: str) -> None:
    test = tiny_tasks(**TASKS)[0].test
    model = ExpandingHeadModel(registry.find("model", model_name)(), test.shape, 0).eval()
    model.expand(2)
    benchmark(in_chunks, model, test)


def test_one_short_run(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    def run() -> Any:
        return clbench.run("lwf", seeds=1, epochs=1, jobs=1, out=tmp_path, force=True, quiet=True)

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)

"""Benchmarks: `tox -e bench -- --benchmark-autosave`, then `tox -e bench -- --benchmark-compare` against the last."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

import clbench
from clbench.experiment import registry
from clbench.method import Batch, Criterion, Run, Training, in_chunks
from clbench.models.backbones import ExpandingHeadModel
from clbench.results.store import Store
from clbench.sequences.splits import SplitDigits
from clbench.testing import tiny_tasks
from clbench.training.loop import make_optimizer, set_trainable

TASKS = {"tasks": 2, "images": 2048, "shape": (1, 28, 28)}
TRAINING = Training(batch_size=128, lr=0.01, momentum=0.9, weight_decay=5e-4)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("model_name", ["mlp", "cnn"])
@pytest.mark.parametrize("method_name", registry.builtin("method"))
def test_one_training_step_of_the_second_task(benchmark: BenchmarkFixture, method_name: str, model_name: str) -> None:
    first, second = tiny_tasks(**TASKS)
    model = ExpandingHeadModel(registry.find("model", model_name)(), first.train.shape, 0)
    model.expand(2)
    model.seen = 1
    method = registry.find("method", method_name)()
    method.begin(Run("task", 2, 0, torch.device("cpu"), TRAINING))
    method.start_task(model.eval(), first)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.after_backward(model)
    method.after_step(model)
    method.finish_task(model, first)
    method.start_task(model, second)
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
        method.after_backward(model)
        optimizer.step()
        method.after_step(model)

    benchmark(step)


@pytest.mark.parametrize("model_name", ["mlp", "cnn"])
def test_one_evaluation(benchmark: BenchmarkFixture, model_name: str) -> None:
    test = tiny_tasks(**TASKS)[0].test
    model = ExpandingHeadModel(registry.find("model", model_name)(), test.shape, 0).eval()
    model.expand(2)
    benchmark(in_chunks, model, test, model.chunk)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_digits_from_nothing(benchmark: BenchmarkFixture, cache: Path) -> None:
    def load() -> None:
        shutil.rmtree(cache, ignore_errors=True)
        SplitDigits().load(None, 0, None)

    benchmark.pedantic(load, rounds=5, warmup_rounds=1)


@pytest.mark.usefixtures("cache")
def test_digits_once_there(benchmark: BenchmarkFixture) -> None:
    benchmark(SplitDigits().load, None, 0, None)


def test_one_short_run(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    def run() -> Any:
        return clbench.run("lwf", seeds=1, epochs=1, jobs=1, out=tmp_path, force=True, quiet=True)

    benchmark.pedantic(run, rounds=5, warmup_rounds=1)


def call(*words: str) -> None:
    subprocess.run([sys.executable, "-P", "-m", "clbench", *words], check=True, capture_output=True)


def test_a_small_sweep(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    words = ["run", "--seeds", "2", "--epochs", "2", "--force", "--quiet", "--out", str(tmp_path)]
    benchmark.pedantic(call, words, rounds=3, warmup_rounds=1)


def test_help(benchmark: BenchmarkFixture) -> None:
    benchmark.pedantic(call, ["--help"], rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("count", [1_000, 10_000])
def test_report(benchmark: BenchmarkFixture, count: int, tmp_path: Path) -> None:
    """From `count` records of ten methods, copies of a real one under other names and seeds."""
    clbench.run("finetune", seeds=1, epochs=1, jobs=1, out=tmp_path / "one", quiet=True)
    (record,) = Store(tmp_path / "one").read()[0].values()
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(count):
        spec = {**record.spec, "seed": number // 10, "method": f"m{number % 10}", "label": f"m{number % 10}"}
        copy = dataclasses.replace(record, key=f"{number:020}", spec=spec)
        (folder / f"{copy.key}.json").write_text(json.dumps(dataclasses.asdict(copy)))
    words = ["report", str(folder), "--out", str(tmp_path / "report")]
    benchmark.pedantic(call, words, rounds=2 if count > 1_000 else 3)

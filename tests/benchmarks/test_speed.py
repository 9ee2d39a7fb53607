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
from clbench.method import Training, in_chunks
from clbench.models import ExpandingHeadModel
from clbench.results.store import Store
from clbench.sequences.splits import SplitDigits
from clbench.testing import tiny_tasks
from clbench.training.run import run_sequence

TASKS = {"tasks": 2, "images": 2048, "shape": (1, 28, 28)}
TRAINING = Training(batch_size=128, lr=0.01, momentum=0.9, weight_decay=5e-4)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("model_name", ["mlp", "cnn"])
@pytest.mark.parametrize("method_name", registry.builtin("method"))
def test_two_tasks_of_sixteen_steps(benchmark: BenchmarkFixture, method_name: str, model_name: str) -> None:
    method, backbone = registry.find("method", method_name)(), registry.find("model", model_name)()
    benchmark(run_sequence, tiny_tasks(**TASKS), method, backbone, TRAINING, "task", 0)


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

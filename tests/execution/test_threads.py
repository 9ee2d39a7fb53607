"""Runs of several threads: the same but for rounding, apart from others, and refused where they make no sense."""

from __future__ import annotations

from pathlib import Path

import joblib
import pytest
import torch

import clbench
from clbench.errors import UsageError
from clbench.execution.runner import prepare as plan
from clbench.experiment.spec import RunSpec
from clbench.report.commands import commands
from clbench.results.store import Store

several = pytest.mark.skipif("joblib.cpu_count() < 2")


def run(tmp_path: Path, threads: int, **options: object) -> clbench.results.frames.Results:
    out = tmp_path / str(threads)
    return clbench.run("finetune,lwf", seeds=1, epochs=1, threads=threads, out=out, quiet=True, **options)  # type: ignore[arg-type]


@several
@pytest.mark.parametrize("options", [{}, {"timeout": 300}], ids=["here", "in a worker"])
def test_the_same_run_but_for_rounding(tmp_path: Path, options: dict[str, object]) -> None:
    before = torch.get_num_threads()
    one, two = (run(tmp_path, threads, jobs=1, **options) for threads in (1, 2))
    assert torch.get_num_threads() == before
    (again,) = clbench.run("lwf", seeds=1, epochs=1, threads=2, out=tmp_path / "again", quiet=True, **options).records  # type: ignore[arg-type]
    (lwf,) = [record for record in two.records if record.key == again.key]
    assert again.weights_hash == lwf.weights_hash
    histories = []
    for threads, results in ((1, one), (2, two)):
        assert [record.environment["threads"] for record in results.records] == [threads] * 2  # type: ignore[index]
        histories.append({record.spec["label"]: record.history for record in results.records})
    for label, tasks in histories[0].items():
        for row, other in zip(tasks, histories[1][label], strict=True):  # type: ignore[arg-type]
            assert other["loss"] == pytest.approx(row["loss"], rel=1e-3)


@several
def test_runs_of_several_threads_stand_apart(tmp_path: Path) -> None:
    for threads in (1, 2):
        clbench.run("lwf", seeds=2, epochs=1, threads=threads, out=tmp_path, quiet=True)
    results = clbench.load(tmp_path)
    assert sorted(results.labels) == ["lwf [threads=1]", "lwf [threads=2]"]
    (comparison,) = results.comparisons
    (command,) = [line for line in commands(comparison) if "--threads" in line]
    assert "--methods lwf" in command
    assert "--threads 2" in command


@several
def test_the_number_of_threads_names_a_run(tmp_path: Path) -> None:
    one, two = (plan("lwf", seeds=1, threads=threads, out=tmp_path).jobs[0].spec for threads in (1, 2))
    assert "threads" not in one.as_json()
    assert two.as_json()["threads"] == 2
    assert (one.key, one.first_task_key) != (two.key, two.first_task_key)
    assert one.first_task_key != two.first_task_key
    records = Store(Path(__file__).parents[2] / "results" / "reference" / "split-digits").read()[0]
    assert all(RunSpec(**record.spec).key == key for key, record in records.items())


@pytest.mark.parametrize(("cores", "threads", "workers"), [(8, 1, 8), (8, 2, 4), (8, 3, 2), (8, 8, 1)])
def test_runs_side_by_side_leave_each_its_cores(
    cores: int, threads: int, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    assert plan("lwf", seeds=9, threads=threads, out=tmp_path).workers == workers
    if threads > 1:
        with pytest.raises(UsageError, match=f"{workers + 1} runs of|threads=8: this machine has 8 cores"):
            plan("lwf", seeds=9, threads=threads, jobs=workers + 1, out=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "a run has at least one"),
        ({"threads": True}, "a run has at least one"),
        ({"threads": 1.5}, "a run has at least one"),
        ({"threads": 10**6}, r"this machine has \d+ core"),
        ({"threads": 2, "backend": "ray"}, "a run on ray has one"),
    ],
)
def test_threads_that_cannot_be(options: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        plan("lwf", out=tmp_path, **options)  # type: ignore[arg-type]

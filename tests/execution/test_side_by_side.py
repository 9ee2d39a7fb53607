"""Sweeps whose seeds go side by side: the same runs, with keys of their own."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import clbench
from clbench.cli.app import app
from clbench.errors import UsageError
from clbench.execution.sweep import prepare
from clbench.execution.workers import side_by_side
from clbench.experiment.request import Request
from clbench.results.store import RunRecord

SMALL: dict[str, Any] = {"methods": "finetune,lwf,hat", "scenario": "task", "epochs": 1, "model": "mlp@width=16"}


def sweep(folder: Path, **options: Any) -> list[RunRecord]:
    return list(clbench.run(**{**SMALL, "seeds": 3, "out": folder, **options}).records)


def by_run(records: list[RunRecord]) -> dict[tuple[str, int], RunRecord]:
    return {(record.spec["method"], record.spec["seed"]): record for record in records}


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_same_accuracies(tmp_path: Path, jobs: int) -> None:
    together = by_run(sweep(tmp_path / "together", jobs=jobs, side_by_side=3))
    alone = by_run(sweep(tmp_path / "alone", jobs=1))
    assert together.keys() == alone.keys()
    for run, record in together.items():
        assert record.ok
        for view, matrix in alone[run].accuracy.items():
            for ours, theirs in zip(record.accuracy[view], matrix, strict=True):
                assert ours == pytest.approx(theirs, abs=0.01)  # an image whose outputs are nearly equal
        assert record.updates == alone[run].updates
        if run[0] == "hat":
            assert record.key == alone[run].key
            assert "side_by_side" not in record.spec
        else:
            assert record.key != alone[run].key
            assert (record.spec["side_by_side"], record.environment["side_by_side"]) == (3, 3)


def test_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    first = sweep(tmp_path, side_by_side=3, seeds=2, methods="lwf")
    assert {record.environment["side_by_side"] for record in first} == {2}
    again = clbench.run(**{**SMALL, "seeds": 3, "out": tmp_path, "side_by_side": 3, "methods": "lwf"})
    together = {record.spec["seed"]: (record.environment or {}).get("side_by_side", 1) for record in again.records}
    assert together == {0: 2, 1: 2, 2: 1}


def test_which_go_together(tmp_path: Path) -> None:
    """Those that differ in their seed alone, at most as many as was said."""
    request = Request(
        **{**SMALL, "methods": "finetune,lwf", "scenario": "task,class", "seeds": 5, "out": tmp_path, "side_by_side": 2}
    )
    units = side_by_side(prepare(request).jobs)
    sizes: dict[tuple[str, str], list[list[int]]] = {}
    for unit in units:
        (named,) = {(job.spec.method, job.spec.scenario) for job in unit}
        sizes.setdefault(named, []).append([job.spec.seed for job in unit])
    assert sizes == {
        (name, scenario): [[0, 1], [2, 3], [4]] for name in ("finetune", "lwf") for scenario in ("task", "class")
    }


def test_a_class_order_that_all_have() -> None:
    request = Request(**{**SMALL, "methods": "lwf", "seeds": 2, "class_order": "fixed", "side_by_side": 2})
    (unit,) = side_by_side(prepare(request).jobs)
    assert len(unit) == 2


def test_each_that_fails_says_why(tmp_path: Path) -> None:
    """A rate at which all networks diverge: each record says so."""
    records = sweep(tmp_path, side_by_side=3, methods="finetune", lr=1e6)
    assert [record.ok for record in records] == [False] * 3
    assert all("diverged" in (record.error or "") for record in records)


def test_what_cannot_be_said_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--side-by-side is for runs on this machine"):
        prepare(Request(**{**SMALL, "side_by_side": 2, "backend": "dask", "scheduler": "tcp://nowhere:1"}))
    with pytest.raises(UsageError, match="side_by_side"):
        Request(side_by_side=0)


def test_the_command_says_which_methods_go_alone(tmp_path: Path) -> None:
    words = ["run", "--methods", "lwf,hat", "--seeds", "2", "--epochs", "1", "--side-by-side", "2", "--jobs", "1"]
    result = CliRunner().invoke(app, [*words, "--scenario", "task", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "hat will run one by one: side by side go methods that say so, with an mlp" in result.output
    again = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "report")])
    assert again.exit_code == 0, again.output
    assert again.output.count("split-digits, task scenario") == 1  # they stand beside each other, in one table

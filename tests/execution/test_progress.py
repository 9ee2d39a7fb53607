"""What a sweep says while it runs."""

from dataclasses import replace
from pathlib import Path

import pytest
from asking import prepared as plan
from made_up import record
from rich.console import Console

from clbench.execution.progress import Progress
from clbench.results.store import RunRecord


def said(progress: Progress, height: int) -> list[str]:
    progress.console = Console(width=120, height=height, force_terminal=True)
    output = Console(width=120, record=True, quiet=False)
    with output.capture() as captured:
        output.print(progress.means())
    return [" ".join(line.split()) for line in captured.get().splitlines() if line.strip()]


def landed(progress: Progress) -> list[RunRecord]:
    """Let made-up runs land: seed 0 of the first method ends at 90 %, seed 1 at 70 %, the second method's at 50 %."""
    ends = {("finetune", 0): 0.9, ("finetune", 1): 0.7, ("lwf", 0): 0.5}
    records = []
    for job in progress.sweep.jobs:
        end = ends.get((job.spec.label, job.spec.seed))
        if end is not None:
            made = record("x", R=[[None, None], [1.0, None], [end, end]])
            records.append(replace(made, key=job.spec.key, spec=job.spec.as_json()))
            progress.landed(records[-1])
    return records


def test_means_so_far_are_over_the_seeds_that_landed(tmp_path: Path) -> None:
    progress = Progress(plan("finetune,lwf", seeds=2, out=tmp_path), quiet=True)
    landed(progress)
    rows = said(progress, 40)
    assert "split-digits task mlp finetune 80.00 2" in rows
    assert "split-digits task mlp lwf 50.00 1" in rows
    assert len(rows) == 4  # headings, a rule, and these
    progress.landed(replace(record("y", error="broken"), spec=progress.sweep.jobs[-1].spec.as_json()))
    assert said(progress, 40) == rows


def test_runs_that_are_there_already_count(tmp_path: Path) -> None:
    sweep = plan("finetune,lwf", seeds=2, out=tmp_path)
    sweep.done = {one.key: one for one in landed(Progress(sweep, quiet=True))}
    assert "split-digits task mlp finetune 80.00 2" in said(Progress(sweep, quiet=True), 40)


def test_points_of_a_grid_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"training.lr": [0.1, 1e6]}
    sweep = plan("lwf", seeds=2, model="mlp,mlp@width=8", settings=settings, out=tmp_path)
    ends = {0.1: 0.9, 1e6: 0.5}
    with Progress(sweep) as progress:
        for job in sweep.jobs:
            made = record("x", R=[[None, None], [1.0, None], [ends[job.spec.training["lr"]]] * 2])
            progress.landed(replace(made, key=job.spec.key, spec=job.spec.as_json()))
    err = capsys.readouterr().err
    assert "lwf [training.lr=0.1] on split-digits, task, mlp, seed 0" in err
    assert "lwf [training.lr=1e6] on split-digits, task, mlp@width=8, seed 1" in err
    rows = said(progress, 40)
    assert "split-digits task mlp lwf [training.lr=0.1] 90.00 2" in rows
    assert "split-digits task mlp@width=8 lwf [training.lr=1e6] 50.00 2" in rows


def test_no_more_rows_than_the_terminal_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(plan("finetune", seeds=1, out=tmp_path), quiet=True)
    progress.finals = {(f"sequence-{i}", "task", "mlp", "lwf"): [0.5] for i in range(30)}
    rows = said(progress, 20)
    assert rows[-1] == "… and 18 more"
    assert len(rows) == 2 + 12 + 1

"""First tasks that runs of a sweep share: which, in which order, and how long their files stay."""

from pathlib import Path

import pytest
from asking import prepared

from clbench.execution.sweep import order_jobs

METHODS = "finetune,lwf,joint,si,scratch"


def test_first_tasks_come_early_and_are_told_apart(tmp_path: Path) -> None:
    sweep = prepared(METHODS, seeds=3, settings={"training.lr": [0.1, 0.2]}, out=tmp_path)
    jobs = order_jobs(sweep.jobs, 2, tmp_path)
    assert {job.spec.key for job in jobs} == {job.spec.key for job in sweep.jobs}
    groups: dict[str | None, list[str]] = {}
    for job in jobs:
        groups.setdefault(job.first_task, []).append(job.spec.method)
    assert groups.pop(None) == ["si"] * 6  # three seeds at two rates, each on its own
    assert len(groups) == 6
    assert all(group == ["joint", "finetune", "lwf", "scratch"] for group in groups.values())
    leaders = [job for job in jobs if job.spec.method in ("joint", "si")]
    assert jobs[:12] == leaders


def test_few_first_tasks_are_kept_at_once(tmp_path: Path) -> None:
    jobs = order_jobs(prepared("finetune,lwf", seeds=40, out=tmp_path).jobs, 2, tmp_path)
    open_now: set[str | None] = set()
    for job in jobs:
        open_now ^= {job.first_task}  # two runs of each: the second closes it
        assert len(open_now) <= 16
    assert not open_now


def test_a_network_from_outside_shares_nothing(tmp_path: Path) -> None:
    """It may have state that no snapshot holds."""
    file = tmp_path / "outside.py"
    file.write_text("from clbench.models.backbones import MLP\n\n\nclass Own(MLP):\n    name = 'own'\n")
    sweep = prepared("finetune,lwf", seeds=1, model=f"{file}:Own", out=tmp_path / "records")
    assert [job.first_task for job in order_jobs(sweep.jobs, 2, tmp_path)] == [None, None]


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    temporary.mkdir()
    sweep = prepared("finetune,lwf", seeds=2, training={"epochs": 1}, out=tmp_path / "records", jobs=1)
    files = [len(list(temporary.rglob("*.pt"))) for _ in sweep.run()]
    assert files[:2] == [1, 2]  # each seed's first task
    assert files[-1] == 1  # that of the runs that are done is gone
    assert list(temporary.glob("clbench*")) == []

"""Sweeps: what is run and what is not run again, and that it does not matter where."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from asking import prepared as plan
from filelock import FileLock
from processes import command, until

import clbench
from clbench.execution import sweep
from clbench.execution.sweep import Sweep
from clbench.method import Method, Step
from clbench.results.store import RunRecord, Store

QUICK = {"training": {"epochs": 1}, "seeds": 2}


def sweep_into(folder: Path, fork: bool = False, **options: Any) -> tuple[Sweep, dict[str, RunRecord]]:
    sweep = plan(**{"methods": "lwf,finetune", "out": folder, "jobs": 1, **QUICK, **options})
    for _ in sweep.run(fork):
        pass
    records, problems = Store(folder).read()
    assert problems == []
    return sweep, records


def numbers(record: RunRecord) -> tuple[Any, ...]:
    return record.accuracy, record.updates, record.images, record.weights_hash, record.history


def test_one_and_two_workers_agree_bit_for_bit(tmp_path: Path) -> None:
    options = {"methods": "scratch,finetune,joint,lwf", "scenario": "class", "seeds": 1}
    _, here = sweep_into(tmp_path / "here", jobs=1, **options)
    _, spawned = sweep_into(tmp_path / "spawned", jobs=2, **options)
    _, forked = sweep_into(tmp_path / "forked", jobs=2, fork=True, **options)
    assert here.keys() == spawned.keys() == forked.keys()
    assert len({record.weights_hash for record in here.values()}) == len(here) == 4
    for key, record in here.items():
        for other in (spawned[key], forked[key]):
            assert numbers(record) == numbers(other)
            assert record.environment["threads"] == other.environment["threads"] == 1


def test_started_again_it_runs_only_what_is_missing(tmp_path: Path) -> None:
    sweep, records = sweep_into(tmp_path)
    assert len(sweep.jobs) == 4
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    gone = sorted(times)[1]
    gone.unlink()
    again = plan("lwf,finetune", out=tmp_path, **QUICK)
    assert [job.spec.key for job in again.missing] == [gone.stem]
    wider = plan("lwf,finetune,joint", out=tmp_path, training={"epochs": 1}, seeds=3)
    assert len(wider.missing) == 1 + 3 + 2
    sweep_into(tmp_path)
    assert [p for p in times if p.stat().st_mtime_ns != times[p]] == [gone]
    assert len(plan("lwf,finetune", out=tmp_path, force=True, **QUICK).missing) == 4
    assert numbers(Store(tmp_path).read()[0][gone.stem]) == numbers(records[gone.stem])


@pytest.mark.parametrize("content", [b"", b'{"schema": 99}', b"\x00\xff"])
def test_a_damaged_record_is_kept_aside_and_run_again(content: bytes, tmp_path: Path) -> None:
    options: dict[str, Any] = {"methods": "finetune", "seeds": 1}
    _, records = sweep_into(tmp_path, **options)
    ((key, good),) = records.items()
    path = tmp_path / f"{key}.json"
    for number, name in enumerate(("damaged-1", "damaged-2")):
        path.write_bytes(content)
        sweep, again = sweep_into(tmp_path, **options)
        assert any(f"run again if it is part of this sweep: {path.name}" in note for note in sweep.notes)
        assert path.with_name(f"{path.name}.{name}").read_bytes() == content
        assert numbers(again[key]) == numbers(good)
        assert len(list(tmp_path.glob("*.damaged*"))) == number + 1


METHOD = '''
from dataclasses import dataclass
from clbench.method import Method

@dataclass
class Mine(Method):
    """Fine-tuning by another name."""
'''


def test_an_edited_method_file_is_run_again_and_said_so(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(METHOD)
    _, records = sweep_into(tmp_path / "out", methods=f"{file}:Mine", jobs=1)
    assert all(record.ok for record in records.values())
    assert plan(f"{file}:Mine", out=tmp_path / "out", **QUICK).missing == []
    file.write_text(METHOD + "\n# edited\n")
    again = plan(f"{file}:Mine", out=tmp_path / "out", **QUICK)
    assert len(again.missing) == 2
    assert any("another version of its code" in note for note in again.notes)


def test_a_file_in_the_working_folder_is_found_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(METHOD)
    _, records = sweep_into(Path("out"), methods="./mine.py:Mine,finetune", seeds=1, jobs=2)
    by_label = {(record.spec["label"], record.spec["seed"]): record for record in records.values()}
    assert by_label["./mine.py:Mine", 0].weights_hash == by_label["finetune", 0].weights_hash
    assert str(tmp_path) not in json.dumps([record.spec for record in records.values()])


class Fails(Method):
    """Raises at the second task."""

    def loss(self, step: Step) -> Any:
        if step.network.seen == 2:
            raise ValueError("no such luck")
        return step.cross_entropy()


def test_a_failing_run_is_a_record_and_the_rest_goes_on(tmp_path: Path) -> None:
    _, records = sweep_into(tmp_path, methods=[Fails, "finetune"], jobs=1)
    failed = [record for record in records.values() if not record.ok]
    assert len(failed) == 2
    assert len(records) == 4
    assert failed[0].error.startswith("ValueError: no such luck")
    assert "Traceback" in failed[0].error
    assert failed[0].accuracy is None
    again = plan([Fails, "finetune"], out=tmp_path, **QUICK)
    assert {job.spec.key for job in again.missing} == {record.key for record in failed}


FAILS_LATER = """
from pathlib import Path
from clbench.method import Method

class FailsLater(Method):
    '''Fails once a file is there'''
    name = "fails-later"
    def start_task(self, task):
        if Path(__file__).with_name("fails").exists():
            raise ValueError
"""


def test_a_failure_takes_no_finished_record_away(tmp_path: Path) -> None:
    file = tmp_path / "fails.py"
    file.write_text(FAILS_LATER)
    words: dict[str, Any] = {"seeds": 1, "epochs": 1, "out": tmp_path / "out", "jobs": 1, "quiet": True}
    (good,) = clbench.run(f"{file}:FailsLater", **words).records
    (tmp_path / "fails").touch()
    assert len(clbench.run(f"{file}:FailsLater", force=True, **words).failed) == 1
    assert Store(tmp_path / "out").read()[0][good.key] == good


def test_nothing_but_records_is_left_and_they_are_plain_json(tmp_path: Path) -> None:
    sweep_into(tmp_path, methods="finetune", seeds=1, checkpoint=True)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.suffix for path in left] == [".json"]
    assert json.loads(left[0].read_text())["status"] == "ok"


def test_what_a_killed_sweep_left_behind_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("dead", "young", "alive"):
        folder = tmp_path / f"{sweep.PREFIX}{name}"
        folder.mkdir()
        (folder / "first-task.pt").write_bytes(b"")
    with FileLock(tmp_path / f"{sweep.PREFIX}alive" / ".lock"):
        for name, age in (("dead", 100_000), ("young", -100_000), ("alive", 100_000)):
            os.utime(tmp_path / f"{sweep.PREFIX}{name}", (time.time() - age,) * 2)
        with sweep.temporary_folder():
            pass
    left = sorted(path.name for path in tmp_path.glob(f"{sweep.PREFIX}*"))
    assert left == [f"{sweep.PREFIX}alive", f"{sweep.PREFIX}young"]


WAITS = """
import time
from pathlib import Path
from clbench.method import Method

class Waits(Method):
    '''Writes which task it starts, and waits in the second for a file'''
    name = "waits"
    def start_task(self, task):
        folder = Path(__file__).parent
        with (folder / "tasks").open("a") as file:
            file.write(str(task.index))
        while task.index == 1 and not (folder / "go").exists():
            time.sleep(0.01)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="its processes are told apart by /proc")
def test_a_killed_sweep_with_checkpoints_repeats_no_finished_task(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    method, out = f"{tmp_path}/waits.py:Waits", tmp_path / "out"
    words = ["run", "--methods", method, "--seeds", "1", "--epochs", "1", "--checkpoint", "--out", str(out)]
    with command(*words) as process:
        until(lambda: any((out / ".checkpoints").glob("*.pt")), process)
    assert (tmp_path / "tasks").read_text() in ("0", "01")
    (tmp_path / "tasks").unlink()
    (tmp_path / "go").touch()
    options: dict[str, Any] = {"methods": method, "seeds": 1}
    _, resumed = sweep_into(out, checkpoint=True, **options)
    assert (tmp_path / "tasks").read_text() == "1234"
    assert not any((out / ".checkpoints").iterdir())
    _, whole = sweep_into(tmp_path / "whole", **options)
    assert [numbers(record) for record in resumed.values()] == [numbers(record) for record in whole.values()]

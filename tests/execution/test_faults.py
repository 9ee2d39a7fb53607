"""What nights bring: workers and sweeps that are killed, runs that hang, damaged records, folders to be joined."""

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from test_workers import gone
from typer.testing import CliRunner

import clbench
from clbench.cli.app import app
from clbench.errors import UsageError
from clbench.execution import runner
from clbench.execution.job import TimeIsUp, run_one, time_limit
from clbench.execution.sweep import prepare as plan
from clbench.experiment.spec import Job
from clbench.method.schedule import Training
from clbench.models.networks import ExpandingHeadModel
from clbench.results.store import SAME, RunRecord, Store, merge
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks
from clbench.training.loop import run_sequence
from clbench.training.snapshots import Checkpoint

WORDS = ["run", "--methods", "finetune,si,replay", "--seeds", "3", "--jobs", "2", "--out"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


def same(one: RunRecord, other: RunRecord) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in SAME)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return {record.key: record for record in clbench.run("finetune,si,replay", seeds=3, out=folder, jobs=1).records}


@contextlib.contextmanager
def start(*words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-m", "clbench", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def workers(process: subprocess.Popen[str]) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(child) for child in text.split()]


def equal_to(undisturbed: dict[str, RunRecord], folder: Path) -> None:
    records, problems = Store(folder).read()
    assert problems == []
    assert set(records) == set(undisturbed)
    assert all(same(records[key], record) for key, record in undisturbed.items())


@linux
def test_a_worker_that_is_killed_takes_no_other_run_and_its_own_is_run_again(
    undisturbed: dict[str, RunRecord], tmp_path: Path
) -> None:
    killed = 0
    with start(*WORDS, str(tmp_path)) as process:
        for number in (1, 3):
            until(lambda n=number: len(list(tmp_path.glob("*.json"))) >= n and bool(workers(process)), process)
            for worker in workers(process)[:1]:
                os.kill(worker, signal.SIGKILL)
                killed += 1
            time.sleep(0.5)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert killed >= 1
    equal_to(undisturbed, tmp_path)


@linux
def test_a_sweep_that_is_killed_goes_on_with_what_is_missing(undisturbed: dict[str, RunRecord], tmp_path: Path) -> None:
    with start(*WORDS, str(tmp_path)) as process:
        until(lambda: any(tmp_path.glob("*.json")), process)
        process.kill()
    there = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert 0 < len(there) < 9
    result = CliRunner().invoke(app, [*WORDS, str(tmp_path)])
    assert result.exit_code == 0, result.output
    equal_to(undisturbed, tmp_path)
    assert all(path.stat().st_mtime_ns == moment for path, moment in there.items())


@linux
def test_what_a_killed_sweep_left_behind_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("dead", "young", "alive"):
        folder = tmp_path / f"{runner.PREFIX}{name}"
        folder.mkdir()
        (folder / "first-task.pt").write_bytes(b"")
    with FileLock(tmp_path / f"{runner.PREFIX}alive" / ".lock"):
        for name, age in (("dead", 100), ("young", 10), ("alive", 100)):
            os.utime(tmp_path / f"{runner.PREFIX}{name}", (time.time() - age,) * 2)
        clbench.run("finetune", seeds=1, epochs=1, out=tmp_path / "runs", quiet=True)
    left = sorted(path.name for path in tmp_path.glob(f"{runner.PREFIX}*"))
    assert left == [f"{runner.PREFIX}alive", f"{runner.PREFIX}young"]


@linux
def test_workers_of_code_from_outside_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    words = ["run", "--methods", f"{tmp_path}/hangs.py:Busy", "--seeds", "2", "--epochs", "1", "--jobs", "2"]
    with start(*words, "--checkpoint", "--out", str(tmp_path / "runs")) as process:
        # both hang in their second task, with a checkpoint of the first
        until(lambda: len(list((tmp_path / "runs" / ".checkpoints").glob("*.pt"))) == 2, process)
        started = workers(process)
        process.kill()
    assert len(started) >= 2
    assert gone(started, within=10)


def killing(job: Job) -> RunRecord:
    """Run a job in a worker that dies whenever it comes to SI's second seed."""
    assert job.mark is not None
    Path(job.mark).touch()
    if (job.spec.method, job.spec.seed) == ("si", 1):
        os._exit(9)
    return run_one(job)


@linux
def test_a_run_that_kills_its_worker_twice_has_failed_and_the_sweep_ends(
    undisturbed: dict[str, RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "run_one", killing)
    records = {
        record.key: record for record in plan("finetune,si,replay", seeds=3, jobs=2, out=tmp_path).run(fork=True)
    }
    assert set(records) == set(undisturbed)
    (bad,) = [record for record in records.values() if not record.ok]
    assert (bad.spec["method"], bad.spec["seed"]) == ("si", 1)
    assert bad.error == runner.DIED
    assert all(same(record, undisturbed[key]) for key, record in records.items() if record.ok)
    monkeypatch.undo()
    again = clbench.run("finetune,si,replay", seeds=3, jobs=1, out=tmp_path, quiet=True)  # failed runs are tried again
    assert again.failed == []
    equal_to(undisturbed, tmp_path)


KILLS = """
import os
from clbench.method.base import Method

class Kills(Method):
    '''Ends its process'''
    name = "kills"
    def start_task(self, model, task):
        os._exit(9)
"""


@pytest.mark.parametrize("seeds", [1, 2])
def test_runs_that_all_kill_their_workers_never_kill_the_sweep(seeds: int, tmp_path: Path) -> None:
    (tmp_path / "kills.py").write_text(KILLS)
    words = ["run", "--methods", f"finetune,{tmp_path}/kills.py:Kills", "--seeds", str(seeds), "--epochs", "1"]
    with start(*words, "--jobs", "2", "--out", str(tmp_path / "runs")) as process:
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert "Traceback" not in errors
    records = Store(tmp_path / "runs").read()[0].values()
    assert [record.error for record in records if not record.ok] == [runner.DIED] * seeds
    assert len(records) == 2 * seeds


def dying_idle(job: Job) -> RunRecord:
    os._exit(9)


@linux
def test_workers_that_die_before_a_run_end_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "run_one", dying_idle)
    with pytest.raises(clbench.errors.ClbenchError, match="die before they have begun a run"):
        list(plan("finetune,si", seeds=2, jobs=2, out=tmp_path).run(fork=True))


HANGS = """
import signal, time
from dataclasses import dataclass
from clbench.method.base import Method

@dataclass
class Busy(Method):
    '''Computes for ever in its second task'''
    name = "busy"
    def start_task(self, model, task):
        while task.index == 1:
            pass

class Asleep(Method):
    '''Sleeps for ever, and heeds no exception'''
    name = "asleep"
    def start_task(self, model, task):
        try:
            time.sleep(1000)
        except Exception:
            pass
"""


@pytest.mark.parametrize(("jobs", "seeds"), [(1, 1), (2, 2)])
def test_a_run_that_takes_too_long_has_failed(jobs: int, seeds: int, tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    methods = [f"{tmp_path}/hangs.py:Busy", f"{tmp_path}/hangs.py:Asleep", "finetune"]
    results = clbench.run(methods, seeds=seeds, timeout=2, epochs=1, jobs=jobs, out=tmp_path / "runs", quiet=True)
    errors = {record.spec["method"].split(":")[-1]: record.error for record in results.records}
    assert errors["finetune"] is None
    assert (errors["Busy"] or "").startswith("it took longer than the time limit of 2 s, at task 2 of 5\n")
    assert (errors["Asleep"] or "").startswith("it took longer than the time limit of 2 s, at task 1 of 5\n")
    assert len(results.failed) == 2 * seeds


def test_a_time_limit_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with time_limit(0.2):
        pass
    time.sleep(0.4)
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_time_limit_holds_in_a_thread_too() -> None:
    import threading

    found: list[str] = []

    def work() -> None:
        try:
            with time_limit(0.2):
                while True:
                    time.sleep(0.01)
        except TimeIsUp as error:
            found.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=20)
    assert found == ["it took longer than the time limit of 0.2 s"]


RAISES = """
from clbench.method.base import Method

class Raises(Method):
    '''Raises in its third task'''
    name = "raises"
    def after_step(self, model):
        if model.seen == 3:
            raise ZeroDivisionError("a bug")
"""


def test_an_exception_is_a_record_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text(RAISES)
    results = clbench.run(f"{tmp_path}/raises.py:Raises,finetune", seeds=1, epochs=1, jobs=1, out=tmp_path, quiet=True)
    (failed,) = results.failed
    assert failed.error is not None
    assert failed.error.startswith("ZeroDivisionError: a bug, at task 3 of 5\n")
    assert "raises.py" in failed.error  # the traceback


# Checkpoints


@pytest.mark.parametrize("stop_at", [0, 1, 2])
@pytest.mark.parametrize(
    "settings",
    [{}, {"keep_optimizer": True, "optimizer": "adam", "full_head": True, "untouched": "zero-once-reached"}],
    ids=["plain", "kept optimiser"],
)
@pytest.mark.parametrize("method", ["finetune", "scratch", "lwf", "online-ewc", "si", "replay", "duplicate-finetune"])
def test_a_run_goes_on_from_its_last_finished_task(
    method: str, settings: dict[str, Any], stop_at: int, tmp_path: Path
) -> None:
    from clbench.experiment import registry
    from clbench.models.networks import MLP

    def go(checkpoint: Checkpoint | None = None, stop: int | None = None) -> Any:
        def after(model: ExpandingHeadModel, task: Task) -> None:
            trained.append(task.index)
            if task.index == stop:
                raise KeyboardInterrupt

        backbone, training = MLP(width=16, dropout=0.2), Training(batch_size=8, **settings)
        instance = registry.find("method", method)()
        return run_sequence(
            tiny_tasks(4), instance, backbone, training, "task", 3, after_task=after, checkpoint=checkpoint
        )

    trained: list[int] = []
    whole = dataclasses.asdict(go())
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt")
    with pytest.raises(KeyboardInterrupt):
        go(checkpoint, stop_at + 1)
    trained.clear()
    again = dataclasses.asdict(go(checkpoint))
    assert trained == list(range(stop_at + 1, 4))
    times = ("train_seconds", "evaluate_seconds")
    assert all(again[name] == value for name, value in whole.items() if name not in times)
    assert all(len(again[name]) == len(whole[name]) for name in times)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped", "replaced"])
def test_a_checkpoint_that_is_not_whole_is_none(damage: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt")
    checkpoint.keep({"weights": torch.arange(1000.0)})
    assert torch.equal((checkpoint.load() or {})["weights"], torch.arange(1000.0))
    data = checkpoint.path.read_bytes()
    flipped = data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]
    content = {"empty": b"", "cut": data[:-10], "flipped": flipped, "replaced": b"no checkpoint"}
    if damage == "missing":
        checkpoint.path.unlink()
    else:
        checkpoint.path.write_bytes(content[damage])
    assert checkpoint.load() is None


def test_a_checkpoint_that_something_else_has_made_is_none(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "checkpoint.pt", made_by={"kernels": "oneDNN"}).keep({})
    assert Checkpoint(tmp_path / "checkpoint.pt", made_by={"kernels": "MKL"}).load() is None
    assert Checkpoint(tmp_path / "checkpoint.pt", made_by={"kernels": "oneDNN"}).load() == {}


def test_a_checkpoint_that_cannot_be_kept_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    Checkpoint(tmp_path / "file" / "checkpoint.pt").keep({})


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made",)


def test_a_checkpoint_is_read_as_data_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt")
    checkpoint.keep({"outcome": Evil()})
    assert checkpoint.path.exists()
    assert checkpoint.load() is None
    assert not Path("made").exists()


STATEFUL = """
from clbench.method.base import Method

class Stateful(Method):
    '''Has a state'''
    name = "stateful"
    def state(self):
        return {"a": 1}
"""


def test_a_method_that_cannot_take_its_state_over_is_refused_with_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "stateful.py").write_text(STATEFUL)
    with pytest.raises(UsageError, match="Stateful has a state but no load_state"):
        clbench.run(f"{tmp_path}/stateful.py:Stateful", seeds=1, checkpoint=True, out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@linux
def test_a_sweep_with_checkpoints_that_is_killed_repeats_no_finished_task(tmp_path: Path) -> None:
    words = ["run", "--methods", "si", "--seeds", "1", "--epochs", "40", "--checkpoint", "--out"]
    with start(*words, str(tmp_path / "killed")) as process:
        until(lambda: any((tmp_path / "killed" / ".checkpoints").glob("*.pt")), process)
        process.kill()
    (checkpoint,) = (tmp_path / "killed" / ".checkpoints").glob("*.pt")
    kept = torch.load(io.BytesIO(checkpoint.read_bytes()[32:]), weights_only=True)
    seconds = kept["state"]["outcome"]["train_seconds"]
    for folder in ("killed", "whole"):
        assert CliRunner().invoke(app, [*words, str(tmp_path / folder)]).exit_code == 0
    (one,), (other,) = (Store(tmp_path / folder).read()[0].values() for folder in ("killed", "whole"))
    assert same(one, other)
    assert one.seconds is not None
    assert one.seconds["train"][: len(seconds)] == seconds  # as they were measured before
    assert not checkpoint.exists()


# The store


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 99}', b"\x00\xff"])
def test_a_damaged_record_is_kept_aside_and_run_again(content: bytes, tmp_path: Path) -> None:
    (key,) = [record.key for record in clbench.run("finetune", seeds=1, epochs=1, out=tmp_path, quiet=True).records]
    path = tmp_path / f"{key}.json"
    good = Store(tmp_path).read()[0][key]
    for number, name in enumerate(("damaged", "damaged-1")):
        path.write_bytes(content)
        results = CliRunner().invoke(
            app, ["run", "--methods", "finetune", "--seeds", "1", "--epochs", "1", "--out", str(tmp_path)]
        )
        assert results.exit_code == 0
        assert f"damaged record, run again if it is part of this sweep: {path.name}" in results.stderr
        assert path.with_name(f"{path.name}.{name}").read_bytes() == content
        assert same(Store(tmp_path).read()[0][key], good)
        assert len(list(tmp_path.glob("*.damaged*"))) == number + 1


def test_a_failure_takes_no_finished_record_away(tmp_path: Path) -> None:
    words: dict[str, Any] = {"seeds": 1, "epochs": 1, "out": tmp_path, "jobs": 1, "quiet": True}
    (good,) = clbench.run("finetune", **words).records
    results = clbench.run("finetune", force=True, timeout=0.001, **words)
    assert len(results.failed) == 1
    assert Store(tmp_path).read()[0][good.key] == good


def folder_of(tmp_path: Path, name: str, *records: RunRecord) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    for record in records:
        Store(folder).write(record)
    return folder


def test_folders_are_joined(undisturbed: dict[str, RunRecord], tmp_path: Path) -> None:
    records = list(undisturbed.values())
    failed = RunRecord(records[0].key, records[0].spec, "failed", "out of memory")
    one = folder_of(tmp_path, "one", failed, *records[1:5])
    two = folder_of(tmp_path, "two", *records[:1], *records[4:])
    (one / "cut.json").write_text("{")
    result = CliRunner().invoke(app, ["merge", str(one), str(two), "--out", str(tmp_path / "all")])
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == f"clbench: 9 records were added to {tmp_path / 'all'}"
    assert f"clbench: skipped {one / 'cut.json'}: not JSON" in result.stderr
    equal_to(undisturbed, tmp_path / "all")
    assert merge([one, two], tmp_path / "all")[0] == 0  # all there already


def test_records_that_disagree_are_not_joined(undisturbed: dict[str, RunRecord], tmp_path: Path) -> None:
    record, *others = undisturbed.values()
    one = folder_of(tmp_path, "one", record)
    two = folder_of(tmp_path, "two", dataclasses.replace(record, weights_hash="0" * 64), *others)
    run = f"{record.spec['label']} on split-digits, task, seed 0"
    with pytest.raises(UsageError, match=rf"1 record disagrees.*{record.key} \({run}\).*: weights_hash"):
        merge([one, two], tmp_path / "all")
    assert not (tmp_path / "all").exists()
    result = CliRunner().invoke(app, ["merge", str(one), str(tmp_path / "nowhere"), "--out", str(tmp_path / "all")])
    assert isinstance(result.exception, UsageError)


def test_nothing_but_records_is_left_and_they_are_plain_json(undisturbed: dict[str, RunRecord], tmp_path: Path) -> None:
    clbench.run("finetune", seeds=1, epochs=1, out=tmp_path, checkpoint=True, quiet=True)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.suffix for path in left] == [".json"]
    assert json.loads(left[0].read_text())["status"] == "ok"

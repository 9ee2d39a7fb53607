"""Sweeps on clusters: Dask and Ray, whose workers are killed, and a Dask scheduler that is."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asking import prepared as plan
from processes import LONG, command, until

import clbench
from clbench.errors import ClbenchError, UsageError
from clbench.execution import cluster
from clbench.results.store import SAME, Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by Linux's /proc")

METHODS = """
import os, time
from pathlib import Path
from clbench.method import Method

HERE = Path(__file__).parent

class Waits(Method):
    '''Fine-tuning; in its second task it says once which process does it, and waits to be killed'''
    name = "waits"
    def start_task(self, task):
        if task.index == 1 and not (HERE / "waited").exists():
            (HERE / "waited").touch()
            (HERE / "pid").write_text(f"{os.getpid()} ")
            time.sleep(10_000)

class Kills(Method):
    '''Ends its process, and counts how often'''
    name = "kills"
    def start_task(self, task):
        with (HERE / "kills").open("a") as file:
            file.write("x")
        os._exit(9)

class Says(Method):
    '''Fine-tuning that says which process does it'''
    name = "says"
    def start_task(self, task):
        if task.index == 0:
            with (HERE / "says").open("a") as file:
                file.write(f"{os.getpid()} ")

class Sleeps(Method):
    '''Sleeps until it is told to go on'''
    name = "sleeps"
    def start_task(self, task):
        (HERE / "sleeps").touch()
        while not (HERE / "go").exists():
            time.sleep(0.01)
"""


@pytest.fixture
def methods(tmp_path: Path) -> Iterator[str]:
    """A file of methods, as in `f"{methods}:Waits"`."""
    (tmp_path / "methods.py").write_text(METHODS)
    yield str(tmp_path / "methods.py")
    (tmp_path / "go").touch()  # so that no worker sleeps for ever


@pytest.fixture(scope="module")
def dask() -> Iterator[dict[str, str]]:
    """A Dask cluster of two workers, which are started again when they die."""
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 100}
    with distributed.LocalCluster(**options) as found:
        yield {"backend": "dask", "scheduler": found.scheduler_address}


@pytest.fixture(scope="module")
def ray() -> Iterator[dict[str, str]]:
    """A Ray of two CPUs on this machine."""
    found = pytest.importorskip("ray")
    with contextlib.chdir(tempfile.gettempdir()):  # its workers would import clbench from the checkout
        found.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100_000_000,
            log_to_driver=False,
            logging_level="critical",
        )
    yield {"backend": "ray"}
    found.shutdown()


@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_records_are_the_local_ones_though_workers_die(
    backend: str, methods: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One worker is killed in the middle of a run, and one run kills every worker that it is given to."""
    there: dict[str, str] = request.getfixturevalue(backend)
    options: dict[str, Any] = {"seeds": 1, "epochs": 1, "quiet": True}
    (tmp_path / "waited").touch()
    local = clbench.run([f"{methods}:Waits", "replay"], jobs=1, out=tmp_path / "local", **options)
    (tmp_path / "waited").unlink()
    killed: list[int] = []

    def kill() -> None:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith(" "))
        killed.append(int((tmp_path / "pid").read_text()))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    every = [f"{methods}:Waits", "replay", f"{methods}:Kills"]
    results = clbench.run(every, out=tmp_path / "there", **options, **there)
    assert (tmp_path / "pid").exists(), [record.error for record in results.failed]
    killer.join()
    assert killed[0] != os.getpid()
    assert [record.error for record in results.failed] == [cluster.DIED]
    assert (tmp_path / "kills").read_text() == "xx"
    records, problems = Store(tmp_path / "there").read()
    assert problems == []
    assert len(records) == 3
    for record in local.records:
        assert all(getattr(records[record.key], name) == getattr(record, name) for name in SAME)


def test_ctrl_c_ends_a_sweep_on_dask(dask: dict[str, str], methods: str, tmp_path: Path) -> None:
    words = ["run", "--methods", f"finetune,{methods}:Sleeps", "--seeds", "1", "--epochs", "1"]
    words += ["--backend", "dask", "--scheduler", dask["scheduler"], "--out", str(tmp_path / "runs")]
    with command(*words) as process:
        until(lambda: any((tmp_path / "runs").glob("*.json")) and (tmp_path / "sleeps").exists(), process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "clbench: stopped; 1 new records are in" in errors
    assert "Traceback" not in errors
    assert len(Store(tmp_path / "runs").read()[0]) == 1


class Scheduler:
    """A Dask scheduler and its workers, which are not started again, as processes of this machine."""

    def __init__(self, folder: Path):
        self.folder, self.started = folder, list[subprocess.Popen[bytes]]()
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        file = folder / "scheduler.json"
        until(lambda: file.exists() and file.read_text().strip().endswith("}"))
        self.there: dict[str, Any] = {"backend": "dask", "scheduler": json.loads(file.read_text())["address"]}

    def _start(self, what: str, *words: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-P", "-m", f"distributed.cli.dask_{what}", *words]
        line += ["--scheduler-file", str(self.folder / "scheduler.json")]
        with (self.folder / f"{len(self.started)}.log").open("wb") as log:
            self.started.append(subprocess.Popen(line, stdout=log, stderr=log, cwd=self.folder))
        return self.started[-1]

    def worker(self, *words: str) -> subprocess.Popen[bytes]:
        import distributed  # an optional package

        process = self._start("worker", "--nthreads", "1", "--no-dashboard", "--no-nanny", *words)
        with distributed.Client(self.there["scheduler"], set_as_default=False) as client:
            alive = [one for one in self.started[1:] if one.poll() is None]
            client.wait_for_workers(len(alive), timeout=LONG)
        return process

    def stop(self) -> None:
        for process in reversed(self.started):
            process.kill()
            process.wait()


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[Scheduler]:
    pytest.importorskip("distributed")
    (tmp_path / "dask").mkdir()
    found = Scheduler(tmp_path / "dask")
    try:
        yield found
    finally:
        found.stop()


def test_workers_that_are_not_there_and_a_scheduler_that_goes(
    scheduler: Scheduler,
    methods: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster, "WORKERS", 1)
    there = {"seeds": 1, "training": {"epochs": 1}, **scheduler.there}
    with pytest.raises(UsageError, match="had no worker for 1 s"):
        plan("finetune", out=tmp_path / "none", **there).run()
    assert not (tmp_path / "none").exists()

    cpu = scheduler.worker()
    with pytest.raises(UsageError, match="no worker that was started with --resources GPU=1 for 1 s"):
        clbench.run("finetune", seeds=1, device="cuda", out=tmp_path / "none", **scheduler.there)

    # the runs themselves are on the CPU here: what counts is where they are sent
    jobs = plan(f"{methods}:Says", **there | {"seeds": 3}, out=tmp_path / "says-out").jobs
    with_gpu = scheduler.worker("--resources", "GPU=1")
    with cluster.connected("dask", scheduler.there["scheduler"], "cuda:0", None) as found:
        assert found.workers == 1
        assert all(record.ok for record in found.run(jobs))
    assert (tmp_path / "says").read_text().split() == [str(with_gpu.pid)] * 3

    with pytest.raises(ClbenchError, match="it had no worker for 1 s; finished records are kept"):
        list(plan(f"{methods}:Kills", out=tmp_path / "kills-out", **there).run())
    assert [cpu.wait(), with_gpu.wait()] == [9, 9]

    monkeypatch.undo()
    scheduler.worker()
    sweep = plan(f"finetune,{methods}:Sleeps", out=tmp_path / "runs", **there)
    with contextlib.closing(sweep.run()) as run:
        assert next(run).spec["method"] == "finetune"
        scheduler.started[0].kill()
        with pytest.raises(ClbenchError, match="Dask cluster was lost: it does not answer any more; finished records"):
            next(run)
    assert len(Store(tmp_path / "runs").read()[0]) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense://x", "tcp://[", "x:y"])
def test_a_scheduler_that_does_not_answer_is_one_line(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("clbench.execution.cluster.ANSWER", 1)
    with pytest.raises(UsageError) as caught:
        clbench.run("finetune", seeds=1, backend="dask", scheduler=address, out=tmp_path / "runs", quiet=True)
    assert str(caught.value).startswith(f"no Dask scheduler answers at {address}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_package_that_is_missing_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, package in (("dask", "distributed"), ("ray", "ray")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UsageError, match=rf"pip install '.\[{backend}\]'"):
            plan("finetune", seeds=1, backend=backend, scheduler="tcp://10.0.0.1:8786", out=tmp_path / "runs").run()
    assert not (tmp_path / "runs").exists()

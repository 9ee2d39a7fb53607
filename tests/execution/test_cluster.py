"""Sweeps on a cluster: a real scheduler with real workers, some of which are killed; and Ray's."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_workers import heed_signals

import clbench
from clbench.errors import ClbenchError, UsageError
from clbench.execution import cluster
from clbench.execution.cluster import run_there
from clbench.execution.sweep import prepare as plan
from clbench.results.store import SAME, RunRecord, Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are told apart by Linux's /proc")

# In its second task, the first worker that comes to it says which process it is, and waits to be killed
WAITS = """
import os, time
from pathlib import Path
from clbench.method.base import Method

class Waits(Method):
    '''Fine-tuning that waits once'''
    name = "waits"
    def start_task(self, model, task):
        with __import__("contextlib").suppress(FileExistsError):
            if task.index == 1:
                Path(__file__).with_name("began").mkdir()
                Path(__file__).with_name("pid").write_text(f"{os.getpid()} ")
                time.sleep(300)
"""
KILLS = """
import os
from clbench.method.base import Method

class Kills(Method):
    '''Ends its process, and counts how often'''
    name = "kills"
    def start_task(self, model, task):
        with open(__file__ + ".log", "a") as file:
            file.write("x")
        os._exit(9)
"""
SAYS = """
import os
from clbench.method.base import Method

class Says(Method):
    '''Fine-tuning that says which process does it'''
    name = "says"
    def start_task(self, model, task):
        if task.index == 0:
            with open(__file__ + ".log", "a") as file:
                file.write(f"{os.getpid()} ")
"""
SLEEPS = """
import time
from clbench.method.base import Method

class Sleeps(Method):
    '''Sleeps for ever'''
    name = "sleeps"
    def start_task(self, model, task):
        time.sleep(1000)
"""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, RunRecord]]:
    """The methods of a sweep, and its records on this machine alone; then the one that waits waits no more."""
    folder = tmp_path_factory.mktemp("local")
    (folder / "waits.py").write_text(WAITS)
    (folder / "began").mkdir()
    methods = f"{folder}/waits.py:Waits,finetune,replay"
    results = clbench.run(methods, seeds=2, epochs=2, out=folder / "runs", jobs=1, quiet=True)
    assert results.failed == []
    return methods, {record.key: record for record in results.records}


def wait_again(methods: str) -> Path:
    """Let the first worker of a new sweep wait; return the file in which it will say which process it is."""
    folder = Path(methods.partition(":")[0]).parent
    (folder / "pid").unlink(missing_ok=True)
    (folder / "began").rmdir()
    return folder / "pid"


def assert_equal(folder: Path, local: dict[str, RunRecord]) -> None:
    records, problems = Store(folder).read()
    assert problems == []
    assert set(records) == set(local)
    for key, record in local.items():
        assert all(getattr(records[key], name) == getattr(record, name) for name in SAME), records[key].error


@contextlib.contextmanager
def sweep(folder: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", "-m", "clbench", "run", *words, "--out", str(folder)]
    options = {"env": {**os.environ, **environment}, "preexec_fn": heed_signals}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240  # Ray takes its time to start
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def said(file: Path) -> Callable[[], bool]:
    return lambda: file.exists() and file.read_text().endswith(" ")


class Dask:
    """A scheduler and its workers, as processes of this machine."""

    def __init__(self, folder: Path):
        self.folder, self.started = folder, list[subprocess.Popen[bytes]]()
        self.start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        file, deadline = folder / "scheduler.json", time.monotonic() + 60
        while not (file.exists() and file.read_text().strip().endswith("}")):
            assert self.started[0].poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.address = json.loads(file.read_text())["address"]

    def start(self, what: str, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", f"distributed.cli.dask_{what}", *words]
        command += ["--scheduler-file", str(self.folder / "scheduler.json")]
        with (self.folder / f"{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, env={**os.environ, **environment}
            )
        self.started.append(process)
        return process

    def worker(self, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        return self.start("worker", "--nthreads", "1", "--no-dashboard", *words, **environment)

    def wait_for(self, workers: int) -> None:
        import distributed

        with distributed.Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=60)

    def stop(self) -> None:
        for process in reversed(self.started):
            process.kill()
            process.wait()


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Dask]:
    pytest.importorskip("distributed")
    (tmp_path / "dask").mkdir()
    found = Dask(tmp_path / "dask")
    try:
        yield found
    finally:
        found.stop()


def test_dask_gives_the_local_records_though_a_worker_is_killed(
    dask: Dask, local: tuple[str, dict[str, RunRecord]], tmp_path: Path
) -> None:
    # each worker materialises its data itself
    for _ in range(2):
        dask.worker("--no-nanny", CLBENCH_CACHE=str(tmp_path / "cache"))
    methods, records = local
    pid = wait_again(methods)
    words = ["--methods", methods, "--seeds", "2", "--epochs", "2", "--backend", "dask", "--scheduler", dask.address]
    with sweep(tmp_path / "runs", *words) as process:
        until(said(pid), process)
        killed = int(pid.read_text())
        assert killed in [worker.pid for worker in dask.started[1:]]
        os.kill(killed, signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "[6/6]" in errors
    assert_equal(tmp_path / "runs", records)


def test_a_run_that_kills_two_of_dasks_workers_has_failed(dask: Dask, tmp_path: Path) -> None:
    (tmp_path / "kills.py").write_text(KILLS)
    for _ in range(3):
        dask.worker("--no-nanny")
    dask.wait_for(3)
    methods = f"{tmp_path}/kills.py:Kills,finetune"
    there = {"backend": "dask", "scheduler": dask.address, "quiet": True}
    results = clbench.run(methods, seeds=1, epochs=1, out=tmp_path / "runs", **there)
    assert [record.error for record in results.failed] == [cluster.DIED]
    assert [record.spec["method"] for record in results.records if record.ok] == ["finetune"]
    assert (tmp_path / "kills.py.log").read_text() == "xx"


def test_ctrl_c_ends_a_sweep_on_dask(dask: Dask, tmp_path: Path) -> None:
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    dask.worker("--no-nanny")  # it does one run after the other
    words = ["--methods", f"finetune,{tmp_path}/sleeps.py:Sleeps", "--seeds", "1", "--epochs", "1"]
    with sweep(tmp_path / "runs", *words, "--backend", "dask", "--scheduler", dask.address) as process:
        until(lambda: any((tmp_path / "runs").glob("*.json")), process)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - start < 5
    assert process.returncode == 130, errors
    assert "clbench: stopped; 1 new records are in" in errors
    assert "Traceback" not in errors
    assert len(Store(tmp_path / "runs").read()[0]) == 1


def test_the_end_of_the_scheduler_is_one_line_and_keeps_what_is_finished(
    dask: Dask, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sleeps.py").write_text(SLEEPS)
    dask.worker("--no-nanny")
    methods = f"finetune,{tmp_path}/sleeps.py:Sleeps"
    there = {"backend": "dask", "scheduler": dask.address}
    with contextlib.closing(
        plan(methods, seeds=1, training={"epochs": 1}, out=tmp_path / "runs", **there).run()
    ) as run:
        assert next(run).spec["method"] == "finetune"
        dask.started[0].kill()
        with pytest.raises(ClbenchError, match="Dask cluster was lost: it does not answer any more; finished records"):
            next(run)
    assert len(Store(tmp_path / "runs").read()[0]) == 1
    assert capfd.readouterr().err == ""


def test_runs_on_gpus_go_to_workers_that_offer_one(dask: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs themselves are on the CPU here: what counts is where they are sent."""
    monkeypatch.setattr(cluster, "WORKERS", 1)
    (tmp_path / "says.py").write_text(SAYS)
    jobs = plan(f"{tmp_path}/says.py:Says", seeds=3, training={"epochs": 1}, out=tmp_path).jobs
    dask.worker("--no-nanny")
    dask.wait_for(1)
    with pytest.raises(UsageError, match="no worker that was started with --resources GPU=1 for 1 s"):
        clbench.run("finetune", seeds=1, device="cuda", out=tmp_path, backend="dask", scheduler=dask.address)
    with_gpu = dask.worker("--no-nanny", "--resources", "GPU=1")
    dask.wait_for(2)
    with cluster.connected("dask", dask.address, "cuda:0", None) as there:
        assert there.workers == 1
        assert all(record.ok for record in there.run(jobs))
    assert (tmp_path / "says.py.log").read_text().split() == [str(with_gpu.pid)] * 3


def test_a_cluster_without_workers_is_given_up(dask: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "WORKERS", 1)
    there = {"backend": "dask", "scheduler": dask.address, "quiet": True}
    with pytest.raises(UsageError, match="had no worker for 1 s"):
        clbench.run("finetune", seeds=1, out=tmp_path / "none", **there)
    assert not (tmp_path / "none").exists()
    (tmp_path / "kills.py").write_text(KILLS)
    dask.worker("--no-nanny")
    dask.wait_for(1)
    with pytest.raises(ClbenchError, match="it had no worker for 1 s; finished records are kept"):
        clbench.run(f"{tmp_path}/kills.py:Kills", seeds=1, out=tmp_path / "runs", **there)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense://x", "tcp://127.0.0.1:9", "tcp://[", "x:y"])
def test_a_scheduler_that_does_not_answer_is_one_line(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(cluster, "ANSWER", 1)
    with pytest.raises(UsageError) as caught:
        clbench.run("finetune", seeds=1, backend="dask", scheduler=address, out=tmp_path / "runs", quiet=True)
    assert str(caught.value).startswith(f"no Dask scheduler answers at {address}: ")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_ray_gives_the_local_records_though_a_worker_is_killed(
    local: tuple[str, dict[str, RunRecord]], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    methods = local[0].removesuffix(",replay")
    records = {key: record for key, record in local[1].items() if record.spec["method"] != "replay"}
    pid = wait_again(methods)
    words = ["--methods", methods, "--seeds", "2", "--epochs", "2", "--jobs", "2", "--backend", "ray"]
    with sweep(tmp_path / "runs", *words, RAY_ADDRESS="local") as process:
        until(said(pid), process)
        os.kill(int(pid.read_text()), signal.SIGKILL)
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "[4/4]" in errors
    assert_equal(tmp_path / "runs", records)


# What a worker does, in this process


def test_a_worker_runs_only_what_was_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(KILLS)
    (job,) = plan("finetune", seeds=1, training={"epochs": 1}, out=tmp_path).jobs
    (mine,) = plan(f"{tmp_path}/mine.py:Kills", seeds=1, out=tmp_path).jobs
    assert run_there(job).ok
    monkeypatch.setattr(cluster, "NUMBERS", 99)
    assert "computes numbers of version 99, and the sweep is of version 1" in str(run_there(job).error)
    monkeypatch.undo()
    other = dataclasses.replace(job, spec=dataclasses.replace(job.spec, data="0" * 64))
    assert "the data of split-digits are not those of the sweep" in str(run_there(other).error)
    (tmp_path / "mine.py").write_text(KILLS.replace("9", "8"))
    assert "was changed while the sweep ran" in str(run_there(mine).error)
    (tmp_path / "mine.py").unlink()
    assert "there is no file" in str(run_there(mine).error)


@pytest.mark.data
def test_a_worker_without_the_data_root_has_one_of_its_own(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"sequence": "split-mnist", "training": {"iterations": 1}, "out": tmp_path}
    (job,) = plan("finetune", seeds=1, data_root=data_root, **words).jobs
    elsewhere = dataclasses.replace(job, data_root=str(tmp_path / "none"))
    monkeypatch.setenv("CLBENCH_DATA_ROOT", str(data_root))
    assert run_there(elsewhere).ok


def test_data_are_materialised_by_one_process_of_a_host(tmp_path: Path) -> None:
    """Processes that find no data at the same time wait for the first, and take what it has made."""
    code = """
import sys, time
from pathlib import Path
from clbench.data import datasets as data
write = data._write_digits
def slowly(folder):
    with open(sys.argv[1], "a") as file:
        file.write("x")
    time.sleep(1)
    return write(folder)
data._write_digits = slowly
print(data.load_dataset("digits").fingerprint)
"""
    environment = {**os.environ, "CLBENCH_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "written")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    found = {process.communicate(timeout=120)[0] for process in started}
    assert all(process.returncode == 0 for process in started)
    assert len(found) == 1
    assert (tmp_path / "written").read_text() == "x"


def test_a_package_that_is_missing_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, package in (("dask", "distributed"), ("ray", "ray")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UsageError, match=rf"pip install 'clbench\[{backend}\]'"):
            plan("finetune", seeds=1, backend=backend, scheduler="tcp://10.0.0.1:8786", out=tmp_path / "runs").run()
    assert not (tmp_path / "runs").exists()

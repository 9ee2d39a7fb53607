"""Sweeps on a cluster: a real scheduler and two workers, one of which is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import clbench
from clbench.errors import UsageError
from clbench.store import SAME, RunRecord, Store

METHODS, SEEDS = "finetune,si,replay", 4
# what a worker needs: the installed package, and a place for data of its own
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    results = clbench.run(METHODS, seeds=SEEDS, out=tmp_path_factory.mktemp("local"), jobs=1, quiet=True)
    return {record.key: record for record in results.records}


def assert_equal(folder: Path, local: dict[str, RunRecord]) -> None:
    records, problems = Store(folder).read()
    assert problems == []
    assert set(records) == set(local)
    for key, record in local.items():
        assert all(getattr(records[key], name) == getattr(record, name) for name in SAME)


def sweep(folder: Path, backend: str, address: str) -> subprocess.Popen[str]:
    words = ["run", "--methods", METHODS, "--seeds", str(SEEDS), "--backend", backend, "--scheduler", address]
    command = [sys.executable, "-P", "-m", "clbench", *words, "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def until_one_landed(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Start a scheduler and two workers; give its address and the workers."""
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str) -> None:
        command = [sys.executable, "-m", *words, "--scheduler-file", str(file), "--no-dashboard"]
        log = (tmp_path / f"{len(started)}.log").open("wb")
        started.append(subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT, cwd=tmp_path))

    try:
        start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        for _ in range(2):
            start("distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny")
        address = ""
        deadline = time.monotonic() + 60
        while not address and time.monotonic() < deadline:
            time.sleep(0.1)
            if file.exists() and file.read_text():
                address = json.loads(file.read_text())["address"]
        yield address, started[1:]
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def test_dask_gives_the_local_records_though_a_worker_is_killed(
    dask: tuple[str, list[subprocess.Popen[bytes]]], local: dict[str, RunRecord], tmp_path: Path
) -> None:
    address, workers = dask
    with sweep(tmp_path / "runs", "dask", address) as process:
        until_one_landed(tmp_path / "runs", process)
        workers[0].send_signal(signal.SIGKILL)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert_equal(tmp_path / "runs", local)


def test_ray_gives_the_local_records(local: dict[str, RunRecord], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    results = clbench.run(METHODS, seeds=SEEDS, out=tmp_path / "runs", backend="ray", quiet=True)
    assert results.failed == []
    assert_equal(tmp_path / "runs", local)


@pytest.mark.parametrize(
    ("backend", "scheduler", "message"),
    [
        ("slurm", None, "unknown backend 'slurm': choose from local, dask, ray"),
        ("dask", None, "--backend dask needs --scheduler ADDRESS"),
        ("local", "tcp://10.0.0.1:8786", "--scheduler is the address of a cluster"),
    ],
)
def test_what_names_no_cluster_is_refused(backend: str, scheduler: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        clbench.run("finetune", seeds=1, backend=backend, scheduler=scheduler, out=tmp_path)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense://x", "tcp://127.0.0.1:9"])
def test_a_scheduler_that_does_not_answer_is_one_line(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("clbench.cluster.PATIENCE", "2s")
    with pytest.raises(UsageError, match=f"no Dask scheduler answers at {address}"):
        clbench.run("finetune", seeds=1, backend="dask", scheduler=address, out=tmp_path, quiet=True)

"""What a worker of a cluster does, in this process."""

import dataclasses
import os
import pickle
import subprocess
import threading
import time
from pathlib import Path

import pytest
import sklearn.datasets
from asking import prepared as plan

from clbench.data.sources import load_dataset
from clbench.execution import cluster
from clbench.execution.cluster import run_there
from clbench.results.store import SAME

SLEEPS = """
import time
from clbench.method import Method

class Sleeps(Method):
    '''Never comes back'''
    name = "sleeps"
    def start_task(self, task):
        print("it prints, too")
        time.sleep(10_000)
"""


def test_a_worker_runs_only_what_was_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(SLEEPS)
    (job,) = plan("finetune", seeds=1, training={"epochs": 1}, out=tmp_path).jobs
    (mine,) = plan(f"{tmp_path}/mine.py:Sleeps", seeds=1, out=tmp_path).jobs
    assert run_there(job).ok
    monkeypatch.setattr(cluster, "NUMBERS", 99)
    assert "computes numbers of version 99, and the sweep is of version 1" in str(run_there(job).error)
    monkeypatch.undo()
    other = dataclasses.replace(job, spec=dataclasses.replace(job.spec, data="0" * 64))
    assert "the data of split-digits are not those of the sweep" in str(run_there(other).error)
    (tmp_path / "mine.py").write_text(SLEEPS + "\n# changed\n")
    assert "was changed while the sweep ran" in str(run_there(mine).error)
    (tmp_path / "mine.py").unlink()
    assert "there is no file" in str(run_there(mine).error)


def test_a_time_limit_ends_the_run_and_not_its_worker(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SLEEPS)
    (job,) = plan(f"{tmp_path}/mine.py:Sleeps", seeds=1, timeout=0.5, out=tmp_path).jobs
    assert str(run_there(job).error).startswith("it took longer than the time limit of 0.5 s")


def test_a_time_limit_says_where_the_run_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = plan("finetune", seeds=1, timeout=9, out=tmp_path).jobs
    told = b"".join(pickle.dumps(f"at task {number} of 5") for number in (1, 2)) + pickle.dumps("at task 3")[:5]

    def too_long(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("clbench", 9, told)

    monkeypatch.setattr(subprocess, "run", too_long)
    assert run_there(job).error == "it took longer than the time limit of 9 s, at task 2 of 5"


def test_a_run_within_its_time_limit_is_the_same(tmp_path: Path) -> None:
    (job,) = plan("finetune", seeds=1, training={"epochs": 1}, out=tmp_path).jobs
    limited, free = run_there(dataclasses.replace(job, timeout=1e6)), run_there(job)
    assert (free.error, limited.error) == (None, None)
    assert all(getattr(limited, name) == getattr(free, name) for name in SAME)


@pytest.mark.data
def test_a_worker_without_the_data_root_has_one_of_its_own(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = plan(
        "finetune", sequence="split-mnist", seeds=1, training={"iterations": 1}, data_root=data_root, out=tmp_path
    ).jobs
    elsewhere = dataclasses.replace(job, data_root=tmp_path / "none")
    monkeypatch.setenv("CLBENCH_DATA_ROOT", str(data_root))
    assert run_there(elsewhere).ok


def test_data_are_materialised_by_one_process_of_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that find no data at the same time wait for the first, and take what it has made."""
    monkeypatch.setenv("CLBENCH_CACHE", str(tmp_path / "cache"))
    load, loaded, found = sklearn.datasets.load_digits, list[int](), list[str]()

    def slowly() -> object:
        loaded.append(os.getpid())
        time.sleep(0.5)
        return load()

    monkeypatch.setattr(sklearn.datasets, "load_digits", slowly)
    threads = [threading.Thread(target=lambda: found.append(load_dataset("digits").fingerprint)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == len(loaded) == 1

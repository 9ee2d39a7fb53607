"""Workers: a death or a time limit costs its own run only, and they end with their parent."""

import dataclasses
import errno
import multiprocessing
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from asking import prepared as plan
from made_up import record
from processes import all_end, children, command, until

from clbench.errors import ClbenchError
from clbench.execution import workers
from clbench.execution.run import OUT_OF_MEMORY
from clbench.execution.workers import DIED, run_jobs
from clbench.experiment.spec import Job
from clbench.results.store import RunRecord, Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")

Work = Callable[[int, Path], Any]
Do = Callable[..., dict[int, RunRecord]]


@pytest.fixture
def do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Do:
    """Let forked workers do something else than training: `work` is called with a job's seed and a folder.

    The records come by seed; what the work returned is their error.
    """

    def start(work: Work, count: int, size: int = 2, devices: list[str] | None = None, **limits: float) -> Any:
        def stand_in(jobs: Sequence[Job], tell: Callable[[str], None]) -> list[RunRecord]:
            (job,) = jobs
            tell("at task 2 of 5")
            with (tmp_path / "begun").open("a") as file:
                file.write(f"{job.spec.seed}")
            return [record("finetune", job.spec.seed, error=f"{work(job.spec.seed, tmp_path)} {job.device}")]

        monkeypatch.setattr(workers, "run_together", stand_in)
        jobs = plan("finetune", seeds=count, out=tmp_path).jobs
        jobs = [dataclasses.replace(job, timeout=limits.get(f"of_{job.spec.seed}")) for job in jobs]
        records = run_jobs(jobs, size, True, devices or ())
        assert next(records) is None
        return {one.spec["seed"]: one for one in records if one is not None}

    return start


def told(records: dict[int, RunRecord]) -> dict[int, str]:
    return {seed: (one.error or "").split()[0] for seed, one in records.items()}


def its_process(seed: int, folder: Path) -> int:
    (folder / f"{seed}.here").touch()
    if seed < 2:  # neither worker goes on before the other has begun
        until(lambda: (folder / f"{1 - seed}.here").exists())
    return os.getpid()


def test_forked_workers_do_the_work_and_end(do: Do) -> None:
    pids = {int(pid) for pid in told(do(its_process, 6)).values()}
    assert len(pids) == 2
    assert os.getpid() not in pids
    all_end(pids)


def test_workers_need_no_semaphores(do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie in /dev/shm, which may be full, read-only or missing."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", full)
    with pytest.raises(OSError, match="No space left"):
        multiprocessing.Lock()
    assert len(told(do(its_process, 4))) == 4


def dies_at_two(seed: int, folder: Path) -> str:
    if seed == 2:
        os._exit(9)
    return "fine"


def test_a_run_whose_worker_dies_is_run_again_alone_and_then_has_failed(do: Do, tmp_path: Path) -> None:
    records = do(dies_at_two, 6)
    assert records.pop(2).error == DIED
    assert set(told(records).values()) == {"fine"}
    assert len(records) == 5
    begun = (tmp_path / "begun").read_text()
    assert sorted(begun) == list("0122345")  # no other was run twice
    assert begun[-1] == "2"


def dies_once(seed: int, folder: Path) -> str:
    if seed == 2 and not (folder / "died").exists():
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "fine"


def test_a_run_whose_worker_dies_once_is_fine(do: Do) -> None:
    assert told(do(dies_once, 4)) == dict.fromkeys(range(4), "fine")


def hangs_at_one(seed: int, folder: Path) -> str:
    if seed == 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        time.sleep(10_000)
    return "fine"


def test_a_run_that_gets_too_little_memory_is_run_again_alone(do: Do, tmp_path: Path) -> None:
    def work(seed: int, folder: Path) -> str:
        if seed == 0 and not (folder / "again").exists():
            (folder / "again").touch()
            return OUT_OF_MEMORY
        return OUT_OF_MEMORY if seed == 2 else "fine"

    records = do(work, 5)
    assert {seed: (one.error or "").startswith("fine") for seed, one in records.items()} == {
        **dict.fromkeys((0, 1, 3, 4), True),
        2: False,
    }
    assert (records[2].error or "").startswith(OUT_OF_MEMORY)  # alone, too
    begun = (tmp_path / "begun").read_text()
    assert begun.count("0") == begun.count("2") == 2
    assert all(begun.count(seed) == 1 for seed in "134")
    assert begun[-2:] in ("02", "20")  # when all others are done


@pytest.mark.parametrize("size", [1, 2])
def test_a_time_limit_costs_its_own_run_whatever_that_does(size: int, do: Do, tmp_path: Path) -> None:
    records = do(hangs_at_one, 4, size, of_1=0.5)
    assert records.pop(1).error == "it took longer than the time limit of 0.5 s, at task 2 of 5"
    assert told(records) == {0: "fine", 2: "fine", 3: "fine"}
    assert sorted((tmp_path / "begun").read_text()) == list("0123")


def dies_at_start() -> None:
    os._exit(9)


def test_workers_that_die_before_a_run_end_the_sweep(do: Do, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "keep_freed_memory", dies_at_start)
    with pytest.raises(ClbenchError, match="die before they have begun a run"):
        do(its_process, 4)


def first_stays_and_two_dies(seed: int, folder: Path) -> str:
    if seed == 0:
        until(lambda: (folder / "5.here").exists())
    (folder / f"{seed}.here").touch()
    return dies_once(seed, folder)


def test_a_new_worker_has_the_device_of_the_dead_one(do: Do) -> None:
    devices = {
        seed: (one.error or "").split()[1] for seed, one in do(first_stays_and_two_dies, 6, 2, ["a", "b"]).items()
    }
    del devices[2]  # it was run again at the end, on either
    first = devices.pop(0)
    assert set(devices.values()) == {"a", "b"} - {first}


def both_say_where(seed: int, folder: Path) -> str:
    (folder / f"{seed}.here").touch()
    until(lambda: len(list(folder.glob("*.here"))) == 4)
    return "fine"


def test_workers_are_spread_evenly_over_devices(do: Do) -> None:
    records = do(both_say_where, 4, 4, devices=["a", "b"])
    assert sorted((one.error or "").split()[1] for one in records.values()) == ["a", "a", "b", "b"]


def test_closing_stops_workers_that_are_at_work(tmp_path: Path) -> None:
    before = set(children(os.getpid()))
    sweep = plan("finetune,si", seeds=4, training={"epochs": 10_000}, jobs=2, out=tmp_path)
    records = sweep.run(fork=True)
    started = set(children(os.getpid())) - before
    assert len(started) == 2
    records.close()
    all_end(started)


HANGS = """
import time
from clbench.method import Method

class Hangs(Method):
    '''Never comes back'''
    name = "hangs"
    def start_task(self, task):
        time.sleep(10_000)

class Kills(Method):
    '''Ends its process'''
    name = "kills"
    def start_task(self, task):
        __import__("os")._exit(9)
"""


@pytest.fixture(params=["forked", "spawned"])
def sweep(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A long sweep in a process of its own, that has a record already, and its two workers."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "hangs.py").write_text(HANGS)
    methods, seeds = (
        ("finetune,si", "500") if request.param == "forked" else (f"finetune,{tmp_path}/hangs.py:Hangs", "2")
    )
    words = ["run", "--methods", methods, "--seeds", seeds, "--epochs", "1", "--jobs", "2"]
    with command(*words, "--out", str(tmp_path / "records"), TMPDIR=str(tmp_path / "temporary")) as process:
        until(lambda: any((tmp_path / "records").glob("*.json")), process)
        found = children(process.pid)
        assert len(found) >= 2
        yield process, found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("sweep", ["forked"], indirect=True)
def test_a_request_to_end_stops_all(
    number: int, sweep: tuple[subprocess.Popen[str], list[int]], tmp_path: Path
) -> None:
    _ends(number, sweep, tmp_path)


@pytest.mark.parametrize("sweep", ["spawned"], indirect=True)
def test_spawned_workers_leave_ctrl_c_to_their_parent_and_end_with_the_terminal(
    sweep: tuple[subprocess.Popen[str], list[int]], tmp_path: Path
) -> None:
    for pid in sweep[1]:
        os.kill(pid, signal.SIGINT)
    _ends(signal.SIGHUP, sweep, tmp_path)


def _ends(number: int, sweep: tuple[subprocess.Popen[str], list[int]], tmp_path: Path) -> None:
    process, started = sweep
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130
    records, problems = Store(tmp_path / "records").read()
    assert problems == []
    assert f"clbench: stopped; {len(records)} new records are in" in errors
    assert "Traceback" not in errors
    all_end(started)
    assert list((tmp_path / "temporary").glob("clbench-*")) == []


def test_workers_end_with_a_parent_that_is_killed(sweep: tuple[subprocess.Popen[str], list[int]]) -> None:
    process, started = sweep
    process.kill()
    all_end(started)


def test_a_script_needs_no_guard_and_survives_a_method_that_ends_its_process(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    (tmp_path / "script.py").write_text(
        "import clbench\n"
        "methods = ['finetune', './hangs.py:Kills']\n"
        "results = clbench.run(methods, seeds=1, epochs=1, jobs=2, out='runs', quiet=True)\n"
        "print(len(results.records), [record.error for record in results.failed])\n"
    )
    words = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == f"2 {[DIED]}\n"

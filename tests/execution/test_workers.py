"""Worker processes: they end with their parent, and what was finished is never lost."""

import ctypes
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clbench.execution import runner
from clbench.execution.sweep import executing
from clbench.execution.sweep import prepare as plan
from clbench.results.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], within: float = 5.0) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline and any(map(alive, pids)):
        time.sleep(0.02)
    return not any(map(alive, pids))


@dataclass(frozen=True)
class Numbered:
    """A job that is nothing but a number."""

    number: int
    begun: str  # a file that runs write their number to
    mark: str | None = None


Forked = Callable[[Callable[[Numbered], Any], int], AbstractContextManager[Iterator[Any]]]


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Forked:
    """Run a function of 0, 1, … in two forked workers, in place of training."""

    def start(work: Callable[[Numbered], Any], count: int) -> AbstractContextManager[Iterator[Any]]:
        monkeypatch.setattr(runner, "run_one", work)
        return executing([Numbered(number, str(tmp_path / "begun")) for number in range(count)], 2, "fork")  # type: ignore[misc]

    return start


def its_process(job: Numbered) -> int:
    time.sleep(0.1)
    return os.getpid()


def test_forked_workers_do_the_work_elsewhere(forked: Forked) -> None:
    with forked(its_process, 6) as landing:
        found = {job.number: process for job, process in landing}
    assert sorted(found) == list(range(6))
    assert os.getpid() not in found.values()
    assert len(set(found.values())) == 2
    assert gone(list(found.values()))


def die_at_two(job: Numbered) -> int:
    with open(job.begun, "a") as file:
        file.write(str(job.number))
    time.sleep(0.5 if job.number == 3 else 0.1)  # under way meanwhile
    if job.number == 2:
        os._exit(9)
    return os.getpid()


def test_a_death_takes_no_other_run(forked: Forked, tmp_path: Path) -> None:
    with forked(die_at_two, 6) as landing:
        time.sleep(1.5)  # the parent is busy while the worker dies
        found = {job.number: process for job, process in landing}
    assert sorted(found) == list(range(6))
    assert found.pop(2) is None
    assert None not in found.values()
    assert sorted((tmp_path / "begun").read_text()) == list("012345")  # none was run twice


def first_is_quick(job: Numbered) -> int:
    time.sleep(0.05 if job.number == 0 else 60)
    return os.getpid()


def test_leaving_early_stops_the_workers(forked: Forked) -> None:
    pids = []

    def go() -> None:
        with forked(first_is_quick, 4) as landing:
            pids.append(next(landing)[1])
            raise ZeroDivisionError

    start = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        go()
    assert gone(pids)
    assert time.monotonic() - start < 5


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def heed_signals() -> None:
    """Undo what a process in the background inherits: it ignores Ctrl-C, and after nohup the terminal's end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A long sweep in a process of its own, that has two workers and some records already."""
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    words = ["run", "--methods", "finetune,si", "--seeds", "50", "--jobs", "2", "--out", str(tmp_path / "records")]
    command = [sys.executable, "-P", "-m", "clbench", *words]
    options: dict[str, Any] = {"stderr": subprocess.PIPE, "text": True, "env": environment, "preexec_fn": heed_signals}
    with subprocess.Popen(command, **options) as process:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "records").glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_is_met_at_once(number: int, sweep: subprocess.Popen[str], tmp_path: Path) -> None:
    workers = children(sweep.pid)
    assert len(workers) == 2
    sweep.send_signal(number)
    start = time.monotonic()
    _, errors = sweep.communicate(timeout=30)
    assert time.monotonic() - start < 5
    assert sweep.returncode == 130
    records, problems = Store(tmp_path / "records").read()
    assert problems == []
    assert f"clbench: stopped; {len(records)} new records are in" in errors
    assert "Traceback" not in errors
    assert gone(workers)
    assert list((tmp_path / "temporary").glob("clbench-*")) == []


def test_workers_end_with_a_parent_that_is_killed(sweep: subprocess.Popen[str]) -> None:
    workers = children(sweep.pid)
    assert len(workers) == 2
    sweep.kill()
    assert gone(workers)


def test_closing_before_anything_landed_stops_the_workers(tmp_path: Path) -> None:
    sweep = plan("finetune,si", seeds=4, training={"epochs": 200}, jobs=2, out=tmp_path)
    others = set(multiprocessing.active_children())
    records = sweep.run(fork=True)
    workers = [child.pid or 0 for child in set(multiprocessing.active_children()) - others]
    records.close()
    assert len(workers) == 2
    assert gone(workers, within=2)


def faults_of_a_later_step() -> int:
    """Count the pages that had to be found for memory which the step before had freed, of about 20,000."""
    for _step in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        activations = [bytearray(20_000_000) for _layer in range(4)]
        del activations
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
@pytest.mark.parametrize("team", [runner._Forked, runner._Loky])
def test_workers_keep_the_memory_that_a_step_has_freed(team: type[runner._Team]) -> None:
    with team()._executor() as executor:
        assert executor.submit(faults_of_a_later_step).result() < 1000

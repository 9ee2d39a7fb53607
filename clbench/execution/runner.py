"""The runner: jobs → workers → records. What a worker does is in `clbench.execution.job`."""

from __future__ import annotations

import abc
import contextlib
import ctypes
import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

from filelock import FileLock, Timeout
from joblib.externals import loky

from clbench.errors import ClbenchError, UsageError
from clbench.execution.cluster import connected
from clbench.execution.job import checkout_commit, computing_in, failed, run_one
from clbench.experiment.planning import plan
from clbench.experiment.request import Request
from clbench.experiment.spec import Job
from clbench.results.store import RunRecord, Store

Backend = Literal["fork", "loky"]
PREFIX = "clbench-sweep-"  # of temporary folders
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
DIED = "its worker process died, and died again when it was run alone, perhaps for want of memory"


@dataclass
class Sweep:
    """A planned sweep: its jobs in order, the records that are there already, and what the user should hear."""

    jobs: list[Job]
    store: Store
    workers: int
    notes: list[str] = field(default_factory=list)
    done: dict[str, RunRecord] = field(default_factory=dict)
    fresh: bool = False  # whether runs begin at their first task, whatever checkpoints there are
    backend: str = "local"  # where workers are: on this machine, or a cluster's
    scheduler: str | None = None  # the cluster's address
    devices: list[str] = field(default_factory=lambda: ["cpu"])  # of this machine; workers are shared out evenly
    limit: int | None = None  # how many runs go side by side at most, if the user has said so

    @property
    def missing(self) -> list[Job]:
        return [job for job in self.jobs if job.spec.key not in self.done]

    @property
    def labels(self) -> list[str]:
        """The methods' labels in the order in which they were asked for."""
        return list(dict.fromkeys(job.spec.label for job in self.jobs))

    @property
    def place(self) -> str:
        """Where runs are done, in words."""
        device = self.jobs[0].device
        return device if self.backend == "local" else f"{device.split(':')[0]}, {self.backend}"

    @property
    def records(self) -> list[RunRecord]:
        """The records there are, in order, under the names of this sweep: another may have made and named them."""
        found = [(job, self.done.get(job.spec.key)) for job in self.jobs]
        return [dataclasses.replace(record, spec=job.spec.as_json()) for job, record in found if record is not None]

    def run(self, fork: bool = False) -> Generator[RunRecord, None, None]:
        """Start what is missing, and yield each record as it lands, after it is written; `close` stops the workers.

        `fork` starts workers as copies of this process, at once, where that is safe: on Linux, for runs on the CPU of
        built-in code, in a process that has computed nothing in several threads. A worker that dies takes only its own
        run; that one is run again alone, and has failed if its worker dies once more.
        """
        fork = fork and sys.platform == "linux"
        fork = fork and all(job.device == "cpu" and not job.spec.code for job in self.missing)
        if self.backend != "local" and self.missing:
            records = self._run_on_cluster()
        else:
            records = self._run("fork" if fork else "loky")
        next(records)  # so that workers are there before the caller goes on
        return records  # type: ignore[return-value]

    def _make_ready(self) -> None:
        create_folder(self.store.folder)
        self.store.tidy()
        for job in self.missing if self.fresh else ():
            if job.checkpoint is not None:
                Path(job.checkpoint).unlink(missing_ok=True)
        for job in self.missing:
            self.store.set_aside(job.spec.key)

    def _run_on_cluster(self) -> Generator[RunRecord | None, None, None]:
        device = self.missing[0].device
        with connected(self.backend, self.scheduler, device, self.limit) as cluster:
            self.workers = cluster.workers
            self._make_ready()
            yield None
            # those that train on old data take longest
            for record in cluster.run(sorted(self.missing, key=lambda job: not job.memory)):
                self._take(record)
                yield record

    def _run(self, backend: Backend) -> Generator[RunRecord | None, None, None]:
        self._make_ready()
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(_temporary_folder())
            jobs = in_good_order(self.missing, self.workers, folder)
            jobs = [dataclasses.replace(job, mark=str(Path(folder) / f"{job.spec.key}.mark")) for job in jobs]
            if len(self.devices) > 1:
                shares = [(device, n) for n in range(self.workers // len(self.devices)) for device in self.devices]
                slots = [(str(Path(folder) / f"{device.replace(':', '-')}-{n}.slot"), device) for device, n in shares]
                jobs = [dataclasses.replace(job, slots=slots) for job in jobs]
            by_key = {job.spec.key: job for job in jobs}
            sharers = Counter(job.first_task for job in jobs)
            for record in surviving(jobs, self.workers, backend):
                if record is not None:
                    job = by_key[record.key]
                    self._take(record)
                    sharers[job.first_task] -= 1
                    if job.first_task is not None and sharers[job.first_task] == 0:
                        Path(job.first_task).unlink(missing_ok=True)
                    if job.checkpoint is not None and record.ok:
                        Path(job.checkpoint).unlink(missing_ok=True)
                yield record

    def _take(self, record: RunRecord) -> None:
        try:
            if record.ok or not self.store.has_finished(record.key):  # by another sweep, or before --force
                self.store.write(record)
        except OSError as error:
            raise ClbenchError(f"cannot write to {self.store.folder}: {error.strerror or error}") from None
        self.done[record.key] = record


def prepare(request: Request) -> Sweep:
    """Plan what was asked for, and take over the records that are there."""
    with computing_in(1):
        planned = plan(request)
    commit = checkout_commit()
    jobs = [dataclasses.replace(job, commit=commit) for job in planned.jobs]
    sweep = Sweep(
        jobs,
        Store(request.out),
        planned.workers,
        planned.notes,
        fresh=request.force,
        backend=request.backend,
        scheduler=request.scheduler,
        devices=planned.devices,
        limit=request.jobs,
    )
    if not request.force:
        _resume(sweep, request.save_models)
    return sweep


def _resume(sweep: Sweep, save_models: bool) -> None:
    """Take over finished records; say which are left aside because other code made them, or are damaged."""
    records, problems = sweep.store.read()
    sweep.notes += [f"damaged record, run again if it is part of this sweep: {problem}" for problem in problems]
    older: dict[str, int] = {}
    by_question = {_question(record.spec) for record in records.values() if record.ok}
    for job in sweep.jobs:
        record = records.get(job.spec.key)
        if record is not None and record.ok:
            saved = len(list(Path(str(job.models_folder)).glob("task-*.pt")))
            if not save_models or saved == len(record.updates or ()):
                sweep.done[record.key] = record
        elif _question(job.spec.as_json()) in by_question:
            older[job.spec.label] = older.get(job.spec.label, 0) + 1
    for label, count in older.items():
        sweep.notes.append(
            f"{count} finished run{'s' * (count > 1)} of {label} were made by another version of its code: run again"
        )


def _question(spec: Mapping[str, Any]) -> str:
    """Name what a spec asks for, whatever code answers it."""
    asked = {k: v for k, v in spec.items() if k not in ("numbers", "code", "preset") and not k.endswith("label")}
    return json.dumps(asked, sort_keys=True)


def create_folder(folder: Path) -> None:
    """Make a folder; raise UsageError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the output folder {folder} cannot be made: {error.strerror}") from None


def in_good_order(jobs: Sequence[Job], workers: int, folder: str) -> list[Job]:
    """Order jobs so that none waits long for another's first task, and say in which file of `folder` it is shared.

    Jobs that train on old data take longest and come early. Groups with the same first task are taken some at a time,
    so that few files are there at once.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        shared = job.plain_first_task
        groups.setdefault(job.spec.first_task_key if shared else job.spec.key, []).append(job)
    ordered: list[Job] = []
    some = max(16, 2 * workers)
    for start in range(0, len(groups), some):
        leading, following = [], []
        for name, group in list(groups.items())[start : start + some]:
            path = str(Path(folder) / f"{name}.pt") if len(group) > 1 else None
            group = [dataclasses.replace(job, first_task=path) for job in group]
            first, *rest = sorted(group, key=lambda job: not job.memory)
            leading.append(first)
            following += rest
        ordered += [*leading, *sorted(following, key=lambda job: not job.memory)]
    return ordered


@contextlib.contextmanager
def _temporary_folder() -> Iterator[str]:
    """Give a folder that goes with this context, and remove those that killed processes have left."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=PREFIX)
    except OSError as error:
        raise UsageError(f"no temporary folder can be made ({error.strerror}): set TMPDIR to one") from None
    with folder as name, FileLock(Path(name) / ".lock"):
        for other in Path(name).parent.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError, Timeout):
                if time.time() - other.stat().st_mtime > 60:  # a younger one may not be locked yet
                    with FileLock(other / ".lock", timeout=0):
                        shutil.rmtree(other)
        yield name


def surviving(jobs: Sequence[Job], workers: int, backend: Backend) -> Generator[RunRecord | None, None, None]:
    """Yield None when workers have been started, then a record for every job, whatever becomes of the workers.

    A run whose worker dies is run again when all others are done, alone; it has failed if its worker dies once more.
    """
    again: list[Job] = []
    apart = any(job.timeout is not None for job in jobs)  # only a worker can be ended if it does not heed the limit
    with executing(jobs, workers, backend, apart) as landing:
        yield None
        for job, record in landing:
            if record is None:
                again.append(job)
            else:
                yield record
    with executing(again, 1, backend, apart=True) as landing:
        for job, record in landing:
            limit = "" if job.timeout is None else f", or deaf to its time limit of {job.timeout:g} s"
            yield failed(job, DIED + limit) if record is None else record


@contextlib.contextmanager
def executing(
    jobs: Sequence[Job], workers: int, backend: Backend = "loky", apart: bool = False
) -> Iterator[Iterator[tuple[Job, RunRecord | None]]]:
    """Start jobs in `workers` processes; give each as it is finished, in any order, and None if its worker has died.

    Whatever is still running when the context is left is stopped. One job, or one worker that need not be forked, is
    this process, unless `apart`. Raises ClbenchError if workers die before they have begun a run.
    """
    workers = min(workers, len(jobs))
    if not jobs or (not apart and (len(jobs) == 1 or (workers == 1 and backend != "fork"))):
        yield ((job, run_one(job)) for job in jobs)
        return
    team = _Forked() if backend == "fork" else _Loky()
    try:
        yield team.work(jobs, workers)
    except BaseException:
        team.kill()
        raise
    team.end()


class _Team(abc.ABC):
    """Worker processes, each an executor of its own, so that one that dies takes no run but its own."""

    def __init__(self) -> None:
        self._executors: list[Executor] = []
        self._waiting: deque[Job] = deque()
        self._landed: SimpleQueue[tuple[Executor, Job, Future[RunRecord]]] = SimpleQueue()

    @abc.abstractmethod
    def _executor(self) -> Executor:
        """Return an executor of one worker."""

    @abc.abstractmethod
    def kill(self) -> None:
        """Stop the workers, whatever they are at."""

    def end(self) -> None:
        """Let the workers go, which have nothing left to do."""
        for wait in (False, True):  # tell all, then wait for all
            for executor in self._executors:
                executor.shutdown(wait)

    def work(self, jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, RunRecord | None]]:
        self._waiting += jobs
        for _ in range(workers):
            self._start()
        return self._landing(len(jobs), workers)

    def _landing(self, left: int, workers: int) -> Iterator[tuple[Job, RunRecord | None]]:
        in_vain = 0  # workers that have died since a run was begun
        while left:
            executor, job, future = self._landed.get()
            error = future.exception()
            if error is None:
                in_vain, left = 0, left - 1
                yield job, future.result()
                continue
            if not isinstance(error, BrokenExecutor):
                raise error
            self._executors.remove(executor)
            executor.shutdown(wait=False)
            if job.mark is None or Path(job.mark).exists():
                in_vain, left = 0, left - 1
                if job.mark is not None:
                    Path(job.mark).unlink()  # or the run would count as begun in its next worker before it is
                yield job, None
            else:
                in_vain += 1
                if in_vain > 2 * workers:
                    raise ClbenchError("workers die before they have begun a run; finished records are kept")
                self._waiting.appendleft(job)
            if self._waiting:
                self._start()

    def _start(self) -> None:
        self._executors.append(self._executor())
        self._feed(self._executors[-1])

    def _feed(self, executor: Executor) -> None:
        try:
            job = self._waiting.popleft()
        except IndexError:
            return
        future: Future[RunRecord] = Future()
        try:
            future = executor.submit(run_one, job)
        except RuntimeError as error:  # its worker has just died
            future.set_exception(error)
        future.add_done_callback(partial(self._land, executor, job))

    def _land(self, executor: Executor, job: Job, future: Future[RunRecord]) -> None:
        if not future.cancelled():
            if future.exception() is None:
                self._feed(executor)  # at once, in a thread of the executor's
            self._landed.put((executor, job, future))


class _Forked(_Team):
    """Copies of this process."""

    def __init__(self) -> None:
        super().__init__()
        self._others = set(multiprocessing.active_children())

    def _executor(self) -> Executor:
        return ProcessPoolExecutor(1, multiprocessing.get_context("fork"), _begin_worker, (os.getpid(),))

    def kill(self) -> None:
        self._waiting.clear()
        for executor in self._executors:
            executor.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - self._others:
            worker.kill()


class _Loky(_Team):
    """New processes."""

    def _executor(self) -> Executor:
        return loky.ProcessPoolExecutor(1, initializer=_end_with, initargs=(os.getpid(),), env=ONE_THREAD)

    def kill(self) -> None:
        self._waiting.clear()
        for wait in (False, True):
            for executor in self._executors:
                executor.shutdown(wait, kill_workers=True)  # type: ignore[call-arg]


def _begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):  # the parent may take them for Ctrl-C
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    keep_freed_memory()
    if os.getppid() != parent:
        os._exit(1)


def _end_with(parent: int) -> None:
    """Watch from a thread whether the parent lives; end this process when it doesn't."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees; given back, the system would have to find and clear it anew in the next one."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD: the highest there is, as the other stops it from rising by itself

"""Worker processes on this machine: each does one run after another.

A worker that dies or exceeds the time limit costs its own run only. Each worker has a pipe of its own, and one thread
waits for all pipes: a worker that is killed at any moment leaves no queue or lock broken that others need.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from clbench.errors import ClbenchError
from clbench.execution.memory import keep_freed_memory
from clbench.execution.run import OUT_OF_MEMORY, failed, run_together
from clbench.experiment.spec import Job
from clbench.results.store import RunRecord

DIED = "its worker process died, and died again when it was run alone, perhaps for want of memory"
POSIX = hasattr(signal, "pthread_sigmask")
REQUESTS_TO_END = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}


def run_jobs(
    jobs: Sequence[Job], workers: int, fork: bool, devices: Sequence[str] = ()
) -> Generator[RunRecord | None, None, None]:
    """Yield None when the workers have been started, then the record of each job as it is finished.

    `fork` starts workers as copies of this process, which is fast, but safe only if it has computed nothing in several
    threads. A run whose worker dies is run again alone when all others are done; if its worker dies again it has
    failed. So is one that got too little of its device's memory, and from then on one run fewer goes side by side. With
    several `devices`, workers are spread over them, and a job runs on the device of its worker. A single job without a
    time limit is run in this process, and so are all of one worker that need not be forked, and all where this process
    may have no workers. Closing the generator stops the workers. Raises ClbenchError if workers die before they have
    begun a run.
    """
    units = side_by_side(jobs)
    workers = min(workers, len(units))
    limited = any(job.timeout is not None for job in jobs)  # only another process can be stopped at its limit
    if not may_have_workers() or (not limited and (len(units) <= 1 or (workers == 1 and not fork))):
        yield None
        for unit in units:
            yield from run_together(unit)
        return
    team = _Team(workers, fork, devices)
    try:
        team.start(workers)
        yield None
        lost: list[Job] = []
        for job, record in team.run(units):
            if record is None:
                lost.append(job)
            else:
                yield record
        team.size, team.others = 1, False
        for job in lost:
            for _, record in team.run([[job]]):
                yield record or failed(job, DIED)
    finally:
        team.stop(*team.workers)


def side_by_side(jobs: Sequence[Job]) -> list[list[Job]]:
    """Put runs together that go side by side: those that differ in their seed only, at most as many as they say."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.spec.key if job.spec.side_by_side == 1 else job.spec.but_for_seed, []).append(job)
    return [
        group[start : start + group[0].spec.side_by_side]
        for group in groups.values()
        for start in range(0, len(group), group[0].spec.side_by_side)
    ]


def may_have_workers() -> bool:
    """Whether this process may start others: a worker of multiprocessing's Pool, for one, may not."""
    return not multiprocessing.current_process().daemon


def time_is_up(job: Job, where: str | None = None) -> RunRecord:
    """Return the record of a run that was stopped at its time limit; `where` is what it told last."""
    return failed(job, ", ".join(filter(None, [f"it took longer than the time limit of {job.timeout:g} s", where])))


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    device: str | None
    ready: bool = False  # whether it has started and waits for jobs
    jobs: Sequence[Job] = ()  # those that it is doing side by side, mostly one
    where: str | None = None  # where that is, as it told last
    deadline: float = math.inf  # when that has to be done, in seconds of `time.monotonic`


class _Team:
    """Up to `size` workers, started as they are needed."""

    def __init__(self, size: int, fork: bool, devices: Sequence[str]):
        self.size, self.devices = size, devices
        self.context = multiprocessing.get_context("fork" if fork else "spawn")
        if POSIX and not fork:  # else it starts with the first worker, and unblocks the signals that wait then
            resource_tracker.ensure_running()
        self.workers: list[_Worker] = []
        self.others = size > 1  # whether runs may go side by side
        self.failed_starts = 0  # since the last message of any worker

    def run(self, units: Sequence[Sequence[Job]]) -> Iterator[tuple[Job, RunRecord | None]]:
        """Yield each job with its record as it is finished, in any order, or with None if its worker has died."""
        waiting = deque(units)
        self._hand_out(waiting)
        while waiting or any(worker.jobs for worker in self.workers):
            finished = self._finished()
            self._hand_out(waiting)  # before the caller takes its time with the records
            yield from finished

    def _hand_out(self, waiting: deque[Sequence[Job]]) -> None:
        """Give jobs to workers that have none; start more workers while there are jobs for them."""
        for worker in self.workers:
            if waiting and worker.ready and not worker.jobs:
                jobs = waiting.popleft()
                worker.where = None
                worker.jobs = [dataclasses.replace(job, device=worker.device or job.device) for job in jobs]
                timeout = jobs[0].timeout
                worker.deadline = math.inf if timeout is None else time.monotonic() + len(jobs) * timeout
                with contextlib.suppress(OSError):  # it has just died, as `_finished` will find
                    worker.connection.send(worker.jobs)
        busy = sum(bool(worker.jobs) for worker in self.workers)
        self.start(min(self.size, busy + len(waiting)))

    def _finished(self) -> list[tuple[Job, RunRecord | None]]:
        """Wait until something happens; return the jobs that were finished, or lost with their workers."""
        deadline = min((worker.deadline for worker in self.workers), default=math.inf)
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        found = wait([worker.connection for worker in self.workers], left)
        finished: list[tuple[Job, RunRecord | None]] = []
        for worker in list(self.workers):
            jobs, records = worker.jobs, None
            if worker.connection in found:
                try:
                    records = worker.connection.recv()
                    self.failed_starts = 0
                    if isinstance(records, str):
                        worker.where = records
                        continue
                    if self.others and any((r.error or "").startswith(OUT_OF_MEMORY) for r in records or ()):
                        records, self.size = None, max(1, self.size - 1)  # run again, and fewer go side by side
                        self.stop(worker)
                except (EOFError, OSError):  # it has died
                    self.stop(worker)
                    self.failed_starts += not worker.ready
                if self.failed_starts > 2 * self.size:
                    raise ClbenchError("workers die before they have begun a run; finished records are kept")
            elif jobs and worker.deadline <= time.monotonic():
                self.stop(worker)
                records = [time_is_up(job, worker.where) for job in jobs]
            else:
                continue
            worker.ready, worker.jobs, worker.deadline = True, (), math.inf
            finished += zip(jobs, records or [None] * len(jobs), strict=True)
        return finished

    def start(self, count: int) -> None:
        """Start workers until there are so many."""
        while len(self.workers) < count:
            in_use = [worker.device for worker in self.workers]
            device = min(self.devices, key=in_use.count) if len(self.devices) > 1 else None
            ours, theirs = self.context.Pipe()
            with _inherited():  # a request to end waits until the worker is among those to stop
                process: Any = self.context.Process(target=_work, args=(theirs, os.getpid()))  # type: ignore[attr-defined]
                process.start()
                self.workers.append(_Worker(process, ours, device))
            theirs.close()

    def stop(self, *workers: _Worker) -> None:
        """Kill these workers."""
        for worker in workers:
            self.workers.remove(worker)
            worker.process.kill()
        for worker in workers:
            worker.process.join()
            worker.connection.close()


@contextlib.contextmanager
def _inherited() -> Iterator[None]:
    """Set what a new process inherits: signals that wait, and no script to import.

    A spawned process would import the caller's script again, which fails for scripts without a
    `if __name__ == "__main__"`; workers need nothing of it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS_TO_END) if POSIX else set()
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if POSIX:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _work(connection: Connection, parent: int) -> None:
    """Do jobs in this new process until the parent goes; say once when ready."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the parent handles it
    for number in REQUESTS_TO_END - {signal.SIGINT}:
        if signal.getsignal(number) != signal.SIG_IGN:  # under nohup
            signal.signal(number, signal.SIG_DFL)  # the parent may handle them like Ctrl-C
    if POSIX:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS_TO_END)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    keep_freed_memory()
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has gone
        connection.send(None)
        while True:
            connection.send(run_together(connection.recv(), connection.send))


def end_with(parent: int) -> None:
    """End this process as soon as its parent has ended."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)

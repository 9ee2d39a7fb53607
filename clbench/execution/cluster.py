"""Runs on a cluster of Dask or Ray, which stand in `dask_cluster` and `ray_cluster`."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from clbench.errors import ClbenchError, UsageError
from clbench.execution.remote import DIED
from clbench.execution.run import failed
from clbench.experiment.spec import Job
from clbench.results.store import RunRecord

PACKAGES = {"dask": "distributed", "ray": "ray"}  # by backend
WORKERS = 60  # seconds that a cluster may be without a worker


class Backend(Protocol):
    """A cluster that answers, and what is asked of it."""

    name: str
    workers: str  # what it needs, in words
    limit: int | None  # runs that it is given at a time; None: all at once
    runs_per_place: int  # runs that share what `count` counts
    deaths: tuple[type[BaseException], ...]  # what a run ends with whose workers died
    ends: tuple[type[BaseException], ...]  # what a run ends with when the cluster is lost

    def count(self) -> int:
        """Return how many places for runs its workers have at this moment."""
        ...

    def submit(self, job: Job) -> Any:
        """Send a job; return a future of its record. A job whose worker dies is sent once more."""
        ...

    def finished(self, futures: Sequence[Any]) -> Sequence[Any]:
        """Wait for some of these to be finished, a second at most; return those that are."""
        ...

    def result(self, future: Any) -> RunRecord:
        """Return the record of a future that is finished, or raise what it ended with."""
        ...


@dataclass(frozen=True)
class Cluster:
    """Runs jobs on a cluster, of which `workers` go side by side."""

    backend: Backend
    workers: int

    def run(self, jobs: Sequence[Job]) -> Generator[RunRecord, None, None]:
        """Yield a record for every job as it is finished; raise ClbenchError if the cluster is lost."""
        backend, waiting, under_way = self.backend, deque(jobs), dict[Any, Job]()
        seen = time.monotonic()  # when it was last seen to have a worker
        try:
            while waiting or under_way:
                while waiting and (backend.limit is None or len(under_way) < backend.limit):
                    job = waiting.popleft()
                    under_way[backend.submit(job)] = job
                finished = backend.finished(list(under_way))
                for future in finished:
                    yield self._record(future, under_way.pop(future))
                if finished or backend.count():
                    seen = time.monotonic()
                elif time.monotonic() - seen > WORKERS:
                    raise self._lost(f"it had no worker for {WORKERS} s")
        except backend.ends:
            raise self._lost("it does not answer any more") from None

    def _record(self, future: Any, job: Job) -> RunRecord:
        try:
            return self.backend.result(future)
        except self.backend.ends:
            raise
        except self.backend.deaths:
            return failed(job, DIED)
        except Exception as error:
            return failed(job, f"the worker raised {type(error).__name__}: {error}")

    def _lost(self, reason: str) -> ClbenchError:
        return ClbenchError(f"the {self.backend.name} cluster was lost: {reason}; finished records are kept")


@contextlib.contextmanager
def connected(backend: str, scheduler: str | None, device: str, jobs: int | None) -> Iterator[Cluster]:
    """Reach a cluster; raise UsageError if it can't be, or has no worker for these runs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # that part of Ray does not write by Python's loggers
    try:
        importlib.import_module(PACKAGES[backend])
    except ImportError:
        raise UsageError(f"--backend {backend} needs a package more: pip install 'clbench[{backend}]'") from None
    reached: AbstractContextManager[Backend]
    with _silent("distributed", "distributed.client", "ray"):
        # imported here, as their packages are optional
        if backend == "dask":
            from clbench.execution import dask_cluster

            reached = dask_cluster.connected(str(scheduler), device, jobs)
        else:
            from clbench.execution import ray_cluster

            reached = ray_cluster.connected(scheduler, device, jobs)
        with reached as found:
            deadline = time.monotonic() + WORKERS
            while not (places := found.count()):
                if time.monotonic() > deadline:
                    where = f"the {found.name} cluster" + (f" at {scheduler}" if scheduler else "")
                    raise UsageError(f"{where} had no {found.workers} for {WORKERS} s")
                time.sleep(0.2)
            workers = places * found.runs_per_place
            yield Cluster(found, workers if found.limit is None else min(found.limit, workers))


@contextlib.contextmanager
def _silent(*names: str) -> Iterator[None]:
    """Silence loggers: what they would say is said in one line of our own."""
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)

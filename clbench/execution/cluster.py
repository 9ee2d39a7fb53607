"""Clusters that a sweep's runs can go to, through joblib's own backends: Dask and Ray.

A worker there needs the installed package and a place for data. It compares what it has with what was planned, and its
run has failed if that differs.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import faulthandler
import importlib
import importlib.util
import logging
import os
import platform
import threading
import time
import traceback
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import joblib

from clbench import NUMBERS, __version__
from clbench.errors import ClbenchError, UsageError
from clbench.execution.job import PATIENCE, failed, nowhere, run_one
from clbench.experiment.spec import Job
from clbench.results.store import RunRecord

PACKAGES = {"dask": "distributed", "ray": "ray"}  # what a backend needs
ANSWER = 10  # seconds that a scheduler has to answer
WORKERS = 60  # seconds that a cluster may be without a worker
ROUND = 2  # runs per worker that go to a backend which gives results only when all are there
DIED = "its worker died under it twice, perhaps for want of memory"

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Lost:
    """A run of which no record came back, and why."""

    job: Job
    why: BaseException


@dataclass(frozen=True)
class Cluster:
    """A cluster that answers."""

    name: str
    workers: int  # runs that it does side by side
    deaths: tuple[type[BaseException], ...]  # what a run is lost with when its worker dies
    ends: tuple[type[BaseException], ...]  # what it is lost with when the cluster is
    # gives what becomes of some jobs, or of the first of them if any was lost; cautiously: no run waits behind another
    landing: Callable[[Sequence[Job], bool], Iterator[RunRecord | Lost]]

    def run(self, jobs: Sequence[Job]) -> Generator[RunRecord, None, None]:
        """Yield a record for every job as it is finished, whatever becomes of the workers.

        Runs that were lost with a worker are sent again, after the others and cautiously; one that is lost again has
        failed.
        """
        left = {job.spec.key: job for job in jobs}
        losses: Counter[str] = Counter()
        while left:
            fresh = [job for key, job in left.items() if not losses[key]]
            with contextlib.closing(self._landing(fresh or list(left.values()), not fresh)) as landing:
                for found in landing:
                    record = found if isinstance(found, RunRecord) else self._judge(found, losses)
                    if record is not None:
                        del left[record.key]
                        yield record

    def _landing(self, jobs: Sequence[Job], cautious: bool) -> Generator[RunRecord | Lost, None, None]:
        try:
            yield from self.landing(jobs, cautious)
        except self.ends as error:
            raise self.gone(error) from None

    def _judge(self, lost: Lost, losses: Counter[str]) -> RunRecord | None:
        """Return a failed record, or None for a run that is to be sent again."""
        if isinstance(lost.why, self.ends):
            raise self.gone(lost.why)
        if not isinstance(lost.why, self.deaths):
            return failed(lost.job, f"the worker raised {type(lost.why).__name__}: {lost.why}")
        losses[lost.job.spec.key] += 1
        return failed(lost.job, died(lost.job)) if losses[lost.job.spec.key] == 2 else None

    def gone(self, error: BaseException) -> ClbenchError:
        """Return what to tell of a cluster that does not answer any more."""
        reason = str(error) if isinstance(error, _NoWorkers) else "it does not answer any more"
        return ClbenchError(f"the {self.name} cluster was lost: {reason}; finished records are kept")


class _NoWorkers(Exception):
    """A cluster has been without a worker for too long."""


def died(job: Job) -> str:
    """Return why a run has failed whose workers died."""
    return DIED + ("" if job.timeout is None else f", or it is deaf to its time limit of {job.timeout:g} s")


@contextlib.contextmanager
def connected(backend: str, scheduler: str | None, device: str, jobs: int | None) -> Iterator[Cluster]:
    """Reach a cluster; raise UsageError if it can't be, or has no worker for these runs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it speaks past Python
    try:
        importlib.import_module(PACKAGES[backend])
    except ImportError:
        raise UsageError(f"--backend {backend} needs a package more: pip install 'clbench[{backend}]'") from None
    with _dask(str(scheduler), device, jobs) if backend == "dask" else _ray(scheduler, device, jobs) as cluster:
        yield cluster


# On a worker


def run_there(job: Job) -> RunRecord:
    """Run one job on a worker of a cluster, if all is there as it was planned."""
    if job.root is not None and not job.root.is_dir():
        job = dataclasses.replace(job, data_root=None)  # CLBENCH_DATA_ROOT there
    try:
        _compare(job)
    except (Exception, SystemExit) as error:
        text = str(error) if isinstance(error, ClbenchError) else f"{type(error).__name__}: {error}"
        return failed(job, f"on {platform.node()}, {text}\n\n{traceback.format_exc()}")
    with _ending_if_deaf(job.timeout):
        return run_one(job)


def _compare(job: Job) -> None:
    """Raise an error unless code and data are those that the run was planned with."""
    if job.spec.numbers != NUMBERS:
        raise ClbenchError(
            f"clbench {__version__} computes numbers of version {NUMBERS}, and the sweep is of version "
            f"{job.spec.numbers}: install the same clbench there"
        )
    for kind in job.references:
        job.instance(kind)
    if job.instance("sequence").prepare(job.root, job.spec.seed) != job.spec.data:
        raise ClbenchError(f"the data of {job.spec.sequence_label} are not those of the sweep: look at its data root")


@contextlib.contextmanager
def _ending_if_deaf(timeout: float | None) -> Iterator[None]:
    """End this process if a run does not heed its time limit."""
    if timeout is not None:
        faulthandler.dump_traceback_later(timeout + PATIENCE, exit=True, file=nowhere())
    try:
        yield
    finally:
        if timeout is not None:
            faulthandler.cancel_dump_traceback_later()


def _run_in_dask(job: Job, sweep: str) -> RunRecord:
    """Run a job on a worker of Dask's, unless two have died under it: Dask itself would let it have four.

    The scheduler's metadata count the workers that began it and have not finished.
    """
    client, place = importlib.import_module("distributed").get_client(), [sweep, job.spec.key]
    with _ONE_AT_A_TIME:  # so that a run which waits for another in the same process has not begun
        begun = client.get_metadata(place, 0)
        if begun == 2:
            return failed(job, died(job))
        client.set_metadata(place, begun + 1)
        record = run_there(job)
        client.set_metadata(place, 0)
        return record


# What joblib's backends lack


class _Once:
    """A callback of joblib's, told once what became of a run: its record, or why there is none."""

    def __init__(self, func: Any, callback: Callable[[list[Any]], None]):
        ((_, (self.job, *_), _),) = func.items
        self.callback, self.told = callback, False

    def __call__(self, outcome: Any) -> None:
        if not self.told:
            self.told = True
            raised = getattr(outcome, "exc", outcome)  # joblib wraps what the run itself raises
            self.callback(outcome if isinstance(outcome, list) else [Lost(self.job, raised)])


def _dask_backend(client: Any) -> Any:
    """Return joblib's Dask backend, but a run that ends with an exception of Dask's own comes back as lost.

    joblib (1.6.0) calls nobody back for such a run, and the sweep would wait for ever.
    """
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        under_way: list[_Once]

        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, sum(self.client.nthreads().values()))  # for one, joblib would compute in this process

        def start_call(self) -> None:
            self.under_way = []
            super().start_call()
            self.client.loop.add_callback(self._watch)

        def submit(self, func: Any, callback: Any = None) -> Any:
            once = _Once(func, callback)
            self.under_way.append(once)
            future = super().submit(func, once)
            future.add_done_callback(lambda done: once(done.exception()) if done.exception() else None)
            return future

        async def _watch(self) -> None:
            """Give up all runs when the cluster is closed, or was without a worker for too long."""
            seen = time.monotonic()
            why: Exception | None = None
            while self._continue and why is None:
                await asyncio.sleep(0.5)
                with contextlib.suppress(OSError):  # it may answer again
                    if self.client.status == "closed":
                        why = concurrent.futures.CancelledError()
                    elif self.client.status != "running" or await self.client.scheduler.ncores():
                        seen = time.monotonic()
                    elif time.monotonic() - seen > WORKERS:
                        why = _NoWorkers(f"it had no worker for {WORKERS} s")
            for once in self.under_way if why is not None else ():
                once(why)

    return Backend(client=client)


def _ray_backend(**needs: float) -> Any:
    """Return joblib's Ray backend, but a run that was lost is told as such, and the others of its round are kept."""
    from ray.util.joblib.ray_backend import RayBackend

    class Backend(RayBackend):
        def submit(self, func: Any, callback: Any = None) -> Any:
            return super().submit(func, _Once(func, callback))

        def abort_everything(self, ensure_ready: bool = True) -> None:
            super().abort_everything(ensure_ready=False)  # no new workers for a sweep that ends

    return Backend(nesting_level=0, ray_remote_args=needs)


# The clusters


@contextlib.contextmanager
def _dask(scheduler: str, device: str, jobs: int | None) -> Iterator[Cluster]:
    distributed = importlib.import_module("distributed")
    on_gpu = device != "cpu"
    if on_gpu and jobs is not None:
        raise UsageError("on Dask's GPUs, start as many workers on each device as it is to have runs, without --jobs")
    with _silent("distributed", "distributed.client"):
        client = distributed.Client.__new__(distributed.Client)
        try:
            client.__init__(scheduler, timeout=ANSWER, set_as_default=False)
        except (OSError, ValueError, ImportError, TypeError) as error:
            client.status = "closed"  # or it tries to close what it never opened, and complains
            raise UsageError(f"no Dask scheduler answers at {scheduler}: {_line(error)}") from None
        with contextlib.closing(client):
            threads = _wait_for_workers(lambda: _threads(client, on_gpu))
            if not threads:
                with_gpu = " that was started with --resources GPU=1" if on_gpu else ""
                raise UsageError(f"the Dask cluster at {scheduler} had no worker{with_gpu} for {WORKERS} s")
            workers = threads if jobs is None else min(jobs, threads)
            sweep = f"clbench-{uuid.uuid4().hex}"
            needs = {"resources": {"GPU": 1}} if on_gpu else {}

            def landing(some: Sequence[Job], cautious: bool) -> Iterator[RunRecord | Lost]:
                backend = _dask_backend(client)
                backend.submit_kwargs = needs
                at_once = "all" if jobs is None and not cautious else workers
                parallel = joblib.Parallel(
                    backend=backend, batch_size=1, pre_dispatch=at_once, return_as="generator_unordered"
                )
                found = parallel(joblib.delayed(_run_in_dask)(job, sweep) for job in some)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of one that is left early
                    with contextlib.closing(found):
                        yield from found

            ends = (concurrent.futures.CancelledError, OSError, _NoWorkers)
            try:
                yield Cluster("Dask", workers, (distributed.KilledWorker,), ends, landing)
            finally:
                if client.status == "running":
                    with contextlib.suppress(Exception):
                        client.set_metadata([sweep], None)


def _threads(client: Any, on_gpu: bool) -> int:
    """Count the threads of workers, or of those that offer a GPU."""
    if not on_gpu:
        return sum(client.nthreads().values())
    found = client.scheduler_info()["workers"].values()
    return sum(1 for worker in found if worker["resources"].get("GPU", 0) >= 1)


@contextlib.contextmanager
def _ray(address: str | None, device: str, jobs: int | None) -> Iterator[Cluster]:
    ray = importlib.import_module("ray")
    kind, where = ("CPU", "the Ray cluster") if device == "cpu" else ("GPU", "the Ray cluster's machines")
    with _silent("ray"):
        ours = not ray.is_initialized()
        if ours:
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level="critical",
                    include_dashboard=False if address is None else None,
                )
            except (OSError, ValueError, RuntimeError, AssertionError) as error:
                raise UsageError(f"no Ray cluster answers at {address}: {_line(error)}") from None
        try:
            if ray.cluster_resources().get("CPU", 0) < 2:
                raise UsageError("joblib's Ray backend needs a cluster of two CPUs or more")
            free = _wait_for_workers(lambda: int(ray.available_resources().get(kind, 0)))
            if not free:
                raise UsageError(f"{where} had no free {kind} for {WORKERS} s")
            workers = free * (jobs or 1) if kind == "GPU" else min(free, jobs or free)
            actors = max(2, workers)  # for one, joblib would compute in this process
            share = workers / actors / (jobs or 1 if kind == "GPU" else 1)
            needs = {"num_gpus": share} if kind == "GPU" else {"num_cpus": share}

            def landing(some: Sequence[Job], cautious: bool) -> Iterator[RunRecord | Lost]:
                size = workers if cautious else ROUND * workers
                options = {"batch_size": 1, "pre_dispatch": "all"}
                with joblib.Parallel(actors, backend=_ray_backend(**needs), **options) as parallel:
                    for start in range(0, len(some), size):
                        found = parallel(joblib.delayed(run_there)(job) for job in some[start : start + size])
                        yield from found
                        if any(isinstance(one, Lost) for one in found):
                            return  # its workers are no longer whole

            known = ray.exceptions
            deaths = (known.RayActorError, known.WorkerCrashedError, known.NodeDiedError, known.OutOfMemoryError)
            yield Cluster("Ray", workers, deaths, (known.RaySystemError, OSError), landing)
        finally:
            if ours:
                ray.shutdown()


def _wait_for_workers(count: Callable[[], int]) -> int:
    """Return how many there are, as soon as there are any; 0 after WORKERS seconds."""
    deadline = time.monotonic() + WORKERS
    while not (found := count()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


@contextlib.contextmanager
def _silent(*names: str) -> Iterator[None]:
    """Keep loggers from speaking beside our own one line."""
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)

"""Runs on a cluster of Dask or Ray. Their packages are optional, and imported only to reach a cluster.

A worker there needs the installed package and a place for data. A run has failed if it has other code or data.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import importlib
import io
import logging
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from clbench.errors import ClbenchError, UsageError
from clbench.execution.run import failed, run_one, what_happened
from clbench.execution.workers import end_with, time_is_up
from clbench.experiment.spec import Job
from clbench.results.store import RunRecord
from clbench.version import NUMBERS, __version__

WORKERS = 60  # seconds that a cluster may be without a worker
ANSWER = 10  # seconds that a Dask scheduler has to answer
DIED = "its worker died under it twice, perhaps for want of memory"

_ONE_AT_A_TIME = threading.Lock()


class Cluster(ABC):
    """A cluster that answers, and what is asked of it."""

    name: str
    needs: str  # the workers that it needs, in words
    limit: int | None = None  # runs that it is given at a time; None: all at once
    runs_per_place: int = 1  # runs that share what `count` counts
    deaths: tuple[type[BaseException], ...]  # what a run ends with whose workers died
    ends: tuple[type[BaseException], ...]  # what a run ends with when the cluster is lost

    @abstractmethod
    def count(self) -> int:
        """Return how many places for runs its workers have at this moment."""

    @abstractmethod
    def submit(self, job: Job) -> Any:
        """Send a job, once more if its worker dies; return a future of its record, with `done` and `result`."""

    @abstractmethod
    def close(self) -> None:
        """Leave the cluster."""

    @property
    def workers(self) -> int:
        """How many runs go side by side."""
        places = self.count() * self.runs_per_place
        return places if self.limit is None else min(self.limit, places)

    def run(self, jobs: Sequence[Job]) -> Generator[RunRecord, None, None]:
        """Yield a record for every job as it is finished; raise ClbenchError if the cluster is lost."""
        waiting, under_way = deque(jobs), dict[Any, Job]()
        seen = asked = time.monotonic()  # when it was last known to have a worker, and asked whether it has
        try:
            while waiting or under_way:
                while waiting and (self.limit is None or len(under_way) < self.limit):
                    job = waiting.popleft()
                    under_way[self.submit(job)] = job
                time.sleep(0.05)
                finished = [future for future in under_way if future.done()]
                for future in finished:
                    yield self._record(future, under_way.pop(future))
                now = time.monotonic()
                if finished or now - asked > 1:
                    seen, asked = now if finished or self.count() else seen, now
                if now - seen > WORKERS:
                    raise self._lost(f"it had no worker for {WORKERS} s")
        except self.ends:
            raise self._lost("it does not answer any more") from None

    def _record(self, future: Any, job: Job) -> RunRecord:
        try:
            return future.result()
        except self.ends:
            raise
        except self.deaths:
            return failed(job, DIED)
        except Exception as error:
            return failed(job, f"the worker raised {type(error).__name__}: {error}")

    def _lost(self, reason: str) -> ClbenchError:
        return ClbenchError(f"the {self.name} cluster was lost: {reason}; finished records are kept")


class DaskCluster(Cluster):
    """A Dask scheduler and its workers: futures of `distributed`."""

    name = "Dask"
    ends = (concurrent.futures.CancelledError, OSError)

    def __init__(self, scheduler: str, on_gpu: bool, jobs: int | None):
        import distributed

        if on_gpu and jobs is not None:
            words = "start as many workers on each device as it is to have runs, without --jobs"
            raise UsageError(f"on Dask's GPUs, {words}")
        self.on_gpu, self.limit, self.deaths = on_gpu, jobs, (distributed.KilledWorker,)
        self.needs = "worker" + (" that was started with --resources GPU=1" if on_gpu else "")
        self.sweep = f"clbench-{uuid.uuid4().hex}"
        try:
            self.client = distributed.Client(scheduler, timeout=ANSWER, set_as_default=False)
        except (OSError, ValueError, ImportError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"no Dask scheduler answers at {scheduler}: {reason}") from None

    def count(self) -> int:
        """Count the threads of workers, or the workers that offer a GPU."""
        if self.client.status == "closed":
            raise OSError("the scheduler has gone")
        if self.client.status == "running":
            with contextlib.suppress(OSError):  # it may answer again
                if not self.on_gpu:
                    return sum(self.client.nthreads().values())
                workers = self.client.scheduler_info(n_workers=-1)["workers"].values()  # by default it lists five
                return sum(worker["resources"].get("GPU", 0) >= 1 for worker in workers)
        return 0

    def submit(self, job: Job) -> Any:
        needs = {"GPU": 1} if self.on_gpu else None
        return self.client.submit(_run_in_dask, job, self.sweep, pure=False, resources=needs)

    def close(self) -> None:
        if self.client.status == "running":
            with contextlib.suppress(Exception):  # only its metadata are left
                self.client.set_metadata([self.sweep], None)
        self.client.close()


def _run_in_dask(job: Job, sweep: str) -> RunRecord:
    """Run a job on a worker of Dask's, unless two have died under it: Dask itself would let it have four.

    The scheduler's metadata count the workers that began it and have not finished.
    """
    import distributed

    client, place = distributed.get_client(), [sweep, job.spec.key]
    with _ONE_AT_A_TIME:  # a run that waits for another in the same process has not begun
        begun = client.get_metadata(place, 0)
        if begun == 2:
            return failed(job, DIED)
        client.set_metadata(place, begun + 1)
        record = run_there(job)
        client.set_metadata(place, 0)
        return record


class RayCluster(Cluster):
    """A Ray cluster, or one that is started on this machine: tasks of `ray.remote`."""

    name = "Ray"

    def __init__(self, address: str | None, on_gpu: bool, jobs: int | None):
        import ray

        self.ray, known = ray, ray.exceptions
        self.deaths = (known.WorkerCrashedError, known.NodeDiedError, known.OutOfMemoryError)
        self.ends = (known.RaySystemError, OSError)
        # on GPUs, `jobs` are those of each device
        self.needs, self.limit = ("GPU", None) if on_gpu else ("CPU", jobs)
        self.runs_per_place = (jobs or 1) if on_gpu else 1
        needs = {"num_gpus": 1 / self.runs_per_place, "num_cpus": 0} if on_gpu else {"num_cpus": 1}
        # a worker serves many runs, as it takes seconds to start; a run whose worker dies is sent once more
        self.remote = ray.remote(max_calls=0, max_retries=1, **needs)(run_there)
        self.ours = not ray.is_initialized()
        if self.ours:
            dashboard: dict[str, Any] = {} if address else {"include_dashboard": False}
            try:
                # Ray puts the working folder first on its workers' path: a checkout there would hide the package
                with contextlib.chdir(tempfile.gettempdir()):
                    ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **dashboard)
            except (OSError, ValueError, RuntimeError, AssertionError) as error:
                reason = " ".join(str(error).split())
                raise UsageError(f"no Ray cluster answers at {address}: {reason}") from None

    def count(self) -> int:
        return int(self.ray.cluster_resources().get(self.needs, 0))

    def submit(self, job: Job) -> Any:
        return self.remote.remote(job).future()

    def close(self) -> None:
        if self.ours:
            self.ray.shutdown()


@contextlib.contextmanager
def connected(backend: str, scheduler: str | None, device: str, jobs: int | None) -> Iterator[Cluster]:
    """Reach a cluster; raise UsageError if it can't be, or has no worker for these runs."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # that part of Ray does not write by Python's loggers
    try:
        importlib.import_module("distributed" if backend == "dask" else "ray")
    except ImportError:
        raise UsageError(
            f"--backend {backend} needs a package more: pip install '.[{backend}]' in clbench's checkout"
        ) from None
    reach: Any = DaskCluster if backend == "dask" else RayCluster
    with (
        _silent("distributed", "distributed.client", "ray"),
        contextlib.closing(reach(scheduler, device != "cpu", jobs)) as found,
    ):
        deadline = time.monotonic() + WORKERS
        while not found.count():
            if time.monotonic() > deadline:
                where = f"the {found.name} cluster" + (f" at {scheduler}" if scheduler else "")
                raise UsageError(f"{where} had no {found.needs} for {WORKERS} s")
            time.sleep(0.2)
        yield found


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


def run_there(job: Job) -> RunRecord:
    """Run one job on a worker of a cluster, if all is there as it was planned."""
    if job.data_root is not None and not job.data_root.is_dir():
        job = dataclasses.replace(job, data_root=None)  # CLBENCH_DATA_ROOT there
    try:
        _compare(job)
    except (Exception, SystemExit) as error:
        return failed(job, f"on {platform.node()}, {what_happened(error, job)}\n\n{traceback.format_exc()}")
    return run_one(job) if job.timeout is None else _run_in_process(job, job.timeout)


def _compare(job: Job) -> None:
    """Raise an error unless code and data are those that the run was planned with."""
    if job.spec.numbers != NUMBERS:
        here = f"clbench {__version__} computes numbers of version {NUMBERS}"
        raise ClbenchError(f"{here}, and the sweep is of version {job.spec.numbers}: install the same clbench there")
    for kind in job.references:
        job.instance(kind)
    if job.instance("sequence").prepare(job.data_root, job.spec.seed) != job.spec.data:
        raise ClbenchError(f"the data of {job.spec.sequence_label} are not those of the sweep: look at its data root")


def _run_in_process(job: Job, timeout: float) -> RunRecord:
    """Run a job in a process of its own, which is killed if it takes too long; others of this worker go on.

    It is not one of `multiprocessing`, as Dask's workers may not start such.
    """
    command = [sys.executable, "-P", "-c", "from clbench.execution.cluster import main; main()", str(os.getpid())]
    there = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # what can be imported here
    try:
        done = subprocess.run(
            command, input=pickle.dumps(job), capture_output=True, timeout=timeout, check=True, env=there
        )
        return _told(done.stdout)[-1]
    except subprocess.TimeoutExpired as error:
        return time_is_up(job, *_told(error.stdout or b"")[-1:])
    except subprocess.CalledProcessError as error:
        return failed(job, f"its process died with exit code {error.returncode}")


def _told(output: bytes) -> list[Any]:
    """Return what the process wrote: where its run was, again and again, and at last the record."""
    stream, told = io.BytesIO(output), []
    with contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            told.append(pickle.load(stream))
    return told


def main() -> None:
    """Read a job from standard input, run it, and write where it is, then its record, to standard output.

    It ends with the parent.
    """
    threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start()
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a method prints must not come between

    def tell(what: str | RunRecord) -> None:
        pickle.dump(what, output)
        output.flush()

    tell(run_one(pickle.load(sys.stdin.buffer), tell))

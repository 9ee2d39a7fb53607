"""Runs on a Dask cluster: futures of `distributed`."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import distributed

from clbench.errors import UsageError
from clbench.execution.remote import DIED, run_there
from clbench.execution.run import failed
from clbench.experiment.spec import Job
from clbench.results.store import RunRecord

ANSWER = 10  # seconds that a scheduler has to answer

_ONE_AT_A_TIME = threading.Lock()


class DaskCluster:
    """A Dask scheduler that answers, and its workers."""

    name = "Dask"
    deaths: tuple[type[BaseException], ...] = (distributed.KilledWorker,)
    ends: tuple[type[BaseException], ...] = (concurrent.futures.CancelledError, OSError)

    def __init__(self, client: Any, on_gpu: bool, limit: int | None):
        self.client, self.on_gpu, self.limit, self.runs_per_place = client, on_gpu, limit, 1
        self.workers = "worker" + (" that was started with --resources GPU=1" if on_gpu else "")
        self.sweep = f"clbench-{uuid.uuid4().hex}"

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

    def finished(self, futures: Sequence[Any]) -> Sequence[Any]:
        deadline = time.monotonic() + 1
        while not (found := [future for future in futures if future.done()]) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def result(self, future: Any) -> RunRecord:
        return future.result()


def _run_in_dask(job: Job, sweep: str) -> RunRecord:
    """Run a job on a worker of Dask's, unless two have died under it: Dask itself would let it have four.

    The scheduler's metadata count the workers that began it and have not finished.
    """
    client, place = distributed.get_client(), [sweep, job.spec.key]
    with _ONE_AT_A_TIME:  # a run that waits for another in the same process has not begun
        begun = client.get_metadata(place, 0)
        if begun == 2:
            return failed(job, DIED)
        client.set_metadata(place, begun + 1)
        record = run_there(job)
        client.set_metadata(place, 0)
        return record


@contextlib.contextmanager
def connected(scheduler: str, device: str, jobs: int | None) -> Iterator[DaskCluster]:
    """Reach a Dask scheduler; raise UsageError if it does not answer."""
    on_gpu = device != "cpu"
    if on_gpu and jobs is not None:
        raise UsageError("on Dask's GPUs, start as many workers on each device as it is to have runs, without --jobs")
    try:
        client = distributed.Client(scheduler, timeout=ANSWER, set_as_default=False)
    except (OSError, ValueError, ImportError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"no Dask scheduler answers at {scheduler}: {reason}") from None
    with contextlib.closing(client):
        there = DaskCluster(client, on_gpu, jobs)
        try:
            yield there
        finally:
            if client.status == "running":
                with contextlib.suppress(Exception):  # only its metadata are left
                    client.set_metadata([there.sweep], None)

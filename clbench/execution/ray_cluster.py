"""Runs on a Ray cluster: tasks of `ray.remote`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from clbench.errors import UsageError
from clbench.execution.remote import run_there
from clbench.experiment.spec import Job
from clbench.results.store import RunRecord

_KNOWN = ray.exceptions


class RayCluster:
    """A Ray cluster that answers."""

    name = "Ray"
    deaths: tuple[type[BaseException], ...] = (_KNOWN.WorkerCrashedError, _KNOWN.NodeDiedError, _KNOWN.OutOfMemoryError)
    ends: tuple[type[BaseException], ...] = (_KNOWN.RaySystemError, OSError)

    def __init__(self, on_gpu: bool, jobs: int | None):
        # on GPUs, `jobs` are those of each device
        self.workers = "GPU" if on_gpu else "CPU"
        self.limit = None if on_gpu else jobs
        self.runs_per_place = (jobs or 1) if on_gpu else 1
        needs = {"num_gpus": 1 / self.runs_per_place, "num_cpus": 0} if on_gpu else {"num_cpus": 1}
        # a worker serves many runs, as it takes seconds to start; a run whose worker dies is sent once more
        self.remote = ray.remote(max_calls=0, max_retries=1, **needs)(run_there)

    def count(self) -> int:
        return int(ray.cluster_resources().get(self.workers, 0))

    def submit(self, job: Job) -> Any:
        return self.remote.remote(job)

    def finished(self, futures: Sequence[Any]) -> Sequence[Any]:
        return ray.wait(list(futures), timeout=1)[0]

    def result(self, future: Any) -> RunRecord:
        return ray.get(future)


@contextlib.contextmanager
def connected(address: str | None, device: str, jobs: int | None) -> Iterator[RayCluster]:
    """Reach a Ray cluster, or start one on this machine; raise UsageError if that fails."""
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                include_dashboard=False if address is None else None,
            )
        except (OSError, ValueError, RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"no Ray cluster answers at {address}: {reason}") from None
    try:
        yield RayCluster(device != "cpu", jobs)
    finally:
        if ours:
            ray.shutdown()

"""Clusters that a sweep's runs can go to, through joblib's own backends: Dask and Ray."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, Literal

import joblib

from clbench.errors import UsageError
from clbench.job import Job, run_one
from clbench.store import RunRecord

ClusterName = Literal["dask", "ray"]
PATIENCE = "10s"  # of the wait for a scheduler


@dataclass(frozen=True)
class Cluster:
    """A cluster that answers: how joblib reaches it, and how many runs it does side by side."""

    name: ClusterName
    workers: int
    streams: bool  # whether results come one by one, or when all are there
    deaths: tuple[type[BaseException], ...]  # what it raises when a run has killed workers
    options: dict[str, Any] = field(default_factory=dict)  # for joblib.parallel_config

    def run(self, jobs: Sequence[Job]) -> Generator[RunRecord, None, None]:
        """Yield the jobs' records as they are finished. Raises BrokenProcessPool when workers have died of one."""
        with joblib.parallel_config(backend=self.name, **self.options):
            how = "generator_unordered" if self.streams else "list"
            parallel = joblib.Parallel(n_jobs=-1, batch_size=1, return_as=how, pre_dispatch="all")
        try:
            yield from parallel(joblib.delayed(run_one)(job) for job in jobs)
        except self.deaths as error:
            raise BrokenProcessPool(str(error)) from error


def check_backend(backend: str, scheduler: str | None) -> None:
    """Raise UsageError unless runs can be sent there."""
    if backend not in ("local", "dask", "ray"):
        raise UsageError(f"unknown backend {backend!r}: choose from local, dask, ray")
    if backend == "local" and scheduler is not None:
        raise UsageError("--scheduler is the address of a cluster: give --backend dask or ray with it")
    if backend == "dask" and not scheduler:
        raise UsageError("--backend dask needs --scheduler ADDRESS, as in tcp://10.0.0.1:8786")


@contextlib.contextmanager
def connected(name: ClusterName, scheduler: str | None) -> Iterator[Cluster]:
    """Reach a cluster; raise UsageError if it can't be, or has no worker."""
    with _dask(str(scheduler)) if name == "dask" else _ray(scheduler) as cluster:
        if cluster.workers == 0:
            raise UsageError(f"the {name} cluster at {scheduler} has no worker")
        yield cluster


def _module(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"--backend {extra} needs a package more: pip install 'clbench[{extra}]'") from None


@contextlib.contextmanager
def _dask(scheduler: str) -> Iterator[Cluster]:
    distributed = _module("distributed", "dask")
    try:
        client = distributed.Client(scheduler, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, ImportError) as error:
        raise UsageError(f"no Dask scheduler answers at {scheduler}: {' '.join(str(error).split())}") from None
    with client:
        workers = sum(client.nthreads().values())
        yield Cluster("dask", workers, True, (distributed.KilledWorker,), {"client": client})


@contextlib.contextmanager
def _ray(address: str | None) -> Iterator[Cluster]:
    ray = _module("ray", "ray")
    _module("ray.util.joblib", "ray").register_ray()
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
        except (OSError, ValueError, RuntimeError) as error:
            raise UsageError(f"no Ray cluster answers at {address}: {' '.join(str(error).split())}") from None
    try:
        workers = int(ray.cluster_resources().get("CPU", 0))
        yield Cluster("ray", workers, False, (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError))
    finally:
        if ours:
            ray.shutdown()

"""A sweep: the runs that were asked for, those that are finished already, and doing the others."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clbench.errors import ClbenchError, UsageError
from clbench.execution import tracking
from clbench.execution.claims import Claims
from clbench.execution.cluster import Cluster, connected
from clbench.execution.environment import checkout_commit
from clbench.execution.run import as_in_a_new_process, using_threads
from clbench.execution.workers import may_have_workers, run_jobs
from clbench.experiment.planning import Planned, plan
from clbench.experiment.request import Request
from clbench.experiment.spec import Job, RunSpec
from clbench.results.names import spelled
from clbench.results.store import RunRecord, Store
from clbench.results.wording import count_of

PREFIX = "clbench-sweep-"  # of temporary folders
PAUSE = 0.5  # seconds between two looks at what another sweep has finished
Records = Generator[RunRecord | None, None, None]  # None once, as soon as the workers have been started


@dataclass
class Sweep(Planned):
    """A planned sweep: its jobs in order, the records that are there already, and what the user should hear."""

    request: Request
    store: Store
    done: dict[str, RunRecord] = field(default_factory=dict)

    @property
    def missing(self) -> list[Job]:
        return [job for job in self.jobs if job.spec.key not in self.done]

    @property
    def labels(self) -> list[str]:
        """The methods' labels in the order in which they were asked for."""
        return list(dict.fromkeys(job.spec.label for job in self.jobs))

    @cached_property
    def told_apart(self) -> dict[str, str]:
        """Each run's label by its key, with the settings of training in brackets that tell it from others of a grid."""
        alike: dict[tuple[str, ...], list[RunSpec]] = {}
        for spec in (job.spec for job in self.jobs):
            alike.setdefault((spec.sequence_label, spec.scenario, spec.model_label, spec.label), []).append(spec)
        found = {}
        for specs in alike.values():
            differing = [name for name in specs[0].training if len({spec.training[name] for spec in specs}) > 1]
            for spec in specs:
                settings = ", ".join(f"training.{name}={spelled(spec.training[name])}" for name in differing)
                found[spec.key] = spec.label + (f" [{settings}]" if settings else "")
        return found

    @property
    def place(self) -> str:
        """Where runs are done, in words."""
        device, backend = self.jobs[0].device, self.request.backend
        return device if backend == "local" else f"{device.split(':')[0]}, {backend}"

    @property
    def records(self) -> list[RunRecord]:
        """The records there are, in order, under the names of this sweep: another may have made and named them."""
        found = [(job, self.done.get(job.spec.key)) for job in self.jobs]
        return [dataclasses.replace(record, spec=job.spec.as_json()) for job, record in found if record is not None]

    def run(self, fork: bool = False) -> Generator[RunRecord, None, None]:
        """Start what is missing, and yield each record as it is finished, after it is written.

        `close` stops the workers. `fork` starts them as copies of this process where that is safe: on Linux, for runs
        on the CPU of built-in code; the caller answers for it that this process has computed nothing in several
        threads. See `clbench.execution.workers.run_jobs` for what becomes of runs whose worker dies.
        """
        records = self._all(fork)
        next(records)  # so that workers are there before the caller goes on
        return records  # type: ignore[return-value]

    def _all(self, fork: bool) -> Records:
        """Do what no other sweep has under way, wait for the records of what others have, and do what they leave."""
        left = {job.spec.key: job for job in self.missing}
        with contextlib.ExitStack() as stack:
            cluster = self._cluster(stack) if left and self.request.backend != "local" else None
            self._prepare_folder()
            claims = stack.enter_context(contextlib.closing(Claims(self.store.folder)))
            others = self._under_way(claims, left)
            list(self._landed_elsewhere(list(left.values())))  # since this sweep was planned
            others -= self.done.keys()
            ours = [job for key, job in left.items() if key not in others | self.done.keys()]
            yield from self._do(ours, fork, cluster)
            while others:
                still = claims.take(others)
                yield from self._landed_elsewhere([left[key] for key in others])
                free = [left[key] for key in left if key in others - still and key not in self.done]
                if free:
                    with contextlib.closing(self._do(free, False, cluster)) as records:  # by now there are threads
                        yield from filter(None, records)
                others = still - self.done.keys()
                if others:
                    time.sleep(PAUSE)

    def _cluster(self, stack: contextlib.ExitStack) -> Cluster:
        request = self.request
        reached = connected(request.backend, request.scheduler, self.missing[0].device, request.jobs)
        cluster = stack.enter_context(reached)
        self.workers = cluster.workers
        return cluster

    def _under_way(self, claims: Claims, left: Mapping[str, Job]) -> set[str]:
        """Take the runs that no other sweep has under way, say how many have, and return these."""
        if not left:
            return set()
        folder = self.store.folder
        try:
            others = claims.take(left)
        except (OSError, NotImplementedError):
            self.notes.append(f"no file can be locked in {folder}: what another sweep into it does would be repeated")
            return set()
        if others:
            runs = "1 run is" if len(others) == 1 else f"{len(others)} runs are"
            self.notes.append(f"{runs} under way in another sweep into {folder}: waiting for what comes of it")
        return others

    def _landed_elsewhere(self, jobs: Sequence[Job]) -> Iterator[RunRecord]:
        """Take over the records that another sweep has finished, under the names of this one."""
        for job in jobs:
            record = None if self.request.force else self.store.find(job.spec.key)
            if record is not None and record.ok and _has_models(job, record):
                self.done[record.key] = record
                yield dataclasses.replace(record, spec=job.spec.as_json())

    def _do(self, jobs: Sequence[Job], fork: bool, cluster: Cluster | None) -> Records:
        """Run jobs and write their records."""
        for job in jobs:
            self.store.set_aside(job.spec.key)
            if self.request.force and job.checkpoint is not None:
                job.checkpoint.unlink(missing_ok=True)
        yield from self._written(self._run_here(jobs, fork) if cluster is None else _on_cluster(jobs, cluster))

    def _run_here(self, missing: Sequence[Job], fork: bool) -> Records:
        fork = fork and sys.platform == "linux"
        fork = fork and all(job.device == "cpu" and not job.spec.code for job in missing)
        with temporary_folder() as folder:
            jobs = order_jobs(missing, self.workers, folder)
            first_tasks = {job.spec.key: job.first_task for job in jobs}
            sharers = Counter(first_tasks.values())
            with contextlib.closing(run_jobs(jobs, self.workers, fork, self.devices)) as records:
                for record in records:
                    yield record
                    if record is not None and (path := first_tasks[record.key]) is not None:
                        sharers[path] -= 1
                        if not sharers[path]:
                            path.unlink(missing_ok=True)

    def _prepare_folder(self) -> None:
        try:
            self.store.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the output folder {self.store.folder} cannot be made: {error.strerror}") from None
        self.store.tidy()

    def _written(self, records: Records) -> Records:
        """Write records as they come."""
        checkpoints = {job.spec.key: job.checkpoint for job in self.jobs}
        with contextlib.closing(records):
            for record in records:
                if record is not None:
                    try:
                        if record.ok or not self.store.has_finished(record.key):  # by another sweep, or before --force
                            self.store.write(record)
                    except OSError as error:
                        reason = error.strerror or error
                        raise ClbenchError(f"cannot write to {self.store.folder}: {reason}") from None
                    self.done[record.key] = record
                    if record.ok and (checkpoint := checkpoints[record.key]) is not None:
                        checkpoint.unlink(missing_ok=True)
                yield record


def _on_cluster(jobs: Sequence[Job], cluster: Cluster) -> Records:
    yield None
    yield from cluster.run(sorted(jobs, key=lambda job: not job.memory))  # those that train on old data take longest


def prepare(request: Request) -> Sweep:
    """Plan what was asked for, and take over the records that are there."""
    with as_in_a_new_process(), using_threads(1):  # one thread, so that workers may be forked
        planned = plan(request)
    _heed_daemon(planned, request)
    commit = checkout_commit()
    planned.jobs = [dataclasses.replace(job, commit=commit) for job in planned.jobs]
    tracking.check(request.track or ())
    sweep = Sweep(**vars(planned), request=request, store=Store(request.out))
    if not request.force:
        _resume(sweep)
    if request.track and sweep.done:
        sweep.notes.append(f"{count_of(len(sweep.done), 'run')} there already: trackers are told of new ones only")
    return sweep


def _heed_daemon(planned: Planned, request: Request) -> None:
    """Plan runs one after another where this process may start no others."""
    if request.backend != "local" or may_have_workers():
        return
    daemon = "this process is a worker of multiprocessing, which may start no others"
    if request.timeout is not None:
        raise UsageError(f"{daemon}: a time limit needs another, leave timeout out")
    if min(planned.workers, len(planned.jobs)) > 1:
        planned.notes.append(f"{daemon}: runs go one after another")
    planned.workers = 1


def _resume(sweep: Sweep) -> None:
    """Take over finished records; note which are not because other code made them, or because they are damaged."""
    records, problems = sweep.store.read()
    sweep.notes += [f"damaged record, run again if it is part of this sweep: {problem}" for problem in problems]
    by_question = {_question(record.spec) for record in records.values() if record.ok}
    older: Counter[str] = Counter()
    for job in sweep.jobs:
        record = records.get(job.spec.key)
        if record is not None and record.ok:
            if _has_models(job, record):
                sweep.done[record.key] = record
        elif _question(job.spec.as_json()) in by_question:
            older[job.spec.label] += 1
    for label, count in older.items():
        made = f"{count} finished run{'s' * (count > 1)} of {label} were made by another version of its code or files"
        sweep.notes.append(f"{made}: run again")


def whole_preset(sweep: Sweep) -> Sweep:
    """Return the sweep of all rows, scenarios and seeds of its preset that have finished records beside this one's.

    What a sweep was asked to do otherwise than the preset holds for all of them.
    """
    request, stored = sweep.request, sweep.store.read()[0]
    assert request.preset is not None
    name = request.preset.name
    made = [record for record in stored.values() if (record.spec.get("preset") or {}).get("name") == name]
    seeds = {job.spec.seed for job in sweep.jobs} | {record.spec["seed"] for record in made}
    wider = {"rows": None, "scenario": None, "controls": True, "seeds": sorted(seeds)}
    request = request.model_copy(update=wider)
    try:
        with as_in_a_new_process(), using_threads(1):
            planned = plan(request)
    except UsageError as error:  # of a row that was not asked for
        sweep.notes.append(f"the table has only what was asked for: {error}")
        return sweep
    finished = {key: record for key, record in stored.items() if record.ok}
    return Sweep(**vars(planned), request=request, store=sweep.store, done=finished | sweep.done)


def _has_models(job: Job, record: RunRecord) -> bool:
    """Return whether the networks after each task are there, if they are asked for."""
    return job.models_folder is None or len(list(job.models_folder.glob("task-*.safetensors"))) == len(
        record.updates or ()
    )


def _question(spec: Mapping[str, Any]) -> str:
    """Name what a spec asks for, whatever code answers it."""
    asked = {k: v for k, v in spec.items() if k not in ("numbers", "code", "preset") and not k.endswith("label")}
    return json.dumps(asked, sort_keys=True)


def order_jobs(jobs: Sequence[Job], workers: int, folder: Path) -> list[Job]:
    """Order jobs so that few wait for another's first task, and give those that share one its file in `folder`.

    Jobs that train on old data take longest and come early. Groups with the same first task are taken some at a time,
    so that few files are there at once.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        shares = job.plain_first_task and job.spec.side_by_side == 1
        groups.setdefault(job.spec.first_task_key if shares else job.spec.key, []).append(job)
    ordered: list[Job] = []
    some = max(16, 2 * workers)
    for start in range(0, len(groups), some):
        leading, following = [], []
        for name, group in list(groups.items())[start : start + some]:
            path = folder / f"{name}.pt" if len(group) > 1 else None
            first, *rest = sorted(
                (dataclasses.replace(job, first_task=path) for job in group), key=lambda job: not job.memory
            )
            leading.append(first)
            following += rest
        ordered += [*leading, *sorted(following, key=lambda job: not job.memory)]
    return ordered


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that is removed with this context; remove those that killed sweeps have left."""
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
        yield Path(name)

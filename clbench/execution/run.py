"""One run: train and evaluate one job in this process, and return its record."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch

from clbench.errors import DivergedError
from clbench.execution.environment import describe_environment
from clbench.execution.memory import begin_peak, peak_bytes
from clbench.execution.saved import save
from clbench.execution.tracking import Trackers
from clbench.experiment import own_code, registry
from clbench.experiment.spec import Job
from clbench.method import Learner, Method, Training
from clbench.models.backbones import MLP
from clbench.results.metrics import VIEWS
from clbench.results.store import RunRecord
from clbench.sequences.tasks import Split, Task, to_device
from clbench.training.beside import Place, SideBySide
from clbench.training.loop import TakeAll, one_by_one
from clbench.training.precision import computing
from clbench.training.run import run_sequence
from clbench.training.snapshots import SnapshotFile

Tell = Callable[[str], None]
_ONE_AT_A_TIME = threading.Lock()


def run_one(job: Job, tell: Tell | None = None) -> RunRecord:
    """Run one job in this process and return its record; an exception becomes a failed record.

    `tell` is told where the run is, as "at task 2 of 5", for those who may stop it.
    """
    return run_together([job], tell)[0]


def run_together(jobs: Sequence[Job], tell: Tell | None = None) -> list[RunRecord]:
    """Run jobs that differ in their seed, in this process and side by side, and return their records."""
    first, tell = jobs[0], tell or (lambda where: None)
    # a process has one random state and one number of threads: runs in several threads of it wait for each other
    with _ONE_AT_A_TIME, as_in_a_new_process(), _deterministic(first.device), _computing(first):
        if len(jobs) == 1:
            return [_record(first, tell)]
        return SideBySide(first.device).results([partial(_beside, job, len(jobs), tell) for job in jobs])


def _computing(job: Job) -> contextlib.ExitStack:
    """Compute as a job asks for; of some of it each thread has its own."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(using_threads(job.spec.threads))
        stack.enter_context(computing(job.spec.precision, job.device, job.spec.kernels))
        return stack.pop_all()


def _beside(job: Job, runs: int, tell: Tell, place: Place) -> RunRecord:
    with _computing(job):
        record = _record(job, tell, place.take)
    return dataclasses.replace(record, environment={**(record.environment or {}), "side_by_side": runs})


def _record(job: Job, tell: Tell, take_all: TakeAll = one_by_one) -> RunRecord:
    environment: dict[str, Any] = {}
    trackers: Trackers | None = None
    try:
        _warm_up(job.device)
        environment = describe_environment(job)
        checkpoint = _checkpoint(job, environment)
        trackers = Trackers(job, checkpoint is not None and checkpoint.path.exists())
        record = _train(job, environment, tell, trackers, checkpoint, take_all)
    except torch.OutOfMemoryError as error:
        record = failed(job, f"{_memory_of(job)}\n\n{error}\n\n{traceback.format_exc()}", environment)
    except (Exception, SystemExit) as error:
        record = failed(job, f"{what_happened(error, job)}\n\n{traceback.format_exc()}", environment)
    (trackers or Trackers(job, resumed=False)).finish(record)
    return record


OUT_OF_MEMORY = "out of memory on "  # the record of a run begins so that had too little of its device's


def _memory_of(job: Job) -> str:
    """Say how much of a device's memory this run had when it got no more, and what to do."""
    had, device = "", job.device
    if torch.device(device).type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        own, size = torch.cuda.max_memory_allocated(device), f"of {total / 2**30:.1f} GiB"
        had = f" ({own / 2**30:.2f} GiB {size} were this run's, {free / 2**30:.2f} GiB were free)"
    fewer = "fewer --side-by-side" if job.spec.side_by_side > 1 else "fewer --jobs on it"
    return f"{OUT_OF_MEMORY}{device}{had}: {fewer}, or smaller batches"


def what_happened(error: BaseException, job: Job | None = None) -> str:
    """Return an exception as one line: its type if it is not one of clbench's own, and where in the user's code."""
    where = None if isinstance(error, DivergedError) else _where(error, job)  # numbers diverge, and no line is at fault
    return ", ".join([own_code.what(error), *([where] if where else []), *getattr(error, "__notes__", [])])


def _where(error: BaseException, job: Job | None) -> str | None:
    """Return the line of code from outside that raised an error, or else where the run's method is defined."""
    if line := own_code.raised_at(error, registry.packages(job.references) if job is not None else ()):
        return f"in {line}"
    if job is not None and "method" in job.spec.code:
        with contextlib.suppress(Exception):
            return f"method in {own_code.place_of(registry.find('method', job.references['method']))}"
    return None


def failed(job: Job, error: str, environment: dict[str, Any] | None = None) -> RunRecord:
    """Return the record of a run that has failed; the first line of `error` says why."""
    return RunRecord(job.spec.key, job.spec.as_json(), "failed", error, environment=environment)


def _train(
    job: Job,
    environment: dict[str, Any],
    tell: Tell,
    trackers: Trackers,
    checkpoint: SnapshotFile | None,
    take_all: TakeAll,
) -> RunRecord:
    tell("while its data were loaded")
    spec = job.spec
    resumed = checkpoint is not None and checkpoint.path.exists()
    tasks = to_device(job.load_tasks(), torch.device(job.device))
    learner: Learner = job.instance("method")
    if learner.engine != "clbench":
        environment["engine"] = learner.engine
    start = begin_peak(job.device)
    peaks: list[int | None] = []  # after each task; a probe, which is no part of the run, would raise it

    def after_task(learner: Learner, task: Task) -> None:
        peaks.append(peak_bytes(job.device, start))
        if job.models_folder is not None:
            save(job.models_folder / f"task-{task.index + 1}.safetensors", learner, spec, tasks, task.index + 1)

    outcome = run_sequence(
        tasks,
        learner,
        job.instance("model"),
        registry.from_record(Training, spec.training),
        spec.scenario,
        spec.seed,
        job.device,
        before_task=lambda task: tell(f"at task {task.index + 1} of {len(tasks)}"),
        after_task=after_task,
        first_task=None if job.first_task is None else SnapshotFile(job.first_task, job.device),
        checkpoint=checkpoint,
        eval_every=spec.eval_every,
        evaluate=spec.evaluate,
        tell=trackers.after_task,
        probe=spec.probe,
        capture=job.capture,
        take_all=take_all,
    )
    if learner.engine != "clbench":
        environment["differs"] = learner.differs()
    measured = dict(vars(outcome))
    if replayed := measured.pop("replayed_steps"):
        environment["replayed_steps"] = replayed
    return RunRecord(
        spec.key,
        spec.as_json(),
        "ok",
        accuracy={view: measured.pop(view) for view in VIEWS},
        seconds={what: measured.pop(f"{what}_seconds") for what in ("train", "evaluate")},
        curves=measured.pop("curves") or None,
        validation=measured.pop("validation") or None,
        peak_memory_bytes=None if resumed else peaks[-1],  # a resumed run has not seen that of its earlier tasks
        environment=environment,
        **measured,
    )


def _checkpoint(job: Job, environment: Mapping[str, Any]) -> SnapshotFile | None:
    if job.checkpoint is None:
        return None
    if job.models_folder is not None and not job.models_folder.is_dir():
        job.checkpoint.unlink(missing_ok=True)  # the networks after its first tasks are asked for too
    made_by = {name: environment.get(name) for name in ("torch", "device", "clbench")}
    return SnapshotFile(job.checkpoint, job.device, made_by)


@cache
def _warm_up(device: str) -> None:
    """Take a few steps in a new process before anything is timed: PyTorch loads much of itself at the first ones."""
    y = torch.arange(8) % 2
    split = Split(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8), y)
    tasks = to_device([Task(index, (0, 1), split, split) for index in range(2)], torch.device(device))
    run_sequence(tasks, Method(), MLP(width=8), Training(batch_size=4, momentum=0.9), "task", 0, device)


@contextlib.contextmanager
def as_in_a_new_process() -> Iterator[None]:
    """Compute with the defaults that PyTorch starts with, whatever this process has set; restore it afterwards."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if device.type != "cpu":  # only then, as it slows every operation
            stack.enter_context(torch.device("cpu"))
        yield


@contextlib.contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Compute with so many threads; restore PyTorch's number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """Ask for deterministic kernels on CUDA; the CPU's are with a given number of threads."""
    if device == "cpu":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)

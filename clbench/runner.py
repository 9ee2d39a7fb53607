"""The runner: jobs → workers → records. Jobs are made in `clbench.planning`."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import joblib
import torch

from clbench import registry
from clbench.errors import ClbenchError, UsageError
from clbench.method import Method, Scenario
from clbench.model import MLP, ExpandingHeadModel
from clbench.precision import Precision, computing
from clbench.registry import Kind
from clbench.sequences import Split, Task, to_device
from clbench.sharing import FirstTask
from clbench.store import RunRecord, Store
from clbench.training import Training, run_sequence


@dataclass(frozen=True)
class RunSpec:
    """All that can change a run's numbers, and the names people know it by.

    Labels are names plus the fields that differ from their defaults; `params` and its like hold every field.
    """

    sequence: str
    sequence_label: str
    sequence_params: Mapping[str, Any]
    scenario: Scenario
    method: str
    label: str
    params: Mapping[str, Any]
    model: str
    model_label: str
    model_params: Mapping[str, Any]
    seed: int
    class_order_rule: str  # "seed" | "fixed" | "given"
    class_order: Sequence[int] | None  # in full; None where a sequence has no notion of it
    training: Mapping[str, Any]
    device: str  # "cpu" | "cuda"
    data: str  # SHA-256 of the data set, after "seed:" if each seed has its own
    numbers: int  # version of the built-in code that computes numbers
    code: Mapping[str, str]  # hashes of methods, sequences and models from outside
    precision: Precision = "fp32"
    preset: Mapping[str, Any] | None = None  # name, row, and what was overridden; how it was asked for, not what

    @cached_property
    def key(self) -> str:
        """The record's name: a hash of everything here but the labels and the preset."""
        return self._hash("preset")

    @cached_property
    def first_task_key(self) -> str:
        """What names the first task, where the method does nothing special to it: everything but the method."""
        code = {kind: code for kind, code in self.code.items() if kind != "method"}
        return dataclasses.replace(self, code=code)._hash("preset", "method", "params")

    def _hash(self, *but: str) -> str:
        content = {k: v for k, v in dataclasses.asdict(self).items() if not k.endswith("label") and k not in but}
        if self.precision == "fp32":
            del content["precision"]  # as in the keys of records from before there was a choice
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]

    def as_json(self) -> dict[str, Any]:
        """Return the spec as the plain values that JSON gives back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclass(frozen=True)
class Job:
    """One run for a worker: plain data that means the same in any process on the machine."""

    spec: RunSpec
    references: Mapping[Kind, str]  # names, or absolute paths of files
    device: str  # "cpu" | "cuda:0"
    data_root: str | None
    models_folder: str | None  # where to save the network after each task
    commit: str | None

    reuse: bool = True  # whether what was computed once may serve again
    kernels: Mapping[str, Any] = field(default_factory=dict)  # of matrix products, see `choose_kernels`
    plain_first_task: bool = False  # whether another method may train its first task, see `shares_first_task`
    memory: bool = False  # whether the method trains on old data again
    first_task: str | None = None  # the file in which runs of the sweep share their first task

    @property
    def root(self) -> Path | None:
        return None if self.data_root is None else Path(self.data_root)

    def instance(self, kind: Kind) -> Any:
        """Make the run's method, sequence or model."""
        spec = self.spec
        params = {"method": spec.params, "sequence": spec.sequence_params, "model": spec.model_params}[kind]
        cls = registry.find(kind, self.references[kind])
        if registry.code_hash(cls) != spec.code.get(kind):
            raise ClbenchError(f"the code of {self.references[kind]} was changed while the sweep ran: run it again")
        return registry.configure(self.references[kind], cls, params)

    def load_tasks(self) -> list[Task]:
        """Return the run's tasks, on the CPU."""
        order = None if self.spec.class_order is None else tuple(self.spec.class_order)
        return self.instance("sequence").load(self.root, self.spec.seed, order)


@dataclass
class Sweep:
    """A planned sweep: its jobs in order, the records that are there already, and what the user should hear."""

    jobs: list[Job]
    store: Store
    workers: int
    notes: list[str] = field(default_factory=list)
    done: dict[str, RunRecord] = field(default_factory=dict)

    @property
    def missing(self) -> list[Job]:
        return [job for job in self.jobs if job.spec.key not in self.done]

    @property
    def labels(self) -> list[str]:
        """The methods' labels in the order in which they were asked for."""
        return list(dict.fromkeys(job.spec.label for job in self.jobs))

    @property
    def records(self) -> list[RunRecord]:
        """The records there are, in order, under the names of this sweep: another may have made and named them."""
        found = [(job, self.done.get(job.spec.key)) for job in self.jobs]
        return [dataclasses.replace(record, spec=job.spec.as_json()) for job, record in found if record is not None]

    def run(self, fork: bool = False) -> Generator[RunRecord, None, None]:
        """Start what is missing, and yield each record as it lands, after it is written; `close` stops the workers.

        `fork` starts workers as copies of this process, at once, where that is safe: on Linux, for runs on the CPU of
        built-in code, in a process that has computed nothing in several threads.
        """
        fork = fork and sys.platform == "linux"
        fork = fork and all(job.device == "cpu" and not job.spec.code for job in self.missing)
        records = self._run(fork)
        next(records)  # so that workers are there before the caller goes on
        return records  # type: ignore[return-value]

    def _run(self, fork: bool) -> Generator[RunRecord | None, None, None]:
        create_folder(self.store.folder)
        with _temporary_folder() as folder:
            jobs = in_good_order(self.missing, self.workers, folder)
            first_tasks = {job.spec.key: job.first_task for job in jobs}
            try:
                with executing(jobs, self.workers, fork) as landing:
                    yield None
                    for record in landing:
                        self._write(record)
                        self.done[record.key] = record
                        first_task = first_tasks.pop(record.key)
                        if first_task is not None and first_task not in first_tasks.values():
                            Path(first_task).unlink(missing_ok=True)
                        yield record
            except BrokenProcessPool:
                raise ClbenchError(
                    "a worker process died, perhaps for want of memory; finished records are kept: "
                    "run the same command again to go on, with fewer --jobs if it happens again"
                ) from None

    def _write(self, record: RunRecord) -> None:
        try:
            self.store.write(record)
        except OSError as error:
            raise ClbenchError(f"cannot write to {self.store.folder}: {error.strerror or error}") from None


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
        shared = job.reuse and job.plain_first_task
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


def _temporary_folder() -> tempfile.TemporaryDirectory:
    try:
        return tempfile.TemporaryDirectory(prefix="clbench-")
    except OSError as error:
        raise UsageError(f"no temporary folder can be made ({error.strerror}): set TMPDIR to one") from None


@contextlib.contextmanager
def executing(jobs: Sequence[Job], workers: int, fork: bool = False) -> Iterator[Iterator[RunRecord]]:
    """Start jobs in `workers` processes (1: in this one); give their records as they are finished, in any order.

    Whatever is still running when the context is left is stopped.
    """
    if workers == 1 or len(jobs) <= 1:
        yield map(run_one, jobs)
    elif fork:
        context, others = multiprocessing.get_context("fork"), set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(min(workers, len(jobs)), context, _begin_worker, (os.getpid(),))
        try:
            yield _as_completed([pool.submit(run_one, job) for job in jobs])
            pool.shutdown()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.kill()
            raise
    else:
        with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
            parallel = joblib.Parallel(n_jobs=min(workers, len(jobs)), return_as="generator_unordered", batch_size=1)
            landing = parallel(joblib.delayed(run_one)(job) for job in jobs)
        with contextlib.closing(landing):
            yield landing


def _begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _as_completed(futures: Sequence[Future[RunRecord]]) -> Iterator[RunRecord]:
    """Yield what was finished, even where a worker has died meanwhile; then raise."""
    broken: BaseException | None = None
    for future in as_completed(futures):
        broken = broken or future.exception()
        if future.exception() is None:
            yield future.result()
    if broken is not None:
        raise broken


def run_one(job: Job) -> RunRecord:
    """Run one job in this process, with one thread; an exception becomes a failed record."""
    spec = job.spec
    kernels = job.kernels.get("kernels", "")
    with one_thread(), _deterministic(job.device), computing(spec.precision, job.device, kernels):
        environment: dict[str, Any] = {}
        try:
            _warm_up(job.device)
            environment = _environment(job)
            tasks = to_device(job.load_tasks(), torch.device(job.device))
            method: Method = job.instance("method")
            with _PeakMemory(job.device) as peak:
                outcome = run_sequence(
                    tasks,
                    method,
                    job.instance("model"),
                    Training(**spec.training),
                    spec.scenario,
                    spec.seed,
                    job.device,
                    None if job.models_folder is None else _model_saver(Path(job.models_folder)),
                    None if job.first_task is None else FirstTask(Path(job.first_task)),
                    job.reuse,
                )
        except (Exception, SystemExit) as error:
            text = str(error) if isinstance(error, ClbenchError) else f"{type(error).__name__}: {error}"
            details = traceback.format_exc()
            return RunRecord(spec.key, spec.as_json(), "failed", f"{text}\n\n{details}", environment=environment)
    return RunRecord(
        spec.key,
        spec.as_json(),
        "ok",
        accuracy={"task_aware": outcome.task_aware, "task_agnostic": outcome.task_agnostic},
        seconds={"train": outcome.train_seconds, "evaluate": outcome.evaluate_seconds},
        updates=outcome.updates,
        images=outcome.images,
        forward_passes=outcome.forward_passes,
        backward_passes=outcome.backward_passes,
        parameters=outcome.parameters,
        peak_memory_bytes=peak.bytes,
        stored_bytes=outcome.stored_bytes,
        weights_hash=outcome.weights_hash,
        history=outcome.history,
        shared_first_task=outcome.shared_first_task,
        environment=environment,
    )


@cache
def _warm_up(device: str) -> None:
    """Take a few steps in a new process before anything is timed: PyTorch loads much of itself at the first ones."""
    y = torch.arange(8) % 2
    split = Split(torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8), y)
    tasks = to_device([Task(index, (0, 1), split, split) for index in range(2)], torch.device(device))
    run_sequence(tasks, Method(), MLP(width=8), Training(batch_size=4, momentum=0.9), "task", 0, device)


def _model_saver(folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)

    def save(model: ExpandingHeadModel, task: Task) -> None:
        path = folder / f"task-{task.index + 1}.pt"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        torch.save({"widths": model.widths, "state_dict": model.state_dict()}, temporary)
        temporary.replace(path)

    return save


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """Ask for deterministic kernels on CUDA; the CPU's are with one thread."""
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


class _PeakMemory:
    """The run's own peak: on CUDA what PyTorch allocated, on Linux the growth of private memory; None elsewhere."""

    bytes: int | None = None

    def __init__(self, device: str):
        self.device = device

    def __enter__(self) -> _PeakMemory:
        self.start: dict[str, int] = {}
        if self.device != "cpu":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).malloc_trim(0)  # so that memory left over from the run before is not hidden growth
                Path("/proc/self/clear_refs").write_text("5")  # start the high-water mark afresh
                self.start = _memory()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device != "cpu":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
        elif self.start:
            end = _memory()
            mapped = max(0, end["RssFile"] - self.start["RssFile"])  # pages of the shared data set are nobody's own
            self.bytes = max(0, end["VmHWM"] - self.start["VmRSS"] - mapped)


def _memory() -> dict[str, int]:
    """Return this process's memory figures in bytes, as Linux names them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    pairs = (line.split() for line in lines if line.startswith(("VmHWM", "VmRSS", "RssFile")))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in pairs}


def _environment(job: Job) -> dict[str, Any]:
    cuda = job.device != "cpu"
    return {
        "clbench": importlib.metadata.version("clbench"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": importlib.metadata.version("numpy"),
        "joblib": joblib.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(job.device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "precision": job.spec.precision,
        **job.kernels,
        "deterministic": not cuda or torch.are_deterministic_algorithms_enabled(),
        "commit": job.commit,
    }


@cache
def _processor() -> str:
    with contextlib.suppress(OSError):
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def checkout_commit() -> str | None:
    """Return the commit of the checkout that clbench is imported from, marked if code changed; None outside of one."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["git", "-C", str(here.parent), *arguments]
            return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        return None

    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    code = (":/clbench", ":/methods", ":/pyproject.toml")  # results lie in a checkout too, and change
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *code)
    return f"{commit} (changed)" if commit and changed else commit

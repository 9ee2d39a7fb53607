"""One run: what it is asked to do, and doing it in any process. Jobs are made in `clbench.experiment.planning`."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import faulthandler
import importlib.metadata
import multiprocessing
import os
import platform
import re
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import IO, Any

import joblib
import torch
from filelock import FileLock, Timeout

from clbench.errors import ClbenchError
from clbench.experiment.spec import Job
from clbench.method.base import Method
from clbench.method.schedule import Training
from clbench.models.networks import MLP, ExpandingHeadModel
from clbench.results.store import RunRecord
from clbench.sequences.tasks import Split, Task, to_device
from clbench.training.loop import run_sequence
from clbench.training.precision import computing
from clbench.training.snapshots import Checkpoint, FirstTask

_ONE_AT_A_TIME = threading.Lock()
PATIENCE = 10  # seconds that a run has to end after its time is up, before its worker process ends


def run_one(job: Job) -> RunRecord:
    """Run one job in this process, with its number of threads; an exception becomes a failed record."""
    # a process has one random state and one number of threads: runs in several threads of it wait for each other
    with (
        _ONE_AT_A_TIME,
        _marked(job.mark),
        computing_in(job.spec.threads),
        _with_device(job) as job,
        _deterministic(job.device),
    ):
        return _run(job)


@contextlib.contextmanager
def _with_device(job: Job) -> Iterator[Job]:
    """Give the job a device that has room for it, and keep the room until it is done; a lock ends with its process."""
    lock: FileLock | None = None
    while job.slots and lock is None:
        for path, device in job.slots:
            lock = FileLock(path)
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)
                job = dataclasses.replace(job, device=device)
                break
        else:
            lock = None
            time.sleep(0.1)
    try:
        yield job
    finally:
        if lock is not None:
            lock.release()


def _run(job: Job) -> RunRecord:
    spec = job.spec
    with computing(spec.precision, job.device, "oneDNN" if spec.kernels == "onednn" else ""):
        environment: dict[str, Any] = {}
        try:
            _warm_up(job.device)
            environment = _environment(job)
            checkpoint = _checkpoint(job, environment)
            went_on = checkpoint is not None and checkpoint.path.exists()
            tasks = to_device(job.load_tasks(), torch.device(job.device))
            method: Method = job.instance("method")
            with _PeakMemory(job.device) as peak, time_limit(job.timeout):
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
                    checkpoint=checkpoint,
                    eval_every=spec.eval_every,
                )
        except (Exception, SystemExit, TimeIsUp) as error:
            text = str(error) if isinstance(error, (ClbenchError, TimeIsUp)) else f"{type(error).__name__}: {error}"
            text = ", ".join([text, *getattr(error, "__notes__", [])])
            return failed(job, f"{text}\n\n{traceback.format_exc()}", environment)
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
        peak_memory_bytes=None if went_on else peak.bytes,  # of the whole run
        stored_bytes=outcome.stored_bytes,
        weights_hash=outcome.weights_hash,
        history=outcome.history,
        curves=outcome.curves or None,
        shared_first_task=outcome.shared_first_task,
        environment=environment,
    )


def _checkpoint(job: Job, environment: Mapping[str, Any]) -> Checkpoint | None:
    if job.checkpoint is None:
        return None
    made_by = {name: environment.get(name) for name in ("kernels", "torch", "device", "clbench")}
    path = Path(job.checkpoint)
    if job.models_folder is not None and not Path(job.models_folder).is_dir():
        path.unlink(missing_ok=True)  # the networks after its first tasks are asked for too
    return Checkpoint(path, job.device, made_by)


def failed(job: Job, error: str, environment: dict[str, Any] | None = None) -> RunRecord:
    """Return the record of a run that came to nothing."""
    return RunRecord(job.spec.key, job.spec.as_json(), "failed", error, environment=environment)


@contextlib.contextmanager
def _marked(mark: str | None) -> Iterator[None]:
    """Leave a file while a run is under way, so that whoever finds its worker dead knows which run it was."""
    if mark is None:
        yield
        return
    path = Path(mark)
    with contextlib.suppress(OSError):  # a run needs no mark
        path.touch()
    yield
    with contextlib.suppress(OSError):
        path.unlink()


class TimeIsUp(BaseException):
    """The run took too long; not an Exception, so that no method takes it for one of its own."""


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeIsUp here when the time is up; a worker process that does not heed it ends a little later."""
    if seconds is None:
        yield
        return
    message = f"it took longer than the time limit of {seconds:g} s"
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        with _limit_of_thread(seconds, message):
            yield
        return

    def late(*_: object) -> None:
        raise TimeIsUp(message)

    before = signal.signal(signal.SIGALRM, late)
    in_worker = multiprocessing.parent_process() is not None
    if in_worker:
        faulthandler.dump_traceback_later(seconds + PATIENCE, exit=True, file=nowhere())
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again and again, should it be swallowed
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if in_worker:
            faulthandler.cancel_dump_traceback_later()


@cache
def nowhere() -> IO[str]:
    """Return a file that keeps nothing."""
    return open(os.devnull, "w")


@contextlib.contextmanager
def _limit_of_thread(seconds: float, message: str) -> Iterator[None]:
    """Raise TimeIsUp in a thread that gets no signals, before its next step in Python."""
    thread, over = ctypes.c_ulong(threading.get_ident()), threading.Lock()
    done = False

    def late() -> None:
        with over:
            if not done:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TimeIsUp))

    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
    try:
        yield
    except TimeIsUp as error:
        error.args = (message,)
        raise
    finally:
        timer.cancel()
        with over:
            done = True


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
def computing_in(threads: int) -> Iterator[None]:
    """Compute in so many threads; leave PyTorch's number as found."""
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
        "torch": str(torch.__version__),
        "numpy": importlib.metadata.version("numpy"),
        "joblib": joblib.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(job.device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "precision": job.spec.precision,
        "kernels": job.spec.kernels,
        "deterministic": not cuda or torch.are_deterministic_algorithms_enabled(),
        "commit": job.commit,
    }


@cache
def _processor() -> str:
    """Return the processor's name with family, model and vector instructions: sums of two of one name may differ."""
    fields: dict[str, str] = {}
    with contextlib.suppress(OSError):
        fields = dict(re.findall(r"^(cpu family|model name|model)\s*:\s*(.+?)\s*$", _cpuinfo(), re.MULTILINE))
    name = fields.pop("model name", platform.processor() or platform.machine())
    kind = [f"{field.removeprefix('cpu ')} {value}" for field, value in sorted(fields.items())]
    return f"{name} ({', '.join([*kind, torch.backends.cpu.get_cpu_capability()])})"


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text()


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

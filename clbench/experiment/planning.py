"""Planning: a request, checked in full, becomes the jobs of a sweep. Nothing is trained here."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clbench.errors import ClbenchError, UsageError
from clbench.experiment import early, registry
from clbench.experiment.points import Point, naming, points
from clbench.experiment.request import Request
from clbench.experiment.spec import Job, RunSpec
from clbench.method import Learner, Method, shares_first_task
from clbench.models import ExpandingHeadModel
from clbench.sequences.checking import load_checked
from clbench.sequences.tasks import Task
from clbench.training.batches import Batches, n_held_out
from clbench.training.beside import fits
from clbench.training.precision import check_precision
from clbench.version import NUMBERS

CGROUP = Path("/sys/fs/cgroup")


@dataclass
class Planned:
    """The jobs of a sweep in order, what the user should hear, and where they may run."""

    jobs: list[Job]
    notes: list[str]
    workers: int
    devices: list[str]


def plan(request: Request) -> Planned:
    """Work out every run that was asked for; raise UsageError for anything that cannot be done."""
    devices, workers = check_machine(request)
    notes: list[str] = []
    runs = points(request, notes)
    for precision in dict.fromkeys(run.precision for run in runs):
        check_precision(precision, devices[0])
    names = {"training", *(choice.reference for run in runs for choice in run.chosen.values())}
    if unused := sorted(set(request.settings) - names):
        raise early.unused(unused[0], sorted(names))
    for method in (run.method for run in runs if request.checkpoint):
        cls = type(method.instance)
        if cls.load_state is Learner.load_state and cls.state is not Learner.state:
            raise UsageError(f"{method.label} has a state but no load_state: it cannot go on from a checkpoint")
    if request.probe:
        notes += [f"{run.method.label} has no network that --probe could probe" for run in runs if _cannot_probe(run)]
    if request.side_by_side > 1:
        alone = dict.fromkeys(run.method.label for run in runs if not fits(run.method.instance, run.model.instance))
        why = "run one by one: side by side go methods that say so, with an mlp without dropout"
        notes += [f"{name} will {why}" for name in alone]
    # runs that are not on the CPU are given one of the devices when they begin
    return Planned(_jobs(runs, request, devices[0], notes), list(dict.fromkeys(notes)), workers, devices)


def _cannot_probe(run: Point) -> bool:
    return not isinstance(run.method.instance, Method)


def _jobs(runs: Sequence[Point], request: Request, device: str, notes: list[str]) -> list[Job]:
    """Return a job for every run, in order; raise UsageError if data are missing or do not fit.

    What the user should hear about the data goes to `notes`.
    """
    jobs: dict[str, Job] = {}
    data: dict[tuple[Any, ...], tuple[str, list[int] | None]] = {}  # by what decides them: fingerprint, class order
    remarks: dict[tuple[Any, ...], list[str]] = {}
    fitting: set[Any] = set()  # the kinds of run whose data were checked, and the data whose tasks were
    for run in runs:
        sequence, deciding = run.sequence, (run.sequence.label, run.seed, run.class_order)
        with naming(sequence), run.named():
            if deciding not in data:
                fingerprint = sequence.instance.prepare(request.data_root, run.seed)
                if not isinstance(fingerprint, str):
                    raise UsageError(f"{sequence.label}: prepare returned {fingerprint!r}, not a SHA-256 as text")
                order = sequence.instance.class_order(run.class_order, run.seed, request.data_root)
                data[deciding] = fingerprint, None if order is None else [int(c) for c in order]
                remarks[deciding] = sequence.instance.remarks(request.data_root, run.seed)
                notes += remarks[deciding]
            spec = _spec(run, request, device, *data[deciding])
            what = [spec.sequence_label, spec.model_label, spec.scenario, spec.training, run.class_order, spec.tasks]
            kind = json.dumps(what, sort_keys=True)
            own = sequence.code is not None or spec.data.startswith("seed:")  # the seed may change more than the order
            tasks_of = spec.sequence_label, run.seed if own else None
            if not {kind, tasks_of} <= fitting:
                fitting |= {kind, tasks_of}
                classes = None if spec.class_order is None else tuple(spec.class_order)
                tasks = load_checked(sequence.instance, sequence.label, request.data_root, run.seed, classes, run.tasks)
                _check_data(run, tasks)
        twin = jobs.get(spec.key)
        if twin is not None and run.preset is not None and twin.spec.label != spec.label:
            raise UsageError(f"the rows {twin.spec.label} and {spec.label} ask for the same runs")
        jobs[spec.key] = dataclasses.replace(_job(run, request, device, spec), remarks=remarks[deciding])
    return list(jobs.values())


def _check_data(run: Point, tasks: Sequence[Task]) -> None:
    """Raise UsageError if a sequence's tasks do not fit the scenario, the model or the budget."""
    name = run.sequence.label
    if run.scenario == "domain" and len({len(task.classes) for task in tasks}) > 1:
        raise UsageError(f"{name} has tasks of different numbers of classes: domain needs equal ones")
    training, shape = run.training, tasks[0].train.shape
    sizes = [len(task.train) - n_held_out(len(task.train), training.validation) for task in tasks]
    batch = training.batch_size
    last = {
        batch if training.drop_last else size % batch or batch for size in sizes
    }  # images in each task's last batch
    try:
        network = ExpandingHeadModel(run.model.instance, shape, 0)
        if 1 in last:  # which batch norm may not take
            network.train().features(torch.zeros(1, *shape))
    except Exception as error:
        reason = str(error) if isinstance(error, ClbenchError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"the model {run.model.label} does not fit {name}: {reason}") from error
    for size in sizes:
        Batches([size], training)


def _spec(run: Point, request: Request, device: str, data: str, classes: list[int] | None) -> RunSpec:
    order = run.class_order
    return RunSpec(
        sequence=run.sequence.reference,
        sequence_label=run.sequence.label,
        sequence_params=run.sequence.params,
        scenario=run.scenario,
        method=run.method.reference,
        label=run.method.label,
        params=run.method.params,
        model=run.model.reference,
        model_label=run.model.label,
        model_params=run.model.params,
        seed=run.seed,
        class_order_rule="seed" if classes is None else order if isinstance(order, str) else "given",
        class_order=classes,
        training=registry.settings(run.training),
        device=device.split(":")[0],
        data=data,
        numbers=NUMBERS,
        code={kind: choice.code for kind, choice in run.chosen.items() if choice.code},
        precision=run.precision,
        kernels=request.kernels,
        threads=request.threads,
        evaluate=request.evaluate or (request.preset and request.preset.evaluate) or "all",
        eval_every=request.eval_every,
        probe=request.probe,
        preset=run.preset,
        tasks=run.tasks,
        side_by_side=request.side_by_side if fits(run.method.instance, run.model.instance) else 1,
    )


def _job(run: Point, request: Request, device: str, spec: RunSpec) -> Job:
    out = request.out.absolute()
    return Job(
        spec,
        references={kind: choice.place for kind, choice in run.chosen.items()},
        files={kind: choice.files for kind, choice in run.chosen.items() if choice.files},
        device=device,
        data_root=None if request.data_root is None else request.data_root.absolute(),
        models_folder=out / "models" / spec.key if request.save_models else None,
        # a network from outside may have state that a snapshot does not hold
        plain_first_task=run.model.code is None and shares_first_task(type(run.method.instance)),
        memory=run.method.instance.memory,
        timeout=request.timeout,
        trackers=[registry.absolute(name) for name in request.track or ()],
        tracked=out / "tracked",
        capture=request.capture,
        checkpoint=out / ".checkpoints" / f"{spec.key}.pt" if request.checkpoint else None,
    )


def check_machine(request: Request) -> tuple[list[str], int]:
    """Return the devices of a sweep and how many runs go side by side; raise UsageError for what there is not."""
    device = request.device
    if request.backend == "local":
        devices = check_device(device)
    elif device in ("auto", "cpu", "cuda"):
        devices = ["cuda:0" if device == "cuda" else "cpu"]  # cuda:0: the first that the worker of a cluster sees
    else:
        raise UsageError(f"device {device!r}: each worker of a cluster has its own, choose from cpu (as auto), cuda")
    if request.capture and devices[0] == "cpu":
        raise UsageError("--capture takes steps from CUDA graphs, and these runs are on the CPU: leave it out")
    if request.kernels == "onednn" and devices[0] != "cpu":
        raise UsageError(f"kernels onednn are the CPU's, and these runs are on {devices[0]}: leave it out")
    if request.kernels == "onednn" and not torch.backends.mkldnn.is_available():
        raise UsageError("kernels onednn: this PyTorch has no oneDNN; leave it out")
    if request.side_by_side > 1 and request.backend != "local":
        raise UsageError("--side-by-side is for runs on this machine: leave it out, or the backend")
    workers = check_workers(request, devices[0])
    check_folder(request.out)
    return devices, workers * len(devices)


def check_device(device: str) -> list[str]:
    """Return the devices to run on: "cpu", every "cuda:N" there is, or the one that was named."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return ["cpu"]
    match = re.fullmatch(r"cuda(?::(\d+))?", "cuda" if device == "auto" else device)
    if match is None:
        raise UsageError(f"unknown device {device!r}: choose from auto, cpu, cuda, cuda:N")
    if not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: PyTorch finds no CUDA device here; use --device cpu")
    if match[1] is None:
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    index = int(match[1])
    if index >= torch.cuda.device_count():
        raise UsageError(f"device {device!r}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return [f"cuda:{index}"]


def check_workers(request: Request, device: str) -> int:
    """Return how many runs go side by side on a device: one on its threads' cores or a GPU, unless told."""
    jobs, threads, cores = request.jobs, request.threads, count_cores()
    if threads > 1:
        if request.backend != "local":
            raise UsageError(f"threads={threads} are of this machine's cores, and a run on {request.backend} has one")
        if device != "cpu":
            raise UsageError(f"threads={threads} are the CPU's, and these runs are on {device}: leave it out")
        if threads * (jobs or 1) > cores:  # threads that wait for a core hold the others up many times over
            side_by_side = f"{jobs} runs of {threads} threads" if jobs and jobs > 1 else f"threads={threads}"
            raise UsageError(f"{side_by_side}: this machine has {cores} core{'s' * (cores > 1)}")
    if jobs is not None:
        return jobs
    return 1 if device.startswith("cuda") else cores // threads


def count_cores() -> int:
    """Return how many cores this process may use, by its affinity and by its container's share of the processor."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # of cgroups, version 2 and 1
        with contextlib.suppress(OSError, ValueError):  # 'max' where there is no limit
            quota, period = map(int, " ".join((CGROUP / file).read_text() for file in files).split())
            if quota > 0:
                cores = min(cores, max(1, math.ceil(quota / period)))
    return cores


def check_folder(folder: Path) -> None:
    """Raise UsageError if a folder can't be made or written to; makes nothing."""
    try:
        existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UsageError(f"the output folder {str(folder)[:80]} cannot be used: {error.strerror or error}") from None

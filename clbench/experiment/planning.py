"""Planning: a request, checked in full, becomes the jobs of a sweep. Nothing is trained here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from clbench.errors import UsageError, did_you_mean
from clbench.experiment import registry
from clbench.experiment.checks import check_checkpoint, check_data, naming
from clbench.experiment.machine import check_machine
from clbench.experiment.points import Point, points
from clbench.experiment.preset_points import preset_points
from clbench.experiment.request import Request
from clbench.experiment.spec import Job, RunSpec
from clbench.method import shares_first_task
from clbench.version import NUMBERS


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
    runs = preset_points(request.preset, request, notes) if request.preset else points(request, notes)
    names = {"training", *(choice.reference for run in runs for choice in run.chosen.values())}
    if unused := sorted(set(request.settings) - names):
        raise UsageError(f"--set {unused[0]}.… names nothing in this sweep{did_you_mean(unused[0], sorted(names))}")
    if request.checkpoint:
        for run in runs:
            check_checkpoint(run.method)
    # runs that are not on the CPU are given one of the devices when they begin
    return Planned(make_jobs(runs, request, devices[0]), list(dict.fromkeys(notes)), workers, devices)


def make_jobs(points: Sequence[Point], request: Request, device: str) -> list[Job]:
    """Return a job for every run, in order; raise UsageError if data are missing or do not fit."""
    jobs: dict[str, Job] = {}
    data: dict[tuple[str, int], tuple[str, list[int] | None]] = {}  # by sequence and seed: fingerprint, class order
    fitting: set[str] = set()  # the kinds of run whose data were checked
    for point in points:
        place = (point.sequence.label, point.seed)
        if place not in data:
            data[place] = _prepare(point, request)
        spec = _spec(point, request, device, *data[place])
        kind = json.dumps([spec.sequence_label, spec.model_label, spec.scenario, spec.training], sort_keys=True)
        if kind not in fitting:
            fitting.add(kind)
            classes = None if spec.class_order is None else tuple(spec.class_order)
            with naming(point.sequence):
                tasks = point.sequence.instance.load(request.data_root, point.seed, classes)
            check_data(point.sequence, point.model, point.scenario, point.training, tasks)
        twin = jobs.get(spec.key)
        if twin is not None and point.preset is not None and twin.spec.label != spec.label:
            raise UsageError(f"the rows {twin.spec.label} and {spec.label} ask for the same runs")
        jobs[spec.key] = _job(point, request, device, spec)
    return list(jobs.values())


def _prepare(point: Point, request: Request) -> tuple[str, list[int] | None]:
    """Make a sequence's data ready: their fingerprint, and the class order in full."""
    sequence = point.sequence.instance
    with naming(point.sequence):
        found = sequence.prepare(request.data_root, point.seed)
        in_full = sequence.class_order(point.class_order, point.seed, request.data_root)
    return found, None if in_full is None else list(in_full)


def _spec(point: Point, request: Request, device: str, data: str, classes: list[int] | None) -> RunSpec:
    order = point.class_order
    return RunSpec(
        sequence=point.sequence.reference,
        sequence_label=point.sequence.label,
        sequence_params=point.sequence.params,
        scenario=point.scenario,
        method=point.method.reference,
        label=point.method.label,
        params=point.method.params,
        model=point.model.reference,
        model_label=point.model.label,
        model_params=point.model.params,
        seed=point.seed,
        class_order_rule="seed" if classes is None else order if isinstance(order, str) else "given",
        class_order=classes,
        training=dataclasses.asdict(point.training),
        device=device.split(":")[0],
        data=data,
        numbers=NUMBERS,
        code={kind: choice.code for kind, choice in point.chosen.items() if choice.code},
        precision=request.precision,
        kernels=request.kernels,
        threads=request.threads,
        eval_every=request.eval_every,
        preset=point.preset,
    )


def _job(point: Point, request: Request, device: str, spec: RunSpec) -> Job:
    out = request.out.absolute()
    return Job(
        spec,
        references={kind: registry.absolute(choice.reference) for kind, choice in point.chosen.items()},
        device=device,
        data_root=None if request.data_root is None else str(request.data_root.absolute()),
        models_folder=str(out / "models" / spec.key) if request.save_models else None,
        commit=None,
        # a network from outside may have state that a snapshot does not hold
        plain_first_task=point.model.code is None and shares_first_task(type(point.method.instance)),
        memory=point.method.instance.memory,
        timeout=request.timeout,
        checkpoint=str(out / ".checkpoints" / f"{spec.key}.pt") if request.checkpoint else None,
    )

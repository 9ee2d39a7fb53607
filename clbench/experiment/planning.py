"""Planning: a request, checked in full, becomes the jobs of a sweep. Nothing is trained here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass

from clbench.errors import ClbenchError, UsageError, did_you_mean
from clbench.experiment import registry
from clbench.experiment.choices import Choice, naming
from clbench.experiment.machine import check_machine
from clbench.experiment.points import Point, points
from clbench.experiment.request import Request
from clbench.experiment.spec import Job, RunSpec
from clbench.method import Learner, shares_first_task
from clbench.models import ExpandingHeadModel
from clbench.sequences.tasks import Task
from clbench.training.batches import Batches, n_held_out
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
    runs = points(request, notes)
    names = {"training", *(choice.reference for run in runs for choice in run.chosen.values())}
    if unused := sorted(set(request.settings) - names):
        raise UsageError(f"--set {unused[0]}.… names nothing in this sweep{did_you_mean(unused[0], sorted(names))}")
    # runs that are not on the CPU are given one of the devices when they begin
    return Planned(_jobs(runs, request, devices[0]), list(dict.fromkeys(notes)), workers, devices)


def _jobs(runs: Sequence[Point], request: Request, device: str) -> list[Job]:
    """Return a job for every run, in order; raise UsageError if data are missing or do not fit."""
    jobs: dict[str, Job] = {}
    data: dict[tuple[str, int], tuple[str, list[int] | None]] = {}  # by sequence and seed: fingerprint, class order
    fitting: set[str] = set()  # the kinds of run whose data were checked
    for run in runs:
        sequence = run.sequence
        with naming(sequence):
            if (sequence.label, run.seed) not in data:
                fingerprint = sequence.instance.prepare(request.data_root, run.seed)
                order = sequence.instance.class_order(run.class_order, run.seed, request.data_root)
                data[sequence.label, run.seed] = fingerprint, None if order is None else list(order)
            spec = _spec(run, request, device, *data[sequence.label, run.seed])
            kind = json.dumps([spec.sequence_label, spec.model_label, spec.scenario, spec.training], sort_keys=True)
            if kind not in fitting:
                fitting.add(kind)
                classes = None if spec.class_order is None else tuple(spec.class_order)
                _check_data(run, sequence.instance.load(request.data_root, run.seed, classes))
        twin = jobs.get(spec.key)
        if twin is not None and run.preset is not None and twin.spec.label != spec.label:
            raise UsageError(f"the rows {twin.spec.label} and {spec.label} ask for the same runs")
        jobs[spec.key] = _job(run, request, device, spec)
    return list(jobs.values())


def _check_data(run: Point, tasks: Sequence[Task]) -> None:
    """Raise UsageError if a sequence's tasks do not fit the scenario, the model or the budget."""
    name = run.sequence.label
    if run.scenario == "domain" and len({len(task.classes) for task in tasks}) > 1:
        raise UsageError(f"{name} has tasks of different numbers of classes: domain needs equal ones")
    if len({split.shape for task in tasks for split in (task.train, task.test)}) > 1:
        raise UsageError(f"{name} has images of different shapes")
    try:
        ExpandingHeadModel(run.model.instance, tasks[0].train.shape, 0)
    except Exception as error:
        reason = str(error) if isinstance(error, ClbenchError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"the model {run.model.label} does not fit {name}: {reason}") from error
    for task in tasks:
        Batches([len(task.train) - n_held_out(len(task.train), run.training.held_out)], run.training)


def _check_checkpoint(method: Choice) -> None:
    """Raise UsageError if a method has a state but cannot take it over again."""
    cls = type(method.instance)
    if cls.load_state is Learner.load_state and cls.state is not Learner.state:
        raise UsageError(f"{method.label} has a state but no load_state: it cannot go on from a checkpoint")


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
        training=dataclasses.asdict(run.training),
        device=device.split(":")[0],
        data=data,
        numbers=NUMBERS,
        code={kind: choice.code for kind, choice in run.chosen.items() if choice.code},
        precision=request.precision,
        kernels=request.kernels,
        threads=request.threads,
        eval_every=request.eval_every,
        preset=run.preset,
    )


def _job(run: Point, request: Request, device: str, spec: RunSpec) -> Job:
    if request.checkpoint:
        _check_checkpoint(run.method)
    out = request.out.absolute()
    return Job(
        spec,
        references={kind: registry.absolute(choice.reference) for kind, choice in run.chosen.items()},
        device=device,
        data_root=None if request.data_root is None else request.data_root.absolute(),
        models_folder=out / "models" / spec.key if request.save_models else None,
        # a network from outside may have state that a snapshot does not hold
        plain_first_task=run.model.code is None and shares_first_task(type(run.method.instance)),
        memory=run.method.instance.memory,
        timeout=request.timeout,
        checkpoint=out / ".checkpoints" / f"{spec.key}.pt" if request.checkpoint else None,
    )

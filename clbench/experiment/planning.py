"""Planning: what was asked for, checked in full, becomes the jobs of a sweep. Nothing is trained here."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from clbench import NUMBERS
from clbench.errors import ClbenchError, UsageError
from clbench.experiment import presets, registry
from clbench.experiment.parsing import (
    check_backend,
    check_cluster_device,
    check_device,
    check_eval_every,
    check_folder,
    check_timeout,
    check_workers,
    parse_class_order,
    parse_seeds,
    parse_settings,
)
from clbench.experiment.presets import Preset, Row
from clbench.experiment.registry import Kind, did_you_mean
from clbench.experiment.spec import Job, RunSpec
from clbench.method import SCENARIOS, Learner, Scenario, Training, shares_first_task
from clbench.models import Backbone, ExpandingHeadModel
from clbench.sequences.tasks import Task, TaskSequence
from clbench.training.batches import Batches, n_held_out
from clbench.training.precision import check_precision

DEFAULT_LR = {"adam": 1e-3, "adagrad": 1e-2}  # PyTorch's own; sgd has the sequence's


@dataclass
class Planned:
    """The jobs of a sweep in order, what the user should hear, and where they may run."""

    jobs: list[Job]
    notes: list[str]
    workers: int
    devices: list[str]


def plan(
    methods: str | Sequence[str | type] | None = None,
    *,
    sequence: str | Sequence[str | type] | None = None,
    scenario: str | Sequence[str] | None = None,
    seeds: int | str | Sequence[int] | None = None,
    class_order: str | Sequence[int] | None = None,
    model: str | Sequence[str | type] | None = None,
    training: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    preset: str | Path | Preset | None = None,
    rows: str | Sequence[str] | None = None,
    controls: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    threads: int = 1,
    eval_every: int | None = None,
    data_root: str | Path | None = None,
    out: str | Path = "results/runs",
    save_models: bool = False,
    reuse: bool = True,
    checkpoint: bool = False,
    timeout: float | None = None,
    jobs: int | None = None,
    backend: str = "local",
    scheduler: str | None = None,
) -> Planned:
    """Work out every run that was asked for; raise UsageError for anything that cannot be done. Nothing is trained.

    What is None is the preset's, where there is one, or else the default: core methods, split-digits, seeds 0 to 4.
    """
    chosen = None if preset is None else preset if isinstance(preset, Preset) else presets.load(preset)
    if chosen is None and rows is not None:
        raise UsageError("--rows names rows of a preset: give --preset, or --methods")
    if chosen is not None and methods is not None:
        raise UsageError(f"the methods of preset {chosen.name} are its rows: name some with --rows")
    given = {name: value for name, value in (training or {}).items() if value is not None}
    assignments = parse_settings(settings)
    request = _Request(
        sequence,
        None if scenario is None else _scenarios(scenario),
        parse_seeds(seeds if seeds is not None else 5 if chosen is None else presets.SEEDS),
        None if class_order is None else parse_class_order(class_order),
        model,
        _overrides(given, assignments.pop("training", {})),
        assignments,
    )
    check_backend(backend, scheduler)
    there = backend != "local"
    if there and (checkpoint or save_models):
        what = "--checkpoint" if checkpoint else "--save-models"
        raise UsageError(f"{what} writes to folders of this machine: leave it out with --backend {backend}")
    devices = [check_cluster_device(device)] if there else check_device(device)
    place = devices[0]  # runs that are not on the CPU are given theirs when they begin
    check_precision(precision, place)
    check_eval_every(eval_every)
    workers = check_workers(jobs, threads, place, backend)
    if str(out) == "" or str(data_root) == "":
        raise UsageError("an empty folder name: for the working folder write .")
    folder = Path(out)
    check_folder(folder)

    notes: list[str] = []
    if chosen is None:
        points = _points("core" if methods is None else methods, request, notes)
    else:
        points = _points_of_preset(
            chosen, chosen.choose(None if rows is None else _items(rows), controls), request, notes
        )
    if not points:
        raise UsageError(f"preset {chosen.name if chosen else ''} has none of these rows in these scenarios")
    if unused := sorted(set(assignments) - request.used):
        raise UsageError(
            f"--set {unused[0]}.… names nothing in this sweep"
            + did_you_mean(unused[0], [*sorted(request.used), "training"])
        )
    root = None if data_root is None else Path(data_root)
    check_timeout(timeout)
    if checkpoint and (deaf := [point.method for point in points if not _can_go_on(point.method.instance)]):
        raise UsageError(f"{deaf[0].label} has a state but no load_state: it cannot go on from a checkpoint")
    planned = [
        dataclasses.replace(job, timeout=timeout, checkpoint=_checkpoint(job, folder) if checkpoint else None)
        for job in _jobs(points, place, precision, threads, eval_every, root, folder, save_models, reuse)
    ]
    return Planned(planned, notes, workers * len(devices), devices)


def _can_go_on(method: Learner) -> bool:
    cls = type(method)
    return cls.load_state is not Learner.load_state or cls.state is Learner.state


def _checkpoint(job: Job, folder: Path) -> str:
    return str(folder.absolute() / ".checkpoints" / f"{job.spec.key}.pt")


@dataclass
class _Request:
    """What was asked for, parsed; None where it was left out."""

    sequence: str | Sequence[str | type] | None
    scenarios: list[Scenario] | None
    seeds: list[int]
    class_order: str | tuple[int, ...] | None
    model: str | Sequence[str | type] | None
    overrides: list[dict[str, Any]]  # training settings, one dict per point of their grid
    assignments: dict[str, dict[str, list[Any]]]  # those of methods, sequences and models
    used: set[str] = field(default_factory=set)  # the names in `assignments` that are part of the sweep

    def choices(self, kind: Kind, items: Iterable[str], own: Mapping[str, Any] | None = None) -> list[_Choice]:
        """Turn names into choices; `own` are settings under those that were asked for."""
        return _choices(kind, items, self.assignments, self.used, own or {})


def _points(methods: str | Sequence[str | type], request: _Request, notes: list[str]) -> list[_Point]:
    """Return the runs of methods × sequences × scenarios × models × seeds."""
    items = _items(methods)
    groups = {"all": lambda cls: True, "core": lambda cls: cls.core}
    wanted = [groups[item] for item in items if item in groups]
    named = request.choices("method", [item for item in items if item not in groups])
    every = request.choices(
        "method",
        sorted(name for name, cls in registry.builtin("method").items() if any(belongs(cls) for belongs in wanted)),
    )
    order = request.class_order or "seed"
    model_choices = None if request.model is None else request.choices("model", _items(request.model))
    points: list[_Point] = []
    for chosen_sequence in request.choices("sequence", _items(request.sequence or "split-digits")):
        task_sequence: TaskSequence = chosen_sequence.instance
        cell_models = model_choices or request.choices("model", [task_sequence.model])
        for scenario in request.scenarios or _scenarios(task_sequence.scenario):
            allowed = [choice for choice in every if scenario in choice.instance.scenarios]
            if left_out := [choice.label for choice in every if choice not in allowed]:
                notes.append(f"left out, not defined for the scenario {scenario}: {', '.join(left_out)}")
            for variant in request.overrides:
                budget = resolve_training(task_sequence.budget, variant, notes)
                cell = _Cell(chosen_sequence, scenario, order, budget)
                points += cell.points([*allowed, *named], cell_models, request.seeds)
    return points


def _points_of_preset(preset: Preset, rows: Sequence[Row], request: _Request, notes: list[str]) -> list[_Point]:
    """Return the runs of a preset's rows; say in `notes` and in each point what the user has put in their place."""
    if outside := [scenario for scenario in request.scenarios or () if scenario not in preset.scenarios]:
        raise UsageError(f"preset {preset.name} has the scenarios {', '.join(preset.scenarios)}, not {outside[0]}")
    changed: dict[str, Any] = {}  # said once for all rows
    order: str | tuple[int, ...] = "seed"
    if preset.class_order is not None:
        order = preset.class_order if isinstance(preset.class_order, str) else tuple(preset.class_order)
    if request.class_order is not None:
        if preset.class_order is not None and request.class_order != order:
            changed["class_order"] = request.class_order
        order = request.class_order
    points: list[_Point] = []
    for scenario in request.scenarios or preset.scenarios:
        there = [row for row in rows if scenario in (row.scenarios or preset.scenarios)]
        sequences, moved = _of_preset("sequence", preset.sequence, request.sequence, "split-digits", scenario, request)
        for chosen in sequences:
            default = chosen.instance.model
            models, remodelled = _of_preset("model", preset.model, request.model, default, scenario, request)
            for row, variant in itertools.product(there, request.overrides):
                shared = resolve_training(chosen.instance.budget, presets.at(preset.training, scenario), notes)
                asked = resolve_training(vars(shared), presets.at(row.training, scenario), notes)
                budget = resolve_training(vars(asked), variant, notes)
                own = presets.at(row.fields, scenario)
                (plain,) = _choices("method", [row.method], {}, set(), own)
                for choice in request.choices("method", [row.method], own):
                    inside = _changes("training.", vars(asked), vars(budget))
                    inside |= _changes(f"{row.method}.", plain.params, choice.params)
                    overridden = changed | moved | remodelled | inside
                    notes += [f"not as in preset {preset.name}: {name}={x}" for name, x in overridden.items()]
                    label = row.label + "".join(f"@{name}={value}" for name, value in inside.items())
                    points += _Cell(chosen, scenario, order, budget).points(
                        [dataclasses.replace(choice, label=label)],
                        models,
                        request.seeds,
                        {"name": preset.name, "row": row.label, "overridden": overridden},
                    )
    notes[:] = dict.fromkeys(notes)
    return points


def _of_preset(
    kind: Kind, mine: Mapping[str, Any], theirs: Any, default: str, scenario: str, request: _Request
) -> tuple[list[_Choice], dict[str, Any]]:
    """Choose a sequence or a model: the user's, else the preset's, else the default; and say if it isn't the preset's.

    A preset that names one has settings for that one only; a preset that leaves the name open, for any.
    """
    settings = presets.at(dict(mine), scenario)
    name = settings.pop("name", None)
    if theirs is None:
        choices = request.choices(kind, [name or default], settings)
    else:
        choices = request.choices(kind, _items(theirs), {} if name is not None else settings)
    if name is None:
        return choices, {}
    (plain,) = _choices(kind, [name], {}, set(), settings)
    labels = [choice.label for choice in choices]
    return choices, {} if labels == [plain.label] else {kind: ", ".join(labels)}


def _changes(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in after.items() if value != before[name]}


@dataclass(frozen=True)
class _Cell:
    """A task sequence in a scenario with a class order and a budget: what is checked before its runs are planned."""

    sequence: _Choice
    scenario: Scenario
    class_order: str | tuple[int, ...]
    training: Training

    def points(
        self,
        methods: Sequence[_Choice],
        models: Sequence[_Choice],
        seeds: Sequence[int],
        preset: Mapping[str, Any] | None = None,
    ) -> Iterator[_Point]:
        _check_scenario(self.sequence, self.scenario)
        with _speaking_of(self.sequence):
            self.sequence.instance.check(self.class_order, self.scenario)
        if self.training.warmup_epochs and self.scenario == "domain":
            raise UsageError("training.warmup_epochs trains only the new block: in the domain scenario no block is new")
        for method in methods:
            _check_scenario(method, self.scenario)
            with _speaking_of(method):
                method.instance.check(self.scenario, self.training)
        for model, seed, method in itertools.product(models, seeds, methods):
            yield _Point(self, model, method, seed, preset)


@dataclass(frozen=True)
class _Choice:
    """A method, sequence or model of the sweep with its settings."""

    kind: Kind
    reference: str
    label: str
    instance: Any
    code: str | None  # the hash of its file, for code from outside

    @property
    def params(self) -> dict[str, Any]:
        return {name: getattr(self.instance, name) for name in registry.defaults(type(self.instance))}


@dataclass(frozen=True)
class _Point:
    """One run that was asked for."""

    cell: _Cell
    model: _Choice
    method: _Choice
    seed: int
    preset: Mapping[str, Any] | None  # see RunSpec


def _items(value: str | Sequence[str | type]) -> list[str]:
    """Split a comma list; a class stands for its module and name."""
    if isinstance(value, str):
        items = [item.strip() for item in value.split(",")]
    elif inspect.isclass(value):
        items = [_reference(value)]
    elif isinstance(value, Sequence):
        items = [item if isinstance(item, str) else _reference(item) for item in value]
    else:
        raise UsageError(f"{value!r} is neither a name nor a list of names")
    if not items or not all(items):
        raise UsageError(f"an empty name in the list {value!r}")
    return items


def _reference(thing: Any) -> str:
    if not inspect.isclass(thing):
        raise UsageError(f"{thing!r} is neither a name nor a class")
    if thing.__module__ == "__main__":
        raise UsageError(
            f"{thing.__qualname__} is defined in a session, where workers can't find it: put it into a file"
        )
    name = str(getattr(thing, "name", ""))
    for kind in get_args(Kind):
        if registry.builtin(kind).get(name) is thing:
            return name
    return f"{thing.__module__}:{thing.__qualname__}"


def _choices(
    kind: Kind, items: Iterable[str], assignments: Mapping[str, dict], used: set[str], base: Mapping[str, Any]
) -> list[_Choice]:
    """Turn names with settings (`lwf@temperature=4`) into instances, one per point of the grid that --set spans.

    `base` are settings under both of these.
    """
    chosen: dict[str, _Choice] = {}
    for item in items:
        reference, *settings = item.split("@")
        cls = registry.find(kind, reference)
        code = registry.code_hash(cls)
        used.add(reference)
        own = {}
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise UsageError(f"cannot read {item!r}: write {reference}@FIELD=VALUE")
            if name in own:
                raise UsageError(f"cannot read {item!r}: {name} is given twice")
            own[name] = value
        shared = {name: values for name, values in assignments.get(reference, {}).items() if name not in own}
        for point in itertools.product(*shared.values()):
            instance = registry.configure(reference, cls, {**base, **dict(zip(shared, point, strict=True)), **own})
            label = registry.label(reference, instance)
            choice = _Choice(kind, reference, label, instance, code)
            try:
                json.dumps(choice.params, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise UsageError(f"{label} has a setting that a record cannot hold: {error}") from None
            chosen.setdefault(label, choice)
    return list(chosen.values())


def _scenarios(value: str | Sequence[str]) -> list[Scenario]:
    items = _items(value)
    for item in items:
        if item not in SCENARIOS:
            raise UsageError(f"unknown scenario {item!r}{did_you_mean(item, SCENARIOS)}")
    return list(dict.fromkeys(items))  # type: ignore[arg-type]


def _overrides(given: Mapping[str, Any], assigned: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return the training settings to put over the sequence's own: one per point of the grid."""
    if both := sorted(set(given) & set(assigned)):
        raise UsageError(f"{both[0]} is given twice: by its own option and by --set training.{both[0]}")
    if "epochs" in {**given, **assigned} and "iterations" in {**given, **assigned}:
        raise UsageError("epochs and iterations are both given: choose one")
    return [{**given, **dict(zip(assigned, point, strict=True))} for point in itertools.product(*assigned.values())]


def resolve_training(budget: Mapping[str, Any], override: Mapping[str, Any], notes: list[str]) -> Training:
    """Put the user's settings over a sequence's default budget."""
    values = {**registry.defaults(Training), **budget, **override}
    if "iterations" in override and "epochs" not in override:
        values["epochs"] = None
    elif "epochs" in override and "iterations" not in override:
        values["iterations"] = None
    if values["optimizer"] != budget.get("optimizer", "sgd"):
        if "momentum" not in override:
            values["momentum"] = 0.0
        if "lr" not in override and values["optimizer"] in DEFAULT_LR:
            values["lr"] = DEFAULT_LR[values["optimizer"]]
            note = (
                f"{values['optimizer']} without --lr: using its usual {values['lr']}, not the sequence's rate for sgd"
            )
            if note not in notes:
                notes.append(note)
    return registry.configure("training", Training, values)


def _jobs(
    points: Sequence[_Point],
    device: str,
    precision: str,
    threads: int,
    eval_every: int | None,
    data_root: Path | None,
    out: Path,
    save_models: bool,
    reuse: bool,
) -> list[Job]:
    """Make the data ready and turn every point into a job; what was asked for twice is done once."""
    jobs: dict[str, Job] = {}
    data: dict[tuple[str, int], tuple[str, list[int] | None]] = {}
    kernels: dict[str, dict[str, Any]] = {}  # of each kind of run that was seen to fit its data
    for point in points:
        cell, chosen_sequence = point.cell, point.cell.sequence
        sequence: TaskSequence = chosen_sequence.instance
        order = cell.class_order
        place = (chosen_sequence.label, point.seed)
        if place not in data:
            with _speaking_of(chosen_sequence):
                found = sequence.prepare(data_root, point.seed)
                in_full = sequence.class_order(order, point.seed, data_root)
            data[place] = found, None if in_full is None else list(in_full)
        fingerprint, classes = data[place]
        chosen: dict[Kind, _Choice] = {"method": point.method, "sequence": chosen_sequence, "model": point.model}
        spec = RunSpec(
            sequence=chosen_sequence.reference,
            sequence_label=chosen_sequence.label,
            sequence_params=chosen_sequence.params,
            scenario=cell.scenario,
            method=point.method.reference,
            label=point.method.label,
            params=point.method.params,
            model=point.model.reference,
            model_label=point.model.label,
            model_params=point.model.params,
            seed=point.seed,
            class_order_rule="seed" if classes is None else order if isinstance(order, str) else "given",
            class_order=classes,
            training=dataclasses.asdict(cell.training),
            device=device.split(":")[0],
            data=fingerprint,
            numbers=NUMBERS,
            code={kind: choice.code for kind, choice in chosen.items() if choice.code},
            precision=precision,  # type: ignore[arg-type]
            threads=threads,
            eval_every=eval_every,
            preset=point.preset,
        )
        kind = json.dumps([chosen_sequence.label, point.model.label, cell.scenario, spec.training], sort_keys=True)
        if kind not in kernels:
            with _speaking_of(chosen_sequence):
                tasks = sequence.load(data_root, point.seed, None if classes is None else tuple(classes))
            _check_fit(spec, tasks, point.model.instance, cell.training)
            kernels[kind] = {}
        twin = jobs.get(spec.key)
        if twin is not None and point.preset is not None and twin.spec.label != spec.label:
            raise UsageError(f"the rows {twin.spec.label} and {spec.label} ask for the same runs")
        jobs[spec.key] = Job(
            spec,
            references={kind: registry.absolute(choice.reference) for kind, choice in chosen.items()},
            device=device,
            data_root=None if data_root is None else str(data_root.absolute()),
            models_folder=str(out.absolute() / "models" / spec.key) if save_models else None,
            commit=None,
            reuse=reuse,
            kernels=kernels[kind],
            # a network from outside may have state that a snapshot does not hold
            plain_first_task=point.model.code is None and shares_first_task(type(point.method.instance)),
            memory=point.method.instance.memory,
        )
    return list(jobs.values())


def _check_fit(spec: RunSpec, tasks: Sequence[Task], backbone: Backbone, training: Training) -> ExpandingHeadModel:
    """Return a network for the data; raise UsageError if scenario, model, budget and data don't fit together."""
    if spec.scenario == "domain" and len({len(task.classes) for task in tasks}) > 1:
        raise UsageError(f"{spec.sequence_label} has tasks of different numbers of classes: domain needs equal ones")
    if len({tuple(task.train.shape) for task in tasks} | {tuple(task.test.shape) for task in tasks}) > 1:
        raise UsageError(f"{spec.sequence_label} has images of different shapes")
    try:
        model = ExpandingHeadModel(backbone, tasks[0].train.shape, 0)
    except Exception as error:
        reason = str(error) if isinstance(error, ClbenchError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"the model {spec.model_label} does not fit {spec.sequence_label}: {reason}") from error
    for task in tasks:
        Batches([len(task.train) - n_held_out(len(task.train), training.held_out)], training)
    return model


@contextlib.contextmanager
def _speaking_of(choice: _Choice) -> Iterator[None]:
    """Turn what code from outside raises into a UsageError that names it."""
    try:
        yield
    except ClbenchError:
        raise
    except Exception as error:
        raise UsageError(f"the {choice.kind} {choice.label} raises {type(error).__name__}: {error}") from error


def _check_scenario(choice: _Choice, scenario: Scenario) -> None:
    allowed = choice.instance.scenarios
    if scenario not in allowed:
        raise UsageError(
            f"the {choice.kind} {choice.label} is not defined for the scenario {scenario}: "
            f"choose from {', '.join(sorted(allowed))}"
        )

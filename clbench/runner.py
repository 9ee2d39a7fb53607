"""The runner: what was asked → specs → workers → records."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import importlib.metadata
import inspect
import itertools
import json
import os
import platform
import re
import subprocess
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import torch

from clbench import NUMBERS, registry
from clbench.errors import ClbenchError, UsageError
from clbench.method import SCENARIOS, Method, Scenario
from clbench.model import ExpandingHeadModel
from clbench.registry import Kind, did_you_mean
from clbench.sequences import Task, TaskSequence, to_device
from clbench.store import RunRecord, Store
from clbench.training import Plan, Training, run_sequence

DEFAULT_LR = {"adam": 1e-3, "adagrad": 1e-2}  # PyTorch's own; sgd has the sequence's
MAX_SEED = 2**32 - 1  # the largest that NumPy's RandomState takes


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
    data: str  # SHA-256 of the data set
    numbers: int  # version of the built-in code that computes numbers
    code: Mapping[str, str]  # hashes of methods, sequences and models from outside

    @property
    def key(self) -> str:
        """The record's name: a hash of everything here but the labels."""
        content = {k: v for k, v in dataclasses.asdict(self).items() if not k.endswith("label")}
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
        return [self.done[job.spec.key] for job in self.jobs if job.spec.key in self.done]

    def run(self) -> Iterator[RunRecord]:
        """Run what is missing and yield each record as it lands, after it is written."""
        create_folder(self.store.folder)
        for record in execute(self.missing, self.workers):
            self.store.write(record)
            self.done[record.key] = record
            yield record


def plan(
    methods: str | Sequence[str | type] = "all",
    *,
    sequence: str | Sequence[str | type] = "split-digits",
    scenario: str | Sequence[str] | None = None,
    seeds: int | str | Sequence[int] = 5,
    class_order: str | Sequence[int] = "seed",
    model: str | Sequence[str | type] | None = None,
    training: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | Sequence[str] = (),
    device: str = "auto",
    data_root: str | Path | None = None,
    out: str | Path = "results/runs",
    save_models: bool = False,
    force: bool = False,
    jobs: int | None = None,
) -> Sweep:
    """Work out every run that was asked for; raise UsageError for anything that cannot be done. Nothing is trained."""
    seed_list, order = parse_seeds(seeds), parse_class_order(class_order)
    given = {name: value for name, value in (training or {}).items() if value is not None}
    assignments = parse_settings(settings)
    overrides = _overrides(given, assignments.pop("training", {}))
    used: set[str] = set()
    methods_all = methods == "all"
    method_choices = [] if methods_all else _choices("method", _items(methods), assignments, used)
    sequence_choices = _choices("sequence", _items(sequence), assignments, used)
    model_choices = None if model is None else _choices("model", _items(model), assignments, used)
    scenarios = None if scenario is None else _scenarios(scenario)
    place = check_device(device)
    workers = check_workers(jobs, place)
    folder = Path(out)
    check_folder(folder)

    notes: list[str] = []
    commit = _commit()
    planned: list[Job] = []
    for chosen_sequence in sequence_choices:
        task_sequence: TaskSequence = chosen_sequence.instance
        cell_models = model_choices
        if cell_models is None:
            cell_models = _choices("model", [task_sequence.model], assignments, used)
        for cell_scenario in scenarios or [task_sequence.scenario]:
            if cell_scenario not in task_sequence.scenarios:
                raise UsageError(
                    f"the sequence {chosen_sequence.label} is not defined for the scenario {cell_scenario}: "
                    f"choose from {', '.join(sorted(task_sequence.scenarios))}"
                )
            task_sequence.check(order, cell_scenario)
            if methods_all:
                method_choices, left_out = _all_methods(cell_scenario, assignments, used)
                if left_out:
                    notes.append(f"left out, not defined for the scenario {cell_scenario}: {', '.join(left_out)}")
            for chosen_method in method_choices:
                if cell_scenario not in chosen_method.instance.scenarios:
                    raise UsageError(
                        f"the method {chosen_method.label} is not defined for the scenario {cell_scenario}: "
                        f"choose from {', '.join(sorted(chosen_method.instance.scenarios))}"
                    )
            for variant in overrides:
                budget = resolve_training(task_sequence.budget, variant, notes)
                for chosen_method in method_choices:
                    chosen_method.instance.check(cell_scenario, budget)
                for chosen_model in cell_models:
                    for seed in seed_list:
                        for chosen_method in method_choices:
                            chosen = {"method": chosen_method, "sequence": chosen_sequence, "model": chosen_model}
                            planned.append(_job(chosen, cell_scenario, seed, order, budget, place, data_root, commit))
    if unused := sorted(set(assignments) - used):
        raise UsageError(
            f"--set {unused[0]}.… names nothing in this sweep{did_you_mean(unused[0], [*sorted(used), 'training'])}"
        )
    sweep = Sweep(_with_data(planned, folder, save_models), Store(folder), workers, notes)
    if not force:
        _resume(sweep, save_models)
    return sweep


@dataclass(frozen=True)
class _Choice:
    """A method, sequence or model of the sweep with its settings."""

    kind: Kind
    reference: str
    label: str
    instance: Any

    @property
    def params(self) -> dict[str, Any]:
        return {name: getattr(self.instance, name) for name in registry.defaults(type(self.instance))}


def _items(value: str | Sequence[str | type]) -> list[str]:
    """Split a comma list; a class stands for its module and name."""
    if isinstance(value, str):
        items = [item.strip() for item in value.split(",")]
    else:
        items = [item if isinstance(item, str) else _reference(item) for item in value]
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
    for kind in ("method", "sequence", "model"):
        if registry.builtin(kind).get(getattr(thing, "name", "")) is thing:
            return thing.name
    return f"{thing.__module__}:{thing.__qualname__}"


def _choices(kind: Kind, items: Iterable[str], assignments: Mapping[str, dict], used: set[str]) -> list[_Choice]:
    """Turn names with settings (`lwf@temperature=4`) into instances, one per point of the grid that --set spans."""
    chosen: dict[str, _Choice] = {}
    for item in items:
        reference, *settings = item.split("@")
        cls = registry.find(kind, reference)
        used.add(reference)
        own = {}
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise UsageError(f"cannot read {item!r}: write {reference}@FIELD=VALUE")
            own[name] = value
        shared = {name: values for name, values in assignments.get(reference, {}).items() if name not in own}
        for point in itertools.product(*shared.values()):
            instance = registry.configure(reference, cls, {**dict(zip(shared, point, strict=True)), **own})
            label = registry.label(reference, instance)
            chosen.setdefault(label, _Choice(kind, reference, label, instance))
    return list(chosen.values())


def _all_methods(
    scenario: Scenario, assignments: Mapping[str, dict], used: set[str]
) -> tuple[list[_Choice], list[str]]:
    every = _choices("method", sorted(registry.builtin("method")), assignments, used)
    allowed = [choice for choice in every if scenario in choice.instance.scenarios]
    return allowed, [choice.label for choice in every if choice not in allowed]


def _scenarios(value: str | Sequence[str]) -> list[Scenario]:
    items = _items(value)
    for item in items:
        if item not in SCENARIOS:
            raise UsageError(f"unknown scenario {item!r}{did_you_mean(item, SCENARIOS)}")
    return list(dict.fromkeys(items))  # type: ignore[arg-type]


def parse_seeds(value: int | str | Sequence[int]) -> list[int]:
    """Read seeds: a count n (0…n−1), a list `0,4,9`, ranges `10-19`, or a sequence of integers."""
    if isinstance(value, bool) or not isinstance(value, (int, str, Sequence, range)):
        raise UsageError(f"seeds={value!r}: give a number of seeds, a list such as 0,4,9 or a range such as 10-19")
    if isinstance(value, int) or (isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value)):
        count = int(value)
        if count < 1:
            raise UsageError(f"seeds={count}: at least one seed is needed (5 means 0…4)")
        if count > 100_000:
            raise UsageError(
                f"seeds={count} is a number of seeds, 0…{count - 1}: for a single seed write {count}-{count}"
            )
        return list(range(count))
    seeds: list[int] = []
    for item in value.split(",") if isinstance(value, str) else value:
        single = isinstance(item, int) and not isinstance(item, bool)
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", str(item)) if single or isinstance(item, str) else None
        if match is None:
            raise UsageError(f"seeds={value!r}: cannot read {item!r}; write 5, 0,4,9 or 10-19")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"seeds={value!r}: the range {item} runs backwards")
        if last > MAX_SEED:
            raise UsageError(f"seeds={value!r}: {last} is too large, the largest seed is {MAX_SEED}")
        seeds += range(first, last + 1)
    if not seeds:
        raise UsageError("seeds: at least one is needed")
    return list(dict.fromkeys(seeds))


def parse_class_order(value: str | Sequence[int]) -> str | tuple[int, ...]:
    """Read a class order: `seed`, `fixed`, or the classes themselves."""
    if value in ("seed", "fixed"):
        return str(value)
    items = value.split(",") if isinstance(value, str) else list(value)
    try:
        return tuple(int(item) for item in items)
    except (TypeError, ValueError):
        raise UsageError(f"class order {value!r}: write seed, fixed, or classes such as 3,1,4") from None


def parse_settings(settings: Mapping[str, Any] | Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Read NAME.FIELD=VALUE settings into {name: {field: values}}; a comma list is a grid."""
    if isinstance(settings, Mapping):
        pairs = [(key, list(v) if isinstance(v, (list, tuple)) else [v]) for key, v in settings.items()]
    else:
        pairs = []
        for setting in settings:
            key, equals, value = setting.partition("=")
            values = [part.strip() for part in value.split(",")]
            if not equals or not all(values):
                raise UsageError(f"cannot read --set {setting}: write NAME.FIELD=VALUE, as in lwf.temperature=4")
            pairs.append((key.strip(), values))
    parsed: dict[str, dict[str, list[Any]]] = {}
    for key, values in pairs:
        name, dot, field_name = key.rpartition(".")
        if not (dot and name and field_name):
            raise UsageError(f"cannot read --set {key}: write NAME.FIELD=VALUE, as in lwf.temperature=4")
        if field_name in parsed.setdefault(name, {}):
            raise UsageError(f"--set {key} is given twice: write a comma list for a grid")
        parsed[name][field_name] = values
    return parsed


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
    if "iterations" in override:
        values["epochs"] = None
    elif "epochs" in override:
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


def check_device(device: str) -> str:
    """Return the device to run on, "cpu" or "cuda:N"."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    match = re.fullmatch(r"cuda(?::(\d+))?", "cuda" if device == "auto" else device)
    if match is None:
        raise UsageError(f"unknown device {device!r}: choose from auto, cpu, cuda, cuda:N")
    if not torch.cuda.is_available():
        raise UsageError(f"device {device!r}: PyTorch finds no CUDA device here; use --device cpu")
    index = int(match[1] or 0)
    if index >= torch.cuda.device_count():
        raise UsageError(f"device {device!r}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return f"cuda:{index}"


def check_folder(folder: Path) -> None:
    """Raise UsageError if a folder can't be made or written to; makes nothing."""
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    if not existing.is_dir():
        raise UsageError(f"the output folder {folder} cannot be made: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"the output folder {folder} cannot be written: no permission for {existing}")


def create_folder(folder: Path) -> None:
    """Make a folder; raise UsageError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the output folder {folder} cannot be made: {error.strerror}") from None


def _job(
    chosen: Mapping[Kind, _Choice],
    scenario: Scenario,
    seed: int,
    order: str | tuple[int, ...],
    training: Training,
    device: str,
    data_root: str | Path | None,
    commit: str | None,
) -> Job:
    """Put together one job; its data are filled in once they are known to be there."""
    sequence = chosen["sequence"]
    code = {kind: registry.code_hash(type(choice.instance)) for kind, choice in chosen.items()}
    spec = RunSpec(
        sequence=sequence.reference,
        sequence_label=sequence.label,
        sequence_params=sequence.params,
        scenario=scenario,
        method=chosen["method"].reference,
        label=chosen["method"].label,
        params=chosen["method"].params,
        model=chosen["model"].reference,
        model_label=chosen["model"].label,
        model_params=chosen["model"].params,
        seed=seed,
        class_order_rule=order if isinstance(order, str) else "given",
        class_order=order if isinstance(order, tuple) else None,
        training=dataclasses.asdict(training),
        device=device.split(":")[0],
        data="",
        numbers=NUMBERS,
        code={kind: digest for kind, digest in code.items() if digest},
    )
    references = {kind: registry.absolute(choice.reference) for kind, choice in chosen.items()}
    return Job(spec, references, device, None if data_root is None else str(Path(data_root).absolute()), None, commit)


def _with_data(jobs: list[Job], out: Path, save_models: bool) -> list[Job]:
    """Materialise the data, so that every job is complete, and drop jobs that were asked for twice."""
    complete: dict[str, Job] = {}
    checked: set[str] = set()
    for job in jobs:
        spec = job.spec
        sequence = _instance("sequence", job)
        rule = spec.class_order_rule if spec.class_order is None else tuple(spec.class_order)
        root = None if job.data_root is None else Path(job.data_root)
        data = sequence.prepare(root, spec.seed)
        order = sequence.class_order(rule, spec.seed, root)
        spec = dataclasses.replace(spec, data=data, class_order=None if order is None else list(order))
        folder = str(out.absolute() / "models" / spec.key) if save_models else None
        job = dataclasses.replace(job, spec=spec, models_folder=folder)
        complete.setdefault(spec.key, job)
        shape = json.dumps([spec.sequence_label, spec.model_label, spec.scenario, spec.training], sort_keys=True)
        if shape not in checked:
            checked.add(shape)
            _check_fit(job)
    return list(complete.values())


@cache
def _cached_instance(kind: Kind, reference: str, params: str) -> Any:
    return registry.configure(reference, registry.find(kind, reference), json.loads(params))


def _instance(kind: Kind, job: Job) -> Any:
    """Make the job's method (new for each run), sequence or model from its reference and parameters."""
    spec = job.spec
    params: Mapping[str, Any] = {"method": spec.params, "sequence": spec.sequence_params, "model": spec.model_params}[
        kind
    ]
    if kind == "method":
        return registry.configure(spec.method, registry.find(kind, job.references[kind]), params)
    return _cached_instance(kind, job.references[kind], json.dumps(params, sort_keys=True))


def _load(job: Job) -> list[Task]:
    root = None if job.data_root is None else Path(job.data_root)
    spec = job.spec
    order = None if spec.class_order is None else tuple(spec.class_order)
    return _instance("sequence", job).load(root, spec.seed, order)


def _check_fit(job: Job) -> None:
    """Raise UsageError if model, budget and data don't fit together."""
    tasks = _load(job)
    try:
        ExpandingHeadModel(_instance("model", job), tasks[0].train.shape, 0)
    except Exception as error:
        reason = str(error) if isinstance(error, ClbenchError) else f"{type(error).__name__}: {error}"
        raise UsageError(
            f"the model {job.spec.model_label} does not fit {job.spec.sequence_label}: {reason}"
        ) from error
    for task in tasks:
        Plan([len(task.train)], Training(**job.spec.training), equal_shares=False)


def _resume(sweep: Sweep, save_models: bool) -> None:
    """Take over finished records; say which are left aside because other code made them, or are damaged."""
    records, problems = sweep.store.read()
    sweep.notes += [f"damaged record, run again if it is part of this sweep: {problem}" for problem in problems]
    older: dict[str, int] = {}
    by_question = {_question(record.spec): record for record in records.values() if record.ok}
    for job in sweep.jobs:
        record = records.get(job.spec.key)
        if record is not None and record.ok:
            if not (save_models and not Path(str(job.models_folder)).is_dir()):
                sweep.done[record.key] = record
        elif _question(job.spec.as_json()) in by_question:
            older[job.spec.label] = older.get(job.spec.label, 0) + 1
    for label, count in older.items():
        sweep.notes.append(
            f"{count} finished run{'s' * (count > 1)} of {label} were made by another version of its code: run again"
        )


def _question(spec: Mapping[str, Any]) -> str:
    """Name what a spec asks for, whatever code answers it."""
    return json.dumps({k: v for k, v in spec.items() if k not in ("numbers", "code")}, sort_keys=True)


def execute(jobs: Sequence[Job], workers: int) -> Iterator[RunRecord]:
    """Run jobs in `workers` processes (1: in this one) and yield records as they are finished, in any order."""
    if workers == 1 or len(jobs) <= 1:
        yield from map(run_one, jobs)
        return
    with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
        pool = joblib.Parallel(n_jobs=min(workers, len(jobs)), return_as="generator_unordered", batch_size=1)
        yield from pool(joblib.delayed(run_one)(job) for job in jobs)


def run_one(job: Job) -> RunRecord:
    """Run one job in this process, with one thread; an exception becomes a failed record."""
    spec = job.spec
    with _one_thread(), _deterministic(job.device):
        environment = _environment(job)
        try:
            tasks = to_device(_load(job), torch.device(job.device))
            method: Method = _instance("method", job)
            with _PeakMemory(job.device) as peak:
                outcome = run_sequence(
                    tasks,
                    method,
                    _instance("model", job),
                    Training(**spec.training),
                    spec.scenario,
                    spec.seed,
                    job.device,
                    None if job.models_folder is None else _model_saver(Path(job.models_folder)),
                )
        except Exception as error:
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
        environment=environment,
    )


def _model_saver(folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)

    def save(model: ExpandingHeadModel, task: Task) -> None:
        path = folder / f"task-{task.index + 1}.pt"
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        torch.save({"widths": model.widths, "state_dict": model.state_dict()}, temporary)
        temporary.replace(path)

    return save


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
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


def _commit() -> str | None:
    """Return the commit of the checkout that clbench is imported from, marked if changed; None outside of one."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["git", "-C", str(here.parent), *arguments]
            return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
        return None

    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    return f"{commit} (changed)" if commit and git("status", "--porcelain", "--untracked-files=no") else commit


def check_workers(jobs: int | None, device: str) -> int:
    """Return how many runs go side by side: one per core, or one on a GPU, unless told."""
    if jobs is None:
        return 1 if device.startswith("cuda") else joblib.cpu_count()
    if jobs < 1:
        raise UsageError(f"jobs={jobs}: at least one worker is needed")
    return jobs

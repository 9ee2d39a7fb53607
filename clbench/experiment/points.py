"""The runs of a sweep: methods × sequences × scenarios × models × seeds, each with its training settings.

What is asked for without a preset is planned as a preset that names the methods and leaves all else open.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from clbench.errors import ClbenchError, UsageError
from clbench.experiment import own_code, registry, tuned
from clbench.experiment.early import GROUPS, own_settings
from clbench.experiment.preset import Precision, Preset, Row, at, in_row, over
from clbench.experiment.registry import Kind
from clbench.experiment.request import Request
from clbench.experiment.seeds import parse_seeds, parse_tasks
from clbench.method import Scenario, Training, check_mixing
from clbench.results.names import spelled
from clbench.training.optimizer import OPTIMIZERS

Grid = Mapping[str, Mapping[str, list[Any]]]  # name → field → values, as --set gives them


@dataclass(frozen=True)
class Choice:
    """A method, sequence or model of the sweep with its settings."""

    kind: Kind
    reference: str
    label: str
    instance: Any
    place: str  # the reference, a path in it absolute
    written: Mapping[str, Any]  # settings that name files of a preset's folder, as it has them
    files: Mapping[str, str]  # the same by absolute path, as the instance has them

    @cached_property
    def code(self) -> str | None:
        """The hash of its files, for code from outside."""
        return own_code.code_hash(type(self.instance), {**self.params, **self.files})

    @property
    def params(self) -> dict[str, Any]:
        """The settings as a record has them, without paths of this machine."""
        return {**registry.settings(self.instance), **self.written}

    @property
    def fields(self) -> dict[str, Any]:
        """All settings."""
        return {**registry.defaults(type(self.instance)), **self.params}


@contextlib.contextmanager
def naming(choice: Choice) -> Iterator[None]:
    """Turn what code from outside raises into a UsageError that names it."""
    try:
        yield
    except ClbenchError:
        raise
    except Exception as error:
        where = own_code.raised_at(error, {type(choice.instance).__module__.split(".")[0]})
        what = own_code.what(error) + (f", in {where}" if where else "")
        raise UsageError(f"the {choice.kind} {choice.label} raises {what}") from error


def choose(
    kind: Kind, items: Iterable[str], grid: Grid, base: Mapping[str, Any] | None = None, folder: Path | None = None
) -> list[Choice]:
    """Make instances of names with settings of their own, one per point of the grid; `base` are settings below both.

    `folder` is that of the preset which named them: paths are relative to it, else to the working folder. Raises
    UsageError for names, fields and values that there are not.
    """
    chosen: dict[str, Choice] = {}
    for item in items:
        reference, own = own_settings(item)
        place = registry.absolute(reference, folder)
        cls = registry.find(kind, reference if folder is None else place)
        shared = {name: values for name, values in grid.get(reference, {}).items() if name not in own}
        for values in itertools.product(*shared.values()):
            over = {**dict(zip(shared, values, strict=True)), **own}
            below = {name: value for name, value in (base or {}).items() if name not in over}
            files = registry.files_in(cls, registry.file_settings(cls, over), Path.cwd())
            files |= {} if folder is None else registry.files_in(cls, below, folder)
            instance = registry.configure(reference, cls, {**below, **over, **files})
            written = {name: {**below, **over}[name] for name in files}
            if kind == "sequence":
                check_defaults(cls)
            label = registry.label(reference, instance, written)
            choice = Choice(kind, reference, label, instance, place, written, files)
            try:
                json.dumps(choice.params, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise UsageError(f"{choice.label} has a setting that a record cannot hold: {error}") from None
            chosen.setdefault(choice.label, choice)
    return list(chosen.values())


def check_defaults(sequence: type) -> None:
    """Raise UsageError, with class and file, for a model or training settings of a sequence that there are not."""
    try:
        resolve_training(sequence.budget, {}, [])  # type: ignore[attr-defined]
        choose("model", [sequence.model], {})  # type: ignore[attr-defined]
    except UsageError as error:
        raise UsageError(f"{own_code.place_of(sequence)}: {sequence.__name__}: {error}") from None


@dataclass(frozen=True)
class Point:
    """One run that was asked for."""

    sequence: Choice
    scenario: Scenario
    class_order: str | tuple[int, ...]
    training: Training
    model: Choice
    method: Choice
    seed: int
    precision: Precision
    tasks: str | None = None  # see RunSpec
    preset: Mapping[str, Any] | None = None

    @property
    def chosen(self) -> dict[Kind, Choice]:
        return {"method": self.method, "sequence": self.sequence, "model": self.model}

    def named(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that names the preset's row in what is raised."""
        return contextlib.nullcontext() if self.preset is None else in_row(self.preset["name"], self.preset["row"])


def points(request: Request, notes: list[str]) -> list[Point]:
    """Return the runs of a sweep; what the user should hear goes to `notes`.

    Each run says what is not as in its preset. Raises UsageError for what does not go together.
    """
    preset = request.preset or rows_asked(request)
    faults = {fault: name for name, fault in registry.broken("method").items()}
    notes += [f"{name} is left out: {fault}" for fault, name in faults.items()]
    if outside := [scenario for scenario in request.scenario or () if scenario not in preset.scenarios]:
        raise UsageError(f"preset {preset.name} has the scenarios {', '.join(preset.scenarios)}, not {outside[0]}")
    rows = preset.choose(request.rows, request.controls)
    asked_for: Sequence[Scenario | None] = request.scenario or (preset.scenarios if request.preset else [None])
    found: list[Point] = []
    left_out: dict[str, list[str]] = {}
    for asked in asked_for:  # None: the scenario that is each sequence's own
        here: list[Point] = []
        there = [row for row in rows if asked is None or not request.preset or asked in preset.where(row)]
        apart: dict[str, Row] = {}  # rows that share their runs, as they differ only in the view of them, are run once
        for row in there:
            apart.setdefault(preset.has_runs_of(row), row)
        for row in apart.values():
            with in_row(preset.name, row.label) if request.preset else contextlib.nullcontext():
                here += _of_row(row, asked, preset, request, notes, left_out)
        found += _in_order(here)
    for scenario, labels in left_out.items():
        notes.append(f"left out, not defined for the scenario {scenario}: {', '.join(labels)}")
    if not found:
        raise UsageError(f"preset {preset.name} has none of these rows in these scenarios")
    return found


def _in_order(runs: Sequence[Point]) -> list[Point]:
    """Order the runs of rows by sequence, model and seed, so that those that are compared stand side by side."""
    places: dict[Any, int] = {}
    keys = [[("sequence", run.sequence.label), ("model", run.model.label), ("seed", run.seed)] for run in runs]
    for key in itertools.chain(*keys):
        places.setdefault(key, len(places))
    order = sorted(range(len(runs)), key=lambda index: [places[key] for key in keys[index]])
    return [runs[index] for index in order]


def _of_row(
    row: Row,
    asked: Scenario | None,
    preset: Preset,
    request: Request,
    notes: list[str],
    left_out: dict[str, list[str]],
) -> Iterator[Point]:
    """Yield a row's runs in a scenario, or in each sequence's own; where it is not defined there goes to `left_out`."""
    sequences, other_sequence = _chosen("sequence", preset, row, request, asked, "split-digits")
    for sequence in sequences:
        scenario = asked or sequence.instance.scenario
        if scenario not in preset.where(row):
            left_out.setdefault(scenario, []).append(row.label)
            continue
        stated = row.class_order or preset.class_order
        own_order = tuple(stated) if isinstance(stated, list) else stated
        order = request.class_order or own_order or "seed"
        _check(sequence, scenario, order, scenario)
        models, other_model = _chosen("model", preset, row, request, scenario, sequence.instance.model)
        own_precision = row.precision or preset.precision
        precision = request.precision or own_precision or "fp32"
        tasks = request.tasks or preset.tasks or "0-"
        changed = _moved(
            class_order=(own_order, order), precision=(own_precision, precision), tasks=(preset.tasks, tasks)
        )
        changed |= other_sequence | other_model
        seeds = request.seeds or _seeds(row, preset, 10 if request.preset else 5)
        notes += _seen_before(preset, tasks, seeds) if row.tuning is not None else []
        for method, training, told in _methods(preset, row, request, sequence, scenario, changed, notes):
            for model, seed in itertools.product(models, seeds):
                yield Point(
                    sequence, scenario, order, training, model, method, seed, precision, parse_tasks(tasks), told
                )


def _seen_before(preset: Preset, tasks: str, seeds: Sequence[int]) -> list[str]:
    """Say what runs have in common with those that their settings were chosen by."""
    tuning, lines = preset.tuning, []
    assert tuning is not None
    if both := sorted({*seeds} & {*tuning.seeds}):
        what = f"seed{'s' * (len(both) > 1)} {', '.join(map(str, both))}"
        lines.append(f"the settings of preset {preset.name} were chosen by runs of {what} too: report others")
    if preset.tasks and parse_tasks(tasks) != preset.tasks:
        lines.append(f"the settings of preset {preset.name} were chosen on tasks {tuning.tasks}: they are not left out")
    return lines


def _moved(**settings: tuple[Any, Any]) -> dict[str, Any]:
    """Return the settings that are not the preset's, of pairs: the preset's, None where it has none, and what is."""
    return {name: now for name, (own, now) in settings.items() if own not in (None, now)}


def rows_asked(request: Request) -> Preset:
    """Return a preset that has a row for each method asked for; those of a group only where they are defined."""
    asked = request.methods or ["core"]
    builtin = registry.builtin("method")
    members = sorted(name for name in builtin if any(GROUPS[g](builtin[name]) for g in asked if g in GROUPS))
    rows = [Row(label=name, method=name, scenarios=sorted(builtin[name].scenarios)) for name in members]  # type: ignore[attr-defined]
    rows += [Row(label=name, method=name) for name in asked if name not in GROUPS]
    return Preset(title="", scenarios=["task", "class", "domain"], rows=rows)


def _seeds(row: Row, preset: Preset, default: int) -> list[int]:
    own = preset.seeds if row.seeds is None else row.seeds
    return parse_seeds(default if own is None else own)


def _chosen(
    kind: Literal["sequence", "model"],
    preset: Preset,
    row: Row,
    request: Request,
    scenario: str | None,
    default: str,
) -> tuple[list[Choice], dict[str, Any]]:
    """Choose sequences or models: the user's, else the row's and preset's, else the default; say what is not theirs.

    A preset that names one has settings for that one only; a preset that leaves the name open, for any.
    """
    settings = at(over(getattr(preset, kind), getattr(row, kind)), scenario)
    name = settings.pop("name", None)
    asked = request.sequence if kind == "sequence" else request.model
    base = settings if asked is None or name is None else {}
    folder = preset.folder if asked is None and name is not None else None
    choices = choose(kind, asked or [name or default], request.settings, base, folder)
    if name is None:
        return choices, {}
    (plain,) = choose(kind, [name], {}, settings, preset.folder)
    labels = [choice.label for choice in choices]
    return choices, {} if labels == [plain.label] else {kind: ", ".join(labels)}


def _methods(
    preset: Preset,
    row: Row,
    request: Request,
    sequence: Choice,
    scenario: Scenario,
    changed: dict[str, Any],
    notes: list[str],
) -> Iterator[tuple[Choice, Training, dict[str, Any] | None]]:
    """Give the methods of a row in a scenario, each with its training settings and what it says of its preset."""
    shared = resolve_training(sequence.instance.budget, at(preset.training, scenario), notes)
    asked = resolve_training(vars(shared), at(row.training, scenario), notes)
    fields, folder = at(row.fields, scenario), preset.folder if request.preset else None
    (plain,) = choose("method", [row.method], {}, fields, folder)
    for override in _overrides(request):
        training = resolve_training(vars(asked), override, notes)
        if training.warmup_epochs and scenario == "domain":
            raise UsageError("training.warmup_epochs trains only the new block: in the domain scenario no block is new")
        for method in choose("method", [row.method], request.settings, fields, folder):
            _check(method, scenario, scenario, training)
            check_mixing(type(method.instance), getattr(sequence.instance, "augment", False))
            if not request.preset:
                yield method, training, None
                continue
            inside = _changes("training", vars(asked), vars(training))
            inside |= _changes(row.method, plain.fields, method.fields)
            here = changed | inside
            notes += [f"not as in preset {preset.name}: {name}={spelled(value)}" for name, value in here.items()]
            label = row.label + "".join(f"@{name}={spelled(value)}" for name, value in inside.items())
            told = {"name": preset.name, "row": row.label, "overridden": here}
            searched = () if row.tuning is None else row.tuning.space
            as_tuned = not any(name in searched or name.rpartition(".")[2] in searched for name in inside)
            told |= tuned.told(preset.tuning, row.tuning if as_tuned else None)
            yield dataclasses.replace(method, label=label), training, told


def _changes(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in after.items() if value != before[name]}


def _overrides(request: Request) -> list[dict[str, Any]]:
    """Return the user's training settings: one dict per point of the grid that --set spans."""
    assigned = request.settings.get("training", {})
    grid = itertools.product(*assigned.values())
    return [{**request.training, **dict(zip(assigned, values, strict=True))} for values in grid]


def resolve_training(budget: Mapping[str, Any], override: Mapping[str, Any], notes: list[str]) -> Training:
    """Put settings over a default budget; what the user should hear goes to `notes`."""
    values = {**registry.defaults(Training), **budget, **override}
    if "iterations" in override and "epochs" not in override:
        values["epochs"] = None
    elif "epochs" in override and "iterations" not in override:
        values["iterations"] = None
    optimizer = values["optimizer"]
    if optimizer != budget.get("optimizer", "sgd"):
        if "momentum" not in override:
            values["momentum"] = 0.0
        if "lr" not in override and optimizer != "sgd" and optimizer in OPTIMIZERS:
            values["lr"] = inspect.signature(OPTIMIZERS[optimizer]).parameters["lr"].default
            notes.append(f"{optimizer} without --lr: using its usual {values['lr']}, not the sequence's rate for sgd")
    return registry.configure("training", Training, values)


def _check(choice: Choice, scenario: Scenario, *arguments: Any) -> None:
    """Raise UsageError if a method or sequence is not defined for a scenario, or its settings make no sense there."""
    allowed = sorted(choice.instance.scenarios)
    if scenario not in allowed:
        what = f"the {choice.kind} {choice.label} is not defined for the scenario {scenario}"
        raise UsageError(f"{what}: choose from {', '.join(allowed)}")
    with naming(choice):
        choice.instance.check(*arguments)

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
from typing import Any

from clbench.errors import ClbenchError, UsageError
from clbench.experiment import registry
from clbench.experiment.early import GROUPS, own_settings
from clbench.experiment.presets import Preset, Row, at
from clbench.experiment.registry import Kind
from clbench.experiment.request import Request
from clbench.method import Scenario, Training
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
    code: str | None  # the hash of its file, for code from outside

    @property
    def params(self) -> dict[str, Any]:
        return {name: getattr(self.instance, name) for name in registry.defaults(type(self.instance))}


@contextlib.contextmanager
def naming(choice: Choice) -> Iterator[None]:
    """Turn what code from outside raises into a UsageError that names it."""
    try:
        yield
    except ClbenchError:
        raise
    except Exception as error:
        raise UsageError(f"the {choice.kind} {choice.label} raises {type(error).__name__}: {error}") from error


def choose(kind: Kind, items: Iterable[str], grid: Grid, base: Mapping[str, Any] | None = None) -> list[Choice]:
    """Make instances of names with settings of their own, one per point of the grid; `base` are settings below both.

    Raises UsageError for names, fields and values that there are not.
    """
    chosen: dict[str, Choice] = {}
    for item in items:
        reference, own = own_settings(item)
        cls = registry.find(kind, reference)
        code = registry.code_hash(cls)
        shared = {name: values for name, values in grid.get(reference, {}).items() if name not in own}
        for values in itertools.product(*shared.values()):
            settings = {**(base or {}), **dict(zip(shared, values, strict=True)), **own}
            instance = registry.configure(reference, cls, settings)
            choice = Choice(kind, reference, registry.label(reference, instance), instance, code)
            try:
                json.dumps(choice.params, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise UsageError(f"{choice.label} has a setting that a record cannot hold: {error}") from None
            chosen.setdefault(choice.label, choice)
    return list(chosen.values())


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
    preset: Mapping[str, Any] | None = None  # see RunSpec

    @property
    def chosen(self) -> dict[Kind, Choice]:
        return {"method": self.method, "sequence": self.sequence, "model": self.model}


def points(request: Request, notes: list[str]) -> list[Point]:
    """Return the runs of a sweep; what the user should hear goes to `notes`.

    Each run says what is not as in its preset. Raises UsageError for what does not go together.
    """
    preset = request.preset or _without_preset(request)
    if outside := [scenario for scenario in request.scenario or () if scenario not in preset.scenarios]:
        raise UsageError(f"preset {preset.name} has the scenarios {', '.join(preset.scenarios)}, not {outside[0]}")
    asked_for: Sequence[Scenario | None] = request.scenario or (preset.scenarios if request.preset else [None])
    own_order = tuple(preset.class_order) if isinstance(preset.class_order, list) else preset.class_order
    order = request.class_order or own_order or "seed"
    moved = {} if own_order in (None, order) else {"class_order": order}
    found: list[Point] = []
    for asked in asked_for:  # None: the scenario that is each sequence's own
        sequences, other_sequence = _chosen("sequence", preset, request, asked, "split-digits")
        for sequence in sequences:
            scenario = asked or sequence.instance.scenario
            _check(sequence, scenario, order, scenario)
            models, other_model = _chosen("model", preset, request, scenario, sequence.instance.model)
            changed = moved | other_sequence | other_model
            methods = list(_methods(preset, request, sequence, scenario, changed, notes))
            for model, seed, (method, training, told) in itertools.product(models, _seeds(request), methods):
                found.append(Point(sequence, scenario, order, training, model, method, seed, told))
    if not found:
        raise UsageError(f"preset {preset.name} has none of these rows in these scenarios")
    return found


def _without_preset(request: Request) -> Preset:
    """Return a preset that has a row for each method asked for; those of a group only where they are defined."""
    asked = request.methods or ["core"]
    builtin = registry.builtin("method")
    members = sorted(name for name in builtin if any(GROUPS[g](builtin[name]) for g in asked if g in GROUPS))
    rows = [Row(label=name, method=name, scenarios=sorted(builtin[name].scenarios)) for name in members]  # type: ignore[attr-defined]
    rows += [Row(label=name, method=name) for name in asked if name not in GROUPS]
    return Preset(title="", scenarios=["task", "class", "domain"], rows=rows)


def _seeds(request: Request) -> list[int]:
    return request.seeds or list(range(10 if request.preset else 5))


def _chosen(
    kind: Kind, preset: Preset, request: Request, scenario: str | None, default: str
) -> tuple[list[Choice], dict[str, Any]]:
    """Choose sequences or models: the user's, else the preset's, else the default; and say what is not the preset's.

    A preset that names one has settings for that one only; a preset that leaves the name open, for any.
    """
    settings = at(preset.sequence if kind == "sequence" else preset.model, scenario)
    name = settings.pop("name", None)
    asked = request.sequence if kind == "sequence" else request.model
    base = settings if asked is None or name is None else {}
    choices = choose(kind, asked or [name or default], request.settings, base)
    if name is None:
        return choices, {}
    (plain,) = choose(kind, [name], {}, settings)
    labels = [choice.label for choice in choices]
    return choices, {} if labels == [plain.label] else {kind: ", ".join(labels)}


def _methods(
    preset: Preset, request: Request, sequence: Choice, scenario: Scenario, changed: dict[str, Any], notes: list[str]
) -> Iterator[tuple[Choice, Training, dict[str, Any] | None]]:
    """Give the methods of the rows in a scenario, each with its training settings and what it says of its preset."""
    rows = preset.choose(request.rows, request.controls)
    there = [row for row in rows if scenario in (row.scenarios or preset.scenarios)]
    if not request.preset and (left_out := [row.label for row in rows if row not in there]):
        notes.append(f"left out, not defined for the scenario {scenario}: {', '.join(left_out)}")
    shared = resolve_training(sequence.instance.budget, at(preset.training, scenario), notes)
    for row, override in itertools.product(there, _overrides(request)):
        asked = resolve_training(vars(shared), at(row.training, scenario), notes)
        training = resolve_training(vars(asked), override, notes)
        if training.warmup_epochs and scenario == "domain":
            raise UsageError("training.warmup_epochs trains only the new block: in the domain scenario no block is new")
        fields = at(row.fields, scenario)
        plain = choose("method", [row.method], {}, fields)[0]
        for method in choose("method", [row.method], request.settings, fields):
            _check(method, scenario, scenario, training)
            if not request.preset:
                yield method, training, None
                continue
            inside = _changes("training", vars(asked), vars(training))
            inside |= _changes(row.method, plain.params, method.params)
            here = changed | inside
            notes += [f"not as in preset {preset.name}: {name}={spelled(value)}" for name, value in here.items()]
            label = row.label + "".join(f"@{name}={spelled(value)}" for name, value in inside.items())
            told = {"name": preset.name, "row": row.label, "overridden": here}
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

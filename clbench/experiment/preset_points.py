"""The runs of a preset's rows, and what the user has put in the place of the preset's settings."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from clbench.errors import UsageError
from clbench.experiment.choices import Choice, choose
from clbench.experiment.points import Point, cross, overrides, resolve_training
from clbench.experiment.presets import Preset, Row, at
from clbench.experiment.registry import Kind
from clbench.experiment.request import Request
from clbench.method import Scenario

SEEDS = range(10)  # of a preset, unless told


def preset_points(preset: Preset, request: Request, notes: list[str]) -> list[Point]:
    """Return the runs of a preset's rows; say in `notes` and in each run what is not as in the preset."""
    if outside := [scenario for scenario in request.scenario or () if scenario not in preset.scenarios]:
        raise UsageError(f"preset {preset.name} has the scenarios {', '.join(preset.scenarios)}, not {outside[0]}")
    rows = preset.choose(request.rows, request.controls)
    order, moved = _class_order(preset, request)
    found: list[Point] = []
    for scenario in request.scenario or preset.scenarios:
        there = [row for row in rows if scenario in (row.scenarios or preset.scenarios)]
        sequences, other_sequence = _chosen("sequence", preset, request, scenario, "split-digits")
        for sequence in sequences:
            models, other_model = _chosen("model", preset, request, scenario, sequence.instance.model)
            shared = resolve_training(sequence.instance.budget, at(preset.training, scenario), notes)
            for row, override in itertools.product(there, overrides(request)):
                asked = resolve_training(vars(shared), at(row.training, scenario), notes)
                training = resolve_training(vars(asked), override, notes)
                retrained = _changes("training", vars(asked), vars(training))
                for method, refitted in _methods(row, scenario, request):
                    inside = retrained | refitted
                    changed = moved | other_sequence | other_model | inside
                    notes += [f"not as in preset {preset.name}: {name}={value}" for name, value in changed.items()]
                    label = row.label + "".join(f"@{name}={value}" for name, value in inside.items())
                    found += cross(
                        sequence,
                        scenario,
                        order,
                        training,
                        models,
                        [dataclasses.replace(method, label=label)],
                        request.seeds or SEEDS,
                        {"name": preset.name, "row": row.label, "overridden": changed},
                    )
    if not found:
        raise UsageError(f"preset {preset.name} has none of these rows in these scenarios")
    return found


def _class_order(preset: Preset, request: Request) -> tuple[str | tuple[int, ...], dict[str, Any]]:
    """Return the class order, and it again if it is not the preset's."""
    own = tuple(preset.class_order) if isinstance(preset.class_order, list) else preset.class_order
    order = request.class_order or own or "seed"
    return order, {} if own in (None, order) else {"class_order": order}


def _chosen(
    kind: Kind, preset: Preset, request: Request, scenario: Scenario, default: str
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


def _methods(row: Row, scenario: Scenario, request: Request) -> list[tuple[Choice, dict[str, Any]]]:
    """Return the row's method, one per point of the user's grid, each with what is not as in the row."""
    fields = at(row.fields, scenario)
    (plain,) = choose("method", [row.method], {}, fields)
    chosen = choose("method", [row.method], request.settings, fields)
    return [(choice, _changes(row.method, plain.params, choice.params)) for choice in chosen]


def _changes(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{name}": value for name, value in after.items() if value != before[name]}

"""The runs of a sweep: methods × sequences × scenarios × models × seeds, each with its training settings."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clbench.experiment import registry
from clbench.experiment.checks import check_method, check_sequence
from clbench.experiment.choices import Choice, choose
from clbench.experiment.request import Request
from clbench.method import Scenario, Training

# PyTorch's own learning rates; sgd has the sequence's
DEFAULT_LR = {
    "adam": 1e-3,
    "adamw": 1e-3,
    "nadam": 2e-3,
    "radam": 1e-3,
    "rmsprop": 1e-2,
    "adagrad": 1e-2,
    "adafactor": 1e-2,
}
GROUPS = {"all": lambda cls: True, "core": lambda cls: cls.core}  # names that stand for several methods


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
    def chosen(self) -> dict[registry.Kind, Choice]:
        return {"method": self.method, "sequence": self.sequence, "model": self.model}


def cross(
    sequence: Choice,
    scenario: Scenario,
    class_order: str | tuple[int, ...],
    training: Training,
    models: Sequence[Choice],
    methods: Sequence[Choice],
    seeds: Sequence[int],
    preset: Mapping[str, Any] | None = None,
) -> Iterator[Point]:
    """Give models × seeds × methods on a sequence, checked before."""
    check_sequence(sequence, scenario, class_order, training)
    for method in methods:
        check_method(method, scenario, training)
    for model, seed, method in itertools.product(models, seeds, methods):
        yield Point(sequence, scenario, class_order, training, model, method, seed, preset)


def points(request: Request, notes: list[str]) -> list[Point]:
    """Return the runs of a sweep without a preset; what the user should hear goes to `notes`."""
    asked = request.methods or ["core"]
    named = choose("method", [name for name in asked if name not in GROUPS], request.settings)
    builtin = registry.builtin("method")
    members = sorted(name for name in builtin if any(GROUPS[g](builtin[name]) for g in asked if g in GROUPS))
    grouped = choose("method", members, request.settings)
    found: list[Point] = []
    for sequence in choose("sequence", request.sequence or ["split-digits"], request.settings):
        models = choose("model", request.model or [sequence.instance.model], request.settings)
        for scenario in request.scenario or [sequence.instance.scenario]:
            defined = [choice for choice in grouped if scenario in choice.instance.scenarios]
            if left_out := [choice.label for choice in grouped if choice not in defined]:
                notes.append(f"left out, not defined for the scenario {scenario}: {', '.join(left_out)}")
            for override in overrides(request):
                training = resolve_training(sequence.instance.budget, override, notes)
                order = request.class_order or "seed"
                methods = [*defined, *named]
                found += cross(sequence, scenario, order, training, models, methods, request.seeds or range(5))
    return found


def overrides(request: Request) -> list[dict[str, Any]]:
    """Return the user's training settings: one dict per point of the grid that --set spans."""
    assigned = request.settings.get("training", {})
    points = itertools.product(*assigned.values())
    return [{**request.training, **dict(zip(assigned, point, strict=True))} for point in points]


def resolve_training(budget: Mapping[str, Any], override: Mapping[str, Any], notes: list[str]) -> Training:
    """Put settings over a sequence's default budget; what the user should hear goes to `notes`."""
    values = {**registry.defaults(Training), **budget, **override}
    if "iterations" in override and "epochs" not in override:
        values["epochs"] = None
    elif "epochs" in override and "iterations" not in override:
        values["iterations"] = None
    optimizer = values["optimizer"]
    if optimizer != budget.get("optimizer", "sgd"):
        if "momentum" not in override:
            values["momentum"] = 0.0
        if "lr" not in override and optimizer in DEFAULT_LR:
            values["lr"] = DEFAULT_LR[optimizer]
            notes.append(f"{optimizer} without --lr: using its usual {values['lr']}, not the sequence's rate for sgd")
    return registry.configure("training", Training, values)

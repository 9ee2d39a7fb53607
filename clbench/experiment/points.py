"""The runs of a sweep: methods × sequences × scenarios × models × seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clbench.experiment import registry
from clbench.experiment.budget import overrides, resolve_training
from clbench.experiment.checks import check_method, check_sequence
from clbench.experiment.choices import Choice, choose
from clbench.experiment.request import Request
from clbench.method.base import Scenario
from clbench.method.schedule import Training

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

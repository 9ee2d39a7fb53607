"""The training settings of a run: the sequence's own, and what a preset and the user put over them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from clbench.experiment import registry
from clbench.experiment.request import Request
from clbench.method.schedule import Training

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

"""Records → the `clbench run` commands that make the same runs again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from clbench.results.groups import Comparison


def commands(comparison: Comparison) -> list[str]:
    """Return the commands that make a comparison's runs, failed ones included: one for all runs with equal settings."""
    alike: dict[str, tuple[dict[str, None], dict[int, None]]] = {}  # by settings: methods and seeds, each once
    for group in comparison.groups:
        for record in [*group.runs, *group.failed]:
            first, name, last = _options(record.spec)
            names, seeds = alike.setdefault(json.dumps([first, last]), ({}, {}))
            names[name] = seeds[record.spec["seed"]] = None
    lines = []
    for options, (names, seeds) in alike.items():
        first, last = json.loads(options)
        lines.append(shlex.join(["clbench", "run", *first, ",".join(names), "--seeds", _seeds(list(seeds)), *last]))
    return lines


def _options(spec: Mapping[str, Any]) -> tuple[list[str], str, list[str]]:
    """Return a run's options: those before its method's or row's name, the name, and those after the seeds."""
    preset = spec.get("preset")
    order = None if spec["class_order_rule"] == "seed" else spec["class_order_rule"]
    if preset:
        settings = {name: value for name, value in preset["overridden"].items() if "." in name}
        order = order if "class_order" in preset["overridden"] else None
        first, name = ["--preset", preset["name"], "--rows"], preset["row"]
    else:
        settings = {f"training.{name}": value for name, value in spec["training"].items() if value is not None}
        first, name = ["--methods"], spec["label"]
    last = ["--sequence", spec["sequence_label"], "--scenario", spec["scenario"], "--model", spec["model_label"]]
    if order is not None:
        last += ["--class-order", order if order == "fixed" else ",".join(map(str, spec["class_order"]))]
    for setting, value in settings.items():
        last += ["--set", f"{setting}={str(value).lower() if isinstance(value, bool) else value}"]
    if spec.get("eval_every"):
        last += ["--eval-every", str(spec["eval_every"])]
    if spec.get("precision", "fp32") != "fp32":
        last += ["--precision", spec["precision"]]
    if spec.get("threads", 1) != 1:
        last += ["--threads", str(spec["threads"])]
    return first, name, [*last, "--device", spec["device"]]


def _seeds(seeds: Sequence[int]) -> str:
    """Write seeds as the command line takes them: a range where they are one, else a list."""
    ordered = sorted(seeds)
    if ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]}-{ordered[-1]}"
    return ",".join(map(str, ordered))

"""Which runs may be averaged, and which are compared with each other.

Only runs that agree in everything but the seed are averaged; warnings say where labels would mix more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clbench.results import metrics, names
from clbench.results.metrics import Array, View
from clbench.results.record import RunRecord
from clbench.results.statistics import collapsed

PLACE = ("sequence", "scenario", "model")
OF_THE_METHOD = ("method", "params.", "label", "code.method")  # what a spec says of the method itself


class Curves(NamedTuple):
    """Accuracy on all tasks at every evaluation of training, over the runs of a group."""

    updates: Array  # optimiser steps so far, over all tasks: [points]
    tasks: Array  # number of the task under way, from 1: [points]
    accuracy: Array  # NaN where not measured: [seeds, points, T]


@dataclass(frozen=True)
class Group:
    """Runs that may be averaged: they agree in everything but the seed and what follows from it."""

    name: str  # the label in the records
    label: str  # the same, with what sets it apart where several groups of a comparison share it
    title: str  # the label for people
    method: str
    runs: Sequence[RunRecord]  # finished, by seed
    failed: Sequence[RunRecord]

    @property
    def seeds(self) -> list[int]:
        return [record.spec["seed"] for record in self.runs]

    @property
    def train_seconds(self) -> float:
        """Seconds of training a run, mean over seeds."""
        return float(np.mean([sum((record.seconds or {})["train"]) for record in self.runs]))

    def accuracy(self, view: View) -> Array:
        """Return the accuracy matrices, NaN where not measured: [seeds, T+1, T]."""
        return np.stack([record.matrix(view) for record in self.runs])

    def curves(self, view: View) -> Curves | None:
        """Return accuracies within tasks, or None unless all runs were evaluated every so many updates alike.

        Where seeds have tasks of different sizes, their points are paired by number, the last with the last: points
        that only some have, just before it, are left out, and `updates` are means.
        """
        if any(not record.curves for record in self.runs) or len({r.spec.get("eval_every") for r in self.runs}) > 1:
            return None
        parts = []
        before = np.zeros(len(self.runs))
        for task, of_seeds in enumerate(zip(*(record.curves or () for record in self.runs), strict=True), 1):
            count = min(len(curve["updates"]) for curve in of_seeds)
            if count:
                chosen = [[*range(count - 1), -1]] * len(of_seeds)
                updates = np.array([np.array(c["updates"])[i] for c, i in zip(of_seeds, chosen, strict=True)])
                rows = [np.array(c[view], dtype=np.float64)[i] for c, i in zip(of_seeds, chosen, strict=True)]
                parts.append(((before[:, None] + updates).mean(axis=0), np.full(count, float(task)), np.stack(rows)))
            before += [record.updates[task - 1] for record in self.runs if record.updates]
        if not parts:
            return None
        return Curves(
            np.concatenate([updates for updates, _, _ in parts]),
            np.concatenate([tasks for _, tasks, _ in parts]),
            np.concatenate([accuracy for *_, accuracy in parts], axis=1),
        )


@dataclass(frozen=True)
class Comparison:
    """The groups that are compared with each other: one task sequence, scenario and model."""

    sequence: str
    scenario: str
    model: str
    groups: Sequence[Group]

    @property
    def place(self) -> tuple[str, str, str]:
        return self.sequence, self.scenario, self.model

    @property
    def title(self) -> str:
        return f"{self.sequence}, {self.scenario} scenario, {self.model}"

    @property
    def titles(self) -> dict[str, str]:
        """The groups' names for people, by label."""
        return {group.label: group.title for group in self.groups}

    @property
    def finished(self) -> list[Group]:
        return [group for group in self.groups if group.runs]

    def rows_of(self, frame: pd.DataFrame) -> list[Any]:
        """Return the rows of a data frame on several comparisons that are of this one, as named tuples."""
        return list(frame[(frame[list(PLACE)] == list(self.place)).all(axis=1)].itertuples())

    def accuracy(self) -> dict[str, Array]:
        """Return each label's matrices in the scenario's primary view: [seeds, T+1, T]."""
        return {group.label: group.accuracy(metrics.primary_view(self.scenario)) for group in self.finished}


def compare_runs(records: Sequence[RunRecord], order: Sequence[str] = ()) -> tuple[list[Comparison], list[str]]:
    """Sort runs into groups and these into comparisons; return these, and lines on what to know of them.

    `order` lists labels as the groups should appear; those that are not in it follow by name.
    """
    places: dict[tuple[str, str, str], list[RunRecord]] = {}
    for record in records:
        spec = record.spec
        places.setdefault((spec["sequence_label"], spec["scenario"], spec["model_label"]), []).append(record)
    comparisons, warnings = [], []
    for place, runs in sorted(places.items()):
        groups, said = _groups(runs, order)
        comparisons.append(Comparison(*place, groups))
        warnings += [f"{', '.join(place)}: {line}" for line in said]
    return comparisons, warnings


def _groups(records: Sequence[RunRecord], order: Sequence[str]) -> tuple[list[Group], list[str]]:
    """Sort the runs of one comparison into groups; return these, and lines on what to know of them."""
    labels: dict[str, dict[str, list[RunRecord]]] = {}
    for record in records:
        same = labels.setdefault(record.spec["label"], {})
        same.setdefault(json.dumps(_common(record.spec), sort_keys=True), []).append(record)
    mixed = _unequal_terms([runs[0].spec for same in labels.values() for runs in same.values()])
    ranks = {label: rank for rank, label in enumerate(order)}
    groups: list[Group] = []
    warnings = []
    for name in sorted(labels, key=lambda label: (ranks.get(label, len(ranks)), _natural(label))):
        alike = [labels[name][identity] for identity in sorted(labels[name])]
        shown = _tell_apart(name, [_common(runs[0].spec) for runs in alike], mixed)
        if len(shown) > 1:
            warnings.append(f"runs of {name} that differ in more than the seed are not averaged: {'; '.join(shown)}")
        for label, runs in zip(shown, alike, strict=True):
            finished, said = _one_per_seed([record for record in runs if record.ok])
            warnings += [f"{label}: {line}" for line in said]
            failed = [record for record in runs if not record.ok]
            method = runs[0].spec["method"]
            groups.append(Group(name, label, names.title(method, label), method, finished, failed))
    shared = {title for title, count in Counter(group.title for group in groups).items() if count > 1}
    groups = [dataclasses.replace(group, title=group.label) if group.title in shared else group for group in groups]
    every_seed = {seed for group in groups for seed in group.seeds}
    for group in groups:
        if missing := sorted(every_seed - set(group.seeds)):
            seeds = f"seed{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
            warnings.append(f"{group.label} has no finished run of {seeds}, which other methods have")
    warnings += [line for group in groups for line in _odd_seeds(group)]
    if mixed and len(labels) > 1:
        warnings.append(f"methods were not run on equal terms, their labels say how: {', '.join(mixed)}")
    return groups, warnings


def _unequal_terms(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what differs between the runs of a comparison beside the method: the fields' names.

    None differ for the rows of one preset, which have terms of their own, and names for them.
    """
    presets = {(spec.get("preset") or {}).get("name") for spec in specs}
    if len(presets) == 1 and None not in presets:
        return []
    return [field for field in _differing([_common(spec) for spec in specs]) if not field.startswith(OF_THE_METHOD)]


def _odd_seeds(group: Group) -> list[str]:
    """Say which seeds of a group ended far below its others."""
    finals = [metrics.average_accuracy(record.matrix()) for record in group.runs]
    return [
        f"{group.label} collapsed with seed {group.seeds[index]}: average accuracy {100 * finals[index]:.1f} %, "
        f"the median of its {len(finals)} seeds is {100 * np.median(finals):.1f} %; it is averaged with the others"
        for index in collapsed(finals)
    ]


def _one_per_seed(runs: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """Return the runs that can stand side by side, one per seed, all over as many tasks; and lines on the others."""
    kept: dict[int, RunRecord] = {}
    warnings = []
    for record in sorted(runs, key=lambda record: not record.curves):  # within-task curves are no other numbers
        seed = record.spec["seed"]
        first = next(iter(kept.values()), record)
        if seed in kept and kept[seed].curves and not record.curves and kept[seed].accuracy == record.accuracy:
            continue
        if seed in kept or record.matrix().shape != first.matrix().shape:
            warnings.append(f"record {record.key} of seed {seed} does not fit record {first.key} and is left out")
        else:
            kept[seed] = record
    return [kept[seed] for seed in sorted(kept)], warnings


def _common(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the runs of a group agree in, flat."""
    left_out = {"seed", "sequence_label", "label", "model_label", "eval_every"}
    if spec.get("class_order_rule") == "seed":
        left_out.add("class_order")
    if str(spec.get("data")).startswith("seed:"):
        left_out.add("data")
    return {name: value for name, value in _flat(spec).items() if name not in left_out}


def circumstances(spec: Mapping[str, Any]) -> str:
    """Return everything about a run but its method, as text: equal for runs that are paired."""
    but = (*OF_THE_METHOD, "eval_every")
    shared = {name: value for name, value in _flat(spec).items() if not name.startswith(but)}
    return json.dumps(shared, sort_keys=True)


def _flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec with its inner mappings unfolded, as `training.lr`."""
    flat: dict[str, Any] = {}
    for name, value in spec.items():
        if name == "preset":  # how it was asked for, not what
            continue
        flat |= {f"{name}.{inner}": x for inner, x in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    fields = sorted({field for setting in settings for field in setting})
    return [field for field in fields if len({json.dumps(setting.get(field)) for setting in settings}) > 1]


def _tell_apart(name: str, settings: Sequence[Mapping[str, Any]], mixed: Sequence[str]) -> list[str]:
    """Return a label for each of the settings that go by one name: the name, and in brackets what differs.

    `mixed` are fields that differ among all methods beside it.
    """
    differing = sorted({*_differing(settings), *mixed})
    if not differing:
        return [name]
    return [f"{name} [{', '.join(_show(field, setting.get(field)) for field in differing)}]" for setting in settings]


def _show(field: str, value: Any) -> str:
    kind = field.split(".")[0]
    if kind in ("code", "data"):
        return f"{field.removesuffix('.method')} {str(value)[:6] if value else 'built-in'}"
    text = names.spelled(value) if isinstance(value, (str, float)) else json.dumps(value)
    if len(text) > 30:
        text = f"#{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return f"{field}={text}"


def _natural(text: str) -> list[str | int]:
    """Sort key that puts lwf@weight=2 before lwf@weight=10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]

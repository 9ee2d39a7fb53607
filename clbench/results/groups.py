"""Which runs may be averaged, and which are compared with each other.

Only runs that agree in everything but the seed are averaged, and only those that agree in everything but seed and
method are compared; warnings say where labels would mix more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clbench.results import metrics, names
from clbench.results.confusion import Confusion, confusion_of, with_counts
from clbench.results.metrics import Array, View
from clbench.results.record import SAME, RunRecord
from clbench.results.references import BASELINE
from clbench.results.statistics import collapsed

PLACE = ("sequence", "scenario", "model")
RENAMED = {"held_out": "validation"}  # settings of training as records have them, and as they are called now
OF_THE_METHOD = ("method", "params.", "label", "code.method", "side_by_side")  # what a spec says of the method itself


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
    def engine(self) -> str:
        """The library whose loop has trained it, with its version; clbench's own goes without."""
        said = [record.environment or {} for record in (*self.runs, *self.failed)]
        return next((str(one["engine"]) for one in said if "engine" in one), "clbench")

    @property
    def differs(self) -> list[str]:
        """What that library's loop does otherwise than clbench's, in sentences."""
        said = [(record.environment or {}).get("differs", ()) for record in self.runs]
        return list(dict.fromkeys(str(line) for lines in said for line in lines))

    @property
    def train_seconds(self) -> float:
        """Seconds of training a run, mean over seeds."""
        return float(np.mean([sum((record.seconds or {})["train"]) for record in self.runs]))

    def accuracy(self, view: View) -> Array:
        """Return the accuracy matrices, NaN where not measured: [seeds, T+1, T]."""
        return np.stack([record.matrix(view) for record in self.runs])

    @property
    def with_probe(self) -> Sequence[RunRecord]:
        """The finished runs whose final features were probed."""
        return [record for record in self.runs if record.probe]

    def confusion(self) -> Confusion | None:
        """Return what classes were taken for, of the runs that say so; None if there is none."""
        return confusion_of(self.runs)

    @property
    def with_curves(self) -> Sequence[RunRecord]:
        """The finished runs that were evaluated within tasks, every so many updates as most of them."""
        steps = [record.spec["eval_every"] for record in self.runs if record.curves]
        usual = max(steps, key=steps.count, default=None)
        return [record for record in self.runs if record.curves and record.spec["eval_every"] == usual]

    def curves(self, view: View) -> Curves | None:
        """Return accuracies within tasks, of the runs `with_curves`; None if there is none.

        Where seeds have tasks of different sizes, their points are paired by number, the last with the last: points
        that only some have, just before it, are left out, and `updates` are means.
        """
        runs = self.with_curves
        parts = []
        before = np.zeros(len(runs))
        for task, of_seeds in enumerate(zip(*(record.curves or () for record in runs), strict=True), 1):
            count = min(len(curve["updates"]) for curve in of_seeds)
            if count:
                chosen = [[*range(count - 1), -1]] * len(of_seeds)
                updates = np.array([np.array(c["updates"])[i] for c, i in zip(of_seeds, chosen, strict=True)])
                rows = [np.array(c[view], dtype=np.float64)[i] for c, i in zip(of_seeds, chosen, strict=True)]
                parts.append(((before[:, None] + updates).mean(axis=0), np.full(count, float(task)), np.stack(rows)))
            before += [record.updates[task - 1] for record in runs if record.updates]
        if not parts:
            return None
        return Curves(
            np.concatenate([updates for updates, _, _ in parts]),
            np.concatenate([tasks for _, tasks, _ in parts]),
            np.concatenate([accuracy for *_, accuracy in parts], axis=1),
        )


@dataclass(frozen=True)
class Comparison:
    """The groups that are compared with each other: one task sequence, scenario and model, on equal terms."""

    sequence: str
    scenario: str
    model: str  # its label, with the terms in brackets where several comparisons share all three
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

    @cached_property
    def test_images(self) -> int:
        """The number of test images of the largest task.

        Where records don't say, as far as the accuracies tell: all are multiples of 1 / n.
        """
        said = [max(record.test_images) for group in self.finished for record in group.runs if record.test_images]
        if said:
            return max(said)
        matrices = (record.matrix() for group in self.finished for record in group.runs)
        columns = (column[~np.isnan(column)] for matrix in matrices for column in matrix.T)
        return max((math.lcm(*map(_denominator, column.tolist())) for column in columns), default=1)

    def rows_of(self, frame: pd.DataFrame) -> list[Any]:
        """Return the rows of a data frame on several comparisons that are of this one, as named tuples."""
        return list(frame[(frame[list(PLACE)] == list(self.place)).all(axis=1)].itertuples())

    def accuracy(self) -> dict[str, Array]:
        """Return each label's matrices in the scenario's primary view: [seeds, T+1, T]."""
        return {group.label: group.accuracy(metrics.primary_view(self.scenario)) for group in self.finished}


@cache
def _denominator(accuracy: float) -> int:
    return Fraction(accuracy).limit_denominator(100_000).denominator


def compare_runs(records: Sequence[RunRecord], order: Sequence[str] = ()) -> tuple[list[Comparison], list[str]]:
    """Sort runs into groups and these into comparisons; return these, and lines on what to know of them.

    `order` lists labels as the groups should appear; those that are not in it follow by name.
    """
    places: dict[tuple[str, str, str], dict[str, list[RunRecord]]] = {}
    for record in records:
        spec = record.spec
        place = places.setdefault((spec["sequence_label"], spec["scenario"], spec["model_label"]), {})
        place.setdefault(json.dumps(_terms(spec), sort_keys=True), []).append(record)
    comparisons, warnings = [], []
    for (sequence, scenario, model), by_terms in sorted(places.items()):
        shown = _terms_in_words([json.loads(terms) for terms in by_terms])
        if len(shown) > 1:
            warnings.append(
                f"{sequence}, {scenario}, {model}: runs on unequal terms are not compared with each other, but in "
                f"{len(shown)} comparisons: {'; '.join(sorted(shown, key=natural))}"
            )
        for terms, runs in sorted(zip(shown, by_terms.values(), strict=True), key=lambda one: natural(one[0])):
            own = f"{model} [{terms}]" if terms else model
            groups, said = _groups(runs, order)
            comparisons.append(Comparison(sequence, scenario, own, groups))
            warnings += [f"{sequence}, {scenario}, {own}: {line}" for line in said]
    return comparisons, warnings


def _terms(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the runs of a comparison agree in, beside sequence, scenario and model: all but method and seed.

    The rows of a preset have training settings of their own: of these only what the user has changed counts.
    """
    terms = {name: value for name, value in _common(spec).items() if not name.startswith(OF_THE_METHOD)}
    preset = spec.get("preset")
    if preset is None:
        return terms
    changed = {name: value for name, value in preset["overridden"].items() if name.startswith("training.")}
    own = {name: value for name, value in terms.items() if not name.startswith("training.")}
    return own | changed | {"preset": preset["name"]}


def _terms_in_words(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say of each of the terms what sets them apart: '' where there is one, or no preset beside presets."""
    if any("tasks" in terms for terms in every):  # said wherever they are not all of the sequence
        every = [{"tasks": "all", **terms} for terms in every]
    kinds: dict[str | None, list[Mapping[str, Any]]] = {}
    for terms in every:
        kinds.setdefault(terms.get("preset"), []).append(terms)
    shown = []
    for terms in every:
        fields = _differing(kinds[terms.get("preset")])
        fields = ["preset"] * ("preset" in terms and len(kinds) > 1) + fields
        fields += ["tasks"] * ("tasks" not in fields)
        shown.append(", ".join(_show(field, terms[field]) for field in fields if field in terms))
    return shown


def _groups(records: Sequence[RunRecord], order: Sequence[str]) -> tuple[list[Group], list[str]]:
    """Sort the runs of one comparison into groups; return these, and lines on what to know of them."""
    labels: dict[str, dict[str, list[RunRecord]]] = {}
    for record in records:
        same = labels.setdefault(record.spec["label"], {})
        same.setdefault(json.dumps(_common(record.spec), sort_keys=True), []).append(record)
    ranks = {label: rank for rank, label in enumerate(order)}
    groups: list[Group] = []
    warnings = []
    for name in sorted(labels, key=lambda label: (ranks.get(label, len(ranks)), natural(label))):
        alike = [labels[name][identity] for identity in sorted(labels[name])]
        shown = _tell_apart(name, [_common(runs[0].spec) for runs in alike])
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
    lacking: dict[tuple[int, ...], list[str]] = {}
    for group in groups:
        lacking.setdefault(tuple(sorted(every_seed - {*group.seeds})), []).append(group.label)
    for missing, labels_of in lacking.items():
        have, those = ("has" if len(labels_of) == 1 else "have"), ", ".join(labels_of)
        if missing and every_seed == {*missing}:
            warnings.append(f"{those} {have} no finished run")
        elif missing:
            warnings.append(f"{those} {have} no finished run of {_seeds(missing)}, which other methods have")
    warnings += [line for group in groups for line in _odd_seeds(group)]
    return groups, warnings + _alike(groups) + _left_out(groups)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _left_out(groups: Sequence[Group]) -> list[str]:
    """Say which runs are left out of curves within tasks, figures of classes and the probe, where there are such."""
    lines = []
    for group in groups:
        every = "".join(f" {updates}" for updates in {record.spec["eval_every"] for record in group.with_curves})
        for those, why in (
            (lambda one: one.with_curves, f"without --eval-every{every}, left out of curves within tasks"),
            (lambda one: with_counts(one.runs), "without counts of classes, left out of what is shown by class"),
            (lambda one: one.with_probe, "without a probe, left out of what is shown of it"),
        ):
            missing = sorted({*group.seeds} - {record.spec["seed"] for record in those(group)})
            if missing and any(those(other) for other in groups):
                lines.append(f"{group.label}: {_seeds(missing)} {why}")
    return lines


def _alike(groups: Sequence[Group]) -> list[str]:
    """Say which methods ended as another one did, bit for bit in every run: as fine-tuning, or as one before them."""
    lines = []
    ordered = sorted(groups, key=lambda group: group.method != BASELINE)
    ends = [{circumstances(run.spec): [getattr(run, name) for name in SAME] for run in group.runs} for group in ordered]
    for number, group in enumerate(ordered):
        own = ends[number]
        for twin, other in zip(ordered[:number], ends, strict=False):
            if own and all(place in other and other[place] == end for place, end in own.items()):
                what = f"{group.label} equals {twin.label} to the last bit in every run"
                lines.append(f"{what}: what sets it apart had no effect here")
                break
    return lines


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
    # within-task curves and the probe are no other numbers: those come first that have both, or one
    for record in sorted(runs, key=lambda record: (not record.curves, not record.probe)):
        seed = record.spec["seed"]
        first = next(iter(kept.values()), record)
        if seed in kept and beside(kept[seed]) != beside(record) and kept[seed].accuracy == record.accuracy:
            kept[seed] = replace(kept[seed], probe=kept[seed].probe or record.probe)
            continue
        if seed in kept or record.matrix().shape != first.matrix().shape:
            warnings.append(f"record {record.key} of seed {seed} does not fit record {first.key} and is left out")
        else:
            kept[seed] = record
    return [kept[seed] for seed in sorted(kept)], warnings


def beside(record: RunRecord) -> tuple[bool, bool]:
    """Whether a run was looked at within its tasks, and its features probed: neither changes its numbers."""
    return bool(record.curves), bool(record.probe)


def _common(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the runs of a group agree in, flat."""
    left_out = {"seed", "sequence_label", "label", "model_label", "eval_every", "evaluate", "probe"}
    if spec.get("class_order_rule") == "seed":
        left_out.add("class_order")
    if str(spec.get("data")).startswith("seed:"):
        left_out.add("data")
    return {name: value for name, value in settings(spec).items() if name not in left_out}


def circumstances(spec: Mapping[str, Any]) -> str:
    """Return everything about a run but its method, as text: equal for runs that are paired."""
    but = (*OF_THE_METHOD, "eval_every", "evaluate", "probe")
    shared = {name: value for name, value in settings(spec).items() if not name.startswith(but)}
    return json.dumps(shared, sort_keys=True)


def settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec with its inner mappings unfolded, as `training.lr`."""
    flat: dict[str, Any] = {}
    for name, value in spec.items():
        if name == "preset":  # how it was asked for, not what
            continue
        if name == "training":
            value = training_settings(spec)
        flat |= {f"{name}.{inner}": x for inner, x in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def training_settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec's settings of training by their names of today."""
    return {RENAMED.get(name, name): value for name, value in spec["training"].items()}


def _differing(several: Sequence[Mapping[str, Any]]) -> list[str]:
    fields = sorted({field for setting in several for field in setting})
    return [field for field in fields if len({json.dumps(setting.get(field)) for setting in several}) > 1]


def _tell_apart(name: str, several: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a label for each of the settings that go by one name: the name, and in brackets what differs."""
    differing = _differing(several)
    if not differing:
        return [name]
    return [f"{name} [{', '.join(_show(field, setting.get(field)) for field in differing)}]" for setting in several]


def _show(field: str, value: Any) -> str:
    kind = field.split(".")[0]
    if kind in ("code", "data"):
        return f"{field.removesuffix('.method')} {str(value)[:6] if value else 'built-in'}"
    text = names.spelled(value) if isinstance(value, (str, float)) else json.dumps(value)
    if len(text) > 30:
        text = f"#{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return f"{field}={text}"


def natural(text: str) -> list[str | int]:
    """Sort key that puts lwf@weight=2 before lwf@weight=10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]

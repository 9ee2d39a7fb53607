"""Records → results: tidy tables, accuracy matrices, and which runs may be averaged. Needs neither torch nor Avalanche.

Only runs that agree in everything but the seed are averaged; `Results.warnings` says where labels would mix more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from clbench.errors import UsageError
from clbench.results import metrics, names
from clbench.results.metrics import Array, View
from clbench.results.statistics import IntervalKind, collapsed, mean_interval
from clbench.results.store import RunRecord, Store, collecting_once

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from clbench.report.figures import single as figures

METRIC_NAMES = (*metrics.METRICS, "intransigence", *metrics.CURVE_METRICS)
REFERENCE = "joint"  # the label that intransigence is defined against
PLACE = ("sequence", "scenario", "model")
TOTALS = ("updates", "images", "forward_passes", "backward_passes")  # of lists by task: the report shows their sums
OF_THE_METHOD = ("method", "params.", "label", "code.method")  # what a spec says of the method itself
SIZES = ("parameters", "peak_memory_bytes", "stored_bytes")


@collecting_once()
def load(folder: str | Path = "results/runs", *, methods: Sequence[str] = ()) -> Results:
    """Read the records in a folder; damaged ones become `problems`.

    `methods` are labels: only these, in this order. Raises UsageError if none can be read, or one has no record.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no folder of records at {folder}: name the one that 'clbench run --out' wrote to")
    records, problems = Store(folder).read()
    if not records and problems:
        raise UsageError(f"none of the {len(problems)} records in {folder} can be read; the first, {problems[0]}")
    if not records:
        inside = next((path for path in sorted(folder.iterdir()) if path.is_dir() and any(Store(path).paths())), None)
        hint = f", did you mean {inside}?" if inside else ": 'clbench run' makes them"
        raise UsageError(f"no records in {folder}{hint}")
    labels = {record.spec["label"] for record in records.values()}
    if unknown := [label for label in methods if label not in labels]:
        raise UsageError(f"no records of {unknown[0]!r} in {folder}: choose from {', '.join(sorted(labels))}")
    chosen = [record for record in records.values() if not methods or record.spec["label"] in methods]
    return Results(chosen, problems=[f"skipped {problem}" for problem in problems], order=methods)


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

    def accuracy(self, view: View) -> Array:
        """Return the accuracy matrices, NaN where not measured: [seeds, T+1, T]."""
        return np.stack([_matrix(record, view) for record in self.runs])

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

    def accuracy(self) -> dict[str, Array]:
        """Return each label's matrices in the scenario's primary view: [seeds, T+1, T]."""
        return {group.label: group.accuracy(metrics.primary_view(self.scenario)) for group in self.finished}


class Results:
    """Runs and what they say: tidy tables, accuracy matrices and figures.

    `order` lists labels as the methods should appear (default: by name). `problems` are lines on records that could not
    be read, `warnings` lines on what to know before numbers are compared, `failed` the records of failed runs.
    """

    def __init__(self, records: Iterable[RunRecord], *, problems: Iterable[str] = (), order: Sequence[str] = ()):
        self.records = sorted(records, key=lambda record: (record.spec["seed"], record.key))
        self.problems = list(problems)
        self.warnings: list[str] = []
        self.comparisons = _compare(self.records, order, self.warnings)
        self.failed = [record for record in self.records if not record.ok]

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        runs, methods = count_of(len(self), "run"), count_of(len(self.labels), "method")
        return f"<Results: {runs} of {methods}, {len(self.failed)} failed>"

    def _repr_html_(self) -> str:
        """Show the tables of results, as a notebook does."""
        from clbench.report.writer import html_tables

        return html_tables(self)

    @property
    def labels(self) -> list[str]:
        """The methods' labels, in the order of the tables."""
        return list(dict.fromkeys(group.label for comparison in self.comparisons for group in comparison.groups))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row per run: what it was, its metrics (NaN where undefined), both views' average accuracy, its costs."""
        rows = []
        for comparison in self.comparisons:
            for group in comparison.groups:
                for record in [*group.runs, *group.failed]:
                    rows.append(
                        {
                            "key": record.key,
                            "sequence": comparison.sequence,
                            "scenario": comparison.scenario,
                            "model": comparison.model,
                            "method": group.method,
                            "label": group.label,
                            "seed": record.spec["seed"],
                            "status": record.status,
                            **{name: self._measures[record.key].get(name, np.nan) for name in METRIC_NAMES},
                            **{f"{view}_accuracy": _final_accuracy(record, view) for view in metrics.VIEWS},
                            **{f"{name}_seconds": _total(record.seconds, name) for name in ("train", "evaluate")},
                            **{name: _total(vars(record), name) for name in TOTALS},
                            **{name: getattr(record, name) for name in SIZES},
                            "shared_first_task": record.shared_first_task,
                            "weights_hash": record.weights_hash,
                            "device": record.spec.get("device"),
                            "error": first_line(record.error),
                        }
                    )
        frame = pd.DataFrame(rows)
        whole = [name for name in (*TOTALS, *SIZES) if name in frame]
        return frame.astype(dict.fromkeys(whole, "Int64"))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row per finished run and metric defined for it: its names, its seed, the metric and its value."""
        return pd.DataFrame(
            [
                (*comparison.place, group.method, group.label, record.spec["seed"], name, value)
                for comparison in self.comparisons
                for group in comparison.groups
                for record in group.runs
                for name, value in self._measures[record.key].items()
                if not np.isnan(value)
            ],
            columns=["sequence", "scenario", "model", "method", "label", "seed", "metric", "value"],
        )

    def summary(self, interval: IntervalKind = "t") -> pd.DataFrame:
        """Return a row per group and metric: n, mean, std and 95 % interval over seeds (NaN where n = 1)."""
        rows = []
        for comparison in self.comparisons:
            for group in comparison.groups:
                for metric in METRIC_NAMES:
                    if values := self._values(group, metric):
                        of_seeds = mean_interval(values, kind=interval)
                        rows.append((*comparison.place, group.method, group.label, metric, *of_seeds))
        columns = [
            "sequence",
            "scenario",
            "model",
            "method",
            "label",
            "metric",
            "n",
            "mean",
            "std",
            "ci_low",
            "ci_high",
        ]
        return pd.DataFrame(rows, columns=columns)

    def accuracy(
        self,
        label: str,
        *,
        sequence: str | None = None,
        scenario: str | None = None,
        model: str | None = None,
        view: View | None = None,
    ) -> Array:
        """Return a method's accuracy matrices, NaN where not measured: [seeds, T+1, T].

        The view is the scenario's primary one by default. Raises UsageError unless exactly one group fits.
        """
        if view not in (None, *metrics.VIEWS):
            raise UsageError(f"no view '{view}': choose one of {', '.join(metrics.VIEWS)}")
        choices = [(place, group) for place in self.comparisons for group in place.finished]
        fitting = [
            (place, group)
            for place, group in choices
            if label in (group.label, group.name) and _fits(place, sequence, scenario, model)
        ]
        if len(fitting) != 1:
            listed = "; ".join(f"'{group.label}' on {place.title}" for place, group in fitting or choices) or "nothing"
            problem = "is ambiguous" if fitting else "is not among the finished runs"
            raise UsageError(f"'{label}' {problem}: choose from {listed}")
        ((place, group),) = fitting
        return group.accuracy(view or metrics.primary_view(place.scenario))

    def figure(
        self,
        kind: str,
        *,
        sequence: str | None = None,
        scenario: str | None = None,
        model: str | None = None,
        width: figures.Width | None = None,
    ) -> Figure:
        """Return a figure; kinds are the keys of FIGURES, width "column" or "page" (default: as suits the kind).

        Raises UsageError unless exactly one comparison fits and has the data.
        """
        from clbench.report.figures import single as figures  # which imports this module

        return figures.draw(kind, self, sequence=sequence, scenario=scenario, model=model, width=width)

    @property
    def plot(self) -> figures.Plots:
        """Figures as Matplotlib axes: `results.plot.forgetting()`, for one; see `figures.Plots`."""
        from clbench.report.figures import single as figures  # which imports this module

        return figures.Plots(self)

    @cached_property
    def _measures(self) -> dict[str, dict[str, float]]:
        """Every finished run's metrics by the run's key."""
        finished = [record for record in self.records if record.ok]
        joint: dict[str, list[RunRecord]] = {}
        for record in finished:
            if record.spec["label"] == REFERENCE:
                joint.setdefault(_circumstances(record.spec), []).append(record)
        measures: dict[str, dict[str, float]] = {record.key: {} for record in self.records}
        for record in finished:
            view = metrics.primary_view(record.spec["scenario"])
            references = joint.get(_circumstances(record.spec), [])
            alike = 0 < len(references) == len({bool(one.curves) for one in references})  # at most one has none
            reference = _matrix(references[0], view) if alike else None
            R = _matrix(record, view)
            measures[record.key] = metrics.measure(R, reference) | metrics.measure_curves(R, record.curves, view)
        return measures

    def by_seed(self, group: Group, metric: str) -> dict[int, float]:
        """Return the metric's values by seed, those left out where it is undefined."""
        values = {record.spec["seed"]: self._measures[record.key][metric] for record in group.runs}
        return {seed: value for seed, value in values.items() if not np.isnan(value)}

    def by_key(self, key: str) -> dict[str, float]:
        """Return a run's metrics by the key of its record, NaN where undefined; none of a failed run."""
        return self._measures[key]

    def _values(self, group: Group, metric: str) -> list[float]:
        return list(self.by_seed(group, metric).values())


def _compare(records: Sequence[RunRecord], order: Sequence[str], warnings: list[str]) -> list[Comparison]:
    """Sort runs into groups and these into comparisons, and write what should be known into `warnings`."""
    places: dict[tuple[str, str, str], dict[str, dict[str, list[RunRecord]]]] = {}
    for record in records:
        spec = record.spec
        labels = places.setdefault((spec["sequence_label"], spec["scenario"], spec["model_label"]), {})
        labels.setdefault(spec["label"], {}).setdefault(json.dumps(_common(spec), sort_keys=True), []).append(record)

    ranks = {label: rank for rank, label in enumerate(order)}
    comparisons = []
    for place, labels in sorted(places.items()):
        where = ", ".join(place)
        settings = [_common(runs[0].spec) for alike in labels.values() for runs in alike.values()]
        mixed = [field for field in _differing(settings) if not field.startswith(OF_THE_METHOD)]
        if _one_preset(runs[0].spec for alike in labels.values() for runs in alike.values()):
            mixed = []  # its rows have terms of their own, and names for them
        groups = []
        for name in sorted(labels, key=lambda label: (ranks.get(label, len(ranks)), _natural(label))):
            alike = [labels[name][identity] for identity in sorted(labels[name])]
            shown = _tell_apart(name, [_common(runs[0].spec) for runs in alike], mixed)
            if len(shown) > 1:
                warnings.append(
                    f"{where}: runs of {name} that differ in more than the seed are not averaged: {'; '.join(shown)}"
                )
            for label, runs in zip(shown, alike, strict=True):
                finished = _one_per_seed([record for record in runs if record.ok], f"{where}: {label}", warnings)
                failed = [record for record in runs if not record.ok]
                method = runs[0].spec["method"]
                groups.append(Group(name, label, names.title(method, label), method, finished, failed))
        shared = {title for title, count in Counter(group.title for group in groups).items() if count > 1}
        groups = [dataclasses.replace(group, title=group.label) if group.title in shared else group for group in groups]
        every_seed = {seed for group in groups for seed in group.seeds}
        for group in groups:
            if missing := sorted(every_seed - set(group.seeds)):
                seeds = f"seed{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
                warnings.append(f"{where}: {group.label} has no finished run of {seeds}, which other methods have")
        for group in groups:
            warnings += [f"{where}: {line}" for line in _odd_seeds(group)]
        if mixed and len(labels) > 1:
            warnings.append(f"{where}: methods were not run on equal terms, their labels say how: {', '.join(mixed)}")
        comparisons.append(Comparison(*place, groups))
    return comparisons


def _odd_seeds(group: Group) -> list[str]:
    """Say which seeds of a group ended far below its others."""
    finals = [average_accuracy(record) for record in group.runs]
    return [
        f"{group.label} collapsed with seed {group.seeds[index]}: average accuracy {100 * finals[index]:.1f} %, "
        f"the median of its {len(finals)} seeds is {100 * np.median(finals):.1f} %; it is averaged with the others"
        for index in collapsed(finals)
    ]


def _one_preset(specs: Iterable[Mapping[str, Any]]) -> bool:
    names = {(spec.get("preset") or {}).get("name") for spec in specs}
    return len(names) == 1 and None not in names


def _one_per_seed(runs: Sequence[RunRecord], where: str, warnings: list[str]) -> list[RunRecord]:
    """Return the runs that can stand side by side: one per seed, all over as many tasks as the first."""
    kept: dict[int, RunRecord] = {}
    for record in sorted(runs, key=lambda record: not record.curves):  # within-task curves are no other numbers
        seed = record.spec["seed"]
        first = next(iter(kept.values()), record)
        if seed in kept and kept[seed].curves and not record.curves and kept[seed].accuracy == record.accuracy:
            continue
        if seed in kept or _matrix(record, "task_aware").shape != _matrix(first, "task_aware").shape:
            warnings.append(
                f"{where}: record {record.key} of seed {seed} does not fit record {first.key} and is left out"
            )
        else:
            kept[seed] = record
    return [kept[seed] for seed in sorted(kept)]


def _common(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the runs of a group agree in, flat."""
    left_out = {"seed", "sequence_label", "label", "model_label", "eval_every"}
    if spec.get("class_order_rule") == "seed":
        left_out.add("class_order")
    if str(spec.get("data")).startswith("seed:"):
        left_out.add("data")
    return {name: value for name, value in _flat(spec).items() if name not in left_out}


def _circumstances(spec: Mapping[str, Any]) -> str:
    """Name everything about a run but its method: equal for runs that are paired."""
    but = (*OF_THE_METHOD, "eval_every")
    shared = {name: value for name, value in _flat(spec).items() if not name.startswith(but)}
    return json.dumps(shared, sort_keys=True)


def _flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec with its inner mappings unfolded, as `training.lr`."""
    flat: dict[str, Any] = {"precision": "fp32", "threads": 1}  # of records that leave them out
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
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) > 30:
        text = f"#{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return f"{field}={text}"


def _fits(place: Comparison, sequence: str | None, scenario: str | None, model: str | None) -> bool:
    wanted = (sequence, scenario, model)
    return all(want in (None, have) for want, have in zip(wanted, place.place, strict=True))


def _matrix(record: RunRecord, view: View) -> Array:
    assert record.accuracy is not None
    return np.array(record.accuracy[view], dtype=np.float64)  # null becomes NaN


def _final_accuracy(record: RunRecord, view: View) -> float:
    return metrics.average_accuracy(_matrix(record, view)) if record.ok else np.nan


def final_accuracies(record: RunRecord) -> Array:
    """Return a finished run's accuracy on each task after the last, in its scenario's primary view: [T]."""
    return _matrix(record, metrics.primary_view(record.spec["scenario"]))[-1]


def average_accuracy(record: RunRecord) -> float:
    """Return a run's average accuracy in its scenario's primary view, NaN if it failed."""
    return _final_accuracy(record, metrics.primary_view(record.spec["scenario"]))


def _total(costs: Mapping[str, Any] | None, name: str) -> float | None:
    values = (costs or {}).get(name)
    return None if values is None else sum(values)


def failure_title(record: RunRecord) -> str:
    """Say which run a record is of, and the first line of its error."""
    spec = record.spec
    where = f"{spec['label']}, {spec['sequence_label']}, {spec['scenario']}, {spec['model_label']}, seed {spec['seed']}"
    return f"{where}: {first_line(record.error)}"


def first_line(text: str | None) -> str | None:
    return next(iter((text or "").splitlines()), None)


def _natural(text: str) -> list[str | int]:
    """Sort key that puts lwf@weight=2 before lwf@weight=10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


def count_of(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"

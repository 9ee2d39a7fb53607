"""Records → results: tidy tables and accuracy matrices. Needs neither torch nor Avalanche."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from clbench.errors import UsageError
from clbench.results import metrics, names
from clbench.results.confusion import Confusion
from clbench.results.groups import PLACE, Comparison, Group, beside, circumstances, compare_runs
from clbench.results.metrics import Array, View
from clbench.results.narrowing import Where, names_in, narrow
from clbench.results.record import RunRecord
from clbench.results.references import UPPER_BOUND
from clbench.results.statistics import IntervalKind, mean_interval
from clbench.results.store import read_records
from clbench.results.wording import count_of

METRIC_NAMES = (
    *metrics.METRICS,
    "intransigence",
    *metrics.IMAGE_METRICS,
    *metrics.CURVE_METRICS,
    metrics.PROBE_METRIC,
)
TOTALS = ("updates", "images", "forward_passes", "backward_passes")  # of lists by task: the report shows their sums
SIZES = ("parameters", "peak_memory_bytes", "stored_bytes", "stored_images")
COST_NAMES = ("train_seconds", "evaluate_seconds", *TOTALS, *SIZES)


class Results:
    """Runs and what they say: tidy tables and accuracy matrices.

    `order` lists labels as the methods should appear (default: by name). `problems` are lines on records that could not
    be read or are not there, `warnings` lines on what to know before numbers are compared, `failed` the records of
    failed runs.
    """

    def __init__(self, records: Iterable[RunRecord], *, problems: Iterable[str] = (), order: Sequence[str] = ()):
        self.records = sorted(records, key=lambda record: (record.spec["seed"], record.key))
        self.problems = list(problems)
        self.comparisons, self.warnings = compare_runs(self.records, order)
        self.groups = [(place, group) for place in self.comparisons for group in place.groups]
        self.failed = [record for record in self.records if not record.ok]

    @classmethod
    def load(
        cls,
        place: str | Path = "results/runs",
        *,
        methods: str | Sequence[str] = (),
        sequence: str | Sequence[str] = (),
        scenario: str | Sequence[str] = (),
        model: str | Sequence[str] = (),
        where: Where = None,
    ) -> Self:
        """Read the records in a folder, or in a set of them in one file; damaged ones become `problems`.

        `methods` are labels, or names for people: only these, in this order. `sequence`, `scenario`, `model` and
        `where`, of settings as {"training.epochs": 2} or "training.epochs=2", take some of the runs, see `narrow`;
        what no run has of several values is among the `problems`. Lists may be text with commas. Raises UsageError
        if none can be read, or there is none of what is asked for.
        """
        records, problems = read_records(place)
        records, missing = narrow(records, {"sequence": sequence, "scenario": scenario, "model": model}, where)
        titles = {one.spec["label"]: names.title(one.spec["method"], one.spec["label"]) for one in records}
        methods = [names.resolve(label, titles, f"records of {{}} in {place}") for label in names_in(methods)]
        chosen = [record for record in records if not methods or record.spec["label"] in methods]
        return cls(chosen, problems=[*(f"skipped {problem}" for problem in problems), *missing], order=methods)

    def resolve(self, name: str) -> str:
        """Return the label of a method that has finished runs, from its label or its name for people.

        A label in records may be shared by several groups. Raises UsageError, with what is close, if there is none.
        """
        finished = [group for _, group in self.groups if group.runs]
        titles = {group.label: group.title for group in finished}
        shared = {group.name: names.title(group.method, group.name) for group in finished if group.name != group.label}
        return names.resolve(name, shared | titles)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        runs, methods = count_of(len(self), "run"), count_of(len(self.labels), "method")
        return f"<Results: {runs} of {methods}, {len(self.failed)} failed>"

    @property
    def labels(self) -> list[str]:
        """The methods' labels, in the order of the tables."""
        return list(dict.fromkeys(group.label for _, group in self.groups))

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row per run: what it was, its metrics (NaN where undefined), both views' average accuracy, its costs."""
        frame = pd.DataFrame(
            [
                self._row(comparison, group, record)
                for comparison, group in self.groups
                for record in [*group.runs, *group.failed]
            ]
        )
        whole = [name for name in (*TOTALS, *SIZES) if name in frame]
        return frame.astype(dict.fromkeys(whole, "Int64"))

    def _row(self, comparison: Comparison, group: Group, record: RunRecord) -> dict[str, Any]:
        """Return a run's row of `runs`."""
        return {
            "key": record.key,
            **dict(zip(PLACE, comparison.place, strict=True)),
            "method": group.method,
            "label": group.label,
            "seed": record.spec["seed"],
            "status": record.status,
            **{name: self._measures[record.key].get(name, np.nan) for name in METRIC_NAMES},
            **{
                f"{view}_accuracy": metrics.average_accuracy(record.matrix(view)) if record.ok else np.nan
                for view in metrics.VIEWS
            },
            "validation_accuracy": (
                metrics.average_accuracy(record.matrix(images="validation")) if record.validation else np.nan
            ),
            **{f"{name}_seconds": _total(record.seconds, name) for name in ("train", "evaluate")},
            **{name: _total(vars(record), name) for name in TOTALS},
            **{name: getattr(record, name) for name in SIZES},
            "shared_first_task": record.shared_first_task,
            "weights_hash": record.weights_hash,
            "device": record.spec.get("device"),
            "processor": (record.environment or {}).get("device"),
            "error": record.reason,
        }

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row per finished run and metric defined for it: its names, its seed, the metric and its value."""
        keys = [*PLACE, "method", "label", "seed"]
        rows = self.runs.melt(keys, METRIC_NAMES, "metric", ignore_index=False)
        return rows.dropna(subset="value").sort_index(kind="stable").reset_index(drop=True)

    def summary(self, interval: IntervalKind = "t") -> pd.DataFrame:
        """Return a row per group and metric: n, mean, std and 95 % interval over seeds (NaN where n = 1)."""
        rows = [
            (*comparison.place, group.method, group.label, metric, *mean_interval(values, kind=interval))
            for comparison, group in self.groups
            for metric in METRIC_NAMES
            if (values := self.values(group, metric))
        ]
        columns = [*PLACE, "method", "label", "metric", "n", "mean", "std", "ci_low", "ci_high"]
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
        place, group = self._find(label, (sequence, scenario, model))
        return group.accuracy(view or metrics.primary_view(place.scenario))

    def confusion(
        self, label: str, *, sequence: str | None = None, scenario: str | None = None, model: str | None = None
    ) -> Confusion:
        """Return what test images were taken for after a method's last task, in the scenario's view.

        `counts` is [seeds, C, C], see `Confusion`. Raises UsageError unless exactly one group fits, and if it has no
        record that says so: those of before it was counted do not.
        """
        place, group = self._find(label, (sequence, scenario, model))
        found = group.confusion()
        if found is None:
            raise UsageError(f"'{group.label}' on {place.title}: no record says what classes were taken for")
        return found

    def _find(self, label: str, wanted: Sequence[str | None]) -> tuple[Comparison, Group]:
        """Return the one group of a label, sequence, scenario and model; raise UsageError if there are none or more."""
        choices = [(place, group) for place, group in self.groups if group.runs]
        fitting = [
            (place, group)
            for place, group in choices
            if label in (group.label, group.name)
            and all(want in (None, have) for want, have in zip(wanted, place.place, strict=True))
        ]
        if len(fitting) != 1:
            listed = "; ".join(f"'{group.label}' on {place.title}" for place, group in fitting or choices) or "nothing"
            problem = "is ambiguous" if fitting else "is not among the finished runs"
            raise UsageError(f"'{label}' {problem}: choose from {listed}")
        return fitting[0]

    @cached_property
    def _measures(self) -> dict[str, dict[str, float]]:
        """Every finished run's metrics by the run's key."""
        finished = [record for record in self.records if record.ok]
        joint: dict[str, list[RunRecord]] = {}
        for record in finished:
            if record.spec["label"] == UPPER_BOUND:
                joint.setdefault(circumstances(record.spec), []).append(record)
        # a run may have its probe from a record of the same run that was made later
        probes = {record.key: record.probe for _, group in self.groups for record in group.runs}
        measures: dict[str, dict[str, float]] = {record.key: {} for record in self.records}
        for record in finished:
            view = metrics.primary_view(record.spec["scenario"])
            bounds = joint.get(circumstances(record.spec), [])
            alike = 0 < len(bounds) == len({beside(one) for one in bounds})  # the same run, looked at otherwise
            R, bound = record.matrix(view), bounds[0].matrix(view) if alike else None
            own = metrics.measure(R, bound) | metrics.measure_images(R, record.test_images)
            # a guest has no points within tasks: what is taken over all points would look better for it
            curves = None if "engine" in (record.environment or {}) else record.curves
            own |= metrics.measure_curves(R, curves, view)
            probe = probes.get(record.key, record.probe)
            measures[record.key] = own | {metrics.PROBE_METRIC: metrics.linear_probe_accuracy(probe)}
        return measures

    def by_seed(self, group: Group, metric: str) -> dict[int, float]:
        """Return the metric's values by seed, those left out where it is undefined."""
        values = {record.spec["seed"]: self._measures[record.key][metric] for record in group.runs}
        return {seed: value for seed, value in values.items() if not np.isnan(value)}

    def values(self, group: Group, metric: str) -> list[float]:
        """Return the metric's values over the seeds for which it is defined."""
        return list(self.by_seed(group, metric).values())


def _total(costs: Mapping[str, Any] | None, name: str) -> float | None:
    values = (costs or {}).get(name)
    return None if values is None else sum(values)


load = Results.load

"""Tables and figures, from records only: neither torch nor Avalanche is needed, nor a drawing library until one draws.

Only runs that agree in everything but the seed are averaged; `Results.warnings` says where labels would mix more.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from clbench import metrics
from clbench.errors import UsageError
from clbench.metrics import Array, View
from clbench.statistics import mean_interval
from clbench.store import RunRecord, Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

METRIC_NAMES = (*metrics.METRICS, "intransigence")
REFERENCE = "joint"  # the label that intransigence is defined against
TOTALS = ("updates", "images", "forward_passes", "backward_passes")  # of lists by task: the report shows their sums
SIZES = ("parameters", "peak_memory_bytes", "stored_bytes")
Styles = Mapping[str, Mapping[str, Any]]  # by label: colour, marker and line style, as Axes.plot takes them


def load(folder: str | Path = "results/runs") -> Results:
    """Read the records in a folder; damaged ones become `problems`. Raises UsageError if none can be read."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"no folder of records at {folder}: name the one that 'clbench run --out' wrote to")
    records, problems = Store(folder).read()
    if not records and problems:
        raise UsageError(f"none of the {len(problems)} records in {folder} can be read; the first, {problems[0]}")
    if not records:
        raise UsageError(f"no records in {folder}: 'clbench run' makes them")
    return Results(records.values(), problems=[f"skipped {problem}" for problem in problems])


# ---- Results ----


@dataclass(frozen=True)
class Group:
    """Runs that may be averaged: they agree in everything but the seed and what follows from it."""

    name: str  # the label in the records
    label: str  # the same, with what sets it apart where several groups of a comparison share it
    method: str
    runs: Sequence[RunRecord]  # finished, by seed
    failed: Sequence[RunRecord]

    @property
    def seeds(self) -> list[int]:
        return [record.spec["seed"] for record in self.runs]

    def accuracy(self, view: View) -> Array:
        """Return the accuracy matrices, NaN where not measured: [seeds, T+1, T]."""
        return np.stack([_matrix(record, view) for record in self.runs])


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
        return (
            f"<Results: {_count(len(self), 'run')} of {_count(len(self.labels), 'method')}, {len(self.failed)} failed>"
        )

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
                            "weights_hash": record.weights_hash,
                            "device": record.spec.get("device"),
                            "error": _first_line(record.error),
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

    def summary(self) -> pd.DataFrame:
        """Return a row per group and metric: n, mean, std and 95 % interval over seeds (NaN where n = 1)."""
        rows = []
        for comparison in self.comparisons:
            for group in comparison.groups:
                for metric in METRIC_NAMES:
                    if values := self._values(group, metric):
                        rows.append((*comparison.place, group.method, group.label, metric, *mean_interval(values)))
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
        self, kind: str, *, sequence: str | None = None, scenario: str | None = None, model: str | None = None
    ) -> Figure:
        """Return a figure; kinds are the keys of FIGURES. Raises UsageError unless exactly one comparison fits."""
        if kind not in FIGURES:
            raise UsageError(f"no figure '{kind}': choose one of {', '.join(FIGURES)}")
        choices = [place for place in self.comparisons if place.finished]
        fitting = [place for place in choices if _fits(place, sequence, scenario, model)]
        if len(fitting) != 1:
            listed = "; ".join(place.title for place in fitting or choices) or "nothing"
            raise UsageError(f"{len(fitting)} comparisons fit: name sequence, scenario and model of one of: {listed}")
        return _draw(kind, fitting[0], self.labels)

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
            reference = _matrix(references[0], view) if len(references) == 1 else None
            measures[record.key] = metrics.measure(_matrix(record, view), reference)
        return measures

    def _values(self, group: Group, metric: str) -> list[float]:
        """Return the metric's values over the group's seeds, those left out where it is undefined."""
        values = [self._measures[record.key][metric] for record in group.runs]
        return [value for value in values if not np.isnan(value)]


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
        groups = []
        for name in sorted(labels, key=lambda label: (ranks.get(label, len(ranks)), _natural(label))):
            alike = [labels[name][identity] for identity in sorted(labels[name])]
            shown = _tell_apart(name, [_common(runs[0].spec) for runs in alike])
            if len(shown) > 1:
                warnings.append(
                    f"{where}: runs of {name} that differ in more than the seed are not averaged: {'; '.join(shown)}"
                )
            for label, runs in zip(shown, alike, strict=True):
                finished = _one_per_seed([record for record in runs if record.ok], f"{where}: {label}", warnings)
                failed = [record for record in runs if not record.ok]
                groups.append(Group(name, label, runs[0].spec["method"], finished, failed))
        every_seed = {seed for group in groups for seed in group.seeds}
        for group in groups:
            if missing := sorted(every_seed - set(group.seeds)):
                seeds = f"seed{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
                warnings.append(f"{where}: {group.label} has no finished run of {seeds}, which other methods have")
        comparisons.append(Comparison(*place, groups))
    return comparisons


def _one_per_seed(runs: Sequence[RunRecord], where: str, warnings: list[str]) -> list[RunRecord]:
    """Return the runs that can stand side by side: one per seed, all over as many tasks as the first."""
    kept: dict[int, RunRecord] = {}
    for record in runs:
        seed = record.spec["seed"]
        first = next(iter(kept.values()), record)
        if seed in kept or _matrix(record, "task_aware").shape != _matrix(first, "task_aware").shape:
            warnings.append(
                f"{where}: record {record.key} of seed {seed} does not fit record {first.key} and is left out"
            )
        else:
            kept[seed] = record
    return list(kept.values())


def _common(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the runs of a group agree in, flat."""
    left_out = {"seed", "sequence_label", "label", "model_label"}
    if spec.get("class_order_rule") == "seed":
        left_out.add("class_order")
    return {name: value for name, value in _flat(spec).items() if name not in left_out}


def _circumstances(spec: Mapping[str, Any]) -> str:
    """Name everything about a run but its method: equal for runs that are paired."""
    own = ("method", "params.", "label", "code.method")
    return json.dumps({name: value for name, value in _flat(spec).items() if not name.startswith(own)}, sort_keys=True)


def _flat(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec with its inner mappings unfolded, as `training.lr`."""
    flat: dict[str, Any] = {}
    for name, value in spec.items():
        flat |= {f"{name}.{inner}": x for inner, x in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _tell_apart(name: str, settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a label for each of the settings that go by one name: the name, and in brackets what differs."""
    fields = sorted({field for setting in settings for field in setting})
    differing = [field for field in fields if len({json.dumps(setting.get(field)) for setting in settings}) > 1]
    if len(settings) == 1:
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


def _total(costs: Mapping[str, Any] | None, name: str) -> float | None:
    values = (costs or {}).get(name)
    return None if values is None else sum(values)


def _first_line(text: str | None) -> str | None:
    return next(iter((text or "").splitlines()), None)


def _natural(text: str) -> list[str | int]:
    """Sort key that puts lwf@weight=2 before lwf@weight=10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", text)]


# ---- Tables ----


Rows = list[list[str]]  # the headings first; the first column is the method
DASH = "–"


def terminal_table(results: Results, comparison: Comparison) -> Table:
    """Return a comparison's average accuracy and forgetting as a Rich table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    seeds = {len(group.runs) for group in comparison.groups}
    caption = "per cent; no interval from one seed" if seeds <= {0, 1} else "per cent, mean ± 95 % interval over seeds"
    table = Table(
        title=Text(comparison.title), caption=caption, box=box.SIMPLE, title_justify="left", caption_justify="left"
    )
    headings, *rows = _metric_rows(results, comparison, ("average_accuracy", "forgetting"))
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=len(heading) < 12)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_tables(results: Results) -> None:
    """Print a table per comparison to standard output."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal and console.width < 200:
        console.width = 200  # nothing is folded in a pipe or a file
    for comparison in results.comparisons:
        console.print(terminal_table(results, comparison))


def _metric_rows(results: Results, comparison: Comparison, names: Sequence[str]) -> Rows:
    """Tabulate metrics over seeds, in per cent; the number of failed runs too if there are any."""
    failures = any(group.failed for group in comparison.groups)
    rows = [["method", *(name.replace("_", " ") for name in names), "seeds", *(["failed"] * failures)]]
    for group in comparison.groups:
        cells = [_percent(results._values(group, name), len(group.runs)) for name in names]
        rows.append([group.label, *cells, str(len(group.runs)), *([str(len(group.failed))] * failures)])
    return rows


def _cost_rows(results: Results, comparison: Comparison) -> Rows:
    """Tabulate the costs of one run, averaged over seeds."""
    headings = ["method", "training (s)", "evaluation (s)", "updates", "images", "forward passes", "backward passes"]
    rows = [[*headings, "parameters", "stored", "peak memory"]]
    runs = results.runs
    for group in comparison.finished:
        costs = runs[runs["key"].isin([record.key for record in group.runs])]

        def mean(name: str, show: Callable[[float], str], costs: pd.DataFrame = costs) -> str:
            values = costs[name].dropna()
            return show(float(values.mean())) if len(values) else DASH

        seconds = [mean(f"{name}_seconds", "{:,.2f}".format) for name in ("train", "evaluate")]
        totals = [mean(name, "{:,.0f}".format) for name in (*TOTALS, "parameters")]
        rows.append([group.label, *seconds, *totals, mean("stored_bytes", _bytes), mean("peak_memory_bytes", _bytes)])
    return rows


def _percent(values: Sequence[float], runs: int) -> str:
    """Show a mean with the half-width of its interval, and n where the metric is undefined for some of the runs."""
    if not values:
        return DASH
    interval = mean_interval(values)
    text = _signed(interval.mean)
    if interval.n > 1:
        text += f" ± {100 * float(interval.high - interval.mean):.2f}"
    return text if interval.n == runs else f"{text} (n = {interval.n})"


def _signed(fraction: Any) -> str:
    return f"{round(100 * float(fraction), 2) + 0.0:.2f}".replace("-", "−")  # + 0.0: no minus before 0.00


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def _markdown(results: Results, figures: Mapping[tuple[str, str, str], Mapping[str, str]]) -> str:
    """Write the report's text; `figures` has a comparison's files by kind, relative to the report."""
    finished = len(results) - len(results.failed)
    lines = ["# Results", ""]
    lines += [
        f"{_count(finished, 'finished run')}, {len(results.failed)} failed; {_count(len(results.labels), 'method')}.",
        "",
    ]
    lines += [
        "Metrics are in per cent: mean over seeds ± half-width of the 95 % interval of the mean (Student's t);"
        " a dash where undefined. Lower is better for forgetting and intransigence, higher for all others.",
        "",
    ]
    lines += _bullets("Before you compare", [*results.warnings, *results.problems])
    for comparison in results.comparisons:
        lines += [f"## {_escape_markdown(comparison.title)}", ""]
        groups = comparison.finished
        seeds = sorted({seed for group in groups for seed in group.seeds})
        if seeds:
            lines += [f"Seeds: {', '.join(map(str, seeds))}. {_escape_markdown(_shared_training(groups))}".rstrip(), ""]
        if len(seeds) == 1:
            lines += ["One seed: there are no intervals, and differences between methods may be chance.", ""]
        defined = [name for name in METRIC_NAMES if any(results._values(group, name) for group in groups)]
        lines += [*_markdown_table(_metric_rows(results, comparison, defined)), ""]
        if groups:
            lines += [*_markdown_table(_cost_rows(results, comparison)), ""]
        for kind, file in figures.get(comparison.place, {}).items():
            lines += [f"![{FIGURES[kind].title}]({file})", ""]
    lines += _bullets("Failed runs", [_failure(record) for record in results.failed])
    return "\n".join(lines).rstrip() + "\n"


def _bullets(title: str, items: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {_escape_markdown(item)}" for item in items), ""] if items else []


def _failure(record: RunRecord) -> str:
    spec = record.spec
    where = f"{spec['label']}, {spec['sequence_label']}, {spec['scenario']}, {spec['model_label']}, seed {spec['seed']}"
    return f"{where}: {_first_line(record.error)}"


def _shared_training(groups: Sequence[Group]) -> str:
    """Say which training settings all the groups share."""
    first, *others = [group.runs[0].spec["training"] for group in groups]
    shared = {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}
    settings = ", ".join(f"{name}={value}" for name, value in shared.items() if value is not None)
    return f"Training: {settings}." if settings else ""


def _markdown_table(rows: Rows) -> list[str]:
    rule = ["---", *(["---:"] * (len(rows[0]) - 1))]
    escaped = [[_escape_markdown(cell) for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (escaped[0], rule, *escaped[1:])]


def _latex(results: Results) -> str:
    """Write the tables for a paper."""
    lines = [r"% needs \usepackage{booktabs,graphicx}", ""]
    for comparison in results.comparisons:
        groups = comparison.finished
        defined = [name for name in METRIC_NAMES if any(results._values(group, name) for group in groups)]
        tables = {
            "Per cent; mean over seeds with the half-width of its 95 % interval.": _metric_rows(
                results, comparison, defined
            ),
            "Costs, means per run.": _cost_rows(results, comparison),
        }
        for caption, (headings, *rows) in tables.items():
            if rows:
                lines += [r"\begin{table}", r"\centering"]
                lines += [rf"\caption{{{_escape_latex(f'{comparison.title}. {caption}')}}}"]
                lines += [
                    r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
                ]  # as wide as the page at most
                lines += [
                    rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
                    r"\toprule",
                    _latex_row(headings),
                    r"\midrule",
                ]
                lines += [*map(_latex_row, rows), r"\bottomrule", r"\end{tabular}}", r"\end{table}", ""]
    return "\n".join(lines)


def _latex_row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(map(_escape_latex, cells))} \\"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _escape_markdown(text: str) -> str:
    """Make any text plain in Markdown, on one line."""
    one_line = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", one_line)


_LATEX = {character: rf"\{character}" for character in "{}$&#%_"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "[": "{[}",  # after \\ or \midrule, a bare [ or * would be their argument
    "]": "{]}",
    "*": "{*}",
}


def _escape_latex(text: str) -> str:
    """Make any text plain in LaTeX, on one line."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


# ---- Figures ----
# Functions named draw_… take data and an Axes and return the Axes; the others lay out whole figures.

PAGE_WIDTH = 7.0  # inches
ANNOTATED_TASKS = 12  # with more tasks than these, numbers in a heat map are too small to read


def draw_matrix(R: Array, axes: Axes, low: float = 0.0) -> Axes:
    """Draw an accuracy matrix [T+1, T] as a heat map in per cent, colours from `low` to 1; hatched where not measured.

    Row 0 is left out if it is empty.
    """
    first = 1 if np.isnan(R[0]).all() else 0
    cells = 100 * R[first:]
    tasks = cells.shape[1]
    axes.grid(False)
    axes.patch.set(facecolor="white", edgecolor="0.85", hatch="////")
    axes.spines[:].set_visible(False)
    axes.imshow(
        np.ma.masked_invalid(cells), cmap="cividis", vmin=100 * low, vmax=100, aspect="auto", interpolation="none"
    )
    step = 1 if tasks <= ANNOTATED_TASKS else 5
    names = ["before" if i == 0 else str(i) for i in range(first, tasks + 1)]
    shown = [row for row, name in enumerate(names) if name == "before" or int(name) % step == 0]
    axes.set_yticks(shown, [names[row] for row in shown])
    axes.set_xticks(range(step - 1, tasks, step), [str(j) for j in range(step, tasks + 1, step)])
    axes.tick_params(length=0)
    axes.set(xlabel="accuracy on task", ylabel="after task")
    if tasks <= ANNOTATED_TASKS:
        decimals, size = (1, 7.0) if tasks <= 6 else (0, 5.5)
        for row, column in zip(*np.nonzero(~np.isnan(cells)), strict=True):
            value = cells[row, column]
            dark = value < 100 * low + 60 * (1 - low)
            text = f"{value:.{decimals}f}" if value < 100 else "100"
            axes.text(column, row, text, ha="center", va="center", size=size, color="white" if dark else "black")
    return axes


def draw_curves(curves: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's values [seeds, points] as the mean over seeds in per cent, with a band for its 95 % interval.

    Point k is at x = k.
    """
    alpha = 0.2 if len(curves) <= 6 else 0.1
    for label, style in (styles or _styles(list(curves))).items():
        if label not in curves:
            continue
        n, mean, _, low, high = mean_interval(100 * curves[label])
        x = np.arange(len(mean))
        axes.plot(x, mean, markersize=4 if len(x) <= 12 else 2.5, linewidth=1.3, label=_plain(label), **style)
        if n > 1:
            axes.fill_between(x, low, high, color=style["color"], alpha=alpha, linewidth=0)
            gap = np.isnan(np.pad(mean, 1, constant_values=np.nan))
            alone = ~gap[1:-1] & gap[:-2] & gap[2:]  # a band has no width at such points
            axes.vlines(x[alone], low[alone], high[alone], color=style["color"], linewidth=1)
    return axes


def draw_forgetting(matrices: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's forgetting by task, and its mean at the right, in percentage points with 95 % intervals.

    Matrices are [seeds, T+1, T]; labels stand side by side within each task's stripe.
    """
    styles = styles or _styles(list(matrices))
    labels = [label for label in styles if label in matrices]
    tasks = max(R.shape[-1] for R in matrices.values())
    for position in range(1, tasks + 1, 2):
        axes.axvspan(position - 0.5, position + 0.5, color="0.95", linewidth=0, zorder=0)
    axes.axhline(0, color="0.3", linewidth=0.8)
    for number, label in enumerate(labels):
        by_task = np.array([[*metrics.forgetting_by_task(R), metrics.forgetting(R)] for R in matrices[label]])
        interval = mean_interval(100 * by_task)
        if np.isnan(interval.mean).all():
            continue
        x = 1 + np.arange(by_task.shape[1]) + 0.8 * ((number + 0.5) / len(labels) - 0.5)
        half = None if interval.n == 1 else interval.high - interval.mean
        look = {**styles[label], "linestyle": "none"}
        axes.errorbar(x, interval.mean, half, markersize=4, elinewidth=1, label=_plain(label), **look)
    axes.set_xticks(range(1, tasks + 1), [*map(str, range(1, tasks)), "mean"])
    axes.set_xlim(0.5, tasks + 0.5)
    axes.grid(False, axis="x")
    axes.set(xlabel="task", ylabel="forgetting (percentage points)")
    return axes


def draw_stability(matrices: Mapping[str, Array], axes: Axes, styles: Styles | None = None) -> Axes:
    """Draw each label's 1 − forgetting against learning accuracy in per cent: means with 95 % intervals, seeds faint.

    Matrices are [seeds, T+1, T]; a label for which either is undefined is left out.
    """
    for label, style in (styles or _styles(list(matrices))).items():
        if label not in matrices:
            continue
        points = np.array([[metrics.learning_accuracy(R), 1 - metrics.forgetting(R)] for R in matrices[label]])
        interval = mean_interval(100 * points)
        if np.isnan(interval.mean).any():
            continue
        x_half, y_half = (None, None) if interval.n == 1 else interval.high - interval.mean
        axes.scatter(
            100 * points[:, 0],
            100 * points[:, 1],
            s=10,
            color=style["color"],
            marker=style["marker"],
            alpha=0.35,
            linewidths=0,
        )
        look = {**style, "linestyle": "none"}
        x, y = interval.mean
        axes.errorbar(x, y, y_half, x_half, markersize=6, elinewidth=1, label=_plain(label), **look)
    axes.set(xlabel="plasticity: learning accuracy (%)", ylabel="stability: 100 − forgetting (%)")
    return axes


@dataclass(frozen=True)
class FigureKind:
    """A figure of the report: what it shows, and how to lay it out from matrices, numbers of seeds and styles."""

    title: str
    note: str
    lay_out: Callable[[Figure, Mapping[str, Array], Mapping[str, int], Styles], None]


def _lay_out_matrices(figure: Figure, matrices: Mapping[str, Array], seeds: Mapping[str, int], styles: Styles) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    means = {label: R.mean(axis=0) for label, R in matrices.items()}
    tasks = max(R.shape[1] for R in means.values())
    annotated = tasks <= ANNOTATED_TASKS
    longest = max(map(len, means))
    narrowest = max(1.7, 0.3 * tasks if annotated else 2.2, min(0.03 * longest, 3.4))  # inches
    fitting = int(PAGE_WIDTH / narrowest)
    rows = -(-len(means) // fitting)
    columns = -(-len(means) // rows)
    titles = {
        label: f"{_wrap(label, int(PAGE_WIDTH / columns / 0.085))}\n{_count(seeds[label], 'seed')}" for label in means
    }
    lines = max(title.count("\n") for title in titles.values())
    height = (max(1.1, 0.2 * tasks) if annotated else 1.7) + 0.45 + 0.12 * lines
    figure.set_size_inches(max(4.0, PAGE_WIDTH * columns / fitting), 0.6 + rows * height)
    lowest = min((np.nanmin(R) for R in means.values() if not np.isnan(R).all()), default=0.0)
    low = min(np.floor(10 * lowest) / 10, 0.9)
    panels = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(panels.flat):
        if number >= len(means):
            axes.remove()
            continue
        label = list(means)[number]
        draw_matrix(means[label], axes, low).set_title(titles[label])
        if number % columns:
            axes.set_ylabel("")
        if number + columns < len(means):
            axes.set_xlabel("")
    colours = ScalarMappable(Normalize(100 * low, 100), "cividis")
    figure.colorbar(
        colours, ax=figure.axes, label="accuracy (%)", aspect=18 * min(rows, 3), shrink=min(1, 3 / rows), pad=0.02
    ).outline.set_visible(False)


def _lay_out_tasks(figure: Figure, matrices: Mapping[str, Array], seeds: Mapping[str, int], styles: Styles) -> None:
    from matplotlib.ticker import MaxNLocator

    tasks = max(R.shape[2] for R in matrices.values())
    columns = min(tasks, 5)
    rows = -(-tasks // columns)
    figure.set_size_inches(PAGE_WIDTH if tasks > 1 else 4.5, (1.8 if columns > 3 else 2.4) * rows + 0.7)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    before = any(not np.isnan(R[:, 0]).all() for R in matrices.values())
    for number, axes in enumerate(panels.flat):
        if number >= tasks:
            axes.remove()
            continue
        draw_curves({label: R[:, :, number] for label, R in matrices.items()}, axes, styles).set_title(
            f"task {number + 1}"
        )
        axes.axvline(number + 1, color="0.4", linestyle=":", linewidth=1.2, zorder=1.8)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        if number + columns >= tasks:
            axes.set_xlabel("tasks learnt")
            axes.tick_params(labelbottom=True)
        if number % columns == 0:
            axes.set_ylabel("accuracy (%)")
    _per_cent(panels[0, 0])
    panels[0, 0].set_xlim(-0.3 if before else 0.7, tasks + 0.3)
    _legend(figure, matrices, styles)


def _lay_out_average(figure: Figure, matrices: Mapping[str, Array], seeds: Mapping[str, int], styles: Styles) -> None:
    figure.set_size_inches(5.0, 3.4)
    axes = figure.subplots()
    curves = {}
    for label, R in matrices.items():
        averages = np.array([metrics.average_accuracies(seed) for seed in R])
        curves[label] = np.insert(averages, 0, np.nan, axis=1)  # nothing is seen before task 1
    draw_curves(curves, axes, styles)
    tasks = max(R.shape[2] for R in matrices.values())
    axes.set_xticks(range(1, tasks + 1, 1 if tasks <= 12 else 2))
    axes.set(xlabel="tasks learnt", ylabel="mean accuracy on the tasks so far (%)", xlim=(0.7, tasks + 0.3))
    _per_cent(axes)
    _legend(figure, matrices, styles)


def _lay_out_forgetting(
    figure: Figure, matrices: Mapping[str, Array], seeds: Mapping[str, int], styles: Styles
) -> None:
    tasks = max(R.shape[2] for R in matrices.values())
    figure.set_size_inches(max(5.0, min(14.0, 0.1 * len(matrices) * tasks)), 3.4)
    axes = draw_forgetting(matrices, figure.subplots(), styles)
    _legend(figure, _name_undefined(axes, matrices), styles)


def _lay_out_stability(figure: Figure, matrices: Mapping[str, Array], seeds: Mapping[str, int], styles: Styles) -> None:
    figure.set_size_inches(5.0, 4.0)
    axes = draw_stability(matrices, figure.subplots(), styles)
    axes.set_xlim(right=min(axes.get_xlim()[1], 101))  # stability may lie above 100: forgetting can be negative
    _legend(figure, _name_undefined(axes, matrices), styles)


FIGURES: Mapping[str, FigureKind] = {
    "accuracy-matrix": FigureKind(
        "Accuracy on each task after each task", "means; hatched: not measured", _lay_out_matrices
    ),
    "accuracy-by-task": FigureKind(
        "Accuracy on each task as training goes on",
        "dotted: when the task is learnt; band: 95 % interval",
        _lay_out_tasks,
    ),
    "average-accuracy": FigureKind("Mean accuracy on the tasks seen so far", "band: 95 % interval", _lay_out_average),
    "forgetting-by-task": FigureKind("Forgetting of each task at the end", "bar: 95 % interval", _lay_out_forgetting),
    "stability-plasticity": FigureKind(
        "Stability against plasticity", "faint: single seeds; bar: 95 % interval; top right is best", _lay_out_stability
    ),
}


def _draw(kind: str, comparison: Comparison, labels: Sequence[str]) -> Figure:
    """Draw a figure of one comparison; `labels` are all that share styles with it."""
    from matplotlib import rc_context

    what = FIGURES[kind]
    seeds = {group.label: len(group.runs) for group in comparison.finished}
    few, many = min(seeds.values()), max(seeds.values())
    note = f"{_count(many, 'seed') if few == many else f'{few}–{many} seeds'}; {what.note}"
    with rc_context(_look()):
        figure = _figure_class()(layout="constrained")
        what.lay_out(figure, comparison.accuracy(), seeds, _styles(labels))
        width = int(figure.get_size_inches()[0] / 0.068)
        heading = [
            _wrap(what.title, width),
            _wrap(comparison.title, width),
            _wrap(note if many > 1 else "one seed, so no intervals", width),
        ]
        figure.suptitle("\n".join(heading), fontsize="medium")
    return figure


@cache
def _figure_class() -> type[Figure]:
    """Return a Figure that a notebook shows without pyplot, whose global state stays untouched."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", dpi=120)
            return buffer.getvalue()

    return NotebookFigure


@cache
def _look() -> Any:  # Matplotlib's stubs want literal names
    import seaborn

    look = {**seaborn.axes_style("ticks"), **seaborn.plotting_context("paper", font_scale=0.9)}
    return look | {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "0.92",
        "hatch.linewidth": 0.6,
        "legend.frameon": False,
        "legend.handlelength": 2.6,  # so that a pattern of dashes shows
        "pdf.fonttype": 42,  # text stays text
    }


def _styles(labels: Sequence[str]) -> Styles:
    """Give each label a colour, marker and line of its own; up to twelve markers differ, readable in grey too."""
    import seaborn

    palette = seaborn.color_palette("colorblind")
    lines: list[Any] = ["-", "--", "-.", ":"]
    return {
        label: {"color": palette[i % 10], "marker": "osD^vPX<>*hp"[i % 12], "linestyle": lines[i % 4]}
        for i, label in enumerate(labels)
    }


def _legend(figure: Figure, labels: Iterable[str], styles: Styles) -> None:
    """Put the legend below the axes, in as many columns as fit, and make room for it."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], markersize=4, linewidth=1.3, label=_wrap(label, 40), **styles[label]) for label in labels]
    if not handles:
        return
    lines = [str(handle.get_label()).splitlines() for handle in handles]
    width, height = figure.get_size_inches()
    for columns in range(len(handles), 0, -1):
        parts = np.array_split(np.arange(len(handles)), columns)  # as Matplotlib fills them
        if sum(0.55 + 0.058 * max(len(line) for i in part for line in lines[i]) for part in parts) <= width:
            break
    figure.set_size_inches(width, height + 0.17 * max(sum(len(lines[i]) for i in part) for part in parts))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def _per_cent(axes: Axes) -> None:
    """Cut an axis of accuracies just beyond 100 %, and keep small noise from filling it."""
    low, high = axes.get_ylim()
    high = min(high, 102)
    axes.set_ylim(max(min(low, high - 5), -2), high)


def _name_undefined(axes: Axes, labels: Iterable[str]) -> list[str]:
    """Write below the axes which labels have nothing in them, and return the others."""
    drawn = axes.get_legend_handles_labels()[1]
    missing = [label for label in labels if _plain(label) not in drawn]
    if missing:
        axes.set_xlabel(f"{axes.get_xlabel()}\n{_wrap('not defined for ' + ', '.join(missing), 70)}")
    if not drawn:
        axes.set(xticks=[], yticks=[])
    return [label for label in labels if label not in missing]


def _plain(label: str) -> str:
    """Return a label that Matplotlib shows as it is: no mathematics, not hidden from legends."""
    text = label.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _wrap(text: str, width: int) -> str:
    """Break text into lines of at most `width` characters, behind a space or a sign where there is one."""
    lines, rest = [], " ".join(text.split())
    while len(rest) > width:
        at = max(rest.rfind(separator, 0, width) for separator in " ,@=") + 1 or width
        lines.append(rest[:at].rstrip())
        rest = rest[at:]
    return "\n".join(_plain(line) for line in [*lines, rest])


# ---- Files ----


def write_report(results: Results, folder: str | Path) -> list[Path]:
    """Write tables and figures into a folder, over those of an earlier report, and return the files.

    Raises UsageError if the folder cannot be written.
    """
    folder = Path(folder)
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        figures, paths = _write_figures(results, folder / "figures")
        tables = {
            "summary.csv": results.summary().to_csv(index=False),
            "runs.csv": results.runs.to_csv(index=False),
            "summary.md": _markdown(results, figures),
            "summary.tex": _latex(results),
        }
        return [*(_write(folder / name, text.encode()) for name, text in tables.items()), *paths]
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(f"cannot write the report to {folder}: {reason}; name another folder with --out") from error


def _write_figures(results: Results, folder: Path) -> tuple[dict[tuple[str, str, str], dict[str, str]], list[Path]]:
    """Draw every comparison's figures, remove an earlier report's that are no longer made; return links and paths."""
    from matplotlib import rc_context

    links: dict[tuple[str, str, str], dict[str, str]] = {}
    paths: list[Path] = []
    names = Counter[str]()
    for comparison in results.comparisons:
        if not comparison.finished:
            continue
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", "-".join(comparison.place)).strip("-.")[:80]
        names[name] += 1
        stem = name if names[name] == 1 else f"{name}-{names[name]}"
        links[comparison.place] = {}
        for kind in FIGURES:
            figure = _draw(kind, comparison, results.labels)
            with rc_context(_look()):
                formats: dict[str, dict[str, Any]] = {"png": {"dpi": 200}, "pdf": {"metadata": {"CreationDate": None}}}
                for suffix, options in formats.items():
                    buffer = io.BytesIO()
                    figure.savefig(buffer, format=suffix, **options)
                    figure.set_layout_engine("none")  # laid out by now: the second format takes the same places
                    paths.append(_write(folder / f"{stem}-{kind}.{suffix}", buffer.getvalue()))
            links[comparison.place][kind] = f"figures/{stem}-{kind}.png"
    made = folder / ".made-by-clbench"  # the names of our figures, so that nobody else's is ever removed
    earlier = made.read_text(encoding="utf-8").splitlines() if made.exists() else []
    for stale in set(earlier) - {path.name for path in paths}:
        if Path(stale).name == stale:
            (folder / stale).unlink(missing_ok=True)
    _write(made, "".join(f"{path.name}\n" for path in paths).encode())
    return links, paths


def _write(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path

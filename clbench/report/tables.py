"""Results → tables of cells, before anything is said of how they are written. `clbench.report.writer` writes them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from clbench.errors import UsageError
from clbench.results.analysis import Best, baseline_of, best, differences, gap_recovered
from clbench.results.frames import METRIC_NAMES, TOTALS, Results
from clbench.results.groups import PLACE, Comparison, Group
from clbench.results.references import BASELINE
from clbench.results.sentences import findings
from clbench.results.statistics import IntervalKind, Test
from clbench.results.wording import count_of, of_p, percent, signed

DASH = "–"
GAP = "gap_recovered"


@dataclass(frozen=True)
class Cell:
    """What a cell shows, the number that it is sorted by, and whether it is its column's best or tied with it."""

    text: str
    value: float | None = None
    mark: Literal["", "best", "tie"] = ""


@dataclass(frozen=True)
class Table:
    """Headings, and a row per method, whose name comes first."""

    name: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def texts(self) -> list[list[str]]:
        """The headings, then the rows, as they read."""
        return [list(self.headings), *([cell.text for cell in row] for row in self.rows)]


@dataclass(frozen=True)
class Choices:
    """What the reader of a report may choose. Raises UsageError for what there is not."""

    columns: Sequence[str] = ()  # metrics and costs; () for all metrics that are defined
    baseline: str | None = None
    test: Test = "t"
    interval: IntervalKind = "t"
    metrics: Sequence[str] = field(default=("average_accuracy", "forgetting"))  # that are compared with the baseline

    def __post_init__(self) -> None:
        known = (*METRIC_NAMES, GAP, *COSTS)
        for name in self.columns:
            if name not in known:
                raise UsageError(f"no column {name!r}: choose from {', '.join(known)}")
        for value, allowed in ((self.test, ("t", "wilcoxon")), (self.interval, ("t", "bootstrap"))):
            if value not in allowed:
                raise UsageError(f"unknown {value!r}: choose from {', '.join(allowed)}")


def heading(name: str) -> str:
    """Return a column's name for people."""
    return COSTS[name][0] if name in COSTS else name.replace("_", " ")


class Tables:
    """The tables of some results, everything that they share worked out once."""

    def __init__(self, results: Results, choices: Choices | None = None):
        self.results, self.choices = results, choices or Choices()
        self._tables: dict[tuple[str, str, str], list[Table]] = {}
        self._findings: dict[tuple[str, str, str], list[str]] = {}
        self._best: dict[tuple[str, str, str, str], Best] = {}
        self.gap = gap_recovered(results)
        self._gap_at = _by_place(self.gap)
        self.notes: list[str] = []  # why something is missing
        baseline, test, interval = self.choices.baseline, self.choices.test, self.choices.interval
        frames = [differences(results, metric, baseline, test, interval) for metric in self.choices.metrics]
        frames = [frame for frame in frames if not frame.empty] or frames[:1]
        self.differences = pd.concat(frames)
        self._differences_at = _by_place(self.differences)
        untested = self.differences[(self.differences["verdict"] == "no test") & (self.differences["n"] > 1)]
        if test == "wilcoxon" and len(untested):
            self.notes.append(
                f"{count_of(len(untested), 'difference')} without a test: Wilcoxon's signed-rank test cannot reach "
                "p < 0.05 with fewer than six seeds that differ"
            )
        for comparison in results.comparisons:
            tuned = [group.title for group in comparison.finished if group.method == BASELINE]
            base = baseline_of(comparison, baseline)
            if baseline is None and len(tuned) > 1 and base is not None and base.label != BASELINE:
                self.notes.append(
                    f"{comparison.title}: of {', '.join(tuned)}, the baseline is {base.title} (--baseline chooses "
                    "another), and no gap recovered is given"
                )
        runs = results.runs
        self._costs = {} if runs.empty else runs.groupby("key")[list(COSTS)].first().to_dict("index")

    def columns(self, comparison: Comparison) -> list[str]:
        """Return the columns of the table of results: those chosen, or all that are defined."""
        if self.choices.columns:
            return list(self.choices.columns)
        names = [name for name in METRIC_NAMES if any(self.results.by_seed(g, name) for g in comparison.finished)]
        return names + [GAP] * bool(self._gap_at.get(comparison.place))

    def of(self, comparison: Comparison) -> list[Table]:
        """Return the comparison's tables: results, differences to the baseline and costs, where there are any."""
        if comparison.place not in self._tables:
            found = self.results_table(comparison), self.difference_table(comparison), self.cost_table(comparison)
            self._tables[comparison.place] = [table for table in found if table is not None]
        return self._tables[comparison.place]

    def findings(self, comparison: Comparison) -> list[str]:
        """Return the comparison's findings, in sentences."""
        if comparison.place not in self._findings:
            lines = self.differences_of(comparison)
            said = findings(self.results, comparison, lines, self.choices.test, self.choices.interval)
            self._findings[comparison.place] = said
        return self._findings[comparison.place]

    def best(self, comparison: Comparison, metric: str) -> Best:
        """Return what is best by a metric, and how sure that is: see `analysis.best`."""
        key = (*comparison.place, metric)
        if key not in self._best:
            lines = self.differences_of(comparison)
            self._best[key] = best(self.results, comparison, metric, self.choices.test, lines)
        return self._best[key]

    def results_table(self, comparison: Comparison, columns: Sequence[str] | None = None) -> Table:
        """Tabulate metrics over seeds in per cent, best ones and ties marked; failed runs too if there are any."""
        names = self.columns(comparison) if columns is None else columns
        failures = any(group.failed for group in comparison.groups)
        rows: list[list[Cell]] = [[Cell(group.title)] for group in comparison.groups]
        for name in names:
            for row, cell in zip(rows, self._column(comparison, name), strict=True):
                row.append(cell)
        for row, group in zip(rows, comparison.groups, strict=True):
            row.append(_count(len(group.runs)))
            row += [_count(len(group.failed))] * failures
        headings = ["method", *map(heading, names), "seeds", *["failed"] * failures]
        return Table("results", self.results_caption(comparison), headings, rows)

    def results_caption(self, comparison: Comparison) -> str:
        """Say what the numbers are."""
        if not comparison.finished:
            return "No run has finished."
        if {len(group.runs) for group in comparison.groups} <= {0, 1}:
            return "Per cent; one seed, so there are no intervals."
        if self.choices.interval == "bootstrap":
            return "Per cent: mean over seeds with its 95 % interval (bootstrap, BCa)."
        return "Per cent: mean ± 95 % interval over seeds."

    def difference_table(self, comparison: Comparison) -> Table | None:
        """Tabulate the differences to the baseline, paired by seed; None where there is none."""
        lines = self.differences_of(comparison)
        if not lines:
            return None
        rows = []
        for line in lines:
            interval = f"{signed(line.ci_low)} to {signed(line.ci_high)}" if line.n > 1 else DASH
            rows.append(
                [
                    Cell(comparison.titles[line.label]),
                    Cell(heading(line.metric)),
                    Cell(signed(line.difference), line.difference),
                    Cell(interval, line.ci_low),
                    Cell(of_p(line.p).removeprefix("= "), line.p),
                    Cell(of_p(line.p_holm).removeprefix("= "), line.p_holm),
                    Cell(f"{line.effect_size:.2f}".replace("-", "−"), line.effect_size)
                    if np.isfinite(line.effect_size)
                    else Cell(DASH),
                    Cell(str(line.verdict)),
                    _count(line.n),
                ]
            )
        base = comparison.titles[lines[0].baseline]
        test = "Student's paired t test" if self.choices.test == "t" else "Wilcoxon's signed-rank test"
        caption = (
            f"Differences to {base} in percentage points, paired by seed, with 95 % intervals; p by {test}, and after "
            "Holm's correction over the methods; effect size: mean over standard deviation of the differences."
        )
        headings = ["method", "metric", "difference", "95 % interval", "p", "p (Holm)", "effect size", "verdict"]
        return Table("differences", caption, [*headings, "seeds"], rows)

    def cost_table(self, comparison: Comparison) -> Table | None:
        """Tabulate the costs of one run, averaged over seeds."""
        if not comparison.finished:
            return None
        rows = [[Cell(group.title), *(self._cost(group, name) for name in COSTS)] for group in comparison.finished]
        return Table("costs", "Costs, means per run.", ["method", *map(heading, COSTS)], rows)

    def differences_of(self, comparison: Comparison) -> list[Any]:
        """Return a comparison's rows of `differences`, to the baseline, metric by metric."""
        return self._differences_at.get(comparison.place, [])

    def _column(self, comparison: Comparison, name: str) -> Iterator[Cell]:
        """Return a column's cells, one per group."""
        if name == GAP:
            found = {line.label: line for line in self._gap_at.get(comparison.place, [])}
            for group in comparison.groups:
                yield _ratio(found.get(group.label))
            return
        if name in COSTS:
            yield from (self._cost(group, name) for group in comparison.groups)
            return
        first, ties, _ = self.best(comparison, name)
        if len(comparison.finished) == 1:
            first = None
        for group in comparison.groups:
            values = list(self.results.by_seed(group, name).values())
            text = percent(values, len(group.runs), self.choices.interval)
            mark: Any = "best" if group is first else "tie" if any(group is tie for tie in ties) else ""
            yield Cell(text, float(np.mean(values)) if values else None, mark)

    def _cost(self, group: Group, name: str) -> Cell:
        values = [self._costs[record.key][name] for record in group.runs]
        values = [float(value) for value in values if not pd.isna(value)]
        if not values:
            return Cell(DASH)
        mean = float(np.mean(values))
        return Cell(COSTS[name][1](mean), mean)


def _by_place(frame: pd.DataFrame) -> dict[tuple[str, ...], list[Any]]:
    """Return a data frame's rows as named tuples, by comparison."""
    rows: dict[tuple[str, ...], list[Any]] = {}
    for row in frame.itertuples():
        rows.setdefault(tuple(getattr(row, name) for name in PLACE), []).append(row)
    return rows


def _count(number: int) -> Cell:
    return Cell(str(number), float(number))


def _ratio(line: Any) -> Cell:
    if line is None:
        return Cell(DASH)
    if np.isnan(line.gap_recovered):
        return Cell("undefined")
    show = [
        f"{round(100 * value) + 0:d}".replace("-", "−") for value in (line.gap_recovered, line.ci_low, line.ci_high)
    ]
    return Cell(f"{show[0]} [{show[1]}, {show[2]}]", float(line.gap_recovered))


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {  # columns of Results.runs
    "train_seconds": ("training (s)", "{:,.2f}".format),
    "evaluate_seconds": ("evaluation (s)", "{:,.2f}".format),
    **{name: (name.replace("_", " "), "{:,.0f}".format) for name in (*TOTALS, "parameters")},
    "stored_bytes": ("stored", _bytes),
    "peak_memory_bytes": ("peak memory", _bytes),
}


def commands(comparison: Comparison) -> list[str]:
    """Return the commands that make a comparison's runs, failed ones included; runs on other terms have their own."""
    alike: dict[str, tuple[dict[str, None], dict[int, None]]] = {}
    for group in comparison.groups:
        for record in [*group.runs, *group.failed]:
            head, asked, tail = _command(record.spec)
            names, seeds = alike.setdefault(json.dumps([head, tail]), ({}, {}))
            names[asked] = seeds[record.spec["seed"]] = None
    lines = []
    for options, (names, seeds) in alike.items():
        head, tail = json.loads(options)
        lines.append(shlex.join(["clbench", "run", *head, ",".join(names), "--seeds", _seeds(list(seeds)), *tail]))
    return lines


def _command(spec: Mapping[str, Any]) -> tuple[list[str], str, list[str]]:
    """Return a run's options up to its methods or rows, its own name there, and the options behind."""
    preset = spec.get("preset")
    tail = ["--sequence", spec["sequence_label"], "--scenario", spec["scenario"], "--model", spec["model_label"]]
    settings: dict[str, Any] = {}
    order = None if spec["class_order_rule"] == "seed" else spec["class_order_rule"]
    if preset:
        overridden = preset["overridden"]
        settings = {name: value for name, value in overridden.items() if "." in name}
        order = order if "class_order" in overridden else None
        head, name = ["--preset", preset["name"], "--rows"], preset["row"]
    else:
        settings = {f"training.{name}": value for name, value in spec["training"].items() if value is not None}
        head, name = ["--methods"], spec["label"]
    if order is not None:
        tail += ["--class-order", order if order == "fixed" else ",".join(map(str, spec["class_order"]))]
    for setting, value in settings.items():
        tail += ["--set", f"{setting}={str(value).lower() if isinstance(value, bool) else value}"]
    if spec.get("eval_every"):
        tail += ["--eval-every", str(spec["eval_every"])]
    if spec.get("precision", "fp32") != "fp32":
        tail += ["--precision", spec["precision"]]
    if spec.get("threads", 1) != 1:
        tail += ["--threads", str(spec["threads"])]
    return head, name, [*tail, "--device", spec["device"]]


def _seeds(seeds: Sequence[int]) -> str:
    """Write seeds as the command line takes them: a range where they are one, else a list."""
    ordered = sorted(seeds)
    if ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"{ordered[0]}-{ordered[-1]}"
    return ",".join(map(str, ordered))

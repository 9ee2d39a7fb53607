"""Results → tables of cells. `formats` writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from clbench.errors import UsageError, did_you_mean
from clbench.results import tuning
from clbench.results.analysis import (
    COMPARED,
    GAP,
    Best,
    best,
    differences,
    doubtful_baselines,
    gap_recovered,
    unequal_budgets,
)
from clbench.results.frames import METRIC_NAMES, TOTALS, Results
from clbench.results.groups import PLACE, Comparison, Group
from clbench.results.sentences import findings
from clbench.results.statistics import IntervalKind, Test
from clbench.results.verdicts import FEWEST_SEEDS, LOWER_IS_BETTER, reason
from clbench.results.wording import CUT, CUT_NOTE, between, count_of, of_p, percent, signed

DASH = "–"
FIRST = (*COMPARED, "learning_accuracy")  # with method, seeds and failed runs six columns


@dataclass(frozen=True)
class Cell:
    """A cell's text, the number that it is sorted by, and whether it is its column's best or tied with the best."""

    text: str
    value: float | None = None
    mark: Literal["", "best", "tie"] = ""


def number(value: float | None, write: Callable[[float], str] = "{:.0f}".format) -> Cell:
    """Return a cell that is sorted by a number; a dash where it is None or NaN."""
    return Cell(DASH) if value is None or np.isnan(value) else Cell(write(value).replace("-", "−"), float(value))


@dataclass(frozen=True)
class Table:
    """Headings and rows; a row's first cell names it. `notes` are sentences to show below the table."""

    name: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()

    @property
    def texts(self) -> list[list[str]]:
        """The text of every cell, row by row, the headings first."""
        return [list(self.headings), *([cell.text for cell in row] for row in self.rows)]

    @property
    def text_headings(self) -> list[str]:
        """The headings of columns that hold words, the first one's aside."""
        return [name for name, is_text in zip(self.headings, self.is_text, strict=True) if is_text][1:]

    @property
    def is_text(self) -> list[bool]:
        """Whether a column holds words, which stand at the left, and not numbers: one value per column."""
        return [
            not any(row[column].value is not None or row[column].text == DASH for row in self.rows)
            for column in range(len(self.headings))
        ]


@dataclass(frozen=True)
class Choices:
    """What the reader of a report may choose. Raises UsageError for names that do not exist."""

    columns: Sequence[str] = ()  # metrics and costs; () for all metrics that are defined
    baseline: str | None = None
    test: Test = "t"
    interval: IntervalKind = "t"

    def __post_init__(self) -> None:
        known = (*METRIC_NAMES, GAP, *COSTS)
        for name in self.columns:
            if name not in known:
                raise UsageError(f"no column {name!r}{did_you_mean(name, known)}")
        for value, allowed in ((self.test, ("t", "wilcoxon")), (self.interval, ("t", "bootstrap"))):
            if value not in allowed:
                raise UsageError(f"unknown {value!r}: choose from {', '.join(allowed)}")


class Tables:
    """The tables of some results. `notes` say why something is missing."""

    def __init__(self, results: Results, choices: Choices | None = None):
        self.results, self.choices = results, choices or Choices()
        baseline, test, interval = self.choices.baseline, self.choices.test, self.choices.interval
        self._baseline = baseline if baseline is None else results.resolve(baseline)
        self.gap = gap_recovered(results)
        self.differences = differences(results, COMPARED, baseline, test, interval)
        runs = results.runs
        self._runs = runs if runs.empty else runs.set_index("key")
        self.notes = [*self._untested(), *(doubtful_baselines(results) if baseline is None else ())]
        self._tells_tuning = any(tuning.tuning_of(group) is not None for _, group in results.groups)
        self._best: dict[tuple[tuple[str, str, str], str], Best] = {}

    def _untested(self) -> list[str]:
        """Say how many differences there is no verdict on, and why; and where no outcome could have given one."""
        test, frame, lines = self.choices.test, self.differences, []
        most = max(frame.groupby([*PLACE, "metric"]).size(), default=0)  # of the tests made together
        for verdict in ("too few seeds", "no test"):
            if count := int((frame["verdict"] == verdict).sum()):
                why = reason(verdict, test, 0, most)
                lines.append(f"{count_of(count, 'difference')} without a verdict, {verdict}: {why}")
        for comparison in self.results.comparisons if test == "wilcoxon" else ():
            tested = [
                line for line in self.differences_of(comparison) if line.metric == COMPARED[0] and not np.isnan(line.p)
            ]
            why = reason("undecided", test, max((line.n for line in tested), default=0), len(tested)) if tested else ""
            if why:
                lines.append(f"{comparison.title}: no difference can be told: {why}")
        return lines

    def of(self, comparison: Comparison) -> list[Table]:
        """Return a comparison's tables: results, differences to the baseline and costs, where there are any."""
        found = self.results_table(comparison), self.difference_table(comparison), self.cost_table(comparison)
        return [table for table in found if table is not None]

    def findings(self, comparison: Comparison) -> list[str]:
        """Return what a comparison shows, in sentences."""
        lines = self.differences_of(comparison)
        return findings(self.results, comparison, lines, self.choices.test, self.choices.interval, self._baseline)

    def best(self, comparison: Comparison, metric: str) -> Best:
        """See `analysis.best`."""
        key = comparison.place, metric
        if key not in self._best:
            self._best[key] = best(self.results, comparison, metric, self.choices.test, self._baseline)
        return self._best[key]

    def differences_of(self, comparison: Comparison) -> list[Any]:
        """Return a comparison's rows of `differences`, as named tuples."""
        return comparison.rows_of(self.differences)

    def _columns(self, comparison: Comparison) -> Sequence[str]:
        """Return the columns chosen, or all metrics that are defined."""
        names = [name for name in METRIC_NAMES if any(self.results.by_seed(g, name) for g in comparison.finished)]
        return self.choices.columns or names + [GAP] * bool(comparison.rows_of(self.gap))

    def first_table(self, comparison: Comparison) -> Table:
        """Tabulate what a page opens with: three columns chosen, or the metrics that come first, of `results_table`."""
        columns = self._columns(comparison)
        return self.results_table(comparison, self.choices.columns[:3] or [name for name in FIRST if name in columns])

    def results_table(self, comparison: Comparison, names: Sequence[str] = ()) -> Table:
        """Tabulate metrics over seeds in per cent, and mark the best and ties; with failed runs if there are any."""
        names = names or self._columns(comparison)
        marks = (
            f"Bold: the best mean, joint training aside, from {FEWEST_SEEDS} seeds on; underlined: a paired test "
            "cannot tell it from the best (Holm over all others, 5 % level)."
        )
        if lower := [heading(name) for name in names if name in LOWER_IS_BETTER]:
            marks += f" Lower is better for {' and '.join(lower)}."
        notes = (marks, *tuning.notes(comparison))
        return self._table(comparison, names, [group.title for group in comparison.groups], notes)

    def terminal_table(self, comparison: Comparison) -> Table:
        """Tabulate the columns chosen, or average accuracy and forgetting, of methods by the labels that one types."""
        names = self.choices.columns or COMPARED
        return self._table(comparison, names, [group.label for group in comparison.groups])

    def _table(
        self, comparison: Comparison, names: Sequence[str], methods: Sequence[str], notes: Sequence[str] = ()
    ) -> Table:
        columns = [[Cell(method) for method in methods], *(self._column(comparison, name) for name in names)]
        columns.append([number(len(group.runs)) for group in comparison.groups])
        headings = ["method", *map(heading, names), "seeds"]
        notes = [*notes, *differing_engines(comparison)]
        if self._tells_tuning:
            columns.insert(1, [Cell(tuning.in_words(group)) for group in comparison.groups])
            headings.insert(1, "settings")
        if any(group.failed for group in comparison.groups):
            columns.append([number(len(group.failed)) for group in comparison.groups])
            headings.append("failed")
        if any(CUT in cell.text for column in columns[1:] for cell in column):
            notes = [*notes, CUT_NOTE]
        table = Table("results", self._results_caption(comparison), headings, list(zip(*columns, strict=True)), notes)
        return with_engines(table, comparison, comparison.groups)

    def _results_caption(self, comparison: Comparison) -> str:
        if not comparison.finished:
            return "No run has finished."
        if {len(group.runs) for group in comparison.groups} <= {0, 1}:
            return "Per cent; one seed, so there are no intervals."
        if self.choices.interval == "bootstrap":
            return "Per cent: mean over seeds with its 95 % interval (bootstrap, BCa)."
        return "Per cent: mean ± 95 % interval over seeds."

    def _column(self, comparison: Comparison, name: str) -> list[Cell]:
        """Return a column's cells, one per group."""
        if name == GAP:
            found = {line.label: line for line in comparison.rows_of(self.gap)}
            return [_ratio(found.get(group.label)) for group in comparison.groups]
        if name in COSTS:
            return [self._cost(group, name) for group in comparison.groups]
        first, ties, *_ = self.best(comparison, name)
        enough = first is not None and len(self.results.values(first, name)) >= FEWEST_SEEDS
        cells = []
        for group in comparison.groups:
            values = self.results.values(group, name)
            mark: Any = "best" if group is first else "tie" if any(group is tie for tie in ties) else ""
            text = percent(values, name, len(group.runs), self.choices.interval)
            mark *= enough and text.count(CUT) < 2  # an interval over the whole scale says nothing
            cells.append(Cell(text, float(np.mean(values)) if values else None, mark))
        return cells

    def difference_table(self, comparison: Comparison) -> Table | None:
        """Tabulate the differences to the baseline, paired by seed; None where there are none."""
        lines = self.differences_of(comparison)
        if not lines:
            return None
        test = "Student's paired t test" if self.choices.test == "t" else "Wilcoxon's signed-rank test"
        caption = (
            f"Differences to {comparison.titles[lines[0].baseline]} in percentage points, paired by seed, with 95 % "
            f"intervals; p by {test}, from {FEWEST_SEEDS} seeds on, and after Holm's correction over the methods; "
            "effect size: mean over standard deviation of the differences."
        )
        headings = ["method", "metric", "difference", "95 % interval", "p", "p (Holm)", "effect size", "verdict"]
        rows = [_difference_row(comparison.titles[line.label], line) for line in lines]
        notes = [CUT_NOTE] * any(CUT in row[3].text for row in rows)
        labels = {group.label: group for group in comparison.groups}
        table = Table("differences", caption, [*headings, "seeds"], rows, notes)
        return with_engines(table, comparison, [labels[line.label] for line in lines])

    def cost_table(self, comparison: Comparison) -> Table | None:
        """Tabulate the costs of one run, means over seeds; None where no run has finished."""
        if not comparison.finished:
            return None
        rows = [[Cell(group.title), *(self._cost(group, name) for name in COSTS)] for group in comparison.finished]
        notes = [f"Unequal budgets: {line}." for line in unequal_budgets(comparison)]
        if any(record.shared_first_task for group in comparison.finished for record in group.runs):
            notes.append("A first task that methods have in common was trained once; its cost is counted in each.")
        table = Table("costs", "Costs, means per run.", ["method", *map(heading, COSTS)], rows, notes)
        return with_engines(table, comparison, comparison.finished)

    def _cost(self, group: Group, name: str) -> Cell:
        costs = self._runs.loc[[record.key for record in group.runs], name] if group.runs else pd.Series(dtype=float)
        return number(costs.dropna().astype(float).mean(), COSTS[name][1])


def with_engines(table: Table, comparison: Comparison, groups: Sequence[Group]) -> Table:
    """Say beside each row's method which library has trained it, where a comparison has methods of several."""
    if all(group.engine == "clbench" for group in comparison.groups):
        return table
    rows = [[row[0], Cell(group.engine), *row[1:]] for row, group in zip(table.rows, groups, strict=True)]
    return replace(table, headings=[table.headings[0], "engine", *table.headings[1:]], rows=rows)


def differing_engines(comparison: Comparison) -> list[str]:
    """Return what the loops of other libraries do otherwise, a sentence each."""
    lines = [f"{group.engine}: {line}." for group in comparison.groups for line in group.differs]
    return list(dict.fromkeys(lines))


def heading(name: str) -> str:
    """Return the heading of a metric's or a cost's column."""
    return COSTS[name][0] if name in COSTS else name.replace("_", " ")


def _difference_row(title: str, line: Any) -> list[Cell]:
    return [
        Cell(title),
        Cell(heading(line.metric)),
        number(line.difference, signed),
        Cell(between(line.ci_low, line.ci_high) if line.n > 1 else DASH, line.ci_low),
        Cell(of_p(line.p).removeprefix("= "), line.p),
        Cell(of_p(line.p_holm).removeprefix("= "), line.p_holm),
        number(line.effect_size, "{:.2f}".format),
        Cell(str(line.verdict)),
        number(line.n),
    ]


def _ratio(line: Any) -> Cell:
    if line is None or np.isnan(line.gap_recovered):
        return Cell(DASH if line is None else "undefined")
    mean, low, high = (round(100 * value) for value in (line.gap_recovered, line.ci_low, line.ci_high))
    return Cell(f"{mean} [{low}, {high}]".replace("-", "−"), float(line.gap_recovered))


def _bytes(count: float) -> str:
    power = min(int(np.log10(max(count, 1)) / 3), 3)
    return f"{count:.0f} B" if power == 0 else f"{count / 1000**power:.1f} {'kMG'[power - 1]}B"


COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {  # columns of Results.runs: heading, and how it is written
    "train_seconds": ("training (s)", "{:,.2f}".format),
    "evaluate_seconds": ("evaluation (s)", "{:,.2f}".format),
    **{name: (name.replace("_", " "), "{:,.0f}".format) for name in (*TOTALS, "parameters")},
    "stored_bytes": ("stored", _bytes),
    "stored_images": ("stored images", "{:,.0f}".format),
    "peak_memory_bytes": ("peak memory", _bytes),
}

"""What results say of the methods of a comparison, in numbers: differences, gaps, ranks, what is best, budgets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clbench.errors import UsageError, did_you_mean
from clbench.results.frames import COST_NAMES, METRIC_NAMES, Results
from clbench.results.groups import PLACE, Comparison, Group
from clbench.results.references import BASELINE, UPPER_BOUND
from clbench.results.statistics import IntervalKind, Paired, Ratio, Test, average_ranks, ratio_of_means
from clbench.results.verdicts import LOWER_IS_BETTER, judge, to_baseline, to_best
from clbench.results.wording import count_of

GAP = "gap_recovered"  # of a method, not of a run
COMPARED = ("average_accuracy", "forgetting")  # metrics that a report compares with the baseline
FEWEST_SEQUENCES = 5  # to rank methods over
OF_A_PAIR = ("n", "difference", "ci_low", "ci_high", "p", "p_holm", "effect_size", "verdict")


def baseline_of(comparison: Comparison, wanted: str | None = None) -> Group | None:
    """Return the group that others are compared with: the one asked for, else fine-tuning, else the first.

    None where it has no finished run. Raises UsageError if several groups go by the name asked for.
    """
    groups = comparison.finished
    if wanted is not None:
        found = [group for group in groups if group.label == wanted] or [g for g in groups if g.name == wanted]
        if len(found) > 1:
            listed = "; ".join(f"'{group.label}'" for group in found)
            raise UsageError(f"'{wanted}' is ambiguous on {comparison.title}: choose from {listed}")
        return found[0] if found else None
    tuned = next((group for group in groups if group.method == BASELINE), None)
    return _plain(groups, BASELINE) or tuned or next(iter(groups), None)


def doubtful_baselines(results: Results) -> list[str]:
    """Say where the baseline is not the one fine-tuning, if nobody chooses another."""
    lines: list[str] = []
    without: dict[str, list[str]] = {}
    for comparison in results.comparisons:
        variants = [group.title for group in comparison.finished if group.method == BASELINE]
        base = baseline_of(comparison)
        if base is None or len(comparison.finished) < 2 or base.label == BASELINE:
            continue
        if not variants:
            without.setdefault(base.label, []).append(comparison.title)
        elif len(variants) > 1:
            lines.append(
                f"{comparison.title}: of {', '.join(variants)}, the baseline is {base.title} (--baseline chooses "
                "another), and no gap recovered is given"
            )
    for label, titles in without.items():
        where = "here" if len(titles) == len(results.comparisons) else f"in {'; '.join(titles)}"
        lines.append(f"no {BASELINE} {where}: differences are to {label} (--baseline chooses another)")
    return lines


def _plain(groups: Sequence[Group], method: str) -> Group | None:
    """Return the group that is a method as it comes: by its label, else the only one of the method."""
    of_method = [group for group in groups if group.method == method]
    return next((g for g in of_method if g.label == method), of_method[0] if len(of_method) == 1 else None)


def check_metric(metric: str) -> None:
    """Raise UsageError for a metric that there is not, and for columns of tables that are none."""
    if metric in (GAP, *COST_NAMES):
        what = f"the share of a gap, from {BASELINE} to {UPPER_BOUND}" if metric == GAP else "a cost"
        raise UsageError(
            f"{metric} is {what}, and no metric that is compared: clbench report --columns {metric} shows it"
        )
    if metric not in METRIC_NAMES:
        raise UsageError(f"no metric {metric!r}{did_you_mean(metric, METRIC_NAMES)}")


def differences(
    results: Results,
    metric: str | Sequence[str] = "average_accuracy",
    baseline: str | None = None,
    test: Test = "t",
    interval: IntervalKind = "t",
) -> pd.DataFrame:
    """Compare every method with a baseline, paired by seed: a row per metric and group, as fractions.

    `p_holm` is corrected over the methods of a comparison; both p are NaN of fewer than five seeds. `verdict` is that
    of `verdicts.Judged`. The baseline is fine-tuning by default, or else the first method. Raises UsageError for
    labels, metrics and tests that cannot be used.
    """
    metrics = [metric] if isinstance(metric, str) else metric
    for name in metrics:
        check_metric(name)
    baseline = None if baseline is None else results.resolve(baseline)
    rows: list[tuple] = []
    for name, comparison in itertools.product(metrics, results.comparisons):
        base = baseline_of(comparison, baseline)
        if base is None:
            continue
        pairs = to_baseline(comparison, base)
        for group, _, found, p_holm, verdict in judge(results, comparison, pairs, name, test, interval):
            row = (*comparison.place, name, group.label, base.label, *found[:5], p_holm, found.effect_size, verdict)
            rows.append(row)
    return pd.DataFrame(rows, columns=[*PLACE, "metric", "label", "baseline", *OF_A_PAIR])


def gap_recovered(results: Results, metric: str = "average_accuracy") -> pd.DataFrame:
    """Return how much of the gap from fine-tuning to joint training each method recovers: a row per group.

    gap_recovered = (method − finetune) / (joint − finetune), a ratio of means over the seeds that all three have, with
    Fieller's 95 % interval. NaN where it says nothing: unless the gap's own interval lies above 0, and where the
    interval is wider than the gap itself.
    """
    check_metric(metric)
    rows = []
    for comparison in results.comparisons:
        lower, upper = (_plain(comparison.finished, method) for method in (BASELINE, UPPER_BOUND))
        if lower is None or upper is None:
            continue
        low, high = results.by_seed(lower, metric), results.by_seed(upper, metric)
        for group in comparison.finished:
            own = results.by_seed(group, metric)
            seeds = [seed for seed in own if seed in low and seed in high]
            if group is not lower and group is not upper and seeds:
                gained, gap = ([values[seed] - low[seed] for seed in seeds] for values in (own, high))
                ratio = ratio_of_means(gained, gap)
                if not (np.mean(gap) > 0 and ratio.high - ratio.low <= 1):
                    ratio = Ratio(np.nan, np.nan, np.nan)
                rows.append((*comparison.place, metric, group.label, len(seeds), *ratio))
    return pd.DataFrame(rows, columns=[*PLACE, "metric", "label", "n", "gap_recovered", "ci_low", "ci_high"])


class Ranks(NamedTuple):
    """Average ranks of methods over task sequences, 1 the best, and how far apart they must be to be told apart."""

    scenario: str
    labels: Sequence[str]
    ranks: np.ndarray  # [k]
    critical_difference: float  # Nemenyi's, at the 5 % level
    p: float  # of Friedman's test
    sequences: int


def ranks(results: Results, metric: str = "average_accuracy") -> list[Ranks]:
    """Rank the methods that all sequences of a scenario have, by their means; only over five sequences or more.

    Joint training, the upper bound, does not compete.
    """
    check_metric(metric)
    frame, found = results.frame, []
    frame = frame[(frame["metric"] == metric) & (frame["method"] != UPPER_BOUND)]
    for scenario in dict.fromkeys(comparison.scenario for comparison in results.comparisons):
        here = frame[frame["scenario"] == scenario]
        if here["sequence"].nunique() < FEWEST_SEQUENCES:
            continue
        means = here.pivot_table(index=["sequence", "model"], columns="label", values="value")
        methods = means.notna().sum(axis=1)  # of each comparison: of a sequence's, those count that have most
        means = means[methods == methods.groupby("sequence").transform("max")].dropna(axis="columns")
        means = means.groupby("sequence").mean()  # models and terms of one sequence are no sequences of their own
        if means.shape[1] < 2:
            continue
        labels = [label for label in results.labels if label in means]
        scores = means[labels].to_numpy()
        average, critical, p = average_ranks(-scores if metric in LOWER_IS_BETTER else scores)
        found.append(Ranks(scenario, labels, average, critical, p, len(means)))
    return found


class Best(NamedTuple):
    """The group with the best mean, those that a paired test can't tell from it, and those that there is no test of.

    No group is best that competes with none.
    """

    group: Group | None
    ties: list[Group]
    untested: list[Group]


def best(results: Results, comparison: Comparison, metric: str, test: Test = "t", baseline: str | None = None) -> Best:
    """Return what is best by a metric, and how sure that is, by the verdicts on its pairs with the others.

    Joint training, the upper bound, does not compete where there is anything else.
    """
    pairs = to_best(results, comparison, metric)
    if not pairs:
        return Best(None, [], [])
    first = pairs[0][1]
    families = pairs, to_baseline(comparison, baseline_of(comparison, baseline))  # a pair of both is of the second
    judged = [one for family in families for one in judge(results, comparison, family, metric, test)]
    verdicts = {
        (one.one if one.other is first else one.other).label: one.verdict
        for one in judged
        if first is one.one or first is one.other
    }
    others = [group for group, _ in pairs]
    ties = [group for group in others if verdicts.get(group.label) in ("undecided", "less than one image")]
    untested = [group for group in others if verdicts.get(group.label) in (None, "no test", "too few seeds")]
    return Best(first, ties, untested)


def found_in(line: Any) -> Paired:
    """Return what was found of a pair from its line of `differences`."""
    return Paired(line.n, line.difference, line.ci_low, line.ci_high, line.p, line.effect_size)


def tasks_in_words(comparison: Comparison) -> str:
    """Say how many tasks and classes there are where a sequence shares classes, and what guessing scores; else ''.

    Guessing is among the classes of the image's task, or of all tasks in the class scenario; it is a mean over tasks.
    """
    record = next((record for group in comparison.finished for record in group.runs), None)
    if record is not None and "tasks" in record.spec:
        count = count_of(len(record.updates or ()), "task")
        return f"{count} of the sequence: {record.spec['tasks']}, counted from 0."
    if record is None or record.spec["code"].get("sequence") or not record.spec["class_order"]:
        return ""
    classes, tasks = len(record.spec["class_order"]), len(record.updates or ())
    sizes = record.spec["sequence_params"].get("classes")  # as in 50+10x5
    told = tasks / classes
    if sizes:
        parts = [part.partition("x") for part in sizes.split("+")]
        told = sum(int(times or 1) / int(size) for size, _, times in parts) / tasks
    guess = 100 * (1 / classes if comparison.scenario == "class" else told)
    return f"{tasks} tasks of {sizes or classes // tasks} classes; guessing is right in {guess:.3g} %."


def unequal_budgets(comparison: Comparison, tolerance: float = 0.05) -> list[str]:
    """Say which methods took more or fewer updates or images than most: their accuracy has another price."""
    ratios: dict[str, list[str]] = {}
    for name in ("updates", "images"):
        means = {
            group.title: float(np.mean([sum(getattr(record, name)) for record in group.runs]))
            for group in comparison.finished
        }
        values = list(means.values())
        usual = max(values, key=lambda value: (values.count(value), -value), default=0.0)
        for title, mean in means.items():
            if usual and abs(mean / usual - 1) > tolerance:
                ratios.setdefault(title, []).append(f"{mean / usual:.2f} times the {name}")
    return [f"{title} took {' and '.join(parts)} of most methods" for title, parts in ratios.items()]

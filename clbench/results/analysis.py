"""What results say of methods against each other, in numbers and in sentences.

Methods are paired by seed: they share a seed's weights and batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clbench.errors import UsageError
from clbench.results.frames import METRIC_NAMES, Results
from clbench.results.groups import PLACE, Comparison, Group
from clbench.results.references import BASELINE, UPPER_BOUND
from clbench.results.statistics import (
    ALPHA,
    IntervalKind,
    Paired,
    Ratio,
    Test,
    average_ranks,
    holm,
    paired,
    ratio_of_means,
)
from clbench.results.wording import percent, spell

LOWER_IS_BETTER = frozenset({"forgetting", "intransigence"})
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


def _plain(groups: Sequence[Group], method: str) -> Group | None:
    """Return the group that is a method as it comes: by its label, else the only one of the method."""
    of_method = [group for group in groups if group.method == method]
    return next((g for g in of_method if g.label == method), of_method[0] if len(of_method) == 1 else None)


def check_labels(results: Results, *labels: str | None) -> None:
    """Raise UsageError if a method is in no comparison."""
    known = {name for place in results.comparisons for group in place.finished for name in (group.label, group.name)}
    for label in labels:
        if label is not None and label not in known:
            raise UsageError(f"no finished run of {label!r}: choose from {', '.join(sorted(known)) or 'nothing'}")


def check_metric(metric: str) -> None:
    """Raise UsageError for a metric that there is not."""
    if metric not in METRIC_NAMES:
        raise UsageError(f"no metric {metric!r}: choose from {', '.join(METRIC_NAMES)}")


def difference(
    results: Results,
    group: Group,
    baseline: Group,
    metric: str,
    test: Test = "t",
    interval: IntervalKind = "t",
) -> Paired | None:
    """Compare two groups over the seeds that both have; None if there is none.

    p is NaN where there can be no test: of one seed, of differences without spread, or by Wilcoxon's with too few.
    """
    ours, theirs = results.by_seed(group, metric), results.by_seed(baseline, metric)
    both = [seed for seed in ours if seed in theirs]
    if not both:
        return None
    values = [ours[seed] - theirs[seed] for seed in both]
    try:
        return paired(values, test, interval)
    except UsageError:
        return paired(values, "t", interval)._replace(p=np.nan)


def differences(
    results: Results,
    metric: str | Sequence[str] = "average_accuracy",
    baseline: str | None = None,
    test: Test = "t",
    interval: IntervalKind = "t",
) -> pd.DataFrame:
    """Compare every method with a baseline, paired by seed: a row per metric and group, as fractions.

    `p_holm` is corrected over the methods of a comparison. `verdict` is better, worse, undecided, or 'no test' of one
    seed. The baseline is fine-tuning by default, or else the first method. Raises UsageError for labels, metrics and
    tests that cannot be used.
    """
    metrics = [metric] if isinstance(metric, str) else metric
    for name in metrics:
        check_metric(name)
    check_labels(results, baseline)
    rows: list[tuple] = []
    for name, comparison in itertools.product(metrics, results.comparisons):
        base = baseline_of(comparison, baseline)
        if base is None:
            continue
        others = [group for group in comparison.finished if group is not base]
        found = [(group, difference(results, group, base, name, test, interval)) for group in others]
        pairs = [(group, one) for group, one in found if one is not None]
        for (group, one), p_holm in zip(pairs, holm([one.p for _, one in pairs]), strict=True):
            verdict = verdict_of(one.mean, p_holm, name)
            row = (*comparison.place, name, group.label, base.label, *one[:5], p_holm, one.effect_size, verdict)
            rows.append(row)
    return pd.DataFrame(rows, columns=[*PLACE, "metric", "label", "baseline", *OF_A_PAIR])


def verdict_of(mean: float, p: float, metric: str) -> str:
    """Say what a difference of a metric amounts to: better, worse, undecided, or 'no test'."""
    if np.isnan(p):
        return "no test"
    if p >= ALPHA:
        return "undecided"
    return "better" if (mean < 0) == (metric in LOWER_IS_BETTER) else "worse"


def gap_recovered(results: Results, metric: str = "average_accuracy") -> pd.DataFrame:
    """Return how much of the gap from fine-tuning to joint training each method recovers: a row per group.

    gap_recovered = (method − finetune) / (joint − finetune), a ratio of means over the seeds that all three have, with
    Fieller's 95 % interval; NaN unless the gap's own interval lies above 0.
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
                ratio = ratio_of_means(gained, gap) if np.mean(gap) > 0 else Ratio(np.nan, np.nan, np.nan)
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
    """Rank the methods that all sequences of a scenario have, by their means; only over five sequences or more."""
    check_metric(metric)
    frame, found = results.frame, []
    for scenario in dict.fromkeys(comparison.scenario for comparison in results.comparisons):
        here = frame[(frame["scenario"] == scenario) & (frame["metric"] == metric)]
        if here["sequence"].nunique() < FEWEST_SEQUENCES:
            continue
        by_model = here.pivot_table(index=["sequence", "model"], columns="label", values="value")
        # models of one sequence are no sequences of their own
        means = by_model.dropna(axis="columns").groupby("sequence").mean()
        if means.shape[1] < 2:
            continue
        labels = [label for label in results.labels if label in means]
        scores = means[labels].to_numpy()
        average, critical, p = average_ranks(-scores if metric in LOWER_IS_BETTER else scores)
        found.append(Ranks(scenario, labels, average, critical, p, len(means)))
    return found


class Best(NamedTuple):
    """The group with the best mean, those that a paired test can't tell from it, and those that there is no test of.

    `line` is its row of `differences`, if it has one: found against the baseline.
    """

    group: Group | None
    ties: list[Group]
    untested: list[Group]
    line: Any


def best(results: Results, comparison: Comparison, metric: str, test: Test = "t", lines: Sequence[Any] = ()) -> Best:
    """Return what is best by a metric, and how sure that is (Holm's correction over the others, 5 % level).

    Joint training, the upper bound, does not compete where there is anything else. Of the baseline, the verdict in
    `lines`, the rows of the comparison's `differences`, is the one that counts: they are corrected over other tests.
    """
    groups = [group for group in comparison.finished if results.values(group, metric)]
    groups = [group for group in groups if group.method != UPPER_BOUND] or groups
    if not groups:
        return Best(None, [], [], None)
    sign = -1 if metric in LOWER_IS_BETTER else 1
    first = max(groups, key=lambda group: sign * np.mean(results.values(group, metric)))
    others = [group for group in groups if group is not first]
    found = [difference(results, group, first, metric, test) for group in others]
    p = [np.nan if one is None else one.p for one in found]
    untested = [group for group, one in zip(others, p, strict=True) if np.isnan(one)]
    ties = [group for group, one in zip(others, holm(p), strict=True) if one >= ALPHA]
    line = next((line for line in lines if line.label == first.label and line.metric == metric), None)
    if line is not None and line.verdict != "no test":
        base = next(group for group in comparison.finished if group.label == line.baseline)
        ties = [group for group in ties if group is not base]
        ties += [base] if line.verdict == "undecided" and base in groups else []
    return Best(first, ties, untested, line)


def found_in(line: Any) -> Paired:
    """Return what was found of a pair from its line of `differences`."""
    return Paired(line.n, line.difference, line.ci_low, line.ci_high, line.p, line.effect_size)


# In sentences


def compare(
    results: Results, a: str, b: str, metric: str = "average_accuracy", test: Test = "t", interval: IntervalKind = "t"
) -> list[str]:
    """Say in a line per comparison that has both whether a is better than b; p by Holm over the lines.

    Raises UsageError for labels and metrics that there are not, and where no comparison has both over the same seeds.
    """
    check_metric(metric)
    check_labels(results, a, b)
    if a == b:
        raise UsageError(f"{a} is compared with itself: name two methods")
    found = []
    for place in results.comparisons:
        one, other = baseline_of(place, a), baseline_of(place, b)
        if one is not None and other is not None and one is not other:
            pairs = difference(results, one, other, metric, test, interval)
            if pairs is not None:
                found.append((place, one, other, pairs))
    if not found:
        raise UsageError(
            f"{a} and {b} have no finished runs of the same seeds, with {metric} defined, in any comparison"
        )
    if test == "wilcoxon" and all(np.isnan(pairs.p) for *_, pairs in found):
        place, one, other, _ = found[0]
        ours, theirs = results.by_seed(one, metric), results.by_seed(other, metric)
        paired([ours[seed] - theirs[seed] for seed in ours if seed in theirs], test)  # raises, and says why
    words = {"better": "is better than", "worse": "is worse than", "undecided": "can't be told from"}
    lines = []
    for (place, one, other, pairs), p in zip(found, holm([pairs.p for *_, pairs in found]), strict=True):
        relation = words.get(verdict_of(pairs.mean, p, metric), "has no test against")
        line = f"{place.title}: {one.label} {relation} {other.label} in {metric.replace('_', ' ')}: "
        lines.append(line + spell(pairs, p if len(found) > 1 else None))
    return lines


def findings(
    results: Results, comparison: Comparison, lines: Sequence[Any], test: Test = "t", interval: IntervalKind = "t"
) -> list[str]:
    """Say in sentences which methods are best, how sure that is, and what it cost.

    `lines` are the rows of this comparison's `differences` to the baseline, as named tuples.
    """
    sentences: list[str] = []
    winners: list[Group] = []
    base = None
    for metric, what in (("average_accuracy", "Highest average accuracy"), ("forgetting", "Least forgetting")):
        first, ties, untested, line = best(results, comparison, metric, test, lines)
        if first is None:
            continue
        text = f"{what}: {first.title}, {percent(results.values(first, metric), interval=interval)} %"
        bounds = [group for group in comparison.finished if group.method == UPPER_BOUND and group is not first]
        if bounds and (upper := results.values(bounds[0], metric)):
            text += f" ({bounds[0].title}, which sees all data: {percent(upper, interval=interval)} %)"
        if line is not None:
            base = next(group for group in comparison.finished if group.label == line.baseline)
            there = percent(results.values(base, metric), interval=interval)
            text += f"; {base.title} is at {there} %, the paired difference {spell(found_in(line), line.p_holm)}"
            text += f": {line.verdict}" if line.n > 1 else ""
        sure = []
        if ties:
            names = ", ".join(group.title for group in ties)
            sure.append(f"A paired test cannot tell {first.title} from {names}, which does not make them equal")
        if untested:
            sure.append(f"There is no test against {', '.join(group.title for group in untested)}")
        if not sure and len(comparison.finished) > 1 + len(bounds):
            sure.append(f"A paired test tells {first.title} from every other method")
        sentences.append(". ".join([text, *sure]) + ".")
        if first not in winners:
            winners.append(first)
    return sentences + [_price(group, base) for group in winners]


def _price(group: Group, base: Group | None) -> str:
    """Say in a sentence what a run of a method costs, beside one of the baseline."""
    text = f"A run of {group.title} trains for {group.train_seconds:.3g} s"
    if base is not None and base is not group and base.train_seconds:
        ratio = f"{group.train_seconds / base.train_seconds:.2g}"
        text += f", {'as long' if ratio == '1' else f'{ratio} times as long'} as one of {base.title}"
    return text + "."


def tasks_in_words(comparison: Comparison) -> str:
    """Say of a built-in split sequence how many tasks and classes it has, and what guessing scores; of others, ''.

    Guessing is among the classes of the image's task, or of all tasks in the class scenario.
    """
    record = next((record for group in comparison.finished for record in group.runs), None)
    if record is None or record.spec["code"].get("sequence") or not record.spec["sequence"].startswith("split-"):
        return ""
    classes, tasks = len(record.spec["class_order"]), len(record.updates or ())
    guess = 100 / (classes if comparison.scenario == "class" else classes / tasks)
    return f"{tasks} tasks of {classes // tasks} classes; guessing is right in {guess:.3g} %."


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

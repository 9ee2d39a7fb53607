"""What results say of methods, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clbench.errors import UsageError
from clbench.results.analysis import baseline_of, best, check_metric, found_in
from clbench.results.frames import Results
from clbench.results.groups import Comparison, Group
from clbench.results.references import UPPER_BOUND
from clbench.results.statistics import IntervalKind, Test, paired
from clbench.results.verdicts import FEWEST_SEEDS, Judged, competing, judge_pair, reason
from clbench.results.wording import CUT, CUT_NOTE, percent, spell


def compare(
    results: Results,
    a: str,
    b: str,
    metric: str = "average_accuracy",
    test: Test = "t",
    interval: IntervalKind = "t",
    baseline: str | None = None,
) -> list[str]:
    """Say in a line per comparison that has both whether a is better than b, with the verdict that a report gives.

    p is corrected by Holm as there: over all differences to the report's baseline, or to the best by this metric. Any
    other pair is one test. Raises UsageError for labels and metrics that there are not, and where no comparison has
    both over the same seeds.
    """
    check_metric(metric)
    a, b = results.resolve(a), results.resolve(b)
    baseline = None if baseline is None else results.resolve(baseline)
    if a == b:
        raise UsageError(f"{a} is compared with itself: name two methods")
    found = []
    for place in results.comparisons:
        one, other = baseline_of(place, a), baseline_of(place, b)
        if one is not None and other is not None and one is not other:
            base = baseline_of(place, baseline)
            judged, tests, family = judge_pair(results, place, (one, other), base, metric, test, interval)
            if judged is not None:
                found.append((place, judged, tests, family))
    if not found:
        raise UsageError(f"{a} and {b} have no finished runs of the same seeds, with {metric} defined, on equal terms")
    if test == "wilcoxon" and all(np.isnan(judged.found.p) for _, judged, *_ in found):
        _, (one, other, *_), tests, _ = found[0]
        ours, theirs = results.by_seed(one, metric), results.by_seed(other, metric)
        paired([ours[seed] - theirs[seed] for seed in ours if seed in theirs], test, tests=tests)  # raises
    return [
        f"{place.title}: {_of_a_pair(judged, metric, tests, family, test)}" for place, judged, tests, family in found
    ]


def _of_a_pair(judged: Judged, metric: str, tests: int, family: str, test: Test) -> str:
    words = {"better": "is better than", "worse": "is worse than"}
    relation = words.get(judged.verdict, "can't be told from")
    what = f"{judged.one.label} {relation} {judged.other.label} in {metric.replace('_', ' ')}"
    why = reason(judged.verdict, test, judged.found.n, tests)
    return f"{what}: {spell(judged.found, judged.p_holm, family)}: {judged.verdict}" + (f" ({why})" if why else "")


def findings(
    results: Results,
    comparison: Comparison,
    lines: Sequence[Any],
    test: Test = "t",
    interval: IntervalKind = "t",
    baseline: str | None = None,
) -> list[str]:
    """Say in sentences which methods are best, how sure that is, and what it cost.

    `lines` are the rows of this comparison's `differences` to the baseline, as named tuples.
    """
    sentences: list[str] = []
    winners: list[Group] = []
    base = baseline_of(comparison, baseline) if lines else None
    for metric, what in (("average_accuracy", "Highest average accuracy"), ("forgetting", "Least forgetting")):
        first, ties, untested = best(results, comparison, metric, test, baseline)
        if first is None:
            alone = competing(results, comparison, metric)
            sentences += [_alone(results, comparison, group, metric, interval) for group in alone]
            winners += [group for group in alone if group not in winners]
            continue
        text = f"{what}: {_value(results, comparison, first, metric, interval)}"
        of_metric = [line for line in lines if line.metric == metric]
        line = next((line for line in of_metric if line.label == first.label), None)
        if line is not None and base is not None:
            family = "Holm" if sum(not np.isnan(one.p) for one in of_metric) > 1 else ""
            there = percent(results.values(base, metric), metric, interval=interval)
            text += (
                f"; {base.title} is at {there} %, the paired difference {spell(found_in(line), line.p_holm, family)}"
            )
            text += f": {line.verdict}"
        sentences.append(". ".join([text, *_how_sure(comparison, first, ties, untested)]) + ".")
        if first not in winners:
            winners.append(first)
    if any(CUT in sentence for sentence in sentences):
        sentences.append(CUT_NOTE)
    return sentences + [_price(group, base) for group in winners]


def _value(results: Results, comparison: Comparison, group: Group, metric: str, interval: IntervalKind) -> str:
    """Give a method's mean, and that of joint training beside it."""
    text = f"{group.title}, {percent(results.values(group, metric), metric, interval=interval)} %"
    bounds = [other for other in comparison.finished if other.method == UPPER_BOUND and other is not group]
    if bounds and (upper := results.values(bounds[0], metric)):
        text += f" ({bounds[0].title}, which sees all data: {percent(upper, metric, interval=interval)} %)"
    return text


def _alone(results: Results, comparison: Comparison, group: Group, metric: str, interval: IntervalKind) -> str:
    what = metric.replace("_", " ")
    value = _value(results, comparison, group, metric, interval)
    return f"{what.capitalize()}: {value}. No other method competes with it."


def _how_sure(comparison: Comparison, first: Group, ties: Sequence[Group], untested: Sequence[Group]) -> list[str]:
    """Say from which methods a paired test tells the best."""
    sure = []
    if ties:
        names = ", ".join(group.title for group in ties)
        sure.append(f"A paired test cannot tell {first.title} from {names}, which does not make them equal")
    if untested:
        names = ", ".join(group.title for group in untested)
        few = any(len({*first.seeds} & {*group.seeds}) < FEWEST_SEEDS for group in untested)
        why = f": that takes {FEWEST_SEEDS} seeds that both have" if few else ""
        sure.append(f"There is no test against {names}{why}")
    return sure or [f"A paired test tells {first.title} from every other method"]


def _price(group: Group, base: Group | None) -> str:
    """Say in a sentence what a run of a method costs, beside one of the baseline."""
    text = f"A run of {group.title} trains for {group.train_seconds:.3g} s"
    if base is not None and base is not group and base.train_seconds:
        ratio = f"{group.train_seconds / base.train_seconds:.2g}"
        text += f", {'as long' if ratio == '1' else f'{ratio} times as long'} as one of {base.title}"
    return text + "."

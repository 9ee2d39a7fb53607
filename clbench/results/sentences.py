"""What results say of methods, in sentences: which is best, how sure that is, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clbench.errors import UsageError
from clbench.results.analysis import (
    baseline_of,
    best,
    check_labels,
    check_metric,
    difference,
    found_in,
    verdict_of,
)
from clbench.results.frames import Results
from clbench.results.groups import Comparison, Group
from clbench.results.references import UPPER_BOUND
from clbench.results.statistics import IntervalKind, Test, holm, paired
from clbench.results.wording import percent, spell


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

"""What a paired test says of two methods: one verdict for each pair, whoever asks for it.

Methods are paired by seed: they share a seed's weights and batches. A comparison has two families of tests, each with
Holm's correction of its own: all methods against the baseline, and by each metric all others against the best. The best
and the baseline are a pair of the first. Any other pair is one test, for who asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from clbench.errors import UsageError
from clbench.results.frames import Results
from clbench.results.groups import Comparison, Group
from clbench.results.metrics import IMAGE_METRICS
from clbench.results.references import UPPER_BOUND
from clbench.results.statistics import ALPHA, IntervalKind, Paired, Test, holm, paired, seeds_for_wilcoxon
from clbench.results.wording import count_of

FEWEST_SEEDS = 5  # that two methods share, for a test
LOWER_IS_BETTER = frozenset({"forgetting", "intransigence"})
OF_ALL_BUT_ONE = frozenset({"forgetting", "backward_transfer", "forward_transfer", "minimum_accuracy"})  # tasks
Pair = tuple[Group, Group]


WHY = {
    "too few seeds": f"a verdict takes {FEWEST_SEEDS} seeds that both methods have",
    "no test": "the differences are all alike",
    "less than one image": "the difference is smaller than one more right answer would make",
}


def reason(verdict: str, test: Test, seeds: int, tests: int) -> str:
    """Say why a verdict of so many tests is neither better nor worse nor open; '' of those."""
    if test == "wilcoxon" and (verdict == "no test" or (verdict == "undecided" and seeds < seeds_for_wilcoxon(tests))):
        return (
            f"Wilcoxon's signed-rank test cannot reach p < {ALPHA} with fewer than {seeds_for_wilcoxon(tests)} seeds "
            f"that differ" + f", by Holm over {tests} tests" * (tests > 1)
        )
    return WHY.get(verdict, "")


class Judged(NamedTuple):
    """Two methods, what was found of the first minus the second, p after Holm's correction, and what it amounts to.

    `verdict` is of the first method: 'better', 'worse', 'undecided', 'less than one image' where p is small and the
    difference too, 'too few seeds', or 'no test' where the test cannot be done.
    """

    one: Group
    other: Group
    found: Paired
    p_holm: float
    verdict: str


def difference(
    results: Results, one: Group, other: Group, metric: str, test: Test = "t", interval: IntervalKind = "t"
) -> Paired | None:
    """Compare two groups over the seeds that both have; None if there is none.

    p is NaN where there can be no test: of fewer than five seeds, of differences without spread, or by Wilcoxon's test
    with too few that differ.
    """
    ours, theirs = results.by_seed(one, metric), results.by_seed(other, metric)
    values = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if not values:
        return None
    if len(values) < FEWEST_SEEDS:
        return paired(values, "t", interval)._replace(p=np.nan)
    try:
        return paired(values, test, interval)
    except UsageError:
        return paired(values, "t", interval)._replace(p=np.nan)


def to_baseline(comparison: Comparison, base: Group | None) -> list[Pair]:
    """Return the pairs of all methods with the baseline; none without one."""
    return [] if base is None else [(group, base) for group in comparison.finished if group is not base]


def to_best(results: Results, comparison: Comparison, metric: str) -> list[Pair]:
    """Return the pairs of all others with the best by a metric, joint training aside; none where one is alone."""
    groups = competing(results, comparison, metric)
    sign = -1 if metric in LOWER_IS_BETTER else 1
    first = max(groups, key=lambda group: sign * np.mean(results.values(group, metric)), default=None)
    return [] if first is None else [(group, first) for group in groups if group is not first]


def competing(results: Results, comparison: Comparison, metric: str) -> list[Group]:
    """Return the groups that may be best: all that the metric is defined for, but joint training, the upper bound."""
    groups = [group for group in comparison.finished if results.values(group, metric)]
    return [group for group in groups if group.method != UPPER_BOUND] or groups


def judge(
    results: Results,
    comparison: Comparison,
    pairs: Iterable[Pair],
    metric: str,
    test: Test = "t",
    interval: IntervalKind = "t",
) -> list[Judged]:
    """Test pairs together, those that have seeds in common."""
    found = [(one, other, difference(results, one, other, metric, test, interval)) for one, other in pairs]
    there = [(one, other, what) for one, other, what in found if what is not None]
    adjusted = holm([what.p for *_, what in there])
    return [
        Judged(one, other, what, p, verdict_of(what, p, metric, comparison))
        for (one, other, what), p in zip(there, adjusted, strict=True)
    ]


def judge_pair(
    results: Results,
    comparison: Comparison,
    pair: Pair,
    base: Group | None,
    metric: str,
    test: Test = "t",
    interval: IntervalKind = "t",
) -> tuple[Judged | None, int, str]:
    """Test one pair with all of its family; return what is found, None without seeds in common, and the family.

    That is how many tests it has, and in words the differences to what; '' for one test.
    """
    labels = {group.label for group in pair}
    families = (to_baseline(comparison, base), ""), (to_best(results, comparison, metric), ", the best")
    own = (family for family in families if any({one.label, other.label} == labels for one, other in family[0]))
    pairs, what = next(own, ([pair], ""))
    turned = [pair if {one.label, other.label} == labels else (one, other) for one, other in pairs]
    judged = judge(results, comparison, turned, metric, test, interval)
    tests = sum(not np.isnan(one.found.p) for one in judged) or len(judged)
    family = f"Holm over {count_of(tests, 'difference')} to {pairs[0][1].label}{what}" if tests > 1 else ""
    return next((one for one in judged if {one.one.label, one.other.label} == labels), None), tests, family


def verdict_of(found: Paired, p_holm: float, metric: str, comparison: Comparison) -> str:
    """Say what a difference of a metric amounts to; see `Judged`."""
    if found.n < FEWEST_SEEDS:
        return "too few seeds"
    if np.isnan(p_holm):
        return "no test"
    if p_holm >= ALPHA:
        return "undecided"
    if abs(found.mean) < worth_of_an_image(comparison, metric) * (1 - 1e-9):  # sums round
        return "less than one image"
    return "better" if (found.mean < 0) == (metric in LOWER_IS_BETTER) else "worse"


def worth_of_an_image(comparison: Comparison, metric: str) -> float:
    """Return by how much one more right answer in the largest task moves a metric."""
    images = comparison.test_images
    runs = [record for group in comparison.finished for record in group.runs]
    tasks = max((len(record.updates or ()) for record in runs), default=1)
    if metric in IMAGE_METRICS:  # each image of all tasks weighs the same; one right after the last task counts least
        every = max(sum(record.test_images or [images]) for record in runs)
        return 1 / (every * (tasks if metric == "incremental_accuracy" else 1))
    return 1 / (images * max(1, tasks - (metric in OF_ALL_BUT_ONE)))

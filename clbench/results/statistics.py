"""Intervals over seeds, paired differences, ratios, ranks, and p values of several tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clbench.errors import UsageError

LEVEL, ALPHA, POWER = 0.95, 0.05, 0.80
IntervalKind = Literal["t", "bootstrap"]
Test = Literal["t", "wilcoxon"]


class Interval(NamedTuple):
    """A mean over n seeds, the standard deviation (n − 1 in the denominator) and a confidence interval of the mean.

    Floats, or arrays of one shape; all but the mean are NaN where n = 1.
    """

    n: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def half(self) -> NDArray[np.float64] | None:
        """Half of what a symmetric interval spans, None where n = 1."""
        return None if self.n == 1 else self.high - self.mean


class Paired(NamedTuple):
    """The mean of n paired differences, its 95 % interval, the two-sided p value of a test that it is 0, and its size.

    `effect_size` is Cohen's d_z, the mean over the standard deviation of the differences; NaN where that is 0.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float
    effect_size: float


def seeds_for_wilcoxon(tests: int = 1) -> int:
    """Return how many seeds must differ for Wilcoxon's test to reach p < 0.05, by Holm over so many tests.

    The smallest p of n seeds is 2 · 2^-n, and Holm takes it times the tests.
    """
    return math.floor(math.log2(2 * tests / ALPHA)) + 1


def paired(differences: ArrayLike, test: Test = "t", interval: IntervalKind = "t", tests: int = 1) -> Paired:
    """Test whether differences [n] are 0 on average, by Student's paired t or Wilcoxon's signed ranks.

    Differences below 1e-12 are rounding, and count as 0. All but the mean are NaN where n = 1; p is 1 if all are 0, and
    NaN if they are all alike otherwise, for then nothing says how much they vary. Raises UsageError for Wilcoxon's test
    where no outcome could reach p < 0.05, and says how many seeds would do by Holm over so many `tests`.
    """
    from scipy.special import stdtr  # Student's distribution; quicker to import than scipy.stats

    array = np.round(np.asarray(differences, dtype=np.float64), 12)
    n, mean, std, low, high = mean_interval(array, kind=interval)
    if np.ptp(array) < 1e-12:  # a mean of equal values rounds
        array = np.full_like(array, array[0])
    if test == "wilcoxon":
        ranked = int(np.count_nonzero(array))  # differences of 0 have no sign
        if 2 * 0.5**ranked > ALPHA:
            of_them = f"{n} seeds" if ranked == n else f"{ranked} of {n} seeds that differ"
            raise UsageError(
                f"Wilcoxon's signed-rank test cannot reach p < {ALPHA} with {of_them}: "
                f"its smallest p is {min(1.0, 2 * 0.5**ranked):.2g}; {seeds_for_wilcoxon(tests)} would do"
                + f", by Holm over {tests} tests"
                * (tests > 1)
            )
        from scipy.stats import wilcoxon

        p = float(wilcoxon(array).pvalue)
    elif n > 1 and np.ptp(array) == 0:
        p = 1.0 if array[0] == 0 else np.nan
    else:
        p = float(2 * stdtr(n - 1, -abs(mean / (std / np.sqrt(n))))) if n > 1 else np.nan
    size = float(mean / std) if n > 1 and np.ptp(array) > 0 else np.nan
    return Paired(n, float(mean), float(low), float(high), p, size)


class Ratio(NamedTuple):
    """A ratio of two means with its 95 % interval; NaN where it is undefined."""

    value: float
    low: float
    high: float


def ratio_of_means(numerators: ArrayLike, denominators: ArrayLike) -> Ratio:
    """Return the mean of numerators [n] over that of denominators [n], paired, with Fieller's (1954) interval.

    It holds the ratios ρ for which a paired t test of numerators − ρ · denominators gives p ≥ 0.05. The ratio is
    undefined where the denominators' own 95 % interval contains 0, for then Fieller's has no bounds.
    """
    from scipy.special import stdtrit

    x, y = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    n = len(x)
    if n < 2:
        return Ratio(np.nan, np.nan, np.nan)
    covariance = np.cov(x, y) * stdtrit(n - 1, (1 + LEVEL) / 2) ** 2 / n
    # a ρ² + b ρ + c ≤ 0
    a = y.mean() ** 2 - covariance[1, 1]
    b = -2 * (x.mean() * y.mean() - covariance[0, 1])
    c = x.mean() ** 2 - covariance[0, 0]
    if a <= 0:
        return Ratio(np.nan, np.nan, np.nan)
    root = np.sqrt(max(0.0, b**2 - 4 * a * c))
    return Ratio(float(x.mean() / y.mean()), float((-b - root) / (2 * a)), float((-b + root) / (2 * a)))


def average_ranks(scores: ArrayLike) -> tuple[NDArray[np.float64], float, float]:
    """Rank k methods on N task sequences, 1 the highest, ties shared: scores [N, k] -> average ranks [k].

    Returns also Nemenyi's critical difference at the 5 % level, and the p value of Friedman's test (NaN for k = 2).
    Source: Demšar 2006, Statistical comparisons of classifiers over multiple data sets.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range  # slow to import

    scores = np.asarray(scores, dtype=np.float64)
    n, k = scores.shape
    average = rankdata(-scores, axis=1).mean(axis=0)
    critical = studentized_range.ppf(1 - ALPHA, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))
    p = float(friedmanchisquare(*scores.T).pvalue) if k > 2 and np.ptp(average) > 0 else 1.0 if k > 2 else np.nan
    return average, float(critical), p


def collapsed(values: ArrayLike, points: float = 0.1, spreads: float = 6.0) -> list[int]:
    """Return which of n ≥ 4 values lie far below the others: more than `points` and `spreads` below the median.

    A spread is 1.4826 times the median absolute deviation, the standard deviation of normal values. Of five normal
    values one is taken for collapsed by `spreads` alone in 5 % of samples, of ten in 1 %.
    """
    array = np.asarray(values, dtype=np.float64)
    if len(array) < 4:
        return []
    below = np.median(array) - array
    spread = 1.4826 * np.median(np.abs(below))
    return [int(index) for index in np.flatnonzero((below > points) & (below > spreads * spread))]


def holm(p: Sequence[float], tests: int | None = None) -> list[float]:
    """Adjust p values by Holm's (1979) step-down method for `tests` tests, those not among them taken to have p = 1.

    NaN, where there was no test, stays NaN and does not count.
    """
    there = int(np.count_nonzero(~np.isnan(p)))
    tests = max(there, tests or 0)
    adjusted, largest = [np.nan] * len(p), 0.0
    for rank, index in enumerate(np.argsort(p, kind="stable")[:there]):  # NaN come last
        largest = max(largest, min(1.0, (tests - rank) * p[index]))
        adjusted[index] = largest
    return adjusted


def mean_interval(values: ArrayLike, level: float = LEVEL, kind: IntervalKind = "t") -> Interval:
    """Return the mean over the first axis with its interval: values [n, …] -> fields […].

    The interval is Student's t, or for values [n] the bias-corrected and accelerated bootstrap, which covers less than
    it says for few values. A NaN among the values makes their mean NaN. Raises ValueError without values.
    """
    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    if n == 0:
        raise ValueError("no values to average")
    mean = array.mean(axis=0)
    if n == 1:
        unknown = np.full_like(mean, np.nan)[()]
        return Interval(n, mean, unknown, unknown, unknown)
    std = array.std(axis=0, ddof=1)
    if kind == "bootstrap":
        return Interval(n, mean, std, *_bootstrap(array, level))
    from scipy.special import stdtrit  # Student's quantile; quicker to import than scipy.stats

    half = stdtrit(n - 1, (1 + level) / 2) * std / np.sqrt(n)
    return Interval(n, mean, std, mean - half, mean + half)


def _bootstrap(values: NDArray[np.float64], level: float) -> tuple[Any, Any]:
    from scipy.stats import bootstrap  # slow to import

    if np.ptp(values) == 0:
        return values[0], values[0]
    found = bootstrap((values,), np.mean, confidence_level=level, rng=np.random.default_rng(0)).confidence_interval
    return found.low, found.high

"""Intervals over seeds, paired differences, and p values of several tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Interval(NamedTuple):
    """A mean over n seeds, the standard deviation (n − 1 in the denominator) and a confidence interval of the mean.

    Floats, or arrays of one shape; all but the mean are NaN where n = 1.
    """

    n: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Paired(NamedTuple):
    """The mean of paired differences, its 95 % interval, and the p value of Student's paired t test, two-sided."""

    mean: float
    low: float
    high: float
    p: float


def paired(differences: ArrayLike) -> Paired:
    """Test whether differences [n] are 0 on average; all but the mean are NaN where n = 1, p is 1 if all are 0."""
    from scipy.stats import ttest_1samp  # slow to import

    array = np.asarray(differences, dtype=np.float64)
    interval = mean_interval(array)
    if interval.n > 1 and np.ptp(array) == 0:
        p = float(array[0] == 0)
    else:
        p = float(ttest_1samp(array, 0.0).pvalue) if interval.n > 1 else np.nan
    return Paired(float(interval.mean), float(interval.low), float(interval.high), p)


def holm(p: Sequence[float], tests: int | None = None) -> list[float]:
    """Adjust p values by Holm's step-down method for `tests` tests, those not among them taken to have p = 1."""
    from statsmodels.stats.multitest import multipletests  # slow to import

    if not p:
        return []
    padded = [*p, *[1.0] * ((tests or 0) - len(p))]
    return [float(value) for value in multipletests(padded, method="holm")[1][: len(p)]]


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the mean over the first axis with its interval by Student's t: values [n, …] -> fields […].

    A NaN among the values makes their mean NaN. Raises ValueError without values.
    """
    array = np.asarray(values, dtype=np.float64)
    n = len(array)
    if n == 0:
        raise ValueError("no values to average")
    mean = array.mean(axis=0)
    if n == 1:
        unknown = np.full_like(mean, np.nan)[()]
        return Interval(n, mean, unknown, unknown, unknown)
    from scipy.special import stdtrit  # Student's quantile; quicker to import than scipy.stats

    std = array.std(axis=0, ddof=1)
    half = stdtrit(n - 1, (1 + level) / 2) * std / np.sqrt(n)
    return Interval(n, mean, std, mean - half, mean + half)

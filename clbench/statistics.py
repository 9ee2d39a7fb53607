"""Intervals over seeds."""

from __future__ import annotations

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
    from scipy.stats import t  # slow to import

    std = array.std(axis=0, ddof=1)
    half = t.ppf((1 + level) / 2, n - 1) * std / np.sqrt(n)
    return Interval(n, mean, std, mean - half, mean + half)

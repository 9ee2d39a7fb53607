"""Intervals against SciPy, a published example and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clbench.statistics import mean_interval

some_values = st.lists(st.floats(-1, 1), min_size=2, max_size=20)


def test_darwin_maize() -> None:
    """Darwin's fifteen pairs of plants (Fisher 1935, The design of experiments): 2.617 inches, from 0.00 to 5.23."""
    eighths = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    n, mean, std, low, high = mean_interval(np.array(eighths) / 8)
    assert n == 15
    assert mean == pytest.approx(2.617, abs=5e-4)
    assert std == pytest.approx(4.718, abs=5e-4)
    assert (low, high) == pytest.approx((0.004, 5.230), abs=1e-3)


def test_two_values_by_hand() -> None:
    """With two values, 95 % of Student's t (one degree of freedom) is 12.706."""
    n, mean, std, low, high = mean_interval([0.0, 2.0])
    assert (n, mean) == (2, 1)
    assert std == pytest.approx(2**0.5)
    assert (low, high) == pytest.approx((1 - 12.7062, 1 + 12.7062), abs=1e-4)


@given(some_values, st.sampled_from([0.5, 0.95, 0.99]))
def test_agrees_with_scipy(values: list[float], level: float) -> None:
    interval = mean_interval(values, level)
    error = stats.sem(values)
    if error > 1e-12:
        expected = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=error)
        assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(some_values, st.randoms())
def test_order_of_seeds_is_irrelevant(values: list[float], random: object) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    np.testing.assert_allclose(mean_interval(shuffled), mean_interval(values), atol=1e-12)


def test_one_value_has_no_interval() -> None:
    n, mean, *rest = mean_interval([0.7])
    assert (n, mean) == (1, 0.7)
    assert np.isnan(rest).all()


def test_no_values() -> None:
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_arrays_are_averaged_over_the_first_axis() -> None:
    values = np.random.default_rng(0).normal(size=(6, 3, 2))
    values[:, 2, 1] = np.nan
    interval = mean_interval(values)
    for i, j in np.ndindex(3, 2):
        for field, single in zip(interval[1:], mean_interval(values[:, i, j])[1:], strict=True):
            assert field[i, j] == pytest.approx(single, nan_ok=True)
    assert np.isnan(interval.mean[2, 1])


def test_covers_the_truth_at_its_level() -> None:
    """Of 2,000 intervals from five values each, 95 % hold the true mean: 1,900 ± 39 at four standard deviations."""
    interval = mean_interval(np.random.default_rng(1).normal(0.9, 0.02, size=(5, 2000)))
    assert 1861 <= ((interval.low < 0.9) & (interval.high > 0.9)).sum() <= 1939

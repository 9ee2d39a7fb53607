"""Intervals against SciPy, a published example and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clbench.errors import UsageError
from clbench.results.statistics import (
    average_ranks,
    collapsed,
    holm,
    mean_interval,
    paired,
    ratio_of_means,
)

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


def test_paired_sleep() -> None:
    """Student's (1908) sleep data as R documents it: t = −4.0621, df = 9, p = 0.002833, from −2.4599 to −0.7001."""
    first = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
    second = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
    found = paired(first - second)
    assert found.n == 10
    assert found.mean == pytest.approx(-1.58)
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert (found.low, found.high) == pytest.approx((-2.4598858, -0.7001142), abs=1e-7)
    assert found.effect_size == pytest.approx(-4.0621 / 10**0.5, abs=1e-4)  # t = d √n


def test_wilcoxon_depression() -> None:
    """Hollander & Wolfe (1973), p. 29 f., as R documents it: V = 40, p = 0.01953 in one direction."""
    before = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
    after = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
    assert paired(before - after, "wilcoxon").p == pytest.approx(2 * 0.01953, abs=1e-5)


def test_wilcoxon_is_refused_where_it_cannot_decide() -> None:
    with pytest.raises(UsageError, match=r"cannot reach p < 0.05 with 5 seeds: its smallest p is 0.062"):
        paired([0.1, 0.2, 0.3, 0.4, 0.5], "wilcoxon")
    with pytest.raises(UsageError, match="with 5 of 6 seeds that differ"):
        paired([0.1, 0.2, 0.3, 0.4, 0.5, 0.0], "wilcoxon")
    assert paired([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "wilcoxon").p == pytest.approx(2 / 2**6)


def test_differences_without_spread() -> None:
    assert paired([0.0, 0.0, 0.0]).p == 1
    for alike in ([0.1, 0.1, 0.1], [0.1, 0.1], [0.9 - 0.8, 0.8 - 0.7, 0.7 - 0.6]):
        assert np.isnan([paired(alike).p, paired(alike).effect_size]).all()  # nothing says how much they vary


def test_rounding_is_no_difference() -> None:
    orders = [[0.9, 0.7, 0.85, 0.65, 1.0], [0.9, 0.7, 0.85, 1.0, 0.65]]
    noise = sum(orders[0]) / 5 - sum(orders[1]) / 5
    assert noise != 0
    assert paired([noise, noise, noise]).p == 1
    assert paired([noise, 0.0, 0.0]).p == 1
    with pytest.raises(UsageError, match="0 of 6 seeds that differ"):
        paired([noise] * 6, "wilcoxon")


def test_one_seed_has_no_test() -> None:
    assert np.isnan([paired([0.1]).p, paired([0.1]).low, paired([0.1]).effect_size]).all()


def test_bootstrap_interval_is_scipys() -> None:
    values = np.random.default_rng(3).exponential(size=30)
    found = mean_interval(values, kind="bootstrap")
    expected = stats.bootstrap((values,), np.mean, n_resamples=20_000, rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert found == mean_interval(values, kind="bootstrap")  # the same every time
    assert mean_interval([0.5, 0.5], kind="bootstrap")[3:] == (0.5, 0.5)


def test_fieller_holds_what_a_paired_test_does_not_refuse() -> None:
    rng = np.random.default_rng(5)
    y = rng.normal(2.0, 0.5, size=8)
    x = 0.7 * y + rng.normal(0, 0.3, size=8)
    ratio = ratio_of_means(x, y)
    assert ratio.value == pytest.approx(x.mean() / y.mean())
    for bound in (ratio.low, ratio.high):
        assert stats.ttest_1samp(x - bound * y, 0.0).pvalue == pytest.approx(0.05, abs=1e-9)
    for inside in (ratio.low + 1e-3, ratio.value, ratio.high - 1e-3):
        assert stats.ttest_1samp(x - inside * y, 0.0).pvalue > 0.05


def test_ratio_is_undefined_where_the_gap_may_be_none() -> None:
    x, y = np.array([1.0, 2.0, 3.0]), np.array([-1.0, 0.5, 1.0])
    assert stats.ttest_1samp(y, 0.0).pvalue > 0.05
    assert np.isnan(ratio_of_means(x, y)).all()
    assert np.isnan(ratio_of_means([1.0], [1.0])).all()
    assert ratio_of_means(y - y, y + 9).value == 0


def test_average_ranks_by_hand() -> None:
    """Ties share ranks; Nemenyi's q for four methods is 2.569 (Demšar 2006, table 5), so on 14 data sets CD = 1.25."""
    scores = np.array([[0.9, 0.8, 0.7], [0.5, 0.6, 0.5], [0.9, 0.8, 0.7], [1.0, 1.0, 1.0], [0.3, 0.2, 0.1]])
    average, critical, p = average_ranks(scores)
    assert average == pytest.approx([(1 + 2.5 + 1 + 2 + 1) / 5, (2 + 1 + 2 + 2 + 2) / 5, (3 + 2.5 + 3 + 2 + 3) / 5])
    assert critical == pytest.approx(2.343 * (3 * 4 / (6 * 5)) ** 0.5, abs=1e-3)
    assert p == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    four = average_ranks(np.random.default_rng(0).uniform(size=(14, 4)))
    assert four[1] == pytest.approx(1.25, abs=0.005)
    assert average_ranks(np.ones((5, 3)))[2] == 1
    assert np.isnan(average_ranks([[1, 0]] * 5)[2])


def test_collapsed_values_stand_out() -> None:
    assert collapsed([0.99, 0.98, 0.5, 0.99, 0.97]) == [2]
    assert collapsed([0.99, 0.98, 0.1, 0.99, 0.97, 0.98, 0.99, 0.2]) == [2, 7]
    assert collapsed([0.99, 0.98, 0.95, 0.99, 0.97]) == []  # far by spreads, not by points
    assert collapsed([0.9, 0.6, 0.8, 0.7, 0.5]) == []  # far by points, not by spreads
    assert collapsed([1.0, 1.0, 0.1]) == []  # too few to say which of them is odd


def test_few_normal_values_are_taken_for_collapsed() -> None:
    """The shares that the docstring gives, of 4,000 samples each: ± 4 standard deviations."""
    rng = np.random.default_rng(7)
    for n, share in ((5, 0.05), (10, 0.01)):
        taken = np.mean([bool(collapsed(sample, points=0.0)) for sample in rng.normal(size=(4000, n))])
        assert abs(taken - share) < 4 * (share / 4000) ** 0.5 + 0.005


def test_tests_and_intervals_are_calibrated_over_simulated_sweeps() -> None:
    """2,000 sweeps of five seeds that share what a seed brings: 95 % intervals and 5 % tests keep to their word."""
    rng = np.random.default_rng(11)
    shared = rng.normal(0.9, 0.03, size=(2000, 5))
    a, b = (shared + rng.normal(0, 0.01, size=shared.shape) for _ in range(2))
    found = [paired(x - y) for x, y in zip(a, b, strict=True)]
    covered = np.mean([one.low <= 0 <= one.high for one in found])
    assert 0.93 <= covered <= 0.97
    false = np.mean([one.p < 0.05 for one in found])
    assert 0.03 <= false <= 0.07
    assert covered + false == pytest.approx(1)
    own = mean_interval(a.T)
    assert 0.93 <= np.mean((own.low <= 0.9) & (own.high >= 0.9)) <= 0.97
    ratios = [ratio_of_means(x - 0.5, y - 0.5) for x, y in zip(a, b, strict=True)]
    assert 0.93 <= np.mean([ratio.low <= 1 <= ratio.high for ratio in ratios]) <= 0.97


def test_holm_keeps_the_family_at_its_level() -> None:
    """Of 2,000 families of four tests of nothing, 5 % have any that is significant; without Holm's, 18.5 %."""
    p = np.random.default_rng(13).uniform(size=(2000, 4))
    assert 0.03 <= np.mean([min(holm(list(family))) < 0.05 for family in p]) <= 0.07
    assert holm([]) == []
    assert holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # by hand: 3 × .01, 2 × .03, then the larger
    assert holm([0.01, 0.04, 0.03], tests=6) == pytest.approx([0.06, 0.16, 0.15])
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])  # as R's p.adjust

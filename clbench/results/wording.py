"""How numbers and runs are written in tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clbench.results.record import RunRecord
from clbench.results.statistics import IntervalKind, Paired, mean_interval


def percent(values: Sequence[float], runs: int | None = None, interval: IntervalKind = "t") -> str:
    """Write a mean in per cent with its 95 % interval: ± its half-width, or its bounds where it is a bootstrap's.

    The number of values is given where it isn't that of the runs; without values there is a dash.
    """
    if not values:
        return "–"
    found = mean_interval(values, kind=interval)
    n, mean, low, high = found.n, float(found.mean), float(found.low), float(found.high)
    text = signed(mean, plus=False)
    if n > 1 and interval == "t":
        text += f" ± {100 * (high - mean):.2f}"
    elif n > 1:
        text += f" [{signed(low, plus=False)}, {signed(high, plus=False)}]"
    return text if runs in (None, n) else f"{text} (n = {n})"


def signed(fraction: float, plus: bool = True) -> str:
    """Write a fraction in per cent, with a sign: a plus on request, a minus where it is below 0 as shown."""
    value = round(100 * float(fraction), 2) + 0.0  # no minus before 0.00
    return f"{value:{'+' if plus else ''}.2f}".replace("-", "−")


def of_p(p: float) -> str:
    """Write a p value behind the letter: '= 0.032' or '< 0.001'."""
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"= {p:.2g}"


def spell(found: Paired, p: float | None = None) -> str:
    """Write a paired difference in percentage points: interval, p (the one corrected by Holm, if given), seeds."""
    text = f"{signed(found.mean)} points"
    if found.n == 1:
        return f"{text} (one seed: no test)"
    if math.isnan(found.p):
        return f"{text} (95 % interval {signed(found.low)} to {signed(found.high)}, no test, {found.n} seeds)"
    shown = f"p {of_p(found.p)}" if p is None else f"p {of_p(p)} by Holm"
    return f"{text} (95 % interval {signed(found.low)} to {signed(found.high)}, {shown}, {found.n} seeds)"


def count_of(number: int, what: str) -> str:
    """Write a number of things: '1 run', '2 runs'."""
    return f"{number} {what}{'s' * (number != 1)}"


def failure_title(record: RunRecord) -> str:
    """Say which run a record is of, and the first line of its error."""
    spec = record.spec
    where = f"{spec['label']}, {spec['sequence_label']}, {spec['scenario']}, {spec['model_label']}, seed {spec['seed']}"
    return f"{where}: {record.reason}"

"""Seeds as people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clbench.errors import UsageError, quoted

MAX_SEED = 2**32 - 1  # the largest that NumPy's RandomState takes
MOST_SEEDS = 100_000


def parse_seeds(value: int | str | Sequence[int]) -> list[int]:
    """Read seeds: a count n (0…n−1), a list `0,4,9`, ranges `10-19`, or a sequence of integers."""
    value = getattr(value, "tolist", lambda: value)()  # of NumPy
    if isinstance(value, bool) or not isinstance(value, (int, str, Sequence)):
        raise UsageError(
            f"seeds={quoted(value)}: give a number of seeds, a list such as 0,4,9 or a range such as 10-19"
        )
    if isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal()):
        if not 1 <= int(value) <= MOST_SEEDS:
            what = f"seeds={value} is a number of seeds (5 means 0…4)"
            raise UsageError(f"{what}: give 1 to {MOST_SEEDS:,}, or a single seed as 7-7")
        return list(range(int(value)))
    seeds: dict[int, None] = {}
    for item in value.split(",") if isinstance(value, str) else map(str, value):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", item)
        if match is None:
            raise UsageError(f"seeds={quoted(value)}: cannot read {quoted(item)}; write 5, 0,4,9 or 10-19")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"seeds={quoted(value)}: the range {item} runs backwards")
        if last > MAX_SEED or last - first >= MOST_SEEDS:
            raise UsageError(
                f"seeds={quoted(value)}: {item} is over {MOST_SEEDS:,} seeds, or over the largest, {MAX_SEED}"
            )
        new = dict.fromkeys(range(first, last + 1))
        if twice := sorted(seeds.keys() & new):
            raise UsageError(f"seeds={quoted(value)}: {twice[0]} is there twice")
        seeds |= new
    if not seeds:
        raise UsageError("seeds: at least one is needed")
    return list(seeds)

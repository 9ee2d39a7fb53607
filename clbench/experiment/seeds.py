"""Seeds, and ranges of tasks, as people write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clbench.errors import UsageError, quoted

MAX_SEED = 2**32 - 1  # the largest that NumPy's RandomState takes
MOST_SEEDS = 100_000


def parse_tasks(value: int | str) -> str | None:
    """Read a range of tasks, counted from 0: `0-2`, `3-` to the last, `2`; None for `0-`, which is all of them.

    The answer has both ends, or the first one alone. Raises UsageError for what is no such range.
    """
    match = re.fullmatch(r"\s*(\d{1,6})\s*(-?)\s*(\d{1,6})?\s*", str(value))
    if match is None or isinstance(value, bool) or (match[3] and not match[2]):
        raise UsageError(f"tasks={quoted(value)}: write 0-2, 3- or 2, counted from 0")
    first = int(match[1])
    last = int(match[3]) if match[3] else None if match[2] else first
    if last is None:
        return f"{first}-" if first else None
    if last < first:
        raise UsageError(f"tasks={quoted(value)}: the range runs backwards")
    return f"{first}-{last}"


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

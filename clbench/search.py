"""What `clbench tune` searches a field over, as a method declares it and as `--search` has it. Needs no torch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clbench.errors import UsageError, quoted

FORM = "write LOW..HIGH, LOW..HIGH:log or a list of values, as in 0.1..1e6:log or 1,2,4"


@dataclass(frozen=True)
class Search:
    """The values that a field is searched over: a range, evenly or by its logarithm, or choices.

    It stands in the field's type: `strength: Annotated[float, Search(0.1, 1e6, log=True)] = 10.0`. Without arguments it
    is all choices of a Literal or of a bool. Raises UsageError for a range that runs backwards or has an end alone.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: Sequence[Any] = ()

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None) or (self.low is not None and self.choices):
            raise UsageError("a Search has both low and high, or choices alone")
        if self.low is None or self.high is None:
            return
        if not self.low < self.high:
            raise UsageError(f"the range {self} runs backwards: the lower end comes first")
        if self.log and self.low <= 0:
            raise UsageError(f"the range {self} is searched by its logarithm: its lower end must be above 0")

    @property
    def is_range(self) -> bool:
        return self.low is not None

    def __str__(self) -> str:
        """How it is typed."""
        if not self.is_range:
            return ",".join(map(_spelled, self.choices))
        return f"{_spelled(self.low)}..{_spelled(self.high)}{':log' if self.log else ''}"

    def place(self, value: float) -> float:
        """Return where a value lies in the range: 0 at its lower end, 1 at its upper one."""
        assert self.low is not None
        assert self.high is not None
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low) if value > 0 else -1.0
        return (value - self.low) / (self.high - self.low)


def parse_search(value: Any) -> Search:
    """Read what a field is searched over: text as `--search` has it, a list of values, or a Search.

    Raises UsageError for what cannot be read.
    """
    if isinstance(value, Search):
        return value
    if isinstance(value, (list, tuple)) and value:
        return Search(choices=tuple(value))
    text = str(value).strip()
    if ".." not in text:
        parts = [part.strip() for part in text.split(",")]
        if not all(parts) or ":" in text:
            raise UsageError(f"cannot read {quoted(text)}: {FORM}")
        return Search(choices=tuple(parts))
    ends, log, rest = text.partition(":log")
    try:
        low, high = map(float, ends.split(".."))
    except ValueError:
        rest, low, high = "unread", 0.0, 1.0
    if rest:
        raise UsageError(f"cannot read {quoted(text)}: {FORM}")
    if not abs(low) + abs(high) < float("inf"):
        raise UsageError(f"the range {quoted(text)} has no end: {FORM}")
    return Search(low, high, log=bool(log))


def _spelled(value: Any) -> str:
    """Write a value as it is typed, short."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    return re.sub(r"e([+-])0*", lambda sign: "e" + sign[1].strip("+"), f"{value:g}")

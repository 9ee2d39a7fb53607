"""The trials of a search for a method's settings, as records of tuned runs have them. Needs no Matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from clbench.results.names import spelled
from clbench.search import parse_search


@dataclass(frozen=True)
class Field:
    """A field that was searched: a range, by its logarithm or not, or the choices in their order, as they are typed."""

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: Sequence[str] = ()


@dataclass(frozen=True)
class Searched:
    """All trials of one method.

    `trials` has a line for each: `trial`, `score`, `ci_low`, `ci_high` in per cent, NaN where a run failed, and the
    value of each field. `chosen` and `default` are numbers of trials.
    """

    fields: Sequence[Field]
    trials: pd.DataFrame
    chosen: int | None
    default: int | None


def searched(tuning: Mapping[str, Any]) -> Searched | None:
    """Return the trials that a record's tuning, or a preset's, tells of; None if there are none."""
    tried = tuning.get("tried")
    if not tried:
        return None
    spaces = {name: parse_search(space) for name, space in tuning["space"].items()}
    fields = [
        Field(name, space.low, space.high, space.log, tuple(map(spelled, space.choices)))
        for name, space in spaces.items()
    ]
    lines = []
    for number, trial in enumerate(tried):
        low, high = trial.get("interval") or (None, None)
        values = {one.name: trial["at"].get(one.name) for one in fields}
        values |= {one.name: spelled(values[one.name]) for one in fields if one.choices}
        lines.append({"trial": number, "score": trial.get("score"), "ci_low": low, "ci_high": high, **values})
    numbers = {
        name: next((number for number, trial in enumerate(tried) if trial.get(name)), None)
        for name in ("chosen", "default")
    }
    frame = pd.DataFrame(lines)
    frame[["score", "ci_low", "ci_high"]] = frame[["score", "ci_low", "ci_high"]].astype(float)
    return Searched(fields, frame, numbers["chosen"], numbers["default"])

"""How settings were chosen, as a preset, the records of its runs and a report have it. Needs no torch."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge
from pydantic import ConfigDict

from clbench.errors import UsageError, did_you_mean, quoted
from clbench.search import Search, parse_search

SearchBy = Literal["tpe", "random", "grid"]
ProtocolName = Literal["first-tasks", "stream-validation", "none"]
USUAL = 3  # tasks of first-tasks, as Chaudhry et al. 2019 have it
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Protocol:
    """What settings are chosen on: never a test image.

    first-tasks: a validation share of the training images of the sequence's first tasks, which are left out of what is
    reported (Chaudhry et al. 2019, arXiv 1812.00420). stream-validation: of all its tasks, which sees the future. none:
    nothing is chosen.
    """

    name: ProtocolName = "first-tasks"
    tasks: int | None = None  # of first-tasks; None: three, or half of the sequence's where it has fewer than six

    def __str__(self) -> str:
        return self.name + (f"@tasks={self.tasks}" if self.tasks else "")


def parse_protocol(value: str | Protocol) -> Protocol:
    """Read a protocol: a name, or `first-tasks@tasks=3`; raise UsageError for any other."""
    if isinstance(value, Protocol):
        return value
    name, at, setting = str(value).partition("@")
    if name not in get_args(ProtocolName):
        raise UsageError(f"unknown protocol {quoted(name)}{did_you_mean(name, get_args(ProtocolName))}")
    found = re.fullmatch(r"tasks=([1-9]\d{0,5})", setting)
    if at and (found is None or name != "first-tasks"):
        raise UsageError(f"protocol {quoted(value)}: first-tasks alone has a setting, as in first-tasks@tasks=3")
    return Protocol(name, int(found[1]) if found else None)  # type: ignore[arg-type]


def parse_searches(value: Any) -> dict[str, dict[str, Search]]:
    """Read NAME.FIELD=SPACE, as `--search` has it, or such a mapping, into {name: {field: space}}."""
    if isinstance(value, str) or not isinstance(value, (Mapping, list, tuple)):
        raise UsageError(f"search={quoted(value)}: spaces are written as {{'ewc.strength': '0.1..1e6:log', …}}")
    pairs = value.items() if isinstance(value, Mapping) else [str(text).partition("=")[::2] for text in value]
    spaces: dict[str, dict[str, Search]] = {}
    for key, space in pairs:
        name, _, own = str(key).strip().rpartition(".")
        if not (name and own) or space == "":
            what = f"cannot read --search {quoted(key)}"
            raise UsageError(f"{what}: write NAME.FIELD=SPACE, as in ewc.strength=0.1..1e6:log")
        if own in spaces.setdefault(name, {}):
            raise UsageError(f"--search {key} is given twice")
        try:
            spaces[name][own] = parse_search(space)
        except UsageError as error:
            raise UsageError(f"--search {key}: {error}") from None
    return spaces


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the settings of a preset's rows were chosen; `clbench tune` writes it."""

    __pydantic_config__ = _STRICT
    protocol: ProtocolName
    tasks: str | None = None  # that settings were chosen on; none: all
    validation: float = 0.0  # share of these tasks' training images that settings were scored on
    seeds: list[int] = field(default_factory=list)
    search_by: SearchBy | None = None  # with the protocol 'none' there is none of these
    trial: bool = False  # whether these are runs that settings are chosen by, and none to report


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A trial of a search."""

    __pydantic_config__ = _STRICT
    at: dict[str, Any]  # the value of each field that was searched; one that is none is left out
    score: float | None = None  # as that of Tuned; none: a run failed
    interval: list[float] | None = None
    chosen: bool = False
    default: bool = False  # whether it is the method's own setting


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What the search for a row's settings came to, and what it cost."""

    __pydantic_config__ = _STRICT
    score: float | None = None  # accuracy on validation images after the last task, per cent: mean over tuning seeds
    interval: list[float] | None = None  # of that mean, 95 %
    trials: Annotated[int, Ge(0)]
    failed: Annotated[int, Ge(0)] = 0  # trials of which a run failed
    settings: Annotated[int, Ge(0)]  # different ones among the trials
    updates: Annotated[int, Ge(0)]  # of all their runs
    seconds: Annotated[float, Ge(0)]  # of training, in all of them
    space: dict[str, str] = field(default_factory=dict)  # field: what it was searched over, as --search has it
    tried: list[Tried] = field(default_factory=list)


def told(tuning: Tuning | None, tuned: Tuned | None) -> dict[str, Any]:
    """Return what a record says of its tuning, as plain values: nothing where nothing was tuned."""
    if tuning is None:
        return {}
    how = {name: value for name, value in vars(tuning).items() if value}
    return {"tuning": how | ({} if tuned is None else plain(tuned))}


def plain(tuned: Tuned) -> dict[str, Any]:
    """Return what a search came to as plain values, without what there is not."""
    content = {name: value for name, value in dataclasses.asdict(tuned).items() if value is not None}
    content["tried"] = [
        {name: value for name, value in trial.items() if value not in (None, False)} for trial in content["tried"]
    ]
    return content

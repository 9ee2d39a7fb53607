"""What a preset is: its rows, the numbers that were published for them, and the claims on their order."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, MinLen
from pydantic import BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from clbench.errors import DataError, UsageError, close_names
from clbench.experiment.seeds import parse_tasks
from clbench.experiment.tuned import Tuned, Tuning

Scenario = Literal["task", "class", "domain"]
SCENARIOS = get_args(Scenario)
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Scenarios = Annotated[list[Scenario], MinLen(1)]
# the run's seed's own, that of the data set, another seed's, or NumPy's permutation: at most 2³² − 1, as NumPy has it
ORDER_RULES = r"seed|fixed|(seed|numpy):\d{1,9}"
Seeds = int | str | list[int]  # as --seeds has them
Precision = Literal["fp32", "tf32", "bf16"]
Evaluate = Literal["all", "seen", "end"]
Number = tuple[float, float | None]  # a published mean, and what stands after ±, in per cent
NUMBER = "a mean, or a mean and what stands after ±, such as 24.17 or [24.17, 0.51]"


def _class_order(value: Any) -> Any:
    """Refuse text that is no rule."""
    if isinstance(value, str) and not re.fullmatch(ORDER_RULES, value):
        raise PydanticCustomError("class_order", "seed, fixed, seed:7, numpy:1993 or a list of classes is needed")
    return value


ClassOrder = Annotated[str | list[int], BeforeValidator(_class_order)]


def _number(value: Any) -> Any:
    """Read a published number as it stands in a file."""
    parts = list(value) if isinstance(value, (list, tuple)) else [value]
    numbers = all(part is None or (isinstance(part, (int, float)) and not isinstance(part, bool)) for part in parts)
    if not numbers or len(parts) not in (1, 2) or parts[0] is None:
        raise PydanticCustomError("number", NUMBER)
    return (*parts, None)[:2]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is known of the published numbers in the rows: average accuracies after the last task."""

    __pydantic_config__ = _STRICT
    source: str
    n: Annotated[int, Ge(1)]  # repeats behind a mean
    # what stands after ±: the standard deviation of the repeats, the standard error of their mean, or unstated. Where
    # it is unstated both readings are shown, and the first of `readings` decides. None where no number has a ±
    error: Literal["sd", "sem", "unstated"] | None = None
    readings: Annotated[list[Literal["sd", "sem"]], MinLen(1)] = field(default_factory=lambda: ["sd", "sem"])
    ddof: Literal[0, 1] = 1  # of a standard deviation: 0 where the sum of squares was divided by n
    # of the numbers in the file; said outright, a number below 1 is no mistake. Here they are always in per cent
    unit: Literal["per cent", "fraction"] | None = None
    decimals: Annotated[int, Ge(0)] | None = None  # that the numbers are printed with: 2, or 4 of a fraction
    note: str = ""

    @property
    def kinds(self) -> list[Literal["sd", "sem"]]:
        """How ± is read, the reading that decides first."""
        return self.readings if self.error == "unstated" else [self.error or "sd"]

    @property
    def scale(self) -> int:
        """What the file's numbers are multiplied by to be in per cent."""
        return 100 if self.unit == "fraction" else 1

    @property
    def rounding(self) -> float:
        """The most that rounding may have moved a published mean, in per cent."""
        printed = (4 if self.unit == "fraction" else 2) if self.decimals is None else self.decimals
        return 0.5 * 10.0**-printed * self.scale


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a preset: a method with its fields, and perhaps with settings of its own.

    A control is a row with a fault on purpose: what it says differs from the row that it is a control of, whose
    published numbers it should miss. It is run when it is named, or by `verify --controls`.
    """

    __pydantic_config__ = _STRICT
    label: str
    method: str = ""
    control_of: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    # what the row has otherwise than the preset: name and fields, or only fields
    sequence: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    class_order: ClassOrder | None = None
    seeds: Seeds | None = None
    precision: Precision | None = None
    scenarios: Scenarios | None = None  # where the row exists; none: wherever the preset does
    view: Literal["task-aware", "task-agnostic"] | None = None  # that is compared; none: the scenario's own
    published: dict[Scenario, Annotated[Number, BeforeValidator(_number)]] = field(default_factory=dict)
    note: str = ""
    tuning: Tuned | None = None

    @property
    def asks_for(self) -> Row:
        """The row without what changes no run: rows with the same answer share their runs."""
        return replace(self, label="", view=None, scenarios=None, published={}, note="", control_of="", tuning=None)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An ordering of two rows that a paper claims, on old tasks (the mean of all but the last) or on the new one."""

    __pydantic_config__ = _STRICT
    on: Literal["old", "new"]
    better: str  # the labels of two rows
    worse: str
    strictly: bool = False  # >, else ≥


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named experiment; what it leaves out is the user's to choose."""

    __pydantic_config__ = _STRICT
    name: str = ""  # the file's, without .toml
    folder: Path = Path()  # the file's: paths in it are relative to that
    title: str
    scenarios: Scenarios
    sequence: dict[str, Any] = field(default_factory=dict)  # name and fields
    class_order: ClassOrder | None = None
    model: dict[str, Any] = field(default_factory=dict)  # name and fields; without a name, fields of any backbone
    training: dict[str, Any] = field(default_factory=dict)
    seeds: Seeds | None = None
    precision: Precision | None = None
    evaluate: Evaluate | None = None  # which tasks are evaluated, and when
    tasks: Annotated[str | None, BeforeValidator(parse_tasks)] = None  # those that are learnt, as --tasks has them
    rows: list[Row]
    published: Published | None = None
    claims: list[Claim] = field(default_factory=list)
    tuning: Tuning | None = None  # how the settings of the rows were chosen

    def choose(self, labels: Sequence[str] | None, controls: bool = False) -> list[Row]:
        """Return the rows of these labels, or all, with or without the controls; a grid's label names all its points.

        Raises UsageError for a label that is not there.
        """
        if labels is None:
            return [row for row in self.rows if controls or not row.control_of]
        known = [row.label for row in self.rows]
        asked: set[str] = set()
        for label in labels:
            found = {label} & set(known) or {name for name in known if name.startswith(f"{label}@")}
            if not found:
                raise UsageError(f"preset {self.name} has no row {label!r}{choose_from(label, known)}")
            asked |= found
        return [row for row in self.rows if row.label in asked or (controls and row.control_of in asked)]

    def where(self, row: Row) -> list[Scenario]:
        """Return the scenarios that a row is run in."""
        return row.scenarios or self.scenarios

    def has_runs_of(self, row: Row) -> str:
        """Return the label of the first row that asks for the same runs, to compare another view of them."""
        for other in self.rows:
            if other == row or (other.view != row.view and other.asks_for == row.asks_for):
                return other.label
        return row.label


@contextlib.contextmanager
def in_row(preset: str, label: str) -> Iterator[None]:
    """Let a UsageError say which row of a preset it is about; data that are missing are missing for all."""
    try:
        yield
    except DataError:
        raise
    except UsageError as error:
        raise UsageError(f"preset {preset}, row {label!r}: {error}") from error


def choose_from(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: a hint at close ones, and the list of all there are."""
    known = list(known)
    close = close_names(name, known)
    return f"{close} There are {', '.join(known)}" if close else f": choose from {', '.join(known)}"


def over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Put a row's sequence or model over the preset's: the same one with other fields, or another one."""
    return {**base, **own} if own.get("name", base.get("name")) == base.get("name") else dict(own)


def at(values: Mapping[str, Any], scenario: str | None) -> dict[str, Any]:
    """Return settings for one scenario, tables by scenario resolved."""
    there = {name: value if isinstance(value, dict) else {scenario: value} for name, value in values.items()}
    return {name: value[scenario] for name, value in there.items() if scenario in value}

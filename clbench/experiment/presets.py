"""Presets: whole experiments as TOML files, with the numbers that a paper published for them.

The built-in ones are in `protocols`; a user's own file works the same way. Any value may be a table by
scenario, `{ task = 100, domain = 100, class = 600 }`: a scenario that it leaves out keeps the default.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, MinLen
from pydantic import ConfigDict, TypeAdapter, ValidationError

from clbench.errors import UsageError, did_you_mean, quoted
from clbench.experiment.registry import reason

FOLDER = Path(__file__).parent / "protocols"
Scenario = Literal["task", "class", "domain"]
SCENARIOS = get_args(Scenario)
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Scenarios = Annotated[list[Scenario], MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is known of the published numbers in the rows: average accuracies after the last task, in per cent."""

    __pydantic_config__ = _STRICT
    source: str
    n: Annotated[int, Ge(2)]  # repeats behind a mean
    # what stands after ±: the standard deviation of the repeats, the standard error of their mean, or unstated. Where
    # it is unstated both readings are shown, and the first of `readings` decides
    error: Literal["sd", "sem", "unstated"]
    readings: list[Literal["sd", "sem"]] = field(default_factory=lambda: ["sd", "sem"])
    ddof: Literal[0, 1] = 1  # of a standard deviation: 0 where the sum of squares was divided by n
    decimals: int = 2  # that the numbers are printed with
    note: str = ""

    @property
    def kinds(self) -> list[Literal["sd", "sem"]]:
        """How ± is read, the reading that decides first."""
        return self.readings if self.error == "unstated" else [self.error]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a preset: a method with its fields, and perhaps with an optimiser of its own.

    A control is a row with a fault on purpose: what it says differs from the row that it is a control of, whose
    published numbers it should miss. It is run when it is named, or by `verify --controls`.
    """

    __pydantic_config__ = _STRICT
    label: str
    method: str = ""
    control_of: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    scenarios: Scenarios | None = None  # where the row exists; none: wherever the preset does
    published: dict[Scenario, tuple[float, float]] = field(default_factory=dict)
    note: str = ""


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
    title: str
    scenarios: Scenarios
    sequence: dict[str, Any] = field(default_factory=dict)  # name and fields
    class_order: Literal["seed", "fixed"] | list[int] | None = None
    model: dict[str, Any] = field(default_factory=dict)  # name and fields; without a name, fields of any backbone
    training: dict[str, Any] = field(default_factory=dict)
    rows: list[Row]
    published: Published | None = None
    claims: list[Claim] = field(default_factory=list)

    def choose(self, labels: Sequence[str] | None, controls: bool = False) -> list[Row]:
        """Return the rows of these labels, or all, with or without the controls.

        Raises UsageError for a label that is not there.
        """
        known = [row.label for row in self.rows]
        for label in labels or ():
            if label not in known:
                raise UsageError(f"preset {self.name} has no row {label!r}{did_you_mean(label, known)}")
        if labels is None:
            return [row for row in self.rows if controls or not row.control_of]
        return [row for row in self.rows if row.label in labels or (controls and row.control_of in labels)]


def at(values: dict[str, Any], scenario: str | None) -> dict[str, Any]:
    """Return settings for one scenario, tables by scenario resolved."""
    there = {name: value if isinstance(value, dict) else {scenario: value} for name, value in values.items()}
    return {name: value[scenario] for name, value in there.items() if scenario in value}


def names() -> list[str]:
    """Return the names of the built-in presets."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(reference: str | Path) -> Preset:
    """Read a preset, by its name or from a .toml file; raise UsageError that says what is wrong with it."""
    path = Path(reference).expanduser()
    if path.suffix != ".toml":
        if str(reference) not in names():
            hint = f": there is a file {path}.toml, name it so" if os.path.isfile(f"{path}.toml") else ""
            raise UsageError(f"unknown preset {quoted(str(reference))}{hint or did_you_mean(str(reference), names())}")
        path = FOLDER / f"{reference}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the preset {reference} is not TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the preset {reference} cannot be read: {getattr(error, 'strerror', error)}") from None
    if "name" in content:
        raise UsageError(f"the preset {reference} has an entry 'name', but its name is the file's: call it title")
    try:
        preset = TypeAdapter(Preset).validate_python({**content, "name": path.stem})
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UsageError(f"the preset {reference} is wrong at {place}: {reason(error)}") from None
    preset = replace(preset, rows=[_completed(row, preset) for row in preset.rows])
    _check(preset)
    return preset


def _completed(row: Row, preset: Preset) -> Row:
    """Fill a control in from the row that it is a control of."""
    if not row.control_of:
        return row
    for base in preset.rows:
        if base.label == row.control_of and not base.control_of:
            where = row.scenarios or base.scenarios or preset.scenarios
            return replace(
                row,
                method=row.method or base.method,
                scenarios=where,
                fields={**base.fields, **row.fields},
                training={**base.training, **row.training},
                published={scenario: pair for scenario, pair in base.published.items() if scenario in where},
            )
    what = f"{row.label!r} is a control of {row.control_of!r}, which is no row"
    raise UsageError(f"the preset {preset.name} is wrong: {what}")


def _check(preset: Preset) -> None:
    """Raise UsageError for what the types cannot say."""

    def need(condition: bool, otherwise: str) -> None:
        if not condition:
            raise UsageError(f"the preset {preset.name} is wrong: {otherwise}")

    labels = [row.label for row in preset.rows]
    need(bool(labels), "it has no rows")
    need(not preset.sequence or isinstance(preset.sequence.get("name"), str), "[sequence] has no name")
    need(isinstance(preset.model.get("name", ""), str), "the name in [model] is no text")
    tables = [preset.sequence, preset.model, preset.training]
    for row in preset.rows:
        name = f"the row {row.label!r}"
        need(labels.count(row.label) == 1, f"two rows are called {row.label!r}")
        fine = row.label == row.label.strip() != "" and "," not in row.label
        need(fine, f"{name}: a label is not empty, has no comma and no space at its ends")
        need(row.method != "", f"{name} names no method")
        need(not row.published or preset.published is not None, f"{name}: there is no [published] with its source")
        outside = sorted(set(row.scenarios or ()) - set(preset.scenarios))
        need(not outside, f"{name} is in the scenario {', '.join(outside)}, the preset is not")
        tables += [row.fields, row.training]
    for label in (label for claim in preset.claims for label in (claim.better, claim.worse)):
        need(label in labels, f"a claim is on {label!r}, which is no row")
    for table in tables:
        for name, value in table.items():
            by_scenario = not isinstance(value, dict) or (bool(value) and set(value) <= set(SCENARIOS))
            need(by_scenario, f"{name} is a table, but not one by scenario ({', '.join(SCENARIOS)})")

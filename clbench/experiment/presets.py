"""Presets as files: whole experiments in TOML, with the numbers that a paper published for them.

The built-in ones are in `protocols`; a user's own file works the same way. Any value may be a table by
scenario, `{ task = 100, domain = 100, class = 600 }`, which has every scenario that is run. In a row, a list is a grid:
the row stands for one row per point.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from clbench.errors import UsageError, did_you_mean, quoted
from clbench.experiment.fields import reason
from clbench.experiment.preset import SCENARIOS, Claim, Preset, Published, Row, Scenario, at, choose_from, over
from clbench.experiment.seeds import parse_seeds
from clbench.results.names import spelled

__all__ = ["SCENARIOS", "Claim", "Preset", "Published", "Row", "Scenario", "at", "load", "names"]
FOLDER = Path(__file__).parent / "protocols"
GRIDS = ("fields", "training", "sequence", "model")  # the tables of a row in which a list is a grid
OURS = ("name", "folder")  # of a preset, not entries of its file


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
    return made(read_toml(path, "preset", reference), path, reference)


def read_toml(path: Path, what: str, reference: str | Path) -> dict[str, Any]:
    """Return the content of a file, for people a `what` called `reference`; raise UsageError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the {what} {reference} is not TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the {what} {reference} cannot be read: {getattr(error, 'strerror', error)}") from None


def made(content: dict[str, Any], path: Path, reference: str | Path) -> Preset:
    """Make a preset of a file's content; raise UsageError that says what is wrong with it.

    Options of a sweep, in a table [run], are no part of it: --config reads them.
    """
    try:
        return _checked({name: value for name, value in content.items() if name != "run"}, path)
    except UsageError as error:
        raise UsageError(f"the preset {reference} is wrong: {error}") from None


def _checked(content: dict[str, Any], path: Path) -> Preset:
    """Make a preset of a file's content: grids spread out, controls filled in; raise UsageError for what is wrong."""
    _check_entries(content)
    try:
        own = {"name": path.stem, "folder": path.absolute().parent}
        preset = TypeAdapter(Preset).validate_python(content | own)
    except ValidationError as error:
        raise UsageError(_what_is_wrong(error, content)) from None
    for section in GRIDS[1:]:
        if lists := [name for name, value in getattr(preset, section).items() if isinstance(value, list)]:
            raise UsageError(f"[{section}]: {lists[0]} is a list; a grid stands in a row: {section} = {{ … }} there")
    preset = replace(preset, rows=[point for row in preset.rows for point in _points_of(row)])
    preset = replace(preset, rows=[_completed(row, preset) for row in preset.rows])
    _check(preset)
    return replace(preset, rows=[_in_per_cent(row, preset.published) for row in preset.rows])


# ----------------------------------------------------------------------------------------------------------------------
# The file


def _check_entries(content: Mapping[str, Any]) -> None:
    """Raise UsageError for an entry that there is not."""
    if "name" in content:
        raise UsageError("it has an entry 'name', but its name is the file's: call it title")
    places: list[tuple[str, Any, type]] = [("the file", content, Preset)]
    places.append(("[published]", content.get("published"), Published))
    kinds: list[tuple[str, type]] = [("rows", Row), ("claims", Claim)]
    for kind, cls in kinds:
        places += [(_place(kind, i, content), table, cls) for i, table in enumerate(_list(content.get(kind)))]
    for place, table, cls in places:
        known = [field.name for field in dataclasses.fields(cls) if field.name not in OURS]
        for name in table if isinstance(table, dict) else ():
            if name not in known:
                raise UsageError(f"{place} has no entry {name!r}{choose_from(name, known)}")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _place(kind: str, index: int, content: Mapping[str, Any]) -> str:
    """Name a row by its label, a claim by its place."""
    if kind == "claims":
        return f"claim {index + 1}"
    row = content["rows"][index]
    label = row.get("label") if isinstance(row, dict) else None
    return f"the row {label!r}" if isinstance(label, str) else f"row {index + 1}"


def _what_is_wrong(error: ValidationError, content: Mapping[str, Any]) -> str:
    """Say in one line what pydantic finds wrong first, and where."""
    first = error.errors()[0]
    place, where = list(first["loc"]), []
    if place[0] in ("rows", "claims") and len(place) > 1:
        where, place = [_place(str(place[0]), int(place[1]), content)], place[2:]
    elif len(place) > 1 and isinstance(content[str(place[0])], dict):
        where, place = [f"[{place[0]}]"], place[1:]
    # what follows are the places of lists, keys, and pydantic's names of what a value may be
    where += [str(part) for part in place if str(part).isidentifier()][: 2 if place[:1] == ["published"] else 1]
    told, value = reason(error), first["input"]
    allowed = first.get("ctx", {}).get("expected", "")
    if first["type"] == "missing":
        told = "it is missing"
    elif first["type"] == "literal_error" and set(SCENARIOS) <= set(re.findall(r"\w+", allowed)):
        told = f"{value!r} is no scenario: choose from {', '.join(SCENARIOS)}"
    elif first["type"] == "literal_error":
        told = f"{value!r} is not one of {allowed}"
    else:
        told = re.sub(r"(valid )?dictionary( or an instance of \w+)?", "table", told) + f"; it is {value!r}"
    return ": ".join([*where, told])


# ----------------------------------------------------------------------------------------------------------------------
# Rows


def _points_of(row: Row) -> Iterator[Row]:
    """Yield a row for each point of a row's grid, the row itself where it has none."""
    grid = [(table, name) for table in GRIDS for name, value in getattr(row, table).items() if isinstance(value, list)]
    values = [getattr(row, table)[name] for table, name in grid]
    if not grid:
        yield row
        return
    if [] in values:
        raise UsageError(f"the row {row.label!r}: {grid[values.index([])][1]} is an empty list")
    if row.published:
        raise UsageError(f"the row {row.label!r} has published numbers and is a grid: give each point a row of its own")
    for point in itertools.product(*values):
        tables: dict[str, Any] = {table: dict(getattr(row, table)) for table in GRIDS}
        label = row.label
        for (table, name), value in zip(grid, point, strict=True):
            tables[table][name] = value
            label += f"@{name}={spelled(value)}"
        yield replace(row, label=label, **tables)


def _completed(row: Row, preset: Preset) -> Row:
    """Fill a control in from the row that it is a control of."""
    if not row.control_of:
        return row
    if row.published:
        raise UsageError(f"the row {row.label!r} is a control: it has the published numbers of {row.control_of!r}")
    rows = {base.label: base for base in preset.rows if not base.control_of}
    if row.control_of not in rows:
        what = f"the row {row.label!r} is a control of {row.control_of!r}, which is no row"
        raise UsageError(what + choose_from(row.control_of, rows))
    base = rows[row.control_of]
    where = row.scenarios or base.scenarios or preset.scenarios
    published = {scenario: pair for scenario, pair in base.published.items() if scenario in where}
    alone = ("method", "class_order", "seeds", "precision", "view")
    filled: dict[str, Any] = {name: getattr(row, name) or getattr(base, name) for name in alone}
    filled |= {table: over(getattr(base, table), getattr(row, table)) for table in GRIDS}
    return replace(row, scenarios=where, published=published, **filled)


def _in_per_cent(row: Row, published: Published | None) -> Row:
    """Return a row with its published numbers in per cent."""
    if published is None or published.scale == 1:
        return row
    scaled = {
        scenario: (published.scale * mean, None if error is None else published.scale * error)
        for scenario, (mean, error) in row.published.items()
    }
    return replace(row, published=scaled)


# ----------------------------------------------------------------------------------------------------------------------
# What the types cannot say


def _need(condition: object, otherwise: str) -> None:
    if not condition:
        raise UsageError(otherwise)


def _check(preset: Preset) -> None:
    """Raise UsageError for what the types cannot say."""
    labels = [row.label for row in preset.rows]
    _need(bool(labels), "it has no rows")
    _need(len(set(preset.scenarios)) == len(preset.scenarios), "scenarios: one is there twice")
    _need(not preset.sequence or isinstance(preset.sequence.get("name"), str), "[sequence] has no name")
    _need(isinstance(preset.model.get("name", ""), str), "the name in [model] is no text")
    for section in GRIDS[1:]:
        _check_tables(f"[{section}]", getattr(preset, section), preset.scenarios)
    if preset.seeds is not None:
        parse_seeds(preset.seeds)
    for row in preset.rows:
        _need(labels.count(row.label) == 1, f"two rows are called {row.label!r}")
        _check_row(row, preset)
    for one, other in itertools.combinations(preset.rows, 2):
        if one.view == other.view and one.asks_for == other.asks_for and {*preset.where(one)} & {*preset.where(other)}:
            raise UsageError(f"the rows {one.label!r} and {other.label!r} ask for the same runs, by the same view")
    for label in (label for claim in preset.claims for label in (claim.better, claim.worse)):
        _need(label in labels, f"a claim is on {label!r}, which is no row{choose_from(label, labels)}")


def _check_row(row: Row, preset: Preset) -> None:
    name = f"the row {row.label!r}"
    fine = row.label == row.label.strip() != "" and "," not in row.label
    _need(fine, f"{name}: a label has no comma and no space at its ends, and is not empty")
    _need(row.method != "", f"{name} names no method")
    outside = sorted(set(row.scenarios or ()) - set(preset.scenarios))
    there = f"those of the preset are {', '.join(preset.scenarios)}"
    _need(not outside, f"{name} is in the scenario {', '.join(outside)}, the preset is not: {there}")
    for table in GRIDS:
        _check_tables(f"{name}: {table}", getattr(row, table), preset.where(row))
    for table in ("sequence", "model"):
        own = getattr(row, table).get("name", "")
        _need(isinstance(own, str), f"{name}: the name in {table} is no text")
        _need(table == "model" or not row.sequence or bool(own or preset.sequence), f"{name}: sequence has no name")
    if row.seeds is not None:
        try:
            parse_seeds(row.seeds)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None
    _check_published(name, row, preset)


def _check_published(name: str, row: Row, preset: Preset) -> None:
    published = preset.published
    if not row.published:
        return
    if published is None:
        raise UsageError(f"{name} has published numbers, but there is no [published] with their source and n")
    there = preset.where(row)
    for scenario, (mean, error) in row.published.items():
        what = f"{name}: published: {scenario}"
        _need(scenario in there, f"{what} is a scenario that the row is not run in: those are {', '.join(there)}")
        unit = published.unit or "per cent"
        most = 1 if unit == "fraction" else 100
        _need(0 <= mean <= most, f"{what}: {mean} is no accuracy between 0 and {most} (unit = {unit!r} in [published])")
        _need(error is None or error >= 0, f"{what}: {error} after ± is below 0")
        _need(
            published.unit is not None or not 0 < mean <= 1,
            f"{what}: {mean} looks like a fraction, and numbers are in per cent: write {100 * mean:g}, or say "
            f'unit = "fraction" (or "per cent") in [published]',
        )
        _need(error is None or published.n > 1, f"{what}: a single repeat (n = 1) has no ±: give the number alone")
        _need(
            error is None or published.error is not None,
            f"{what}: [published] does not say what stands after ±: error is 'sd', 'sem' or 'unstated'",
        )


def _check_tables(where: str, table: Mapping[str, Any], scenarios: Sequence[Scenario]) -> None:
    for name, value in table.items():
        if isinstance(value, dict):
            by_scenario = bool(value) and set(value) <= set(SCENARIOS)
            _need(by_scenario, f"{where}: {name} is a table, but not one by scenario ({', '.join(SCENARIOS)})")
            lists = any(isinstance(each, list) for each in value.values())
            _need(
                not lists, f"{where}: {name} is a grid in one scenario: give each scenario's points rows of their own"
            )
            missing = [scenario for scenario in scenarios if scenario not in value]
            _need(not missing, f"{where}: {name} has no value for the scenario {', '.join(missing)}: write it out")

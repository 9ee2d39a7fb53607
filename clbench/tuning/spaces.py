"""What is searched of each method: the spaces that its fields declare, and those that were asked for."""

from __future__ import annotations

import itertools
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clbench.errors import UsageError
from clbench.experiment import registry
from clbench.experiment.catalogue import Field
from clbench.experiment.fields import hints_of, parse_fields, search_of
from clbench.experiment.points import Choice, choose
from clbench.experiment.preset import Row
from clbench.experiment.request import Request
from clbench.method import Training
from clbench.results.names import spelled
from clbench.search import Search

DIGITS = 3  # of a value that is drawn: nobody reads more, and no method needs them
NEAR = 0.02  # of a range: a value as close to its end lies at its edge


@dataclass(frozen=True)
class Dimension:
    """One field that is searched, of the method or, as `training.lr`, of training."""

    name: str
    search: Search  # its choices of the field's type
    integer: bool
    bounded: tuple[bool, bool]  # whether its ends are those of the field itself

    def rounded(self, value: Any) -> Any:
        """Return a value that was drawn as it is run: an integer, or three digits, within the range."""
        if not self.search.is_range:
            return value
        assert self.search.low is not None
        assert self.search.high is not None
        short = round(value) if self.integer else float(f"{value:.{DIGITS}g}")
        return min(max(short, self._end(self.search.low)), self._end(self.search.high))

    def has(self, value: Any) -> bool:
        """Whether a value lies in the space."""
        if not self.search.is_range:
            return value in self.search.choices
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and 0 <= self.search.place(value) <= 1

    def grid(self, points: int) -> list[Any]:
        """Return all choices, or so many values that share a range evenly; each once."""
        if not self.search.is_range:
            return list(self.search.choices)
        low, high = self.search.low, self.search.high
        assert low is not None
        assert high is not None
        shares = [point / max(points - 1, 1) for point in range(points)]
        values = [low * (high / low) ** t if self.search.log else low + t * (high - low) for t in shares]
        return list(dict.fromkeys(map(self.rounded, values)))

    def edge(self, value: Any) -> str:
        """Return at which end of its range a value lies, '' if at none, or if the field itself ends there."""
        if not self.search.is_range:
            return ""
        place = self.search.place(value)
        if place <= NEAR:
            return "" if self.bounded[0] else "lower"
        return "upper" if place >= 1 - NEAR and not self.bounded[1] else ""

    def _end(self, value: float) -> Any:
        return round(value) if self.integer else float(value)


@dataclass(frozen=True)
class Candidate:
    """A method to tune: what is fixed of it, and what is searched."""

    label: str
    choice: Choice
    space: Sequence[Dimension]
    training: Mapping[str, Any] = field(default_factory=dict)  # training settings as they are by default

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that are not the defaults."""
        usual, searched = registry.defaults(type(self.choice.instance)), {one.name for one in self.space}
        values = {**self.choice.fields, **self.choice.files}
        return {name: x for name, x in values.items() if x != usual[name] and name not in searched}

    @property
    def default(self) -> dict[str, Any] | None:
        """The values that the searched fields have by default, if they lie in the space."""
        values = {one.name: self._default_of(one.name) for one in self.space}
        return values if all(one.has(values[one.name]) for one in self.space) else None

    def _default_of(self, name: str) -> Any:
        owner, _, own = name.rpartition(".")
        return self.training[own] if owner else getattr(self.choice.instance, own)

    def row(self, values: Mapping[str, Any], **more: Any) -> Row:
        """Return the row of a preset that has these values of the searched fields."""
        own = {name: value for name, value in values.items() if "." not in name}
        training = {name.rpartition(".")[2]: value for name, value in values.items() if "." in name}
        fields = {name: "none" if value is None else value for name, value in {**self.fixed, **own}.items()}
        label = more.pop("label", self.label + "".join(f"@{name}={spelled(v)}" for name, v in values.items()))
        return Row(label=label, method=self.choice.reference, fields=fields, training=training, **more)


def candidates(rows: Sequence[Row], request: Request, training: Training) -> list[Candidate]:
    """Return the methods to tune with their spaces; raise UsageError for a space that a field cannot have."""
    found = []
    for row in rows:
        (choice,) = choose("method", [row.method], request.settings)
        fixed = {*(setting.partition("=")[0] for setting in row.method.split("@")[1:])}
        fixed |= {*request.settings.get(choice.reference, {})}
        cls = type(choice.instance)
        spaces = {name: search_of(hint) for name, hint in hints_of(cls).items() if name not in fixed}
        for name, own in request.search.get(choice.reference, {}).items():
            if name in fixed:
                raise UsageError(f"{choice.label}: {name} has a value, and is to be searched too: leave one out")
            spaces[name] = own
        space = [_dimension(choice.reference, name, own, cls) for name, own in spaces.items() if own is not None]
        space += [_dimension("training", name, s, Training) for name, s in request.search.get("training", {}).items()]
        found.append(Candidate(choice.label, choice, space, vars(training)))
    return found


def _dimension(owner: str, name: str, search: Search, cls: type) -> Dimension:
    known = registry.defaults(cls)
    hint = hints_of(cls).get(name)
    fields = {own: Field(own, hints_of(cls)[own], default, "") for own, default in known.items()}

    def parsed(value: Any) -> Any:
        return parse_fields(owner, fields, {name: value})[name]

    full = f"training.{name}" if owner == "training" else name
    if not search.is_range:
        choices = tuple(dict.fromkeys(map(parsed, search.choices)))
        return Dimension(full, Search(choices=choices), False, (False, False))
    ends = parsed(search.low), parsed(search.high)
    if any(isinstance(end, (str, bool)) or end is None for end in ends):
        raise UsageError(f"{owner}.{name} is no number: give its values, as in {owner}.{name}=A,B")
    return Dimension(full, search, int in _types(hint) and float not in _types(hint), _bounds(hint, search))


def _types(hint: Any) -> set[Any]:
    """Return the plain types in a field's type."""
    return {hint} if not typing.get_args(hint) else set().union(*map(_types, typing.get_args(hint)))


def _bounds(hint: Any, search: Search) -> tuple[bool, bool]:
    """Return whether the ends of a range are where the field itself ends."""
    limits: dict[str, Any] = {}
    for part in _parts(hint):
        limits |= {name: getattr(part, name) for name in ("ge", "gt", "le", "lt") if hasattr(part, name)}
    return search.low in (limits.get("ge"), limits.get("gt")), search.high in (limits.get("le"), limits.get("lt"))


def _parts(hint: Any) -> Iterator[Any]:
    for part in typing.get_args(hint):
        yield part
        yield from _parts(part)


def points(space: Sequence[Dimension], most: int) -> list[dict[str, Any]]:
    """Return a grid of at most so many points: all choices, and as many values of each range as there is room for.

    Raises UsageError if a grid of two values a range has more.
    """
    ranges = sum(one.search.is_range for one in space)
    choices = math.prod(len(one.search.choices) for one in space if not one.search.is_range)
    each = 1
    while ranges and choices * (each + 1) ** ranges <= most:
        each += 1
    if choices * each**ranges > most or (ranges and each < 2):
        least, over = choices * 2**ranges, ", ".join(one.name for one in space)
        raise UsageError(f"a grid over {over} has {least} points at least: give more --trials, or leave some out")
    axes = [one.grid(each) for one in space]
    return [dict(zip([one.name for one in space], values, strict=True)) for values in itertools.product(*axes)]


def is_finite(space: Sequence[Dimension], trials: int) -> bool:
    """Whether a space has no more points than there are trials: then each is tried once."""
    if any(one.search.is_range for one in space):
        return False
    return math.prod(len(one.search.choices) for one in space) <= trials

"""Names and settings → instances of methods, sequences and models: `lwf@temperature=4`, and the grids of --set."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from clbench.errors import ClbenchError, UsageError
from clbench.experiment import registry
from clbench.experiment.registry import Kind

Grid = Mapping[str, Mapping[str, list[Any]]]  # name → field → values, as --set gives them


@dataclass(frozen=True)
class Choice:
    """A method, sequence or model of the sweep with its settings."""

    kind: Kind
    reference: str
    label: str
    instance: Any
    code: str | None  # the hash of its file, for code from outside

    @property
    def params(self) -> dict[str, Any]:
        return {name: getattr(self.instance, name) for name in registry.defaults(type(self.instance))}


@contextlib.contextmanager
def naming(choice: Choice) -> Iterator[None]:
    """Turn what code from outside raises into a UsageError that names it."""
    try:
        yield
    except ClbenchError:
        raise
    except Exception as error:
        raise UsageError(f"the {choice.kind} {choice.label} raises {type(error).__name__}: {error}") from error


def choose(kind: Kind, items: Iterable[str], grid: Grid, base: Mapping[str, Any] | None = None) -> list[Choice]:
    """Make instances of names with settings of their own, one per point of the grid; `base` are settings below both.

    Raises UsageError for names, fields and values that there are not.
    """
    chosen: dict[str, Choice] = {}
    for item in items:
        reference, own = _own_settings(item)
        cls = registry.find(kind, reference)
        code = registry.code_hash(cls)
        shared = {name: values for name, values in grid.get(reference, {}).items() if name not in own}
        for values in itertools.product(*shared.values()):
            settings = {**(base or {}), **dict(zip(shared, values, strict=True)), **own}
            instance = registry.configure(reference, cls, settings)
            choice = Choice(kind, reference, registry.label(reference, instance), instance, code)
            try:
                json.dumps(choice.params, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise UsageError(f"{choice.label} has a setting that a record cannot hold: {error}") from None
            chosen.setdefault(choice.label, choice)
    return list(chosen.values())


def _own_settings(item: str) -> tuple[str, dict[str, str]]:
    """Split `lwf@temperature=4` into the reference and its settings."""
    reference, *settings = item.split("@")
    own: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"cannot read {item!r}: write {reference}@FIELD=VALUE")
        if name in own:
            raise UsageError(f"cannot read {item!r}: {name} is given twice")
        own[name] = value
    return reference, own

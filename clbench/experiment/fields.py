"""Settings as people write them, text often, as values of their fields' types."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from clbench.errors import UsageError, close_names, shown
from clbench.experiment.catalogue import Field
from clbench.search import Search


def parse_fields(
    name: str, known: Mapping[str, Field], settings: Mapping[str, Any], constants: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return settings, which may be text, as values of their fields' types; raise UsageError as `configure` does.

    `constants` are what else a class sets, by name.
    """
    values = {}
    for field, value in settings.items():
        if field not in known:
            constant = (constants or {}).get(field)
            if constant is not None and not callable(constant):
                what = f"{name}.{field} is no field, as it has no type"
                raise UsageError(f"{what}: write {field}: {type(constant).__name__} = …, and @dataclass above")
            has = f"its fields are {', '.join(known)}" if known else "it has no fields"
            hint = close_names(field, known)
            raise UsageError(f"{name} has no field {field!r}{hint or ':'} {has[0].upper() + has[1:] if hint else has}")
        default = known[field].default
        is_default = type(value) is type(default) and value == default
        values[field] = value if is_default else _parse(f"{name}.{field}", known[field].hint, value)
    return values


def hints_of(cls: type) -> dict[str, Any]:
    """Return the types of a class's fields, with bounds; raise UsageError if they cannot be read."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception as error:
        what = f"the field types of {cls.__qualname__} cannot be read"
        raise UsageError(f"{what}: {type(error).__name__}: {error}") from error


def _parse(what: str, hint: Any, value: Any) -> Any:
    if isinstance(value, str) and value.lower() == "none" and type(None) in typing.get_args(hint):
        return None
    if isinstance(value, bool) and bool not in (hint, *typing.get_args(hint)):
        raise UsageError(f"{what}={str(value).lower()}: a number or name is needed, not true or false")
    try:
        return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except PydanticSchemaGenerationError:
        raise UsageError(f"{what} has a type that cannot be set by name: {hint}") from None
    except ValidationError as error:
        raise UsageError(f"{what}={shown(value)}: the value {reason(error)}") from None


def search_of(hint: Any) -> Search | None:
    """Return what a field of this type is searched over, choices written out; None if nothing is declared."""
    if typing.get_origin(hint) is not typing.Annotated:
        return next(filter(None, map(search_of, typing.get_args(hint))), None) if _is_union(hint) else None
    kind, *rest = typing.get_args(hint)
    declared = next((one for one in rest if isinstance(one, Search)), None)
    if declared is None or declared.is_range or declared.choices:
        return declared
    return Search(choices=(False, True) if kind is bool else typing.get_args(kind))


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def reason(error: ValidationError) -> str:
    """Return what pydantic finds wrong first, or the choices, as the rest of a sentence that begins with the value."""
    found = error.errors()
    fault = next((one for one in found if one["type"] == "literal_error"), found[0])
    message = re.sub(r"^(Input|Value error,|Assertion failed,) | for <class .*>", "", fault["msg"])
    return message[0].lower() + message[1:]

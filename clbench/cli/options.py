"""What commands share: options made from the request's fields, as those of the Python functions are, and messages."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, cast

import typer

from clbench.experiment.request import Request

FLAGS = {"settings": "--set"}  # where the option is not the field's name


REPEATED = ("settings", "search")


def takes(
    names: Sequence[str], argument: str | None = None, defaults: Mapping[str, str] = MappingProxyType({})
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, a function of a request, these options of it beside its own; `argument` has no dashes.

    `defaults` are those that are not the request's.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        ]

        def call(**values: Any) -> None:
            request = Request(**{name: values.pop(name) for name in names})
            command(request, **values)

        call.__name__, call.__doc__ = command.__name__, command.__doc__
        made = [_parameter(name, name == argument, defaults.get(name)) for name in names]
        call.__signature__ = inspect.Signature(made + own)  # type: ignore[attr-defined]
        return call

    return decorate


def _parameter(name: str, argument: bool, own_default: str | None) -> inspect.Parameter:
    field = Request.model_fields[name]
    flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
    form = cast(dict, field.json_schema_extra)["form"]
    default: Any = own_default or field.default
    # text, which the request parses; Typer knows flags and what may be given several times
    kind: Any = bool if field.annotation is bool else list[str] | None if name in REPEATED else str | None
    if argument:
        kind, default, info = str, inspect.Parameter.empty, typer.Argument(metavar=form, help=field.description)
    else:
        info = typer.Option(flag, metavar=form or None, help=field.description)
        if kind is not bool:
            default = None if default in (None, {}) else str(default)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


Test = Annotated[str, typer.Option(metavar="t|wilcoxon", help="Test of paired differences.")]
Interval = Annotated[str, typer.Option(metavar="t|bootstrap", help="Of the 95 % intervals.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only the results.")]


def say(*lines: str) -> None:
    """Print lines on standard error."""
    for line in lines:
        print(f"clbench: {line}", file=sys.stderr)

"""What commands share: options made from the request's fields, as those of the Python functions are, and messages."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, cast

import typer

from clbench.experiment import early, presets, registry
from clbench.experiment.catalogue import Kind
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

        def call(context: typer.Context, **values: Any) -> None:
            options = {name: values.pop(name) for name in names}
            given = {name: value for name, value in options.items() if _given(context, name)}
            request = Request(**{**defaults, **given})
            command(request, **values)

        call.__name__, call.__doc__ = command.__name__, command.__doc__
        made = [_parameter(name, name == argument, defaults.get(name)) for name in names]
        first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        call.__signature__ = inspect.Signature([first, *made, *own])  # type: ignore[attr-defined]
        return call

    return decorate


def _given(context: typer.Context, name: str) -> bool:
    """Whether an option stands in the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _parameter(name: str, argument: bool, own_default: str | None) -> inspect.Parameter:
    field = Request.model_fields[name]
    flag = FLAGS.get(name, f"--{name.replace('_', '-')}")
    form = cast(dict, field.json_schema_extra)["form"]
    default: Any = own_default or field.default
    # text, which the request parses; Typer knows flags and what may be given several times
    kind: Any = bool if field.annotation is bool else list[str] | None if name in REPEATED else str | None
    if argument:
        info = typer.Argument(metavar=form, help=field.description, autocompletion=completing(name))
        kind, default = str, inspect.Parameter.empty
    else:
        info = typer.Option(flag, metavar=form or None, help=field.description, autocompletion=completing(name))
        if kind is not bool:
            default = None if default in (None, {}) else str(default)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def completing(name: str) -> Callable[[str], list[str]] | None:
    """Return what a shell may complete an option's last name by; None for options without names."""
    if name not in ("methods", "sequence", "model", "scenario", "preset"):
        return None

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [before + comma + each for each in names_of(name) if each.startswith(last)]

    return complete


def names_of(option: str) -> Sequence[str]:
    """Return the names that an option takes."""
    if option in ("scenario", "preset"):
        return presets.SCENARIOS if option == "scenario" else presets.names()
    kind: Kind = "method" if option == "methods" else cast(Kind, option)
    return [*registry.names(kind), *(early.GROUPS if option == "methods" else ())]


Test = Annotated[str, typer.Option(metavar="t|wilcoxon", help="Test of paired differences.")]
Interval = Annotated[str, typer.Option(metavar="t|bootstrap", help="Of the 95 % intervals.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only the results.")]


def say(*lines: str) -> None:
    """Print lines on standard error."""
    for line in lines:
        print(f"clbench: {line}", file=sys.stderr)

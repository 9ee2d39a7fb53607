"""The command that lists what there is."""

from __future__ import annotations

from typing import Annotated

import typer

from clbench.errors import UsageError, did_you_mean
from clbench.experiment import presets, registry

KINDS: dict[str, registry.Kind] = {"methods": "method", "sequences": "sequence", "models": "model"}


def list_(what: Annotated[str, typer.Argument(metavar="methods|sequences|models|presets")]) -> None:
    """List what there is: name, what it is, its fields and their defaults."""
    if what == "presets":
        for name, title, rows in presets.describe():
            typer.echo(f"{name}: {title}. Scenarios: {rows}")
    elif what in KINDS:
        for name, title, fields in registry.describe(KINDS[what]):
            typer.echo(f"{name}: {title}." + (f" Fields: {fields}" if fields else ""))
    else:
        raise UsageError(f"cannot list {what!r}{did_you_mean(what, [*KINDS, 'presets'])}")

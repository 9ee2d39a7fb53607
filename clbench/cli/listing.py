"""The command that lists what there is."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from clbench.experiment import presets, registry


def list_(
    kind: Annotated[
        Literal["methods", "sequences", "models", "presets"],
        typer.Argument(metavar="methods|sequences|models|presets"),
    ],
) -> None:
    """List what there is: name, what it is, its fields and their defaults."""
    if kind == "presets":
        for name, title, rows in presets.describe():
            typer.echo(f"{name}: {title}. Scenarios: {rows}")
        return
    singular: dict[str, registry.Kind] = {"methods": "method", "sequences": "sequence", "models": "model"}
    for name, what, fields in registry.describe(singular[kind]):
        typer.echo(f"{name}: {what}." + (f" Fields: {fields}" if fields else ""))

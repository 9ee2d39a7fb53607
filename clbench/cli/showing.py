"""The commands that explain: list what there is, and show the fields of something."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import shutil
import textwrap
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import typer

from clbench.cli.options import names_of, say
from clbench.errors import UsageError, did_you_mean
from clbench.experiment import catalogue, early, presets, registry
from clbench.experiment.catalogue import Field, Kind, Known
from clbench.experiment.fields import search_of
from clbench.results.names import spelled, titles

LISTS: dict[str, Kind] = {"methods": "method", "sequences": "sequence", "models": "model"}
# sequences that are made by name, with one of each to show
MADE = ("npz:FILE", "folder:PATH", "torchvision:NAME", "avalanche:NAME", "mnist+fashion-mnist")
SIMPLE = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "none"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def list_(
    what: Annotated[str, typer.Argument(metavar="methods|sequences|models|presets")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for other programs: fields too.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Avalanche's strategies and plugins too.")] = False,
) -> None:
    """List what there is: a name and what it is."""
    if what not in (*LISTS, "presets"):
        raise UsageError(f"cannot list {what!r}{did_you_mean(what, [*LISTS, 'presets'])}")
    if everything and (as_json or what != "methods"):
        raise UsageError("--all is of 'clbench list methods', and not of --json")
    rows = [(name, presets.load(name).title.rstrip(".")) for name in presets.names()]
    if what in LISTS:
        kind = LISTS[what]
        builtin = catalogue.builtin(kind)
        rows = [(name, builtin[name].title if name in builtin else _title(kind, name)) for name in registry.names(kind)]
    if as_json:
        typer.echo(json.dumps([_entry(what, name, title) for name, title in rows], indent=2, ensure_ascii=False))
        return
    width = max(len(name) for name, _ in rows) + 2
    for name, title in rows:
        typer.echo(_wrapped(title, name.ljust(width), " " * width))
    if what == "sequences":
        typer.echo("Made by name: " + ", ".join(MADE))
    if what == "methods":
        groups = ", ".join(f"{group} ({len(early.members(group))})" for group in early.GROUPS)
        typer.echo(_wrapped(f"Several by one name: {groups}"))
        if everything:
            _list_guests()
        else:
            typer.echo("Made by name: avalanche:NAME, avalanche:NAME+PLUGIN (--all lists them)")
    if what == "models":
        typer.echo(_wrapped("Others by LIBRARY:NAME, as in torchvision:resnet18 and timm:vit_tiny_patch16_224"))
    say("'clbench show NAME' tells more, of fields too")


def _entry(what: str, name: str, title: str) -> dict[str, Any]:
    """Return what `list --json` has of a name."""
    if what == "presets":
        preset = presets.load(name)
        return {"name": name, "title": title, "scenarios": preset.scenarios, "rows": [row.label for row in preset.rows]}
    try:
        kind, _, known = _found(name)
    except UsageError:  # of a file that cannot be read: the title says why
        return {"name": name, "title": title}
    fields = [
        {
            "name": field.name,
            "type": in_words(field.hint),
            "default": None if field.default is dataclasses.MISSING else field.default,
            "meaning": field.meaning,
        }
        for field in known.fields.values()
    ]
    entry = {"name": name, "title": title, "fields": fields}
    if kind == "method":
        entry |= {"in_reports": titles().get(name, name), "scenarios": sorted(known.constants["scenarios"])}
    return entry


def _list_guests() -> None:
    """List Avalanche's strategies and plugins: their fields, or why they cannot be used."""
    from clbench.guests import offered  # here, since it imports torch and Avalanche, which takes 4.5 s

    for sign, known in (("avalanche:", offered.strategies()), ("  +", offered.all_plugins())):
        typer.echo("\nAvalanche's " + ("strategies:" if sign != "  +" else "plugins, behind a strategy:"))
        for name, one in known.items():
            fields = [field + _default(value) for field, (_, value) in one.fields.items()]
            says = f"refused: {one.refused}" if one.refused else ", ".join(fields) or "no fields"
            typer.echo(_wrapped(says, f"{sign}{name}".ljust(34), " " * 34))


def _default(value: Any) -> str:
    return " (must be given)" if value is inspect.Parameter.empty else f"={spelled(value)}"


def _title(kind: Kind, name: str) -> str:
    try:
        return _imported(kind, name).title
    except UsageError as error:
        return str(error)


def _explained(incomplete: str) -> list[str]:
    known = ["training", *(name for option in ("methods", "sequence", "model", "preset") for name in names_of(option))]
    return [name for name in known if name.startswith(incomplete)]


def show(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME…|training|RECORD.json", help="What to explain.", autocompletion=_explained),
    ],
) -> None:
    """Explain methods, sequences, models, presets, 'training' (every field) or the record of a run (what came out)."""
    for number, name in enumerate(names):
        if name.endswith(".json"):
            from clbench.cli.one_record import print_record  # here, since it needs pandas

            print_record(Path(name).expanduser())
            continue
        typer.echo("\n" * bool(number) + "\n".join(_explanation(name)))


def _explanation(asked: str) -> Iterator[str]:
    if asked.lower() == "training":
        yield from (_wrapped("training: " + catalogue.training().doc), "")
        yield from _fields("training", catalogue.training().fields)
        return
    if asked in presets.names() or asked.endswith(".toml"):
        preset = presets.load(asked)
        yield from map(_wrapped, (preset.title, f"Scenarios: {', '.join(preset.scenarios)}"))
        yield from (_wrapped("Rows: " + ", ".join(row.label for row in preset.choose(None))), "")
        path = Path(asked) if asked.endswith(".toml") else presets.FOLDER / f"{asked}.toml"
        yield path.read_text(encoding="utf-8").rstrip()
        return
    if (group := early.known_name("method", asked)) in early.GROUPS:
        yield _wrapped(f"{group} (as in --methods {group}): {', '.join(early.members(group))}")
        return
    kind, name, known = _found(asked)
    title = f", '{titles()[name]}' in reports" if kind == "method" and name in titles() else ""
    yield _wrapped(f"{name} ({kind}{title}): {known.doc}")
    if kind == "method" and known.of_file:
        yield from ("", known.of_file)
    yield from ("", *_facts(kind, known), *_fields(name, known.fields))


def _found(asked: str) -> tuple[Kind, str, Known]:
    """Find out what a name or reference is; raise UsageError if it is nothing."""
    for kind in early.KINDS:
        name = early.known_name(kind, asked)
        if name in registry.names(kind):
            return kind, name, early.look_up(kind, name) or _imported(kind, name)
    place, _, name = asked.rpartition(":")
    if place in catalogue.LIBRARIES and name.islower():  # torchvision's data sets are written with capitals
        return "model", asked, early.look_up("model", asked) or _imported("model", asked)
    if catalogue.is_strategy(asked):
        return "method", asked, early.look_up("method", asked) or _imported("method", asked)
    if ":" in asked or "+" in asked:
        kind = "sequence" if _is_made_by_name(asked) else _kind_of(asked)
        return kind, asked, early.look_up(kind, asked) or _imported(kind, asked)
    everything = [
        "training",
        *early.GROUPS,
        *presets.names(),
        *(name for kind in early.KINDS for name in registry.names(kind)),
    ]
    raise UsageError(f"there is no {asked!r}{did_you_mean(asked, everything)}")


def _is_made_by_name(asked: str) -> bool:
    """Whether this is a chain, a benchmark of Avalanche's, or data of one's own: no class in a file."""
    return "+" in asked or asked.startswith("avalanche:") or catalogue.own_data(asked) is not None


def _kind_of(reference: str) -> Kind:
    """Return the kind that a class from outside is of."""
    for kind in early.KINDS:
        known = early.look_up(kind, reference)
        module, base, _ = catalogue.BASES[kind]
        if known is not None and (module, base) in known.bases:
            return kind
    errors = []
    for kind in early.KINDS:
        try:
            registry.find(kind, reference)
            return kind
        except UsageError as error:
            errors.append(error)
    raise errors[0]


def _imported(kind: Kind, reference: str) -> Known:
    """Import a class, and return what it says of itself."""
    cls = registry.find(kind, reference)
    with contextlib.suppress(OSError, TypeError):  # classes that are made while it runs have no file
        _, known = catalogue.in_file(Path(inspect.getfile(cls)), cls.__name__)
        if known is not None:
            return known
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {name: Field(name, hints[name], value, "") for name, value in registry.defaults(cls).items()}
    facts = ("scenarios", "scenario", "model", "budget")
    constants = {name: getattr(cls, name) for name in facts if hasattr(cls, name)}
    return Known(inspect.cleandoc(cls.__doc__ or ""), "", cls.__module__, fields, constants)


def _facts(kind: Kind, known: Known) -> Iterator[str]:
    says = known.constants
    if kind == "sequence":
        yield _wrapped(f"By default: scenario {says['scenario']}, model {says['model']}")
        if says["budget"]:
            settings = ", ".join(f"{name}={spelled(value)}" for name, value in says["budget"].items())
            yield _wrapped(f"Training by default: {settings}")
        yield ""
    elif kind == "method" and len(says["scenarios"]) < len(presets.SCENARIOS):
        yield from (f"Only in the scenario {', '.join(sorted(says['scenarios']))}", "")


def _fields(name: str, fields: Mapping[str, Field]) -> Iterator[str]:
    if not fields:
        yield "It has no fields."
        return
    yield f"Fields, set with --set {name}.FIELD=VALUE" + (f" or as {name}@FIELD=VALUE:" if name != "training" else ":")
    for field in fields.values():
        default = "must be given" if field.default is dataclasses.MISSING else f"default {spelled(field.default)}"
        yield ""
        yield _wrapped(f"{in_words(field.hint)}; {default}", f"  {field.name}: ", "      ")
        if field.meaning:
            yield _wrapped(field.meaning, "      ", "      ")
        if (searched := search_of(field.hint)) is not None:
            yield f"      tuned over {searched}"


def in_words(hint: Any) -> str:
    """Return a field's type, choices and bounds as text: 'number > 0', 'one of sum, mean'."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(spelled, get_args(hint)))}"
    if get_origin(hint) in (Union, UnionType):
        return ", or ".join(map(in_words, get_args(hint)))
    if get_origin(hint) is Annotated:
        kind, *bounds = get_args(hint)
        limits = [f"{SIGNS[name]} {spelled(value)}" for bound in bounds for name, value in _limits(bound)]
        return " ".join([in_words(kind), " and ".join(limits)]).strip()
    return SIMPLE.get(hint, getattr(hint, "__name__", str(hint)))


def _limits(bound: Any) -> list[tuple[str, Any]]:
    known = (annotated_types.Ge, annotated_types.Gt, annotated_types.Le, annotated_types.Lt)
    return list(dataclasses.asdict(bound).items()) if isinstance(bound, known) else []


def _wrapped(text: str, first: str = "", later: str = "") -> str:
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 40), 120)
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False, break_long_words=False
    )

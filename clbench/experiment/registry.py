"""Names → methods, sequences and models: the built-in ones, installed plug-ins, and code named by module or file.

A plug-in is an entry point in the group `clbench.methods`, `clbench.sequences` or `clbench.models`. Anything else can
be named as `package.module:Name` or `./file.py:Name`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pkgutil
import sys
import typing
from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from clbench.errors import UsageError, close_names, did_you_mean, quoted, shown
from clbench.experiment import catalogue, own_code
from clbench.experiment.catalogue import BASES, Field, Kind
from clbench.experiment.fields import hints_of, parse_fields
from clbench.experiment.preset import SCENARIOS
from clbench.results.names import spelled

GUIDES: dict[Kind, str] = {  # where it is told how to write one
    "method": "docs/adding-a-method.md",
    "sequence": "docs/adding-a-sequence.md",
    "model": "docs/adding-a-sequence.md#a-model",
}


def base_class(kind: Kind) -> type:
    """Return the class that everything of a kind derives from."""
    module, name, _ = BASES[kind]
    return getattr(importlib.import_module(module), name)


@cache
def found(kind: Kind) -> tuple[dict[str, type], dict[str, str]]:
    """Return the classes that clbench brings, by name; and by the names that a broken file stands for, its fault."""
    package = importlib.import_module(BASES[kind][2])
    classes: dict[str, type] = {}
    faults: dict[str, str] = {}
    for part in pkgutil.iter_modules(package.__path__):
        name = catalogue.method_of(part.name) if kind == "method" else part.name
        try:
            defined = _classes(kind, f"{package.__name__}.{part.name}")
        except UsageError as error:
            known = catalogue.builtin(kind)
            named = [own for own in known if known[own].module == f"{package.__name__}.{part.name}"]
            faults |= dict.fromkeys([name, *named], str(error))
            continue
        for cls in defined:
            first, other = classes.setdefault(vars(cls)["name"], cls), cls
            if first is not other:
                if name == vars(cls)["name"]:  # the file is named like the method, the other one's is not
                    classes[name], other = cls, first
                where = f"{first.__module__} and {cls.__module__}"
                fault = f"the {kind} {vars(cls)['name']!r} is defined twice: by {where}; give one another name"
                faults[catalogue.method_of(other.__module__.split(".")[-1])] = fault
    return classes, {name: fault for name, fault in faults.items() if name not in classes}


def _classes(kind: Kind, module_name: str) -> list[type]:
    """Return the classes of a kind that a module of clbench defines; raise UsageError where one is not as it should be.

    A file of a method has one with a name and a docstring.
    """
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        where = own_code.raised_at(error) or module_name
        raise UsageError(f"{where}: {own_code.what(error)}") from error
    own = [thing for thing in vars(module).values() if inspect.isclass(thing) and thing.__module__ == module_name]
    own = [cls for cls in own if issubclass(cls, base_class(kind))]
    named = [cls for cls in own if "name" in vars(cls)]
    if kind == "method" and not named:
        where = own_code.place_of(own[0]) if own else own_code.place(str(module.__file__))
        fault = f"{own[0].__name__} has no name: write name: ClassVar[str] = …" if own else "there is no method in it"
        raise UsageError(f"{where}: {fault}")
    for cls in named if kind == "method" else ():
        check_class(kind, cls)
        if (cls.__doc__ or f"{cls.__name__}(").startswith(f"{cls.__name__}("):  # dataclass writes one, of its fields
            raise UsageError(f"{own_code.place_of(cls)}: {cls.__name__} has no docstring: a line says what it is")
    return named


def builtin(kind: Kind) -> dict[str, type]:
    """Return the classes that clbench brings, by name."""
    return found(kind)[0]


def broken(kind: Kind) -> dict[str, str]:
    """Return what is wrong with files of clbench that cannot be used, by the name that each stands for."""
    return found(kind)[1]


def builtin_names(kind: Kind) -> set[str]:
    """Return the names of what clbench brings, those of broken files too; imported is only what has to be."""
    classes, faults = found(kind) if catalogue.unread(kind) else ({}, {})
    return {*catalogue.builtin(kind), *classes, *faults}


@cache
def plugins(kind: Kind) -> dict[str, importlib.metadata.EntryPoint]:
    """Return the entry points that installed packages offer; a name defined twice is a UsageError naming both."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    own = builtin_names(kind)
    for entry in importlib.metadata.entry_points(group=f"clbench.{kind}s"):
        other = found.setdefault(entry.name, entry)
        if entry.name in own or other.value != entry.value:
            both = f"{'clbench' if entry.name in own else _origin(other)} and by {_origin(entry)}"
            raise UsageError(f"the {kind} {entry.name!r} is defined twice: by {both}; uninstall or rename one")
    return found


def packages(references: Mapping[Kind, str]) -> set[str]:
    """Return the top-level packages that some names and references stand for."""
    values = {kind: plugins(kind)[name].value if name in plugins(kind) else name for kind, name in references.items()}
    return {value.split(":")[0].split(".")[0] for value in values.values()}


def _origin(entry: importlib.metadata.EntryPoint) -> str:
    return entry.value + (f" (package {entry.dist.name})" if entry.dist else "")


def names(kind: Kind) -> list[str]:
    """Return the registered names of a kind, sorted, those of broken files too."""
    return sorted([*builtin_names(kind), *plugins(kind)])


def find(kind: Kind, reference: str) -> type:
    """Return the class that a name or reference stands for; raise UsageError where there is none."""
    place, colon, name = reference.rpartition(":")
    if not colon:
        return _registered(kind, reference)
    if kind == "sequence" and (own := catalogue.own_data(reference)):
        from clbench.sequences.own import own_sequence  # here, since it needs torch

        return own_sequence(*own)
    if kind == "sequence" and place == "avalanche":
        from clbench.sequences.avalanche import avalanche_sequence  # here, since it needs torch

        return avalanche_sequence(name)
    if kind == "method" and place == "avalanche":
        from clbench.guests.avalanche import avalanche_strategy  # here, since it imports torch and Avalanche

        return avalanche_strategy(name)
    if kind == "model" and place in catalogue.LIBRARIES:
        from clbench.models.libraries import library_model  # here, since it needs torch

        return library_model(place, name)
    if place.endswith(".py") and not Path(place).expanduser().is_file():
        raise unknown(kind, reference)
    return _checked(kind, reference, thing_at(kind, reference))


def thing_at(what: str, reference: str) -> Any:
    """Return what stands in a file or module under a name, for people a `what`; raise UsageError where it is not."""
    place, _, name = reference.rpartition(":")
    path = Path(place).expanduser()
    if place.endswith(".py") and not path.is_file():
        raise UsageError(f"unknown {what} {quoted(reference)}: there is no file {place}")
    load = partial(_module_from_file, path) if place.endswith(".py") else partial(importlib.import_module, place)
    module = _imported(what, reference, load)
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise UsageError(f"unknown {what} {reference!r}: {place} defines no {name}{close_names(name, public)}")
    return getattr(module, name)


def _registered(kind: Kind, reference: str) -> type:
    installed = plugins(kind)
    if reference in builtin(kind):
        return builtin(kind)[reference]
    if reference in broken(kind):
        raise UsageError(f"the {kind} {reference!r} cannot be used: {broken(kind)[reference]}")
    if reference in installed:
        return _checked(kind, reference, _imported(kind, reference, installed[reference].load))
    if kind == "sequence" and "+" in reference and not reference.endswith(".py"):
        from clbench.sequences.splits import chain_sequence  # here, since it needs torch

        return chain_sequence(reference)
    raise unknown(kind, reference)


def unknown(kind: Kind, reference: str, groups: Iterable[str] = ()) -> UsageError:
    """Return what to say of a reference that names nothing; `groups` are names of several."""
    place, colon, _ = reference.rpartition(":")
    path, instead = Path(reference).expanduser(), f"a {kind} is a name, or a class in a file, as in ./file.py:Name"
    if reference.endswith(".py"):
        return UsageError(f"{reference} is a file: name the {kind} in it too, as in {reference}:Name")
    if colon and place.endswith(".py"):
        return UsageError(f"unknown {kind} {quoted(reference)}: there is no file {place}")
    if "/" in reference or reference.startswith((".", "~")):
        what = "a folder" if path.is_dir() else "a file" if path.is_file() else "no name, and no file"
        return UsageError(f"{shown(reference)} is {what}: {instead}; see {GUIDES[kind]}")
    hint = did_you_mean(reference, [*names(kind), *groups])
    return UsageError(f"unknown {kind} {quoted(reference)}{hint if len(hint) < 200 else f'; see clbench list {kind}s'}")


def _imported(what: str, reference: str, load: typing.Callable[[], Any]) -> Any:
    try:
        return load()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        place, _, name = reference.rpartition(":")
        hint = f", did you mean ./{place}.py:{name}?" if Path(f"{place}.py").is_file() else ""
        where = own_code.raised_at(error, {place.split(".")[0]})
        why = own_code.what(error) + (f", in {where}" if where else "") + hint
        raise UsageError(f"the {what} {reference!r} cannot be imported: {why}") from error


def _module_from_file(path: Path) -> Any:
    """Import a file under a name of its own, anew if its content has changed."""
    path = path.resolve()
    name = f"clbench_file_{hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # as for a script, whose imports look beside it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.parent))
    return module


def _checked(kind: Kind, reference: str, thing: Any) -> type:
    if not (inspect.isclass(thing) and issubclass(thing, base_class(kind))):
        package, base = BASES[kind][0].split(".")[:2], BASES[kind][1]
        what = f"{reference!r} is no {kind}: it does not derive from {'.'.join([*package, base])}"
        hint = ", whose build returns it without its last layer" if kind == "model" else ""
        raise UsageError(f"{what}. Write a class that does{hint}: see {GUIDES[kind]}")
    check_class(kind, thing)
    return thing


def check_class(kind: Kind, cls: type) -> None:
    """Raise UsageError, with file and line, for what can be seen to be wrong with a class before it is used."""
    fields = [hint for hint in inspect.get_annotations(cls).values() if "ClassVar" not in str(hint)]
    if fields and "__dataclass_params__" not in vars(cls):
        what = f"{cls.__name__} declares fields but is no dataclass: put @dataclass above it"
        raise UsageError(f"{own_code.place_of(cls)}: {what}")
    if kind == "method":
        own_code.check_hooks(cls)
        _check_scenarios(cls)


def _check_scenarios(cls: Any) -> None:
    if isinstance(cls.scenarios, str) or not cls.scenarios:
        raise UsageError(f"{own_code.place_of(cls)}: {cls.__name__}.scenarios is {cls.scenarios!r}: a set is needed")
    for name in sorted(set(cls.scenarios) - set(SCENARIOS)):
        what = f"{cls.__name__}.scenarios has {name!r}, which is no scenario"
        raise UsageError(f"{own_code.place_of(cls)}: {what}{did_you_mean(name, SCENARIOS)}")


def canonical(reference: str) -> str:
    """Return the one way to write a reference to a file: `./a.py:A` in the working folder, else an absolute path.

    Data of one's own are written alike, without `./`: `npz:a.npz`.
    """
    if own := catalogue.own_data(reference):
        path = Path(own[1]).expanduser().resolve()
        near = own[0] != "torchvision" and own[1] and path.is_relative_to(Path.cwd())
        here = path.relative_to(Path.cwd()).as_posix() if near else str(path)
        return reference if own[0] == "torchvision" or not own[1] else f"{own[0]}:{here}"
    place, colon, name = reference.rpartition(":")
    if not (colon and place.endswith(".py")):
        return reference
    path = Path(place).expanduser().resolve()
    return (
        f"./{path.relative_to(Path.cwd()).as_posix()}:{name}" if path.is_relative_to(Path.cwd()) else f"{path}:{name}"
    )


def absolute(reference: str, folder: Path | None = None) -> str:
    """Return a reference that means the same in another working folder; a path is relative to `folder`, or to here."""
    own = catalogue.own_data(reference)
    if own and own[0] != "torchvision":
        return f"{own[0]}:{((folder or Path()) / Path(own[1]).expanduser()).resolve()}"
    place, colon, name = reference.rpartition(":")
    if not (colon and place.endswith(".py")):
        return reference
    return f"{((folder or Path()) / Path(place).expanduser()).resolve()}:{name}"


def files_in(cls: type, values: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Return the settings that name a file or folder in `folder`, by absolute path; their fields are free text."""
    free = {name for name, hint in hints_of(cls).items() if str in (hint, *typing.get_args(hint))}
    texts = {name: value for name, value in values.items() if name in free and isinstance(value, str) and value}
    return {name: str(folder / value) for name, value in texts.items() if os.path.exists(folder / value)}


def file_settings(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of fields that are marked as those of files."""
    marked = {field.name for field in dataclasses.fields(cls) if field.metadata.get("file")}
    return {name: value for name, value in values.items() if name in marked}


def defaults(cls: type) -> dict[str, Any]:
    """Return the settings of a class with their default values; one without a default must be given."""
    values = {}
    for field in dataclasses.fields(cls):
        if field.init:
            factory = field.default_factory
            values[field.name] = factory() if factory is not dataclasses.MISSING else field.default
    return values


def settings(instance: Any) -> dict[str, Any]:
    """Return what a record says of an instance: its settings.

    Those whose field is marked `added`, as it is younger than records, are left out where they have their default, and
    one that was renamed goes by the name that is `recorded`: so the older records stand for the same runs.
    """
    cls, known = type(instance), defaults(type(instance))
    younger = {field.name for field in dataclasses.fields(cls) if field.metadata.get("added")}
    values = {name: getattr(instance, name) for name in known}
    names = recorded_names(cls)
    kept = {name: value for name, value in values.items() if name not in younger or value != known[name]}
    return {names.get(name, name): value for name, value in kept.items()}


def recorded_names(cls: type) -> dict[str, str]:
    """Return the names that records have for fields which were renamed, by today's name."""
    return {one.name: one.metadata["recorded"] for one in dataclasses.fields(cls) if "recorded" in one.metadata}


def from_record(cls: type, values: Mapping[str, Any]) -> Any:
    """Make an instance from what `settings` returned."""
    today = {recorded: name for name, recorded in recorded_names(cls).items()}
    return cls(**{today.get(name, name): value for name, value in values.items()})


def configure(name: str, cls: type, settings: Mapping[str, Any]) -> Any:
    """Make an instance from settings, which may be text; raise UsageError for an unknown field or a bad value."""
    known = defaults(cls)
    hints = hints_of(cls)
    fields = {field: Field(field, hints[field], known[field], "") for field in known}
    constants = {field: getattr(cls, field) for field in settings if hasattr(cls, field)}
    values = parse_fields(name, fields, settings, constants)
    for field, default in known.items():
        if default is dataclasses.MISSING and field not in values:
            raise UsageError(f"{name}.{field} has no default: give it, as in --set {name}.{field}=VALUE")
    try:
        return cls(**values)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{name} cannot be made: {type(error).__name__}: {error}") from error


def label(name: str, instance: Any, written: Mapping[str, Any] | None = None) -> str:
    """Return the name plus the fields that differ from their defaults, as it is typed: `lwf@temperature=4`.

    `written` are values to show as they were typed, where the instance has them otherwise.
    """
    now = {field: getattr(instance, field) for field in defaults(type(instance))} | dict(written or {})
    values = {field: (now[field], default) for field, default in defaults(type(instance)).items()}
    return name + "".join(f"@{field}={spelled(now)}" for field, (now, default) in values.items() if now != default)

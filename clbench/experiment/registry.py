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
import pkgutil
import re
import sys
import typing
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from clbench.errors import UsageError, close_names, did_you_mean, quoted, shown
from clbench.experiment import catalogue
from clbench.experiment.catalogue import BASES, Field, Kind
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
def builtin(kind: Kind) -> dict[str, type]:
    """Return the classes that clbench brings, by name."""
    base = base_class(kind)
    package = importlib.import_module(BASES[kind][2])
    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    classes = [
        thing
        for module in modules
        for thing in vars(module).values()
        if inspect.isclass(thing) and issubclass(thing, base) and thing.__module__ == module.__name__
    ]
    found: dict[str, type] = {}
    for cls in classes:
        if "name" in vars(cls):
            other = found.setdefault(vars(cls)["name"], cls)
            if other is not cls:
                where = f"{other.__module__} and {cls.__module__}"
                raise UsageError(
                    f"the {kind} {vars(cls)['name']!r} is defined twice: by {where}; give one another name"
                )
    return found


@cache
def plugins(kind: Kind) -> dict[str, importlib.metadata.EntryPoint]:
    """Return the entry points that installed packages offer; a name defined twice is a UsageError naming both."""
    found: dict[str, importlib.metadata.EntryPoint] = {}
    own = catalogue.builtin(kind)
    for entry in importlib.metadata.entry_points(group=f"clbench.{kind}s"):
        other = found.setdefault(entry.name, entry)
        if entry.name in own or other.value != entry.value:
            both = f"{'clbench' if entry.name in own else _origin(other)} and by {_origin(entry)}"
            raise UsageError(f"the {kind} {entry.name!r} is defined twice: by {both}; uninstall or rename one")
    return found


def _origin(entry: importlib.metadata.EntryPoint) -> str:
    return entry.value + (f" (package {entry.dist.name})" if entry.dist else "")


def names(kind: Kind) -> list[str]:
    """Return the registered names of a kind, sorted; nothing is imported."""
    return sorted([*catalogue.builtin(kind), *plugins(kind)])


def find(kind: Kind, reference: str) -> type:
    """Return the class that a name or reference stands for; raise UsageError where there is none."""
    place, colon, name = reference.rpartition(":")
    if not colon:
        return _registered(kind, reference)
    if kind == "sequence" and place == "avalanche":
        from clbench.sequences.avalanche import avalanche_sequence  # here, since it needs torch

        return avalanche_sequence(name)
    path = Path(place).expanduser()
    if place.endswith(".py") and not path.is_file():
        raise unknown(kind, reference)
    load = partial(_module_from_file, path) if place.endswith(".py") else partial(importlib.import_module, place)
    module = _imported(kind, reference, load)
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise UsageError(f"unknown {kind} {reference!r}: {place} defines no {name}{close_names(name, public)}")
    return _checked(kind, reference, getattr(module, name))


def _registered(kind: Kind, reference: str) -> type:
    installed = plugins(kind)
    if reference in builtin(kind):
        return builtin(kind)[reference]
    if reference in installed:
        return _checked(kind, reference, _imported(kind, reference, installed[reference].load))
    if kind == "sequence" and "+" in reference and not reference.endswith(".py"):
        from clbench.sequences.splits import chain_sequence  # here, since it needs torch

        return chain_sequence(reference)
    raise unknown(kind, reference)


def unknown(kind: Kind, reference: str) -> UsageError:
    """Return what to say of a reference that names nothing."""
    place, colon, _ = reference.rpartition(":")
    path, instead = Path(reference).expanduser(), f"a {kind} is a name, or a class in a file, as in ./file.py:Name"
    if reference.endswith(".py"):
        return UsageError(f"{reference} is a file: name the {kind} in it too, as in {reference}:Name")
    if colon and place.endswith(".py"):
        return UsageError(f"unknown {kind} {quoted(reference)}: there is no file {place}")
    if "/" in reference or reference.startswith((".", "~")):
        what = "a folder" if path.is_dir() else "a file" if path.is_file() else "no name, and no file"
        return UsageError(f"{shown(reference)} is {what}: {instead}; see {GUIDES[kind]}")
    return UsageError(f"unknown {kind} {quoted(reference)}{did_you_mean(reference, names(kind))}")


def _imported(kind: Kind, reference: str, load: typing.Callable[[], Any]) -> Any:
    try:
        return load()
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        place, _, name = reference.rpartition(":")
        hint = f", did you mean ./{place}.py:{name}?" if Path(f"{place}.py").is_file() else ""
        what = f"{type(error).__name__}: {error}{hint}"
        raise UsageError(f"the {kind} {reference!r} cannot be imported: {what}") from error


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
    fields = [hint for hint in inspect.get_annotations(thing).values() if "ClassVar" not in str(hint)]
    if fields and "__dataclass_params__" not in vars(thing):
        raise UsageError(f"{reference!r} declares fields but is no dataclass: put @dataclass above it")
    return thing


def absolute(reference: str) -> str:
    """Return a reference that means the same in another working folder."""
    place, colon, name = reference.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{name}" if colon and place.endswith(".py") else reference


def code_hash(cls: type) -> str | None:
    """Return the hash of the files that define a class from outside and its bases, None for built-in code."""
    own = {"clbench", "torch", "builtins", "typing", "abc"}
    outside = [base for base in cls.__mro__ if base.__module__.split(".")[0] not in own]
    if not outside:
        return None
    try:
        files = sorted({inspect.getfile(base) for base in outside})
        return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()[:16]
    except (OSError, TypeError):
        # records made by it could not be told from those of another version
        raise UsageError(f"the source of {cls.__qualname__} cannot be read: put it into a file") from None


def defaults(cls: type) -> dict[str, Any]:
    """Return the settings of a class with their default values; one without a default must be given."""
    values = {}
    for field in dataclasses.fields(cls):
        if field.init:
            factory = field.default_factory
            values[field.name] = factory() if factory is not dataclasses.MISSING else field.default
    return values


def configure(name: str, cls: type, settings: Mapping[str, Any]) -> Any:
    """Make an instance from settings, which may be text; raise UsageError for an unknown field or a bad value."""
    known = defaults(cls)
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except Exception as error:
        raise UsageError(f"the field types of {name} cannot be read: {type(error).__name__}: {error}") from error
    values = parse_fields(name, {field: Field(field, hints[field], known[field], "") for field in known}, settings)
    for field, default in known.items():
        if default is dataclasses.MISSING and field not in values:
            raise UsageError(f"{name}.{field} has no default: give it, as in --set {name}.{field}=VALUE")
    try:
        return cls(**values)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{name} cannot be made: {type(error).__name__}: {error}") from error


def parse_fields(name: str, known: Mapping[str, Field], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, which may be text, as values of their fields' types; raise UsageError as `configure` does."""
    values = {}
    for field, value in settings.items():
        if field not in known:
            has = f"its fields are {', '.join(known)}" if known else "it has no fields"
            hint = close_names(field, known)
            raise UsageError(f"{name} has no field {field!r}{hint or ':'} {has[0].upper() + has[1:] if hint else has}")
        default = known[field].default
        is_default = type(value) is type(default) and value == default
        values[field] = value if is_default else _parse(f"{name}.{field}", known[field].hint, value)
    return values


def _parse(what: str, hint: Any, value: Any) -> Any:
    if isinstance(value, str) and value.lower() == "none" and type(None) in typing.get_args(hint):
        return None
    if isinstance(value, bool) and hint is not bool:
        raise UsageError(f"{what}={str(value).lower()}: a number or name is needed, not true or false")
    try:
        return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
    except PydanticSchemaGenerationError:
        raise UsageError(f"{what} has a type that cannot be set by name: {hint}") from None
    except ValidationError as error:
        raise UsageError(f"{what}={shown(value)}: the value {reason(error)}") from None


def reason(error: ValidationError) -> str:
    """Return what pydantic finds wrong first, as the rest of a sentence that begins with the value."""
    message = re.sub(r"^(Input|Value error,|Assertion failed,) | for <class .*>", "", error.errors()[0]["msg"])
    return message[0].lower() + message[1:]


def label(name: str, instance: Any) -> str:
    """Return the name plus the fields that differ from their defaults, as it is typed: `lwf@temperature=4`."""
    values = {field: (getattr(instance, field), default) for field, default in defaults(type(instance)).items()}
    return name + "".join(f"@{field}={spelled(now)}" for field, (now, default) in values.items() if now != default)

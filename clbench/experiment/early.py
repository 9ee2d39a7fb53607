"""What can be said of names and settings before PyTorch is imported, so that a typo is answered at once.

What comes from installed packages, from Avalanche or from a file that cannot be read here is left to the registry.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from clbench.errors import UsageError, close_names, did_you_mean, quoted, shown
from clbench.experiment import catalogue, registry
from clbench.experiment.catalogue import Kind, Known
from clbench.experiment.fields import parse_fields
from clbench.experiment.preset import in_row, over
from clbench.results.names import squashed, titles

if TYPE_CHECKING:
    from clbench.experiment.preset import Preset, Row
    from clbench.experiment.request import Request

KINDS: tuple[Kind, ...] = ("method", "sequence", "model")
FAMILIES = ("closed-form", "distillation", "masks", "penalties", "rehearsal")
# names that stand for several methods, and which: said of the class itself, or of what is known of it
GROUPS: dict[str, Callable[[Any], bool]] = {
    "all": lambda cls: True,
    "core": lambda cls: cls.core,
    **{family: lambda cls, family=family: cls.family == family for family in FAMILIES},  # type: ignore[misc]
}


def members(group: str) -> list[str]:
    """Return the methods that a name of several stands for."""
    builtin = catalogue.builtin("method")
    return sorted(name for name in builtin if GROUPS[group](SimpleNamespace(**builtin[name].constants)))


def item_of(kind: Kind, item: str) -> str:
    """Return an item of a list, such as `LwF@temperature=4`, by the name that clbench knows: `lwf@temperature=4`.

    Raises UsageError for names, fields and values that there are not.
    """
    reference, own = own_settings(item)
    name = known_name(kind, reference)
    if kind == "sequence":
        _check_there(name)
    check_fields(kind, name, own)
    return "@".join([name, *item.split("@")[1:]])


def check_fields(kind: Kind, name: str, values: Mapping[str, Any]) -> None:
    """Raise UsageError for a name, fields or values that there are not, as far as can be told."""
    known = look_up(kind, name)
    if known is not None:
        parse_fields(name, known.fields, values, known.constants)


def _check_there(reference: str) -> None:
    """Raise UsageError for data of one's own that are not there."""
    kind, place = catalogue.own_data(reference) or ("", "")
    what = {"npz": "file", "folder": "folder"}.get(kind)
    if what is None:
        return
    path = Path(place).expanduser()
    if not place:
        raise UsageError(f"{reference} names no {what}: write {kind}:{what.upper()}")
    if path.is_dir() if kind == "folder" else path.is_file():
        return
    if path.exists():
        other = "folder" if kind == "npz" else "npz"
        raise UsageError(f"{reference}: {place} is no {what}, did you mean {other}:{place}?")
    near = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UsageError(f"{reference}: there is no {what} {place}{close_names(path.name, near)}")


def own_settings(item: str) -> tuple[str, dict[str, str]]:
    """Split `lwf@temperature=4` into the reference and its settings."""
    reference, *settings = item.split("@")
    own: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"cannot read {quoted(item)}: write {shown(reference)}@FIELD=VALUE")
        if name in own:
            raise UsageError(f"cannot read {quoted(item)}: {shown(name)} is given twice")
        own[name] = value
    return reference, own


def known_name(kind: Kind, reference: str) -> str:
    """Return a registered name for the way that it is written, or for the one in reports; else the reference."""
    names = [*registry.names(kind), *(GROUPS if kind == "method" else ())]
    if reference in names or ":" in reference:
        return registry.canonical(reference)
    spellings = {squashed(name): name for name in names}
    if kind == "method":
        spellings |= {squashed(title): name for name, title in titles().items() if name in names}
    return spellings.get(squashed(reference), reference)


def look_up(kind: Kind, reference: str) -> Known | None:
    """Return what a name or reference says of itself, None if that cannot be told; raise UsageError for a typo."""
    builtin = catalogue.builtin(kind)
    if reference in builtin:
        return builtin[reference]
    if (kind == "method" and reference in GROUPS) or reference in registry.plugins(kind):
        return None
    if kind == "sequence" and (own := catalogue.own_data(reference)):
        about = catalogue.of_class("clbench.sequences.own", catalogue.OWN_DATA[own[0]])
        offered = about.constants.get("offered")
        if offered and own[1] != "NAME" and own[1] not in offered:
            raise UsageError(f"unknown data set {own[1]!r} of torchvision's{did_you_mean(own[1], offered)}")
        return about
    place, colon, name = reference.rpartition(":")
    if kind == "sequence" and place == "avalanche":
        known = catalogue.avalanche_names()
        if known and name not in known:
            raise UsageError(f"unknown Avalanche benchmark {name!r}{did_you_mean(name, sorted(known))}")
        return None
    if kind == "method" and place == "avalanche":
        _check_strategy(name)
        return None
    if kind == "model" and place in catalogue.LIBRARIES:
        return _of_library(place, name)
    if kind == "sequence" and "+" in reference and not colon and not reference.endswith(".py"):
        sources = [split.constants["source"] for split in builtin.values() if "source" in split.constants]
        for part in filter(None, reference.split("+")):
            if part not in sources:
                raise UsageError(f"unknown data set {part!r} in {reference!r}{did_you_mean(part, sources)}")
        return catalogue.of_class("clbench.sequences.splits", "Chain")
    if not colon:
        if reference in registry.builtin_names(kind):  # its file says no more without being imported
            registry.find(kind, reference)
            return None
        raise registry.unknown(kind, reference, GROUPS if kind == "method" else ())
    return _from_outside(kind, reference, place, name)


def _check_strategy(reference: str) -> None:
    """Raise UsageError for a strategy or plugin that Avalanche does not have; its arguments need it to be imported."""
    first, *plugins = reference.split("+")
    for what, name, folder in [("strategy", first, "supervised"), *(("plugin", p, "plugins") for p in plugins)]:
        known = catalogue.avalanche_classes(folder)
        if known and name not in known:
            hint = close_names(name, known) or "; see clbench list methods --all"
            raise UsageError(f"unknown {what} {name!r} of Avalanche{hint}")


def _of_library(library: str, name: str) -> Known:
    """Return what a network of another library says of itself; raise UsageError if there is none, or no library."""
    if importlib.util.find_spec(library) is None:
        raise UsageError(f"{library}:{name} needs {library}: pip install 'clbench[{library}]'")
    known = catalogue.torchvision_names() if library == "torchvision" else []
    if known and name not in known:
        raise UsageError(f"unknown network {name!r} of torchvision{did_you_mean(name, known)}")
    return catalogue.of_class("clbench.models.libraries", catalogue.LIBRARIES[library])


def _from_outside(kind: Kind, reference: str, place: str, name: str) -> Known | None:
    if not place.endswith(".py"):
        if place.startswith("clbench."):
            with contextlib.suppress(Exception):  # the registry says what is wrong with it
                return catalogue.of_class(place, name)
        if place not in sys.modules and importlib.util.find_spec(place.split(".")[0] or "none") is None:
            registry.find(kind, reference)  # which says what is wrong with it
        return None
    path = Path(place).expanduser()
    if not path.is_file():
        raise registry.unknown(kind, reference)
    there, known = catalogue.in_file(path.resolve(), name)
    if not there:
        public = catalogue.public_names(path.resolve())
        raise UsageError(f"unknown {kind} {reference!r}: {place} defines no {name}{close_names(name, public)}")
    return known


def check(request: Request) -> None:
    """Raise UsageError for a setting, or a name in the preset, that there is not."""
    training = catalogue.training()
    parse_fields("training", training.fields, request.training)
    if request.preset is not None:
        _check_rows(request.preset, request.preset.choose(request.rows, request.controls))
    for name, fields in request.settings.items():
        known = training if name == "training" else _setting_of(request, name)
        for field, value in ((field, value) for field, values in fields.items() for value in values):
            if known is not None:
                parse_fields(name, known.fields, {field: value}, known.constants)
    for name, spaces in request.search.items():
        known = training if name == "training" else _setting_of(request, name, "--search")
        for field, space in spaces.items():
            if known is not None:
                for value in space.choices or (space.low, space.high):
                    parse_fields(name, known.fields, {field: value}, known.constants)


def _check_rows(preset: Preset, rows: list[Row]) -> None:
    seen: set[tuple[str, str]] = set()  # rows share most of their names
    for row in rows:
        named: list[tuple[Kind, Any]] = [("method", row.method)]
        named.append(("sequence", over(preset.sequence, row.sequence).get("name")))
        named.append(("model", over(preset.model, row.model).get("name")))
        for kind, name in named:
            if name and (kind, name) not in seen:
                seen.add((kind, name))
                with in_row(preset.name, row.label):
                    look_up(kind, registry.absolute(name, preset.folder))


def _setting_of(request: Request, name: str, option: str = "--set") -> Known | None:
    """Return what is known of something that --set names; raise UsageError if nothing is called so."""
    asked: Mapping[Kind, list[str] | None] = {
        "method": request.methods,
        "sequence": request.sequence,
        "model": request.model,
    }
    for kind in KINDS:
        there = [own_settings(item)[0] for item in asked[kind] or ()]
        if name in there or name in registry.names(kind):
            return look_up(kind, name)
    made = "+" in name or name.startswith("avalanche:") or catalogue.own_data(name) is not None
    if request.preset is None and not made:
        given = [own_settings(item)[0] for items in asked.values() for item in items or ()]
        known = ["training", *given, *(other for kind in KINDS for other in registry.names(kind))]
        raise unused(name, known, option)
    return None


def unused(name: str, known: list[str], option: str = "--set") -> UsageError:
    """Return what to say of a setting for a name that is not in the sweep; these are."""
    references = [other for other in known if other.rpartition(":")[2] == name]  # of which it is the class
    meant = f", did you mean {references[0]}?" if references else did_you_mean(name, known)
    return UsageError(f"{option} {name}.… names nothing in this sweep{meant}")

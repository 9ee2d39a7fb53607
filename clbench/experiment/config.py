"""A sweep in a file: its options in a table [run], and perhaps a preset of its own beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

from clbench.errors import UsageError, quoted, shown
from clbench.experiment import presets
from clbench.results.names import spelled
from clbench.results.store import write_whole

if TYPE_CHECKING:
    from clbench.experiment.request import Request


def options_in(reference: str | Path) -> dict[str, Any]:
    """Return the options in a file's table [run]; if it has rows, it is the preset that they are of."""
    if not isinstance(reference, (str, Path)):
        raise UsageError(f"config={quoted(reference)}: the name of a file is needed")
    path = Path(reference).expanduser()
    name = shown(str(reference))
    content = presets.read_toml(path, "config", name)
    options = content.pop("run", {})
    where = f"the config {name}"
    if not isinstance(options, dict):
        raise UsageError(f"{where}: run is no table: options stand below a line [run]")
    if "config" in options:
        raise UsageError(f"{where}: [run] has an entry 'config': a config names no other")
    if "rows" in content:
        if "preset" in options:
            raise UsageError(f"{where} names a preset, and has rows of its own: choose one")
        options = {"preset": presets.made(content, path, name), **options}
    elif content:
        raise UsageError(f"{where} has {', '.join(content)} outside [run], but no [[rows]] of a preset")
    elif not options:
        raise UsageError(f"{where} has no options: they stand below a line [run]")
    if isinstance(settings := options.get("settings"), dict):
        options = {**options, "settings": dict(_flat(settings))}
    return options


def _flat(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Name settings by NAME.FIELD, where a file has a table per name."""
    flat: list[tuple[str, Any]] = []
    for name, value in settings.items():
        flat += (
            [(f"{name}.{field}", each) for field, each in value.items()] if isinstance(value, dict) else [(name, value)]
        )
    return flat


def write(request: Request, path: str | Path) -> Path:
    """Write the options that a request was given as a file that --config reads; a file that says otherwise stays."""
    path = Path(path).expanduser()
    given = [name for name in type(request).model_fields if name in request.model_fields_set]
    content = {name: _plain(getattr(request, name)) for name in given}
    if request.preset is not None:
        name, folder = request.preset.name, request.preset.folder
        content["preset"] = name if folder == presets.FOLDER.absolute() else str(folder / f"{name}.toml")
    text = tomli_w.dumps({"run": content})
    try:
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise UsageError(f"{path} is there already and says otherwise: name another file, or remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    return path


def _plain(value: Any) -> Any:
    """Return a value as TOML has it."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, (bool, int, float, str)) else spelled(value)

"""What was typed → values: names, seeds, class orders, settings. Needs neither torch nor anything of a sweep."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from clbench.errors import UsageError
from clbench.experiment import registry

MAX_SEED = 2**32 - 1  # the largest that NumPy's RandomState takes
MOST_SEEDS = 100_000


def parse_names(value: str | type | Sequence[str | type]) -> list[str]:
    """Split a comma list; a class stands for its module and name."""
    if isinstance(value, str):
        items = [item.strip() for item in value.split(",")]
    elif isinstance(value, Sequence):
        items = [item if isinstance(item, str) else _reference(item) for item in value]
    else:
        items = [_reference(value)]
    if not items or not all(items):
        raise UsageError(f"an empty name in the list {value!r}")
    return items


def _reference(thing: Any) -> str:
    if not inspect.isclass(thing):
        raise UsageError(f"{thing!r} is neither a name nor a class")
    if thing.__module__ == "__main__":
        raise UsageError(
            f"{thing.__qualname__} is defined in a session, where workers can't find it: put it into a file"
        )
    name = str(getattr(thing, "name", ""))
    if any(registry.builtin(kind).get(name) is thing for kind in get_args(registry.Kind)):
        return name
    return f"{thing.__module__}:{thing.__qualname__}"


def parse_seeds(value: int | str | Sequence[int]) -> list[int]:
    """Read seeds: a count n (0…n−1), a list `0,4,9`, ranges `10-19`, or a sequence of integers."""
    value = getattr(value, "tolist", lambda: value)()  # of NumPy
    if isinstance(value, bool) or not isinstance(value, (int, str, Sequence)):
        raise UsageError(f"seeds={value!r}: give a number of seeds, a list such as 0,4,9 or a range such as 10-19")
    if isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal()):
        if not 1 <= int(value) <= MOST_SEEDS:
            raise UsageError(
                f"seeds={value} is a number of seeds (5 means 0…4): give 1 to {MOST_SEEDS:,}, or a single seed as 7-7"
            )
        return list(range(int(value)))
    seeds: list[int] = []
    for item in value.split(",") if isinstance(value, str) else map(str, value):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", item)
        if match is None:
            raise UsageError(f"seeds={value!r}: cannot read {item!r}; write 5, 0,4,9 or 10-19")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"seeds={value!r}: the range {item} runs backwards")
        if last - first >= MOST_SEEDS:
            raise UsageError(f"seeds={value!r}: {item} is more than {MOST_SEEDS:,} seeds")
        if last > MAX_SEED:
            raise UsageError(f"seeds={value!r}: {last} is too large, the largest seed is {MAX_SEED}")
        seeds += range(first, last + 1)
    if not seeds:
        raise UsageError("seeds: at least one is needed")
    return list(dict.fromkeys(seeds))


def parse_class_order(value: str | Sequence[int]) -> str | tuple[int, ...]:
    """Read a class order: `seed`, `fixed`, or the classes themselves."""
    if isinstance(value, str) and value in ("seed", "fixed"):
        return value
    items = value.split(",") if isinstance(value, str) else getattr(value, "tolist", lambda: value)()
    if not isinstance(items, Sequence) or not all(str(item).strip().isdecimal() for item in items):
        raise UsageError(f"class order {value!r}: write seed, fixed, or classes such as 3,1,4")
    return tuple(int(item) for item in items)


def parse_settings(settings: Mapping[str, Any] | Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Read NAME.FIELD=VALUE settings into {name: {field: values}}; a comma list is a grid."""
    if isinstance(settings, Mapping):
        pairs = [(str(key), list(v) if isinstance(v, (list, tuple)) else [v]) for key, v in settings.items()]
        if empty := [key for key, values in pairs if not values]:
            raise UsageError(f"settings {empty[0]}: the list of values is empty")
    else:
        pairs = []
        for setting in settings:
            key, _, value = setting.partition("=")
            pairs.append((key.strip(), [part.strip() for part in value.split(",")]))
            if not all(pairs[-1][1]):
                raise UsageError(f"cannot read --set {setting}: write NAME.FIELD=VALUE, as in lwf.temperature=4")
    parsed: dict[str, dict[str, list[Any]]] = {}
    for key, values in pairs:
        name, _, field = key.rpartition(".")
        if not (name and field):
            raise UsageError(f"cannot read --set {key}: write NAME.FIELD=VALUE, as in lwf.temperature=4")
        if field in parsed.setdefault(name, {}):
            raise UsageError(f"--set {key} is given twice: write a comma list for a grid")
        parsed[name][field] = values
    return parsed


def parse_folder(value: str | Path) -> str | Path:
    """Raise UsageError for an empty name, which would be the working folder."""
    if str(value) == "":
        raise UsageError("an empty folder name: for the working folder write .")
    return value

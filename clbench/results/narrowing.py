"""Which of some records are looked at: those of a task sequence, scenario or model, or with certain settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clbench.errors import UsageError, close_names, did_you_mean, quoted
from clbench.results.groups import natural, settings
from clbench.results.record import RunRecord

Where = Mapping[str, Any] | str | Iterable[str] | None  # {"seed": [0, 1]}, or texts as in --where seed=0,1
OWNERS = {"method": "params", "model": "model_params", "sequence": "sequence_params"}  # where a spec has their settings


def narrow(
    records: Sequence[RunRecord], place: Mapping[str, str | Sequence[str]], where: Where = None
) -> tuple[list[RunRecord], list[str]]:
    """Return the records of some places and with some settings, and lines on values asked for that no run has.

    `place` has labels of sequences, scenarios and models, as a list or as text with commas, () for all; a bare name
    stands for all its variants unless it is a label itself. `where` has a value, or a list of such, for settings as a
    record's spec has them: training.epochs, params.temperature, seed; or it is text as in --where. OWNER.FIELD, as
    lwf.temperature or mlp.width, is asked of the runs of that method, model or sequence only. Raises UsageError, with
    what there is, if nothing is left.
    """
    chosen, said = list(records), []
    for kind, wanted in place.items():
        chosen = _of(chosen, kind, names_in(wanted)) if wanted else chosen
    for name, value in _settings_in(where).items():
        chosen, missing = _with(chosen, name, value if isinstance(value, list | tuple) else [value])
        said += missing
    return chosen, said


def names_in(asked: str | Sequence[str] | None) -> Sequence[str]:
    """Return names from text with commas, or as they are."""
    return [part.strip() for part in asked.split(",") if part.strip()] if isinstance(asked, str) else asked or ()


def _settings_in(where: Where) -> Mapping[str, Any]:
    """Return values by setting; raise UsageError for what is neither that nor texts SETTING=VALUE."""
    if where is None or isinstance(where, Mapping):
        return where or {}
    settings: dict[str, list[str]] = {}
    for text in [where] if isinstance(where, str) or not isinstance(where, Iterable) else where:
        name, _, value = (part.strip() for part in text.partition("=")) if isinstance(text, str) else ("", "", "")
        if not name or not value:
            raise UsageError(f"--where takes SETTING=VALUE, as in training.epochs=2, not {quoted(text)}")
        settings.setdefault(name, []).extend([value] if value.startswith("[") else names_in(value))
    return settings


def _label(kind: str) -> str:
    return {"method": "label", "scenario": "scenario"}.get(kind, f"{kind}_label")


def _of(records: Sequence[RunRecord], kind: str, wanted: Sequence[str]) -> list[RunRecord]:
    """Return the records of some sequences, scenarios or models."""
    label = _label(kind)
    known = sorted({record.spec[label] for record in records})
    for name in wanted:
        if not any(name in (record.spec[label], record.spec[kind]) for record in records):
            hint = close_names(name, known) or f": choose from {', '.join(known)}"
            raise UsageError(f"no records of the {kind} {name!r}{hint}")
    bare = [name for name in wanted if name not in known]
    return [record for record in records if record.spec[label] in wanted or record.spec[kind] in bare]


def _with(records: Sequence[RunRecord], name: str, wanted: Sequence[Any]) -> tuple[list[RunRecord], list[str]]:
    """Return the records in which a setting has one of some values, and a line on values that none has.

    Of a setting of a method, model or sequence, those of others are returned too.
    """
    have = [settings(record.spec) for record in records]
    of_all = any(name in own for own in have)
    keys = [name if of_all else _owned(record.spec, name) for record in records]  # None: not asked
    there = [own[key] for own, key in zip(have, keys, strict=True) if key in own]
    if not there:
        raise UsageError(f"no setting {name!r} in these records{_hint(name, records, have)}")
    whole = any(wanted == value for value in there)  # a setting that is a list
    missing = [] if whole else [value for value in wanted if value not in there and _read(value) not in there]
    values = [wanted, *wanted, *map(_read, wanted)]
    line = f"no run with {name}={','.join(map(_shown, missing))}: these records have "
    line += ", ".join(sorted({_shown(value) for value in there}, key=natural))
    if len(missing) == len(wanted):
        raise UsageError(line)
    chosen = [
        record
        for record, own, key in zip(records, have, keys, strict=True)
        if key is None or (key in own and own[key] in values)
    ]
    return chosen, [line] if missing else []


def _owned(spec: Mapping[str, Any], name: str) -> str | None:
    """Return where a run's spec has OWNER.FIELD; None for runs of other methods, models and sequences."""
    owner, _, field = name.rpartition(".")
    kind = next((kind for kind in OWNERS if owner in (spec[kind], spec[_label(kind)])), None)
    return None if kind is None else f"{OWNERS[kind]}.{field}"


def _read(value: Any) -> Any:
    """Return the value that a text stands for, as in JSON; `none` is one too."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value.lower().replace("none", "null"))
    except ValueError:
        return value


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value).replace("null", "none")


def _hint(name: str, records: Sequence[RunRecord], have: Sequence[Mapping[str, Any]]) -> str:
    """Return the end of a message about an unknown setting: what is close, or all that there are."""
    owner, _, field = name.rpartition(".")
    groups = {(_owned(record.spec, name) or "").removesuffix(field) for record in records} - {""}
    known = sorted({key for own in have for key in own})
    if groups:  # of a method, model or sequence that is there
        fields = [f"{owner}.{key.partition('.')[2]}" for key in known if key.startswith(tuple(groups))]
        return did_you_mean(name, fields) if fields else ": it has none"
    ending = [one for one in known if one.endswith(f".{name}")]
    return f", did you mean {' or '.join(ending)}?" if ending else did_you_mean(name, known)

"""Which of some records are looked at: those of a task sequence, scenario or model, or with certain settings."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from clbench.errors import UsageError, close_names
from clbench.results.groups import settings
from clbench.results.record import RunRecord


def narrow(
    records: Sequence[RunRecord], place: Mapping[str, Sequence[str]], where: Mapping[str, Any]
) -> list[RunRecord]:
    """Return the records of some places and with some settings.

    `place` has labels of sequences, scenarios and models, () for all; a bare name stands for all its variants unless
    it is a label itself. `where` has a value, or a list of such, for settings as a record's spec has them:
    training.epochs, params.temperature, seed. LABEL.FIELD, as lwf.temperature, is asked of that method's runs only.
    Raises UsageError, with what there is, if nothing is left.
    """
    chosen = list(records)
    for kind, wanted in place.items():
        chosen = _of(chosen, kind, wanted) if wanted else chosen
    for name, value in where.items():
        chosen = _with(chosen, name, value if isinstance(value, list | tuple) else [value])
    return chosen


def _of(records: Sequence[RunRecord], kind: str, wanted: Sequence[str]) -> list[RunRecord]:
    """Return the records of some sequences, scenarios or models."""
    label = kind if kind == "scenario" else f"{kind}_label"
    known = sorted({record.spec[label] for record in records})
    for name in wanted:
        if not any(name in (record.spec[label], record.spec[kind]) for record in records):
            hint = close_names(name, known) or f": choose from {', '.join(known)}"
            raise UsageError(f"no records of the {kind} {name!r}{hint}")
    bare = [name for name in wanted if name not in known]
    return [record for record in records if record.spec[label] in wanted or record.spec[kind] in bare]


def _with(records: Sequence[RunRecord], name: str, wanted: Sequence[Any]) -> list[RunRecord]:
    """Return the records in which a setting has one of some values; and of a method's setting, those of others."""
    have = [settings(record.spec) for record in records]
    method, _, field = name.rpartition(".")
    of_all = any(name in own for own in have)
    key = name if of_all else f"params.{field}"
    asked = [of_all or method in (record.spec["label"], record.spec["method"]) for record in records]
    there = [own[key] for own, is_asked in zip(have, asked, strict=True) if is_asked and key in own]
    if not there:
        raise UsageError(f"no setting {name!r} in these records{_hint(name, {key for own in have for key in own})}")
    values = [wanted, *wanted, *map(_read, wanted)]
    if not any(value in values for value in there):
        listed = ", ".join(sorted({_shown(value) for value in there}))
        raise UsageError(f"no run with {name}={','.join(map(_shown, wanted))}: these records have {listed}")
    return [
        record
        for record, own, is_asked in zip(records, have, asked, strict=True)
        if not is_asked or (key in own and own[key] in values)
    ]


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


def _hint(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    ending = [one for one in known if one.endswith(f".{name}")]
    if ending:
        return f", did you mean {' or '.join(ending)}?"
    return close_names(name, known) or f": choose from {', '.join(known)}"

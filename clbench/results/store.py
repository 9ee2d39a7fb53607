"""The results store: a folder with one JSON file per finished run.

A record is written whole or not at all, is never executed when read, and is found again by its key.
This module needs neither torch nor pandas.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import hashlib
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from clbench.errors import ClbenchError, UsageError

SCHEMA = 1
Matrix = list[list[float | None]]
Curve = dict[str, list[Any]]  # updates: [n], task_aware and task_agnostic: n × T


@dataclass(frozen=True)
class RunRecord:
    """What one run was asked to do, what came out, and what it cost.

    A failed run has `error` and no `accuracy`; lists are indexed by task, in training order.
    """

    key: str  # names the record's file: a hash of all in `spec` that can change a number
    spec: dict[str, Any]  # see RunSpec
    status: str  # "ok" | "failed"
    error: str | None = None  # the failure's message and traceback
    accuracy: dict[str, Matrix] | None = None  # task_aware, task_agnostic: (T+1) × T in [0, 1], null where not measured
    seconds: dict[str, list[float]] | None = None  # train: [T], evaluate: [T+1]; wall time, disjoint
    updates: list[int] | None = None  # optimiser steps per task
    images: list[int] | None = None  # training images seen per task, repeats counted
    forward_passes: list[int] | None = None  # images through the backbone per task, recording included
    backward_passes: list[int] | None = None  # images through the loss's backward pass per task
    parameters: int | None = None  # of the network after the last task
    peak_memory_bytes: int | None = None  # the run's own; null where it can't be told
    stored_bytes: int | None = None  # the most that the method kept between tasks beside the network
    weights_hash: str | None = None  # SHA-256 of the final weights and buffers
    history: list[dict[str, list[float]]] | None = None  # per task: loss and training accuracy per epoch
    # per task, if asked for. updates: [n], those of the task after which all tasks so far were evaluated, the last of
    # them included; task_aware, task_agnostic: n × T in [0, 1], null for later tasks; its time is in seconds.evaluate
    curves: list[Curve] | None = None
    shared_first_task: bool | None = None  # whether another run trained the first task: its cost there stands here
    environment: dict[str, Any] | None = None
    schema: int = SCHEMA

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@contextlib.contextmanager
def collecting_once() -> Iterator[None]:
    """Collect garbage once, at the end, among what was made meanwhile: in between it takes a third of the time."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if before:
            gc.enable()


class Store:
    """The records in one folder, which need not exist yet."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def write(self, record: RunRecord) -> Path:
        """Write one record atomically and return its path."""
        text = _sealed(_text(dataclasses.asdict(record)))
        path = self.folder / f"{record.key}.json"
        handle, temporary = tempfile.mkstemp(prefix=f".{record.key}-", suffix=".tmp", dir=self.folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return path

    @collecting_once()
    def read(self) -> tuple[dict[str, RunRecord], list[str]]:
        """Return the good records by key, in the order of their names, and a line for each damaged file."""
        records, problems = {}, []
        for path in self.paths():
            try:
                record = parse_record(path.read_bytes())
                if record.key != path.stem:
                    raise ClbenchError(f"it is the record of another run, {record.key}")
            except (OSError, ClbenchError) as error:
                problems.append(f"{path.name}: {error}")
            else:
                records[record.key] = record
        return records, problems

    def tidy(self) -> None:
        """Remove half-written files that a killed process left; younger than an hour, they may be of one that lives."""
        for path in (*self.folder.glob(".*.tmp"), *self.folder.glob(".checkpoints/*.tmp")):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > 3600:
                    path.unlink()

    def has_finished(self, key: str) -> bool:
        """Whether there is a good record of a finished run."""
        try:
            return parse_record((self.folder / f"{key}.json").read_bytes()).ok
        except (OSError, ClbenchError):
            return False

    def set_aside(self, key: str) -> None:
        """Keep a file under another name if it stands in a record's place and cannot be read as one."""
        path = self.folder / f"{key}.json"
        try:
            if parse_record(path.read_bytes()).key != key:
                raise ClbenchError("the record of another run")
        except FileNotFoundError:
            return
        except (OSError, ClbenchError):
            names = (path.with_name(f"{path.name}.damaged{f'-{n}' if n else ''}") for n in itertools.count())
            path.rename(next(name for name in names if not name.exists()))

    def paths(self) -> Iterator[Path]:
        """Yield the files of finished records, sorted by name."""
        if self.folder.is_dir():
            yield from sorted(path for path in self.folder.glob("*.json") if not path.name.startswith("."))


SAME = ("accuracy", "updates", "images", "weights_hash")  # what is equal in two runs that are 'equal bit for bit'


def merge(folders: Sequence[Path], out: Path) -> tuple[int, list[str]]:
    """Join the records of several folders in another, which may have some; return how many came in, and problems.

    Of a run that failed in one folder and finished in another the finished record is taken. Raises UsageError, and
    writes nothing, if finished records of the same run disagree in what is equal on like hardware.
    """
    merged: dict[str, tuple[Path, RunRecord]] = {}
    problems, conflicts = [], []
    for folder in [out, *folders]:
        records, damaged = Store(folder).read()
        problems += [f"{folder / problem}" for problem in damaged]
        for key, record in records.items():
            where, other = merged.setdefault(key, (folder, record))
            if record.ok and not other.ok:
                merged[key] = (folder, record)
            elif record.ok and (differing := [name for name in SAME if getattr(record, name) != getattr(other, name)]):
                spec = record.spec
                run = f"{spec['label']} on {spec['sequence_label']}, {spec['scenario']}, seed {spec['seed']}"
                conflicts.append(f"{key} ({run}) in {where} and {folder}: {', '.join(differing)}")
    if conflicts:
        count = "1 record disagrees" if len(conflicts) == 1 else f"{len(conflicts)} records disagree"
        raise UsageError(f"{count}, nothing was merged: {'; '.join(conflicts)}")
    new = [record for folder, record in merged.values() if folder != out]
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out)
    for record in new:
        store.set_aside(record.key)
        store.write(record)
    return len(new), problems


def parse_record(data: bytes) -> RunRecord:
    """Read a record from its JSON text; raise ClbenchError that says what is wrong with it."""
    try:
        text = data.decode()
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ClbenchError(f"not JSON ({error})") from None
    if "\\u" in text:
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError):
            raise ClbenchError("it holds text that is not Unicode") from None
    if not isinstance(content, dict):
        raise ClbenchError("not a record: no JSON object")
    schema = content.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise ClbenchError("not a record: it has no schema number")
    if schema > SCHEMA:
        raise ClbenchError(f"made by a newer clbench (schema {schema}, this one reads {SCHEMA})")
    checksum = content.pop("checksum", None)
    if unknown := sorted(set(content) - _names()):
        raise ClbenchError(f"unknown entries: {', '.join(unknown)}")
    missing = {"key", "spec", "status"} - set(content)
    if missing:
        raise ClbenchError(f"missing entries: {', '.join(sorted(missing))}")
    record = RunRecord(**content)
    _check(record)
    # records from before there was one have no checksum; the bytes are compared first, which is quicker
    as_written = checksum is None or text == _sealed(text.rpartition(_SEAL)[0] + "}")
    if not as_written and checksum != hashlib.sha256(_text(content).encode()).hexdigest():
        raise ClbenchError("it was changed after it had been written: its checksum does not fit")
    return record


@cache
def _names() -> set[str]:
    return {field.name for field in dataclasses.fields(RunRecord)}


_SEAL = ', "checksum": "'


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, allow_nan=False)


def _sealed(text: str) -> str:
    """Return a record's JSON text with its SHA-256 as the last entry."""
    return f'{text[:-1]}{_SEAL}{hashlib.sha256(text.encode()).hexdigest()}"}}\n'


MEASURED = (
    *("accuracy", "seconds", "updates", "images", "forward_passes", "backward_passes", "parameters"),
    *("peak_memory_bytes", "stored_bytes", "weights_hash", "history", "curves", "shared_first_task"),
)
_SPEC_TYPES: Mapping[str, type] = {
    "sequence": str,
    "sequence_label": str,
    "sequence_params": dict,
    "scenario": str,
    "method": str,
    "label": str,
    "params": dict,
    "model": str,
    "model_label": str,
    "model_params": dict,
    "seed": int,
    "training": dict,
}


def _check(record: RunRecord) -> None:
    """Raise ClbenchError unless the record's entries have the types and sizes that readers rely on."""

    def need(condition: bool, what: str) -> None:
        if not condition:
            raise ClbenchError(f"wrong type or value: {what}")

    need(isinstance(record.key, str) and record.key.isalnum(), "key")
    need(isinstance(record.spec, dict), "spec")
    for name, kind in _SPEC_TYPES.items():
        value = record.spec.get(name)
        need(isinstance(value, kind) and not isinstance(value, bool), f"spec.{name}")
    need(record.status in ("ok", "failed"), "status")
    if not record.ok:
        need(isinstance(record.error, str), "error")
        for name in MEASURED:
            need(getattr(record, name) is None, f"{name} of a failed run")
        return
    need(record.error is None, "error of a finished run")
    need(isinstance(record.accuracy, dict) and set(record.accuracy) == {"task_aware", "task_agnostic"}, "accuracy")
    assert record.accuracy is not None
    for view, matrix in record.accuracy.items():
        need(isinstance(matrix, list) and len(matrix) >= 2, f"accuracy.{view}")
        for row in matrix:
            need(_is_row(row, len(matrix) - 1), f"accuracy.{view}")
    tasks = len(record.accuracy["task_aware"]) - 1
    need(len(record.accuracy["task_agnostic"]) == tasks + 1, "accuracy.task_agnostic")
    need(isinstance(record.seconds, dict), "seconds")
    assert record.seconds is not None
    for name, length in (("train", tasks), ("evaluate", tasks + 1)):
        values = record.seconds.get(name)
        need(isinstance(values, list) and len(values) == length and all(map(_is_number, values)), f"seconds.{name}")
    for name in ("updates", "images", "forward_passes", "backward_passes"):
        values = getattr(record, name)
        need(isinstance(values, list) and len(values) == tasks and all(map(_is_count, values)), name)
    every = record.spec.get("eval_every")
    need(every is None or (_is_count(every) and every > 0), "spec.eval_every")
    need((record.curves is None) == (every is None), "curves")
    need(record.curves is None or (isinstance(record.curves, list) and len(record.curves) == tasks), "curves")
    for curve, updates in zip(record.curves or (), record.updates or (), strict=False):
        need(isinstance(curve, dict) and set(curve) == {"updates", *record.accuracy}, "curves")
        points = curve["updates"]
        need(isinstance(points, list) and all(map(_is_count, points)), "curves.updates")
        need(points == sorted(set(points)) and points[-1:] == ([updates] if updates else []), "curves.updates")
        for view in record.accuracy:
            rows = curve[view]
            need(isinstance(rows, list) and len(rows) == len(points), f"curves.{view}")
            need(all(_is_row(row, tasks) for row in rows), f"curves.{view}")
    need(_is_count(record.parameters), "parameters")
    need(_is_count(record.stored_bytes), "stored_bytes")
    need(record.peak_memory_bytes is None or _is_count(record.peak_memory_bytes), "peak_memory_bytes")
    need(isinstance(record.weights_hash, str), "weights_hash")
    need(record.shared_first_task is None or isinstance(record.shared_first_task, bool), "shared_first_task")
    need(isinstance(record.environment, dict), "environment")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_row(value: Any, tasks: int) -> bool:
    """Whether it is an accuracy per task, or null."""
    if not isinstance(value, list) or len(value) != tasks:
        return False
    return all(cell is None or (type(cell) in (float, int) and 0 <= cell <= 1) for cell in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""One record, for people: what was run, what came out, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clbench.errors import ClbenchError, UsageError
from clbench.report.tables import COSTS, DASH
from clbench.results.frames import METRIC_NAMES, Results
from clbench.results.metrics import VIEWS
from clbench.results.names import spelled
from clbench.results.record import RunRecord, parse_record
from clbench.results.wording import console, rich_table, signed

LONGEST = 20  # tasks: a larger matrix is shown by its last row


def read(path: Path) -> RunRecord:
    """Read a record from its file; raise UsageError that says what is wrong with it."""
    try:
        return parse_record(path.read_bytes())
    except OSError as error:
        raise UsageError(f"the record {path} cannot be read: {error.strerror}") from None
    except ClbenchError as error:
        raise UsageError(f"{path} is no good record: {error}") from None


def print_record(path: Path) -> None:
    """Print a record on standard output."""
    record, output = read(path), console()
    for line in _what(record):
        output.print(line, markup=False, soft_wrap=True)
    if not record.ok:
        output.print(f"failed: {record.error}", markup=False, soft_wrap=True)
        return
    views = VIEWS[:1] if record.spec["scenario"] == "domain" else VIEWS
    for view in views:
        told = {"task_aware": "told the task", "task_agnostic": "not told the task"}[view]
        title = "Accuracy" + (f", {told}" if len(views) > 1 else "")
        output.print(rich_table(f"{title}, in per cent", _matrix(record, view)))
    row = Results([record]).runs.iloc[0]
    measured = [
        [name.replace("_", " "), signed(row[name], plus=False)] for name in METRIC_NAMES if _is_there(row[name])
    ]
    output.print(rich_table("Metrics in per cent", [["metric", "value"], *measured]))
    costs = [[heading, write(row[name])] for name, (heading, write) in COSTS.items() if _is_there(row[name])]
    output.print(rich_table("Costs", [["of the whole run", ""], *costs]))


def _is_there(value: Any) -> bool:
    return value is not None and str(value) != "<NA>" and not math.isnan(value)


def _what(record: RunRecord) -> Iterator[str]:
    """Yield lines on what was run and where."""
    spec, made = record.spec, record.environment or {}
    yield f"{record.title}: {'finished' if record.ok else 'failed'}"
    yield f"  method: {spec['method']}{_settings(spec['params'])}"
    yield f"  sequence: {spec['sequence']}{_settings(spec['sequence_params'])}; classes {_order(spec)}"
    if spec.get("tasks"):
        yield f"  tasks of it, from 0: {spec['tasks']}"
    yield f"  model: {spec['model']}{_settings(spec['model_params'])}"
    yield f"  training: {_settings(spec['training']).removeprefix(', ')}"
    if preset := spec.get("preset"):
        yield f"  preset: {preset.get('name')}, row {preset.get('row')}"
    if engine := made.get("engine"):
        yield f"  trained by {engine}: {' '.join(made.get('differs', ()))}"
    where = [f"{name} {made[name]}" for name in ("clbench", "commit", "torch", "device") if made.get(name)]
    yield f"  made by: {', '.join(where)}; {spec.get('precision', 'fp32')}"


def _order(spec: Mapping[str, Any]) -> str:
    order = spec["class_order"]
    return "in no order" if order is None else f"in the order {', '.join(map(str, order))} ({spec['class_order_rule']})"


def _settings(values: Mapping[str, Any]) -> str:
    return "".join(f", {name}={spelled(value)}" for name, value in values.items())


def _matrix(record: RunRecord, view: Any) -> list[list[str]]:
    """Return rows of an accuracy matrix: before training, and after each task."""
    R = record.matrix(view)
    tasks = R.shape[1]
    first = 0 if tasks <= LONGEST else tasks
    names = ["before training", *(f"after task {i}" for i in range(1, tasks + 1))]
    cells = [[DASH if math.isnan(value) else f"{100 * value:.1f}" for value in row] for row in R]
    return [["", *map(str, range(1, tasks + 1))], *([names[i], *cells[i]] for i in range(first, tasks + 1))]

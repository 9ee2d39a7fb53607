"""The record of one run: what it is, how it is written as JSON, and how it is checked when it is read.

Every record ends with the SHA-256 of all that stands before it. Reading one executes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, GetPydanticSchema, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from clbench.errors import ClbenchError
from clbench.results.metrics import VIEWS, Array, View, primary_view

SCHEMA = 1
STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
SAME = ("accuracy", "updates", "images", "weights_hash")  # equal in two runs that are 'equal bit for bit'

Count = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0, le=1)]
Matrix = list[list[Share | None]]
Curve = dict[str, list[Any]]  # see `_Curve`


@with_config(ConfigDict(strict=True, allow_inf_nan=False, extra="allow"))
class _Spec(TypedDict):
    """What readers rely on in a spec; `clbench.experiment.spec.RunSpec` says what each entry means."""

    sequence: str
    sequence_label: str
    sequence_params: dict[str, Any]
    scenario: str
    method: str
    label: str
    params: dict[str, Any]
    model: str
    model_label: str
    model_params: dict[str, Any]
    seed: int
    class_order_rule: str
    class_order: list[int] | None
    training: dict[str, Any]
    device: str
    data: str
    numbers: int
    code: dict[str, str]
    precision: NotRequired[str]
    threads: NotRequired[Annotated[int, Field(ge=1)]]
    evaluate: NotRequired[str]
    eval_every: NotRequired[Annotated[int, Field(ge=1)] | None]
    probe: NotRequired[bool]
    preset: NotRequired[dict[str, Any] | None]
    tasks: NotRequired[str]
    side_by_side: NotRequired[Annotated[int, Field(ge=2)]]


@with_config(STRICT)
class _Confusion(TypedDict):
    """What the test images of each class were taken for after the last task, in the scenario's view.

    Rows and columns are the classes in the order of their tasks. Only counts above 0 are kept, so that there are never
    more numbers than images, however many classes there are.
    """

    classes: list[list[int]]  # by task: [T, its classes]; in `domain` one list, of the labels within a task
    counts: list[dict[int, Annotated[int, Field(ge=1, lt=2**63)]]]  # of each class: images by the column answered


@with_config(STRICT)
class _Curve(TypedDict):
    """Accuracy within one task, at n evaluations of the T tasks."""

    updates: list[Count]  # updates of this task before each evaluation, the last one included: [n]
    task_aware: Matrix  # null for tasks to come: [n, T]
    task_agnostic: Matrix


def _read_as(kind: Any) -> GetPydanticSchema:
    """Let pydantic check a plain dict as a TypedDict, while it stays a plain dict for everyone else."""
    return GetPydanticSchema(lambda _, handler: handler(kind))


@with_config(STRICT)
@dataclass(frozen=True)
class RunRecord:
    """What one run was asked to do, what came out, and what it cost.

    A failed run has `error` and nothing that is measured; lists are indexed by task, in training order. The types are
    checked when a record is read.
    """

    key: Annotated[str, Field(pattern=r"^[0-9A-Za-z]+$")]  # the file's name: a hash of all in `spec` but the labels
    spec: Annotated[dict[str, Any], _read_as(_Spec)]
    status: Literal["ok", "failed"]
    error: str | None = None  # the failure's message and traceback
    accuracy: dict[str, Matrix] | None = None  # task_aware, task_agnostic: (T+1) × T in [0, 1], null where not measured
    validation: dict[str, Matrix] | None = None  # the same of the images that training.validation keeps from training
    seconds: dict[str, list[float]] | None = None  # train: [T], evaluate: [T+1]; wall time, disjoint
    updates: list[Count] | None = None  # optimiser steps per task
    images: list[Count] | None = None  # training images seen per task, repeats counted
    forward_passes: list[Count] | None = None  # images through the backbone per task, recording included
    backward_passes: list[Count] | None = None  # images through the loss's backward pass per task
    parameters: Count | None = None  # of the network after the last task
    peak_memory_bytes: Count | None = None  # the run's own; null where it can't be told
    stored_bytes: Count | None = None  # the most that the method kept between tasks beside the network
    stored_images: Count | None = None  # of earlier tasks, the most among them
    weights_hash: str | None = None  # SHA-256 of the final weights and buffers
    test_images: list[Annotated[int, Field(ge=1, lt=2**63)]] | None = None  # of each task
    # of the last row of accuracy; null where that has no answer
    confusion: Annotated[dict[str, list[Any]], _read_as(_Confusion)] | None = None
    probe: list[Share] | None = None  # with spec.probe: test accuracy of a linear classifier of the final features: [T]
    history: list[dict[str, list[float]]] | None = None  # per task: loss and training accuracy per epoch
    # per task, with spec.eval_every; the time it takes is in seconds.evaluate
    curves: list[Annotated[Curve, _read_as(_Curve)]] | None = None
    shared_first_task: bool | None = None  # whether another run trained the first task: its cost there stands here
    environment: dict[str, Any] | None = None
    schema: Annotated[int, Field(ge=1, le=SCHEMA)] = SCHEMA

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def title(self) -> str:
        """Which run it is, for people."""
        spec = self.spec
        place = f"{spec['sequence_label']}, {spec['scenario']}, {spec['model_label']}"
        return f"{spec['label']}, {place}, seed {spec['seed']}"

    def __repr__(self) -> str:
        return f"<RunRecord: {self.title}: {self.status}{'' if self.ok else f', {self.reason}'}>"

    def confusion_matrix(self) -> Array:
        """Return how many test images of each class (row) were taken for which (column): [classes, classes].

        Classes stand in the order of their tasks. Raises ClbenchError where it was not recorded.
        """
        if self.confusion is None:
            raise ClbenchError(f"{self.title}: it does not say what classes were taken for")
        matrix = np.zeros((len(self.confusion["counts"]),) * 2)
        for row, counts in enumerate(self.confusion["counts"]):
            matrix[row, list(counts)] = list(counts.values())
        return matrix

    @property
    def reason(self) -> str | None:
        """Why the run failed: the first line of its error."""
        return next(iter((self.error or "").splitlines()), None)

    def matrix(self, view: View | None = None, images: Literal["test", "validation"] = "test") -> Array:
        """Return a finished run's accuracy matrix, NaN where not measured: [T+1, T].

        The view is the scenario's own by default. Raises ClbenchError if there are no validation images.
        """
        found = self.accuracy if images == "test" else self.validation
        if found is None:
            raise ClbenchError(f"{self.title}: it has no {images} accuracy")
        return np.array(found[view or primary_view(self.spec["scenario"])], dtype=np.float64)


MEASURED = tuple(
    f.name for f in fields(RunRecord) if f.name not in ("key", "spec", "status", "error", "environment", "schema")
)
# a finished record may lack these; `stored_images`, `test_images`, `validation`, `confusion` and `probe` are younger
# than the first records
NOT_ALWAYS = (
    *("validation", "peak_memory_bytes", "stored_images", "test_images", "history", "curves", "shared_first_task"),
    *("confusion", "probe"),
)
NEEDED = [name for name in MEASURED if name not in NOT_ALWAYS]


def record_text(record: RunRecord) -> str:
    """Return a record as a line of JSON, its checksum at the end; raise ValueError for a number that isn't finite."""
    content = json.dumps(vars(record), sort_keys=True, allow_nan=False)
    return f'{content[:-1]}, "checksum": "{hashlib.sha256(content.encode()).hexdigest()}"}}\n'


_CHECKSUM = re.compile(rb', "checksum": "([0-9a-f]{64})"\}\n?\Z')


def parse_record(data: bytes) -> RunRecord:
    """Read a record from its JSON text; raise ClbenchError that says what is wrong with it."""
    found = _CHECKSUM.search(data)
    content = data[: found.start()] + b"}" if found else data
    try:
        record = _READER.validate_json(content)
    except ValidationError as error:
        raise ClbenchError(_in_our_words(error)) from None
    if found is None:
        raise ClbenchError("it has no checksum")
    if hashlib.sha256(content).hexdigest() != found[1].decode():
        raise ClbenchError("it was changed after it had been written: its checksum does not fit")
    return record


def _in_our_words(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False)
    first = problems[0]
    named: dict[str, list[str]] = {}
    for problem in problems:
        name = ".".join(part for part in problem["loc"] if isinstance(part, str))
        named.setdefault(problem["type"], []).append(name)
    if "json_invalid" in named:
        return f"not JSON ({first['ctx']['error']})"
    if "dataclass_type" in named:
        return "not a record: no JSON object"
    if "schema" in named.get("less_than_equal", ()):
        return f"made by a newer clbench, this one reads schema {SCHEMA}"
    if unknown := named.get("unexpected_keyword_argument"):
        return (
            "its checksum is damaged" if unknown == ["checksum"] else f"unknown entries: {', '.join(sorted(unknown))}"
        )
    if missing := named.get("missing"):
        return f"missing entries: {', '.join(sorted(missing))}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return f"wrong type or value: {next(iter(named.values()))[0]}"


def _fits_together(record: RunRecord) -> RunRecord:
    """Raise ValueError unless entries that depend on each other fit: finished or failed, and numbers of tasks."""

    def need(condition: bool, what: str) -> None:
        if not condition:
            raise ValueError(f"does not fit the rest: {what}")

    if not record.ok:
        need(record.error is not None, "error")
        for name in MEASURED:
            need(getattr(record, name) is None, f"{name} of a failed run")
        return record
    need(record.error is None, "error of a finished run")
    need(record.environment is not None, "environment")
    for name in NEEDED:
        need(getattr(record, name) is not None, name)
    accuracy, seconds = record.accuracy or {}, record.seconds or {}
    need(set(accuracy) == set(VIEWS), "accuracy")
    tasks = len(accuracy["task_aware"]) - 1
    for name, matrices in (("accuracy", accuracy), ("validation", record.validation or accuracy)):
        need(set(matrices) == set(VIEWS), name)
        for view, matrix in matrices.items():
            need(tasks >= 1 and _has_shape(matrix, tasks + 1, tasks), f"{name}.{view}")
    for name, length in (("train", tasks), ("evaluate", tasks + 1)):
        need(len(seconds.get(name, ())) == length, f"seconds.{name}")
    for name in ("updates", "images", "forward_passes", "backward_passes"):
        need(len(getattr(record, name)) == tasks, name)
    need(len(record.test_images or range(tasks)) == tasks, "test_images")
    need(record.probe is None or (record.spec.get("probe") is True and len(record.probe) == tasks), "probe")
    need(record.confusion is None or _counts_fit(record), "confusion")
    need((record.curves is None) == (record.spec.get("eval_every") is None), "curves")
    need(record.curves is None or len(record.curves) == tasks, "curves")
    for curve, updates in zip(record.curves or (), record.updates or (), strict=False):
        points = curve["updates"]
        need(points == sorted(set(points)) and points[-1:] == ([updates] if updates else []), "curves.updates")
        for view in VIEWS:
            need(_has_shape(curve[view], len(points), tasks), f"curves.{view}")
    return record


def _counts_fit(record: RunRecord) -> bool:
    """Whether the counts of what classes were taken for fit the numbers of test images and the accuracy."""
    assert record.confusion is not None
    classes, counts = record.confusion["classes"], record.confusion["counts"]
    images, right = record.test_images, record.matrix()[-1]
    shared = record.spec["scenario"] == "domain"  # one block of labels, for the images of all tasks
    width = sum(map(len, classes))
    columns = {column for row in counts for column in row}
    if images is None or len(classes) != (1 if shared else len(images)) or len(counts) != width:
        return False
    if not columns <= set(range(width)) or np.isnan(right).any():
        return False
    totals, hits, start = [], [], 0
    for block in classes:
        rows = range(start, start + len(block))
        totals.append(sum(sum(counts[row].values()) for row in rows))
        hits.append(sum(counts[row].get(row, 0) for row in rows))
        start += len(block)
    expected = [float(share * n) for share, n in zip(right, images, strict=True)]
    images, expected = ([sum(images)], [sum(expected)]) if shared else (images, expected)
    return totals == images and bool(np.allclose(hits, expected, rtol=1e-9, atol=1e-3))


def _has_shape(matrix: Matrix, rows: int, columns: int) -> bool:
    return len(matrix) == rows and all(len(row) == columns for row in matrix)


_READER = TypeAdapter(Annotated[RunRecord, AfterValidator(_fits_together)])

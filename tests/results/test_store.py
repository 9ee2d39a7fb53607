"""The store: whole records or none, and damaged files named."""

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from clbench.errors import ClbenchError
from clbench.results.store import RunRecord, Store, parse_record

SPEC = {
    "sequence": "split-digits", "sequence_label": "split-digits", "sequence_params": {"tasks": 2}, "scenario": "task",
    "method": "lwf", "label": "lwf", "params": {}, "model": "mlp", "model_label": "mlp", "model_params": {}, "seed": 0,
    "class_order_rule": "seed", "class_order": [0, 1, 2, 3], "training": {"epochs": 1}, "device": "cpu", "data": "d",
    "numbers": 1, "code": {},
}  # fmt: skip
GOOD = RunRecord(
    key="abc123",
    spec=SPEC,
    status="ok",
    accuracy={
        "task_aware": [[None, None], [1.0, None], [0.5, 1.0]],
        "task_agnostic": [[None, None], [1.0, None], [0.0, 1.0]],
    },
    seconds={"train": [1.0, 1.0], "evaluate": [0.1, 0.1, 0.1]},
    updates=[3, 3], images=[24, 24], forward_passes=[24, 24], backward_passes=[24, 24],
    parameters=10, stored_bytes=0, weights_hash="f00", history=[], environment={},
)  # fmt: skip

CURVES = [
    {"updates": [2, 3], "task_aware": [[0.5, None], [1.0, None]], "task_agnostic": [[0.5, None], [1.0, None]]},
    {"updates": [3], "task_aware": [[0.5, 1.0]], "task_agnostic": [[0.0, 1.0]]},
]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.write(GOOD)
    assert path == tmp_path / "abc123.json"
    assert store.read() == ({"abc123": GOOD}, [])
    assert [file.name for file in tmp_path.iterdir()] == ["abc123.json"]


def test_curves_are_read_too(tmp_path: Path) -> None:
    record = dataclasses.replace(GOOD, spec=SPEC | {"eval_every": 2}, curves=CURVES)
    Store(tmp_path).write(record)
    assert Store(tmp_path).read() == ({"abc123": record}, [])
    untrained = dataclasses.replace(record, updates=[0, 3], curves=[{name: [] for name in CURVES[0]}, CURVES[1]])
    assert parse_record(json.dumps(dataclasses.asdict(untrained)).encode()) == untrained


def test_a_missing_folder_has_no_records(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").read() == ({}, [])


def test_a_write_that_fails_leaves_the_old_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(GOOD)
    with pytest.raises(ValueError, match="Out of range float"):
        store.write(dataclasses.replace(GOOD, parameters=float("nan")))
    assert store.read() == ({"abc123": GOOD}, [])
    assert [file.name for file in tmp_path.iterdir()] == ["abc123.json"]


def changed(**entries: Any) -> bytes:
    return json.dumps(dataclasses.asdict(GOOD) | entries).encode()


def with_curves(second: Any = CURVES[1], every: Any = 2, **entries: Any) -> bytes:
    return changed(**{"spec": SPEC | {"eval_every": every}, "curves": [CURVES[0], second], **entries})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (changed()[:100], "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[1, 2]", "no JSON object"),
        (b"{}", "no schema number"),
        (changed(schema=99), "newer clbench"),
        (changed(colour="red"), "unknown entries: colour"),
        (b'{"schema": 1, "key": "a", "spec": {}}', "missing entries: status"),
        (changed(key="../../etc"), "key"),
        (changed(spec={}), "spec.sequence"),
        (changed(spec=SPEC | {"seed": "0"}), "spec.seed"),
        (changed(spec=SPEC | {"seed": True}), "spec.seed"),
        (changed(status="fine"), "status"),
        (changed(accuracy=None), "accuracy"),
        (changed(accuracy={"task_aware": [[2.0], [1.0]], "task_agnostic": [[1.0], [1.0]]}), "accuracy.task_aware"),
        (changed(accuracy={"task_aware": [[1.0], [1.0]], "task_agnostic": [[1.0]]}), "accuracy.task_agnostic"),
        (changed(accuracy={"task_aware": [["1"], [1.0]], "task_agnostic": [[1.0], [1.0]]}), "accuracy.task_aware"),
        (changed(updates=[0.5, 1]), "updates"),
        (changed(parameters=10**30), "parameters"),
        (changed(error="why"), "error of a finished run"),
        (changed(status="failed", error="why"), "accuracy of a failed run"),
        (changed(weights_hash="\ud800"), "not Unicode"),
        (changed(curves=CURVES), "curves"),
        (with_curves(curves=None), "curves"),
        (with_curves(curves=CURVES[:1]), "curves"),
        (with_curves(curves={}), "curves"),
        (with_curves(every=0), "spec.eval_every"),
        (with_curves(every="2"), "spec.eval_every"),
        (with_curves(every=True), "spec.eval_every"),
        (with_curves([]), "curves"),
        (with_curves({"updates": [3], "task_aware": [[0.5, 1.0]]}), "curves"),
        (with_curves(CURVES[1] | {"updates": 3}), "curves.updates"),
        (with_curves(CURVES[1] | {"updates": [2.5]}), "curves.updates"),
        (with_curves(CURVES[1] | {"updates": [2]}), "curves.updates"),
        (with_curves(CURVES[1] | {"updates": [2, 3]}), "curves.task_aware"),
        (with_curves(CURVES[0] | {"updates": [3, 3]}), "curves.updates"),
        (with_curves(CURVES[1] | {"task_agnostic": [[0.0]]}), "curves.task_agnostic"),
        (with_curves(CURVES[1] | {"task_agnostic": [[0.0, 1.5]]}), "curves.task_agnostic"),
        (with_curves(CURVES[1] | {"task_agnostic": [[0.0, "1"]]}), "curves.task_agnostic"),
        (with_curves(CURVES[1] | {"task_agnostic": None}), "curves.task_agnostic"),
        (
            json.dumps(dataclasses.asdict(RunRecord("a", SPEC, "failed", "why", curves=CURVES))).encode(),
            "curves of a fail",
        ),
        (changed(seconds={"train": [1.0], "evaluate": [1.0]}), "seconds.train"),
        (changed().replace(b'"parameters": 10', b'"parameters": NaN'), "NaN is not a JSON number"),
    ],
)
def test_damage_is_named(data: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ClbenchError, match=reason):
        parse_record(data)
    (tmp_path / "bad.json").write_bytes(data)
    Store(tmp_path).write(GOOD)
    records, problems = Store(tmp_path).read()
    assert list(records) == ["abc123"]
    assert len(problems) == 1
    assert problems[0].startswith("bad.json: ")


def test_old_half_written_files_are_removed(tmp_path: Path) -> None:
    for name, age in (("old", 4000), ("young", 10)):
        path = tmp_path / f".abc123-{name}.tmp"
        path.write_bytes(b"{")
        os.utime(path, (time.time() - age,) * 2)
    Store(tmp_path).tidy()
    assert [path.name for path in tmp_path.iterdir()] == [".abc123-young.tmp"]


def test_half_written_files_are_not_records(tmp_path: Path) -> None:
    (tmp_path / ".abc123-x.tmp").write_bytes(changed()[:50])
    (tmp_path / ".hidden.json").write_bytes(b"")
    assert Store(tmp_path).read() == ({}, [])

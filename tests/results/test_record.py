"""One record: what is written is read, and whatever is damaged is named."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from made_up import LWF, record, sealed, with_curve

from clbench.errors import ClbenchError
from clbench.results.record import RunRecord, parse_record, record_text

GOOD = record("lwf", R=LWF[0], history=[])
CURVED = with_curve("lwf", 0, 0.3)
CURVES = CURVED.curves or []
SPEC = GOOD.spec


def changed(**entries: Any) -> bytes:
    return sealed(dataclasses.asdict(GOOD) | entries)


def with_curves(second: Any = CURVES[1], every: Any = 50, **entries: Any) -> bytes:
    return changed(**{"spec": SPEC | {"eval_every": every}, "curves": [CURVES[0], second], **entries})


@pytest.mark.parametrize(
    "whole",
    [
        GOOD,
        CURVED,
        dataclasses.replace(CURVED, updates=[0, 100], curves=[{name: [] for name in CURVES[0]}, CURVES[1]]),
        RunRecord("a1", SPEC, "failed", "why\n\nTraceback: é ∞", environment={"torch": "2"}),
    ],
)
def test_what_is_written_is_read(whole: RunRecord) -> None:
    assert parse_record(record_text(whole).encode()) == whole


def test_a_number_that_is_not_finite_is_not_written() -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        record_text(dataclasses.replace(GOOD, seconds={"train": [float("nan")], "evaluate": []}))


def test_accuracy_matrices_have_nan_where_nothing_was_measured() -> None:
    assert GOOD.matrix().shape == (3, 2)
    assert GOOD.matrix()[1].tolist()[0] == 0.9
    assert (GOOD.matrix("task_agnostic")[2] == GOOD.matrix()[2] / 2).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (changed()[:100], "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (changed(weights_hash="\ud800"), "not JSON"),  # not Unicode
        (b"[" * 5000, "not JSON"),
        (b"[1, 2]", "no JSON object"),
        (b"{}", "missing entries: key, spec, status"),
        (changed(schema=99, colour="red"), "newer clbench"),
        (changed(schema="1"), "schema"),
        (changed(colour="red", taste="sour"), "unknown entries: colour, taste"),
        (sealed({"schema": 1, "key": "a", "spec": SPEC}), "missing entries: status"),
        (changed()[:-5] + b'"}\n', "its checksum is damaged"),
        (json.dumps(dataclasses.asdict(GOOD)).encode(), "no checksum"),
        (changed().replace(b'"parameters": 1000', b'"parameters": 1001'), "changed after"),
        (changed(key="../../etc"), "key"),
        (changed(spec={}), "missing entries: .*spec.sequence"),
        (changed(spec=SPEC | {"seed": "0"}), "spec.seed"),
        (changed(spec=SPEC | {"seed": True}), "spec.seed"),
        (changed(status="fine"), "status"),
        (changed(accuracy=None), "accuracy"),
        (changed(accuracy={"task_aware": [[0.1], [1.0]]}), "accuracy"),
        (changed(accuracy={"task_aware": [[2.0], [1.0]], "task_agnostic": [[1.0], [1.0]]}), "accuracy.task_aware"),
        (changed(accuracy={"task_aware": [[1.0], [1.0]], "task_agnostic": [[1.0]]}), "accuracy.task_agnostic"),
        (changed(accuracy={"task_aware": [["1"], [1.0]], "task_agnostic": [[1.0], [1.0]]}), "accuracy.task_aware"),
        (changed(updates=[0.5, 1]), "updates"),
        (changed(images=[1600]), "images"),
        (changed(parameters=10**30), "parameters"),
        (changed(weights_hash=None), "weights_hash"),
        (changed(environment=None), "environment"),
        (changed(seconds={"train": [1.0], "evaluate": [1.0]}), "seconds.train"),
        (changed().replace(b'"parameters": 1000', b'"parameters": NaN'), "parameters"),
        (changed(error="why"), "error of a finished run"),
        (changed(status="failed", error="why"), "accuracy of a failed run"),
        (sealed({"key": "a", "spec": SPEC, "status": "failed"}), "error"),
        (sealed({"key": "a", "spec": SPEC, "status": "failed", "error": "why", "curves": CURVES}), "curves of a fail"),
        (changed(curves=CURVES), "curves"),
        (with_curves(curves=None), "curves"),
        (with_curves(curves=CURVES[:1]), "curves"),
        (with_curves(curves={}), "curves"),
        (with_curves(every=0), "spec.eval_every"),
        (with_curves(every="2"), "spec.eval_every"),
        (with_curves([]), "curves"),
        (with_curves({"updates": [100], "task_aware": [[0.5, 1.0]]}), "curves"),
        (with_curves(CURVES[1] | {"colour": []}), "curves.colour"),
        (with_curves(CURVES[1] | {"updates": 100}), "curves.updates"),
        (with_curves(CURVES[1] | {"updates": [2.5, 100]}), "curves.updates"),
        (with_curves(CURVES[1] | {"updates": [50, 90]}), "curves.updates"),
        (with_curves(CURVES[1] | {"updates": [100, 100]}), "curves.updates"),
        (with_curves(CURVES[1] | {"updates": [100]}), "curves.task_aware"),
        (with_curves(CURVES[1] | {"task_agnostic": [[0.0], [0.0]]}), "curves.task_agnostic"),
        (with_curves(CURVES[1] | {"task_agnostic": [[0.0, 1.5], [0.0, 0.0]]}), "curves.task_agnostic"),
        (with_curves(CURVES[1] | {"task_agnostic": None}), "curves.task_agnostic"),
    ],
)
def test_damage_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(ClbenchError, match=reason) as caught:
        parse_record(data)
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


WRITTEN = record_text(GOOD).encode()


@settings(deadline=None)
@given(place=st.integers(0, len(WRITTEN) - 1), byte=st.integers(1, 255))
def test_no_change_of_a_byte_goes_unnoticed(place: int, byte: int) -> None:
    touched = bytearray(WRITTEN)
    touched[place] ^= byte
    assume(bytes(touched).rstrip(b"\n") != WRITTEN.rstrip(b"\n"))
    with pytest.raises(ClbenchError):
        parse_record(bytes(touched))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from([field.name for field in dataclasses.fields(RunRecord)]), json_values)
def test_any_entry_is_a_record_or_a_reason(name: str, value: object) -> None:
    try:
        whole = parse_record(changed(**{name: value}))
    except ClbenchError:
        return
    assert getattr(whole, name) == value


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_a_record_or_a_reason(data: bytes) -> None:
    with pytest.raises(ClbenchError):
        parse_record(data)


def test_the_matrix_of_validation_images() -> None:
    R = [[None, None], [1.0, None], [1.0, 1.0]]
    own = {"task_aware": R, "task_agnostic": R}
    validated = dataclasses.replace(GOOD, validation=own)
    assert parse_record(record_text(validated).encode()) == validated
    assert validated.matrix(images="validation")[2].tolist() == [1.0, 1.0]
    with pytest.raises(ClbenchError, match=r"lwf, split-digits.*seed 0: it has no validation accuracy"):
        GOOD.matrix(images="validation")
    for damaged in (own | {"task_aware": R[:2]}, {"task_aware": R}):
        with pytest.raises(ClbenchError, match="does not fit the rest: validation"):
            parse_record(changed(validation=damaged))

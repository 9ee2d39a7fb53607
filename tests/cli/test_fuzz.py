"""Whatever is typed and whatever a file holds: an answer or one clear line, never a traceback."""

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
from commands import Command, one_clear_line
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from made_up import record

from clbench.errors import ClbenchError, UsageError
from clbench.experiment.request import parse_seeds
from clbench.results.store import RunRecord, Store, parse_record

GOOD = record("lwf")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Store(tmp_path_factory.mktemp("records")).write(GOOD).read_bytes()


@settings(max_examples=50, deadline=None)
@given(place=st.integers(0, 10**6), byte=st.integers(1, 255))
def test_no_change_of_a_byte_goes_unnoticed(written: bytes, place: int, byte: int) -> None:
    changed = bytearray(written)
    changed[place % len(written)] ^= byte
    try:
        found = parse_record(bytes(changed))
    except ClbenchError:
        return
    assert found == GOOD  # white space for white space


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([field.name for field in dataclasses.fields(RunRecord)]), json_values)
def test_any_entry_is_a_record_or_a_reason(name: str, value: object) -> None:
    content = dataclasses.asdict(GOOD) | {name: value}
    try:
        record = parse_record(json.dumps(content).encode())
    except ClbenchError:
        return
    assert getattr(record, name) == value


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_file_is_a_record_or_a_reason(data: bytes) -> None:
    with pytest.raises(ClbenchError):
        parse_record(data)


VALUES = st.one_of(
    st.text(alphabet="0123456789-,.@=:/eE+ _[]{}'\"xlwfnai∞é", max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["", "lwf@", "lwf@weight=", "@", ",", "0-", "1-0", "-1", "1e999", "0x10", "None", "true", "../..", "~"]
    ),
)
OPTIONS = [
    *("--methods", "--seeds", "--sequence", "--scenario", "--class-order", "--model", "--epochs", "--iterations"),
    *("--batch-size", "--optimizer", "--lr", "--momentum", "--weight-decay", "--later-lr-factor", "--set", "--jobs"),
    *("--device", "--precision", "--threads", "--eval-every", "--timeout", "--preset", "--rows", "--data-root"),
]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(OPTIONS), VALUES), min_size=1, max_size=2))
def test_whatever_is_typed_there_is_a_plan_or_a_line(
    tmp_path: Path, clbench: Command, typed: list[tuple[str, str]]
) -> None:
    for option, value in typed:
        if option == "--seeds":
            with contextlib.suppress(UsageError):
                assume(len(parse_seeds(value)) < 50)  # a plan of a hundred thousand seeds takes its time
    ended = clbench("run", "--dry-run", *(word for pair in typed for word in pair))
    if ended.code:
        one_clear_line(ended, "")
    assert list(tmp_path.iterdir()) == []

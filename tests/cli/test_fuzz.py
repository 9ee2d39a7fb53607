"""Whatever is typed: an answer or one clear line, never a traceback."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from clbench.cli.app import app
from clbench.errors import ClbenchError, UsageError
from clbench.experiment.parsing import parse_seeds

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


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(OPTIONS), VALUES), min_size=1, max_size=2))
def test_whatever_is_typed_there_is_a_plan_or_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[tuple[str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    for option, value in typed:
        if option == "--seeds":
            with contextlib.suppress(UsageError):
                assume(len(parse_seeds(value)) < 50)  # a plan of a hundred thousand seeds takes its time
    words = [word for pair in typed for word in pair]
    result = CliRunner().invoke(app, ["run", "--dry-run", *words])
    if result.exit_code:
        assert isinstance(result.exception, (ClbenchError, SystemExit)), result.exception
        assert isinstance(result.exception, ClbenchError) or result.exit_code == 2
    assert list(tmp_path.iterdir()) == []

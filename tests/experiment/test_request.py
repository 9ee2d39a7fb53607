"""Every option is in the request; the Python functions have them as keyword arguments."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clbench
from clbench.errors import UsageError
from clbench.experiment.request import RUN, TUNE, TUNE_DEFAULTS, VERIFY, Request


def test_options_are_typed_once() -> None:
    request = Request(methods="lwf,ewc", seeds="2", epochs="3", lr="0.1", jobs="2", timeout="60", out="here")
    assert request.methods == ["lwf", "ewc"]
    assert (request.seeds, request.epochs, request.lr, request.jobs) == ([0, 1], 3, 0.1, 2)
    assert (request.timeout, request.out) == (60.0, Path("here"))
    assert request.training == {"epochs": 3, "lr": 0.1}
    assert Request(methods=None, jobs=None, preset=None, threads=None) == Request()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, "no option 'epoch', did you mean epochs"),
        ({"jobs": 0}, "jobs=0: the value should be greater than or equal to 1"),
        ({"jobs": 1.5}, "jobs=1.5: the value should be a valid integer"),
        ({"threads": True}, "threads=true: a value is needed, not true or false"),
        ({"eval_every": 2**31 + 1}, "eval_every="),
        ({"timeout": "soon"}, "timeout=soon: the value should be a valid number"),
        ({"precision": "fp64"}, "precision=fp64: the value should be 'fp32', 'tf32' or 'bf16'"),
        ({"force": "perhaps"}, "force=perhaps: the value should be a valid boolean"),
        ({"out": ""}, "out is empty"),
        ({"data_root": ""}, "data_root is empty"),
        ({"out": 5}, "out=5: the value is not a valid path"),
        ({"scenario": "taks"}, "unknown scenario 'taks', did you mean task"),
    ],
    ids=str,
)
def test_one_clear_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        Request(**options)
    assert "\n" not in str(error.value)


def test_every_option_has_a_meaning() -> None:
    assert all(field.description for field in Request.model_fields.values())
    assert set(RUN) | set(VERIFY) | set(TUNE) == set(Request.model_fields)


def test_the_python_functions_have_them_as_keyword_arguments() -> None:
    for function, names, own in (
        (clbench.run, RUN, {}),
        (clbench.verify, VERIFY, {}),
        (clbench.tune, TUNE, TUNE_DEFAULTS),
    ):
        parameters = inspect.signature(function).parameters
        assert list(parameters) == [*names, "quiet"]
        for name in names:
            assert parameters[name].default == own.get(name, Request.model_fields[name].default)
            assert f"\n{name}: " in str(function.__doc__)
    with pytest.raises(UsageError, match="run has no option 'method', did you mean methods"):
        clbench.run(method="lwf")
    with pytest.raises(UsageError, match="has no option 'epoch'"):
        clbench.run("lwf", epoch=3)
    with pytest.raises(UsageError, match="verify has no option 'epochs': choose from preset"):
        clbench.verify("note", epochs=3)
    with pytest.raises(UsageError, match="verify needs a preset"):
        clbench.verify()


ODD = [
    np.zeros((300, 3)), [np.zeros((300, 3))], {"lwf.weight": np.zeros(99)}, {"lwf.weight": object()}, object(), {}, [],
    [1, [2]], {1, 2}, b"x", len, int, " ", "x" * 500, "a\nb", float("nan"), iter([1]), Path("x"), ["lwf", 3], -1, 2.5,
]  # fmt: skip


@pytest.mark.parametrize("name", sorted({*RUN, *TUNE, "controls"}))
def test_whatever_an_option_is_there_is_a_request_or_a_short_line(name: str) -> None:
    said = []
    for value in ODD:
        try:
            Request(**{name: value})
        except UsageError as error:
            said.append(str(error))
    assert [line for line in said if len(line) > 400 or "\n" in line or "Value error" in line] == []

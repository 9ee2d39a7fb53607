"""What was typed becomes values, or one clear line."""

from typing import Any

import numpy as np
import pytest

from clbench.errors import UsageError
from clbench.experiment.request import parse_class_order, parse_names, parse_seeds, parse_settings
from clbench.methods.lwf import LwF
from clbench.models.backbones import MLP


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("5", [0, 1, 2, 3, 4]),
        (3, [0, 1, 2]),
        (np.int64(2), [0, 1]),
        ("0,4,9", [0, 4, 9]),
        ("10-13", [10, 11, 12, 13]),
        ("1-2,7, 3", [1, 2, 7, 3]),
        ([3, 1], [3, 1]),
        (range(2, 4), [2, 3]),
        (np.array([3, 1]), [3, 1]),
        ("7-7", [7]),
    ],
    ids=str,
)
def test_seeds(text: Any, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text",
    [
        "0",
        0,
        -1,
        "-1",
        "9-3",
        "a",
        "1,,2",
        "1.5",
        "",
        [],
        [-1],
        [1.5],
        [True],
        True,
        "0-4294967296",
        "99999999999-1",
        [0, 0],
        "1-3,2",
    ],
    ids=str,
)
def test_bad_seeds(text: Any) -> None:
    with pytest.raises(UsageError, match="seeds"):
        parse_seeds(text)


def test_class_orders() -> None:
    assert parse_class_order("seed") == "seed"
    assert parse_class_order("3,1,4") == parse_class_order([3, 1, 4]) == (3, 1, 4)
    for rule in ("fixed", "seed:7", "numpy:1993"):
        assert parse_class_order(rule) == rule
    for bad in ("3,one", 5, [3.7, 1], "seed:", "seed:x", "numpy:-1", "numpy"):
        with pytest.raises(UsageError, match="write seed, fixed, seed:7, numpy:1993, or classes"):
            parse_class_order(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["lwf", "lwf.temperature", "temperature=4", "lwf.=4", ".x=4", "lwf.temperature=", "a.b=1,,2"]
)
def test_bad_settings(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read --set"):
        parse_settings([text])


def test_settings() -> None:
    assert parse_settings(["./a.b/mine.py:Mine.factor=2, 3"]) == {"./a.b/mine.py:Mine": {"factor": ["2", "3"]}}
    assert parse_settings({"lwf.weight": [1, 2], "lwf.temperature": 4}) == {
        "lwf": {"weight": [1, 2], "temperature": [4]}
    }
    with pytest.raises(UsageError, match="list of values is empty"):
        parse_settings({"lwf.temperature": []})
    with pytest.raises(UsageError, match="given twice"):
        parse_settings(["lwf.weight=1", "lwf.weight=2"])


def test_names_and_classes() -> None:
    class Mine(LwF):
        pass

    assert parse_names("lwf, ewc") == ["lwf", "ewc"]
    assert parse_names([LwF, "ewc@strength=1", Mine]) == ["lwf", "ewc@strength=1", f"{__name__}:{Mine.__qualname__}"]
    assert parse_names(MLP) == ["mlp"]


@pytest.mark.parametrize(
    ("value", "message"),
    [(5, "neither a name nor"), ([5], "neither a name nor"), ([], "empty name"), ("lwf,", "empty name")],
    ids=str,
)
def test_bad_names(value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_names(value)


def test_a_class_of_a_session_cannot_be_found_by_workers() -> None:
    with pytest.raises(UsageError, match="put it into a file"):
        parse_names(type("Mine", (LwF,), {"__module__": "__main__"}))

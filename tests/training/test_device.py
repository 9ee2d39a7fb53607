"""The check of a device in short, on the CPU; `tox -e device` is the whole."""

import json
import subprocess
import sys
from pathlib import Path

import device
import device_cases
import device_speed
import pytest

from clbench.experiment import registry
from clbench.method import Method, can_be_captured, can_go_beside


def test_captured_steps_and_runs_side_by_side_are_those_of_every_method_that_declares_them(tmp_path: Path) -> None:
    words = ["--cpu", "--parts", "agreement", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, device.__file__, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {one["label"]: one for one in json.loads((tmp_path / "device.json").read_text())["results"]}
    for name in registry.builtin("method"):
        learner = device_cases.new(name)
        for scenario in sorted(learner.scenarios):
            case = f"{name}, {scenario}, mlp"
            if isinstance(learner, Method) and can_be_captured(learner):
                assert results[case]["captured"] is True
            if can_go_beside(learner):
                assert results[case]["beside"] < 1e-8
    here = [one for one in results.values() if "float64" in one]
    assert {(one["float64"], one["counts"], one["repeated"]) for one in here} == {(0.0, True, True)}
    assert (tmp_path / "device.md").read_text() == done.stdout[:-1]


def test_the_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLBENCH_DATA_ROOT", raising=False)
    results = list(device_speed.speed("cpu", small=True))
    labels = {result["label"] for result in results}
    assert {"MLP 256, lwf, 10 side by side, captured", "resnet18, batch 10 + 10, er, by hand"} <= labels
    assert len(labels) == len(results)
    assert all(result["steps_per_second"] > 0 for result in results)


def test_what_is_wrong_is_said() -> None:
    result = {"part": "agreement", "label": "si, task, mlp", "float64": 1e-3, "counts": True, "repeated": False}
    part = {"part": "agreement 0-1", "ended": "time over", "seconds": 1.0, "last_line": ""}
    content = {"machine": {}, "parts": [part], "results": [result, result | {"float64": float("nan")}]}
    assert len(device.faults(content)) == 5
    assert all(line in device.report(content) for line in device.faults(content))

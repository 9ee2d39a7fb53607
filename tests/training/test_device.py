"""The check of a device in short, on the CPU; `tox -e device` is the whole."""

import json
import subprocess
import sys
from pathlib import Path

import device
import device_speed
import pytest


def test_a_check_with_two_methods(tmp_path: Path) -> None:
    words = ["--cpu", "--methods", "finetune,replay", "--parts", "agreement", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, device.__file__, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "device.json").read_text())["results"]
    assert {result["label"] for result in results} >= {"finetune, task, resnet18", "replay, domain, cnn"}
    assert {(result["float64"], result["counts"], result["repeated"]) for result in results} == {(0.0, True, True)}
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

"""What a record says about where its run was done."""

import subprocess
from pathlib import Path

import pytest
import torch

from clbench.execution.environment import checkout_commit, processor


def test_the_commit_is_marked_where_code_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    for name in ("clbench/job.py", "methods/lwf.py", "results/README.md", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr("clbench.execution.environment.__file__", str(tmp_path / "clbench" / "job.py"))
    git("init", "-q")
    assert checkout_commit() is None  # no file of a checkout, but one that lies in it
    git("add", ".")
    git("commit", "-q", "-m", "all")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "results" / "README.md").write_text("2")
    assert checkout_commit() == commit
    (tmp_path / "methods" / "lwf.py").write_text("2")
    assert checkout_commit() == f"{commit} (changed)"


def testprocessors_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: {}\nmodel name\t: AMD EPYC\nstepping\t: 1\n\n"
    found = []
    for info in (text.format(1) * 2, text.format(17), "processor\t: 0\nCPU part\t: 0xd40\n"):
        monkeypatch.setattr("clbench.execution.environment._cpuinfo", lambda info=info: info)
        found.append(processor.__wrapped__())
    vectors = torch.backends.cpu.get_cpu_capability()
    assert found[:2] == [f"AMD EPYC (family 25, model 1, {vectors})", f"AMD EPYC (family 25, model 17, {vectors})"]
    assert found[2].endswith(f" ({vectors})")  # of another make: its architecture


def test_aprocessor_that_cannot_be_asked_has_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> str:
        raise FileNotFoundError("/proc/cpuinfo")

    monkeypatch.setattr("clbench.execution.environment._cpuinfo", absent)
    assert processor.__wrapped__().endswith(f" ({torch.backends.cpu.get_cpu_capability()})")

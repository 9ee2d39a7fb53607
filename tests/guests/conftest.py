"""The command line in this process, in a new folder."""

from pathlib import Path

import pytest
from commands import Command, command


@pytest.fixture
def clbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run a command as a process would, but for its end."""
    monkeypatch.chdir(tmp_path)
    return command(monkeypatch, capfd)

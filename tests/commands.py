"""The command line in this process: what it prints, and the exit code it ends with."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from clbench.cli.app import main


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Ended]


def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["clbench", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Ended(end.value.code or 0, *capfd.readouterr())  # type: ignore[arg-type]

    return run


def one_clear_line(ended: Ended, message: str) -> None:
    """Check that a command ended because of what was asked, with one line that says so and nothing else."""
    assert ended.code == 2
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("clbench: error: ")
    assert message in line
    assert "Value error" not in line

"""Checkpoints of a sweep: read as data only, and refused where a method could not go on from one.

That a run goes on to the same end is tested with snapshots (tests/training) and with a killed sweep (test_sweep).
"""

import os
from pathlib import Path
from typing import Any

import pytest

import clbench
from clbench.errors import UsageError
from clbench.training.snapshots import SnapshotFile


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made",)


def test_a_checkpoint_is_read_as_data_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = SnapshotFile(tmp_path / "checkpoint.pt")
    checkpoint.keep({"outcome": Evil()})
    assert checkpoint.path.exists()
    assert checkpoint.load() is None
    assert not Path("made").exists()


STATEFUL = """
from clbench.method import Method

class Stateful(Method):
    '''Has a state'''
    name = "stateful"
    def state(self):
        return {"a": 1}
"""


def test_a_method_that_cannot_take_its_state_over_is_refused_with_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "stateful.py").write_text(STATEFUL)
    with pytest.raises(UsageError, match="Stateful has a state but no load_state"):
        clbench.run(f"{tmp_path}/stateful.py:Stateful", seeds=1, checkpoint=True, out=tmp_path / "runs")

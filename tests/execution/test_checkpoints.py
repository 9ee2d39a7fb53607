"""Checkpoints: a run goes on from its last finished task, to the same end."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import clbench
from clbench.errors import UsageError
from clbench.experiment import registry
from clbench.method import Training
from clbench.models.backbones import MLP, ExpandingHeadModel
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks
from clbench.training.loop import run_sequence
from clbench.training.snapshots import Checkpoint

PLAIN: dict[str, Any] = {}
KEPT = {"keep_optimizer": True, "optimizer": "adam", "full_head": True, "untouched": "zero-once-reached"}


@pytest.mark.parametrize(
    ("method", "settings", "stop_at"),
    [
        ("finetune", KEPT, 0),
        ("scratch", PLAIN, 1),
        ("lwf", KEPT, 2),
        ("online-ewc", PLAIN, 0),
        ("si", KEPT, 1),
        ("replay", PLAIN, 2),
        ("duplicate-finetune", PLAIN, 0),
    ],
)
def test_a_run_goes_on_from_its_last_finished_task(
    method: str, settings: dict[str, Any], stop_at: int, tmp_path: Path
) -> None:
    def go(checkpoint: Checkpoint | None = None, stop: int | None = None) -> Any:
        def after(model: ExpandingHeadModel, task: Task) -> None:
            trained.append(task.index)
            if task.index == stop:
                raise KeyboardInterrupt

        backbone, training = MLP(width=16, dropout=0.2), Training(batch_size=8, **settings)
        instance = registry.find("method", method)()
        return run_sequence(
            tiny_tasks(4), instance, backbone, training, "task", 3, after_task=after, checkpoint=checkpoint
        )

    trained: list[int] = []
    whole = dataclasses.asdict(go())
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt")
    with pytest.raises(KeyboardInterrupt):
        go(checkpoint, stop_at + 1)
    trained.clear()
    again = dataclasses.asdict(go(checkpoint))
    assert trained == list(range(stop_at + 1, 4))
    times = ("train_seconds", "evaluate_seconds")
    assert all(again[name] == value for name, value in whole.items() if name not in times)
    assert all(len(again[name]) == len(whole[name]) for name in times)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped", "replaced"])
def test_a_checkpoint_that_is_not_whole_is_none(damage: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt")
    checkpoint.keep({"weights": torch.arange(1000.0)})
    assert torch.equal((checkpoint.load() or {})["weights"], torch.arange(1000.0))
    data = checkpoint.path.read_bytes()
    flipped = data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]
    content = {"empty": b"", "cut": data[:-10], "flipped": flipped, "replaced": b"no checkpoint"}
    if damage == "missing":
        checkpoint.path.unlink()
    else:
        checkpoint.path.write_bytes(content[damage])
    assert checkpoint.load() is None


def test_a_checkpoint_that_something_else_has_made_is_none(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "checkpoint.pt", made_by={"kernels": "oneDNN"}).keep({})
    assert Checkpoint(tmp_path / "checkpoint.pt", made_by={"kernels": "MKL"}).load() is None
    assert Checkpoint(tmp_path / "checkpoint.pt", made_by={"kernels": "oneDNN"}).load() == {}


def test_a_checkpoint_that_cannot_be_kept_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    Checkpoint(tmp_path / "file" / "checkpoint.pt").keep({})


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("made",)


def test_a_checkpoint_is_read_as_data_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt")
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
    assert not (tmp_path / "runs").exists()

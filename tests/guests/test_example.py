"""The guide's example of another library's class as a guest keeps the contract, and trains as that class does alone."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_tasks

from clbench.experiment import own_code, registry
from clbench.method import Training
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.seeding import stream
from clbench.testing import check_method
from clbench.training.run import run_sequence

sys.path.append(str(Path(__file__).parents[1] / "docs"))
from documents import files


@pytest.fixture
def guest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("their_library.py", "guest.py"):
        (tmp_path / name).write_text(files()[name], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield registry.find("method", "./guest.py:Guest")
    sys.modules.pop("their_library", None)


def test_it_keeps_the_contract(guest: Any) -> None:
    check_method(guest, models=["mlp"], quiet=True)


def test_its_engine_is_in_the_key(guest: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own_code.code_hash(guest)
    monkeypatch.setattr(guest, "engine", "their library 2.0")
    assert own_code.code_hash(guest) != before


def test_it_trains_as_the_library_does_alone(guest: Any) -> None:
    tasks, method = tiny_tasks(2), guest(decay=0.01)
    run_sequence(tasks, method, MLP(width=16), Training(epochs=2, batch_size=8, lr=0.05), "class", 3)

    network = ExpandingHeadModel(MLP(width=16), (1, 8, 8), 3, "weights")
    network.expand_to([2, 2])
    theirs = sys.modules["their_library"].Observer(network, 0.05, 0.01)
    for task in tasks:
        for epoch in range(2):
            for rows in torch.randperm(24, generator=stream(3, "method", "order", task.index, epoch)).split(8):
                theirs.observe(task.train.images[rows], task.train.y[rows] + 2 * task.index)
    for name, value in network.named_parameters():
        assert torch.equal(value, method.weights()[name])

"""What a machine has for a sweep."""

import pytest
import torch

from clbench.errors import UsageError
from clbench.experiment.planning import check_device


def test_all_devices_are_used_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert check_device("cuda") == check_device("auto") == ["cuda:0", "cuda:1", "cuda:2"]
    assert check_device("cuda:1") == ["cuda:1"]
    assert check_device("cpu") == ["cpu"]
    with pytest.raises(UsageError, match="there are 3 CUDA devices"):
        check_device("cuda:3")


def test_without_a_device_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check_device("auto") == ["cpu"]
    with pytest.raises(UsageError, match="finds no CUDA device here"):
        check_device("cuda")

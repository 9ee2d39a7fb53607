"""Shared fixtures: a cache of the tests' own, and the folder of real data where there is one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # small tensors, and a worker process per core


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the tests out of the user's cache."""
    os.environ["CLBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real MNIST and Fashion-MNIST."""
    folder = os.environ.get("CLBENCH_DATA_ROOT")
    if not folder:
        pytest.skip("CLBENCH_DATA_ROOT is not set: no real MNIST to test on")
    return Path(folder)


@pytest.fixture(scope="session")
def cifar100() -> Path:
    """Real CIFAR-100 as a .npz file with x_train, y_train, x_test and y_test."""
    file = os.environ.get("CLBENCH_CIFAR100")
    if not file:
        pytest.skip("CLBENCH_CIFAR100 is not set: no file of real CIFAR-100 to test on")
    return Path(file)


@pytest.fixture
def double() -> Iterator[None]:
    """Let networks and images be float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

"""Avalanche's classic benchmarks to compare with, and small files that both read."""

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from made_up_data import make_cifar, make_mnist


@pytest.fixture(scope="session")
def classic() -> ModuleType:
    """Avalanche's classic benchmarks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party code on its way to be imported
        return importlib.import_module("avalanche.benchmarks.classic")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data root with small files of random images in the formats of MNIST, Fashion-MNIST and CIFAR."""
    folder = tmp_path_factory.mktemp("root")
    make_mnist(folder, seed=1)
    make_mnist(folder, "FashionMNIST", seed=2)
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_cifar(folder, monkeypatch, 10)
        make_cifar(folder, monkeypatch, 100)
        yield folder

"""Made-up data sets: small files of random images in the formats of MNIST and CIFAR, and what a split holds."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from torch import Tensor

from clbench.sequences import Split

IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(array: np.ndarray) -> bytes:
    """Encode bytes in the IDX format."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def make_mnist(root: Path, folder: str = "MNIST", train: int = 40, test: int = 20, seed: int = 0) -> list[np.ndarray]:
    """Write random images in MNIST's files, classes 0…9 in turn but shuffled; return the arrays in IDX_NAMES' order."""
    draws = np.random.default_rng(seed)
    arrays = []
    for count in (train, test):
        arrays.append(draws.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        arrays.append(draws.permutation(np.arange(count) % 10).astype(np.uint8))
    (root / folder / "raw").mkdir(parents=True)
    for name, array in zip(IDX_NAMES, arrays, strict=True):
        (root / folder / "raw" / name).write_bytes(idx_bytes(array))
    return arrays


def make_cifar(root: Path, monkeypatch: pytest.MonkeyPatch, classes: int = 10) -> dict[str, np.ndarray]:
    """Write random images in CIFAR-10's or CIFAR-100's files and let torchvision expect their checksums."""
    draws = np.random.default_rng(classes)
    dataset = torchvision.datasets.CIFAR10 if classes == 10 else torchvision.datasets.CIFAR100
    key = "labels" if classes == 10 else "fine_labels"
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {}

    def write(name: str, content: object) -> str:
        encoded = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(encoded)
        return hashlib.md5(encoded).hexdigest()

    for part, files in (("train", dataset.train_list), ("test", dataset.test_list)):
        images, labels, listed = [], [], []
        for name, _ in files:
            pixels = draws.integers(0, 256, (2 * classes, 3 * 32 * 32), dtype=np.uint8)
            own = draws.permutation(np.arange(2 * classes) % classes)
            listed.append([name, write(name, {"data": pixels, key: own.tolist()})])
            images.append(pixels.reshape(-1, 3, 32, 32))
            labels.append(own)
        monkeypatch.setattr(dataset, f"{part}_list", listed)
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = np.concatenate(images), np.concatenate(labels)
    meta = {dataset.meta["key"]: [str(c) for c in range(classes)]}
    checksum = write(dataset.meta["filename"], meta)
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": checksum})
    return arrays


def everything(split: Split) -> Tensor:
    """Return all images of a split, as a batch."""
    return split.batch(torch.arange(len(split)))

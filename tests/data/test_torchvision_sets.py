"""torchvision's data sets from small files in their real formats, against torchvision."""

import json
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from made_up_data import idx_bytes
from PIL import Image

from clbench.data.streaming import Form
from clbench.data.torchvision_sets import load_torchvision
from clbench.errors import DataError, UsageError
from clbench.sequences.own import TorchvisionSet

DRAWS = np.random.default_rng(0)


def make_idx(root: Path, folder: str, prefix: str, labels: range) -> None:
    (root / folder / "raw").mkdir(parents=True)
    for part, count in (("train", 30), ("test" if prefix else "t10k", 20)):
        y = np.array([labels[i % len(labels)] for i in range(count)], np.uint8)
        x = DRAWS.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for what, array in (("images-idx3", x), ("labels-idx1", y)):
            (root / folder / "raw" / f"{prefix}{part}-{what}-ubyte").write_bytes(idx_bytes(array))


def make_food(root: Path) -> None:
    meta = root / "food-101/meta"
    meta.mkdir(parents=True)
    for part, count in (("train", 4), ("test", 2)):
        names = {name: [f"{name}/{part}{number}" for number in range(count)] for name in ("pie", "soup")}
        (meta / f"{part}.json").write_text(json.dumps(names))
        for name in (one for own in names.values() for one in own):
            path = root / "food-101/images" / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(DRAWS.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(path)


def make_eurosat(root: Path) -> None:
    for name in ("Forest", "River"):
        (root / "eurosat/2750" / name).mkdir(parents=True)
        for number in range(10):
            pixels = DRAWS.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "eurosat/2750" / name / f"{name}_{number}.jpg")


def test_emnist_and_its_split(root: Path) -> None:
    make_idx(root, "EMNIST", "emnist-letters-", range(1, 27))
    found = load_torchvision("emnist", "EMNIST", "letters", root, Form())
    expected = torchvision.datasets.EMNIST(str(root), split="letters", train=True)
    assert found.notes["classes"] == list(range(1, 27))
    assert found.train_labels.tolist() == (expected.targets - 1).tolist()
    for row in range(5):
        assert np.array_equal(found.train_images[row, 0], np.asarray(expected[row][0]))
    with pytest.raises(UsageError, match="emnist: torchvision's EMNIST has several splits: choose one"):
        load_torchvision("emnist", "EMNIST", None, root, Form())


def test_kmnist(root: Path) -> None:
    make_idx(root, "KMNIST", "", range(10))
    found = load_torchvision("kmnist", "KMNIST", None, root, Form(channels=3))
    assert found.train_images.shape == (30, 3, 28, 28)
    expected = torchvision.datasets.KMNIST(str(root), train=False)
    assert np.array_equal(found.test_images[3, 1], np.asarray(expected[3][0]))
    with pytest.raises(UsageError, match="torchvision's KMNIST has no split to choose"):
        load_torchvision("kmnist", "KMNIST", "letters", root, Form())


def test_food101_by_its_own_split(root: Path) -> None:
    make_food(root)
    found = load_torchvision("food", "Food101", None, root, Form())
    expected = torchvision.datasets.Food101(str(root), split="test")
    assert found.test_labels.tolist() == [label for _, label in expected]
    assert np.array_equal(found.test_images[2], np.asarray(expected[2][0]).transpose(2, 0, 1))
    assert (len(found.train_labels), found.notes["remarks"]) == (8, [])


def test_one_without_test_images(root: Path) -> None:
    make_eurosat(root)
    found = load_torchvision("eurosat", "EuroSAT", None, root, Form())
    assert (found.train_labels.bincount().tolist(), found.test_labels.bincount().tolist()) == ([8, 8], [2, 2])
    assert "20% of each class are held out" in found.notes["remarks"][0]


def test_what_is_not_there_and_cannot_be_downloaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.svhn.download_url", nowhere)
    with pytest.raises(
        DataError, match=r"svhn: it is not in .*, and cannot be had \(no network\): put the files there"
    ):
        load_torchvision("svhn", "SVHN", None, root, Form())


def test_all_that_are_offered_are_there() -> None:
    for name in TorchvisionSet.offered:
        assert issubclass(getattr(torchvision.datasets, name), torchvision.datasets.VisionDataset)
    assert {"SVHN", "EMNIST", "KMNIST", "USPS", "Flowers102", "Food101"} <= set(TorchvisionSet.offered)

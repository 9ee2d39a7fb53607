"""Sources: what is read equals what lies in the files, each fault has one clear line."""

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from made_up_data import IDX_NAMES, idx_bytes, make_cifar, make_mnist
from sklearn.datasets import load_digits

from clbench.data import DataSet, load_dataset, remarks
from clbench.data.cache import ARRAYS
from clbench.data.sources import KNOWN
from clbench.errors import DataError, UsageError


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every download of torchvision fail."""

    def fail(*_: object, **__: object) -> None:
        print("Downloading …")
        raise URLError("no route to host")

    for module in ("mnist", "cifar"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", fail)


def same(found: DataSet, arrays: list[np.ndarray]) -> bool:
    read = (found.train_images[:, 0], found.train_labels, found.test_images[:, 0], found.test_labels)
    return all(np.array_equal(one.numpy(), other) for one, other in zip(read, arrays, strict=True))


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_digits_are_scikit_learns_split_80_20_by_class() -> None:
    found, truth = load_dataset("digits"), load_digits()
    images = torch.cat([found.train_images, found.test_images])
    labels = torch.cat([found.train_labels, found.test_labels])
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.uint8

    def sort(pixels: np.ndarray, classes: np.ndarray) -> list[tuple[int, ...]]:
        return sorted(tuple(map(int, row)) for row in np.column_stack([pixels.reshape(1797, -1), classes]))

    assert sort(images.numpy(), labels.numpy()) == sort(truth.images, truth.target)
    share = torch.bincount(found.test_labels) / torch.bincount(labels)
    assert share.sub(0.2).abs().max() < 1 / 170  # to one image of about 180


def test_mnist_is_read_as_written(root: Path) -> None:
    arrays = make_mnist(root)
    found = load_dataset("mnist", root)
    assert same(found, arrays)
    assert found.train_images.shape == (40, 1, 28, 28)
    assert found.train_labels.dtype == torch.int64
    assert load_dataset("mnist", root).fingerprint == found.fingerprint


def test_mnist_may_be_gzipped_and_nothing_is_written_beside_it(root: Path) -> None:
    arrays = make_mnist(root)
    for name in IDX_NAMES[:3]:
        path = root / "MNIST" / "raw" / name
        path.with_name(f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    before = sorted(root.rglob("*"))
    assert same(load_dataset("mnist", root), arrays)
    assert sorted(root.rglob("*")) == before


def test_fashion_mnist_has_a_folder_of_its_own(root: Path) -> None:
    make_mnist(root, seed=1)
    arrays = make_mnist(root, "FashionMNIST", seed=2)
    assert same(load_dataset("fashion-mnist", root), arrays)


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_is_read_as_written(classes: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = make_cifar(root, monkeypatch, classes)
    found = load_dataset(f"cifar{classes}", root)
    for name, array in arrays.items():
        assert np.array_equal(getattr(found, name).numpy(), array)


def test_real_mnist(data_root: Path) -> None:
    found = load_dataset("mnist", data_root)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # as published with the data
    assert found.train_labels.bincount().tolist() == counts
    assert found.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    pixels, weights = np.arange(256) / 255, found.train_images.flatten().bincount(minlength=256).numpy()
    mean = np.average(pixels, weights=weights)
    assert mean == pytest.approx(0.1307, abs=5e-5)
    assert np.average((pixels - mean) ** 2, weights=weights) ** 0.5 == pytest.approx(0.3081, abs=5e-5)


def test_changed_files_are_read_anew(root: Path) -> None:
    make_mnist(root)
    first = load_dataset("mnist", root)
    path = root / "MNIST" / "raw" / IDX_NAMES[0]
    pixels = bytearray(path.read_bytes())
    pixels[-1] ^= 1
    path.write_bytes(pixels)
    os.utime(path, ns=(1, 1))
    second = load_dataset("mnist", root)
    assert second.fingerprint != first.fingerprint
    assert second.train_images[-1, 0, -1, -1] == first.train_images[-1, 0, -1, -1] ^ 1


def replaced_unseen(path: Path, content: bytes) -> None:
    """Put another content of the same size into a file, and give it the date that it had."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_files_in_place_of_others_of_the_same_size_and_date_are_read_anew(root: Path) -> None:
    first, path = make_mnist(root), root / "MNIST" / "raw" / IDX_NAMES[0]
    assert same(load_dataset("mnist", root), first)
    other = make_mnist(root.parent / "other", seed=1)
    replaced_unseen(path, idx_bytes(other[0]))
    assert same(load_dataset("mnist", root), [other[0], *first[1:]])


def known(arrays: list[np.ndarray]) -> dict[str, str]:
    """Return the SHA-256 of the bytes of images, and of labels as int64."""
    kinds = (np.uint8, np.int64, np.uint8, np.int64)
    digests = [
        hashlib.sha256(array.astype(kind).tobytes()).hexdigest() for array, kind in zip(arrays, kinds, strict=True)
    ]
    return dict(zip(ARRAYS, digests, strict=True))


def test_what_differs_from_the_data_set_that_is_known_by_the_name_is_said(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mnist, fashion = make_mnist(root), make_mnist(root, "FashionMNIST", seed=1)
    monkeypatch.setitem(KNOWN, "mnist", known(mnist))
    monkeypatch.setitem(KNOWN, "fashion-mnist", known(fashion))
    assert remarks("mnist", root) == remarks("fashion-mnist", root) == remarks("digits") == []
    images, labels = (root / "MNIST" / "raw" / name for name in IDX_NAMES[:2])
    replaced_unseen(images, idx_bytes(fashion[0]))
    whose = "its training images differ (they are those of fashion-mnist)"
    assert remarks("mnist", root) == [f"the data in {root / 'MNIST' / 'raw'} are not mnist as it is known: {whose}"]
    replaced_unseen(images, idx_bytes(np.where(np.arange(40)[:, None, None] < 20, mnist[0], 255 - mnist[0])))
    replaced_unseen(labels, idx_bytes(mnist[1][::-1]))
    assert remarks("mnist", root)[0].endswith("as it is known: its training images, training labels differ")


def test_the_real_data_sets_are_those_that_are_known(data_root: Path) -> None:
    assert remarks("mnist", data_root) == remarks("fashion-mnist", data_root) == []


def test_a_data_root_that_was_named_must_be_a_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_mnist(root)
    load_dataset("mnist", root)
    root.rename(root.with_name("moved"))
    for name in ("mnist", "digits"):
        with pytest.raises(UsageError, match=f"data root {root} is not a folder"):
            load_dataset(name, root)
    monkeypatch.setenv("CLBENCH_DATA_ROOT", str(root))
    with pytest.raises(UsageError, match="is not a folder"):
        load_dataset("mnist")


def test_the_data_root_comes_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = make_mnist(root)
    monkeypatch.setenv("CLBENCH_DATA_ROOT", str(root))
    assert same(load_dataset("mnist"), arrays)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(("name", "named"), [("mnist", True), ("cifar10", False)])
def test_a_failed_download_leaves_nothing_behind(
    name: str, named: bool, root: Path, cache_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="no route to host") as error:
        load_dataset(name, root if named else None)
    message = one_line(error)
    assert str(root if named else cache_folder / "datasets") in message
    assert ("train-images-idx3-ubyte" if name == "mnist" else "data_batch_1") in message
    assert "--sequence split-digits" in message
    assert not any(root.iterdir())
    assert not cache_folder.exists()
    assert capsys.readouterr().out == ""


def test_a_download_puts_just_the_files_into_the_data_root(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = make_mnist(tmp_path / "server")

    def fetch(url: str, download_root: str, filename: str, md5: str) -> None:
        print(f"Downloading {url}")
        name = filename.removesuffix(".gz")
        content = (tmp_path / "server" / "MNIST" / "raw" / name).read_bytes()
        (Path(download_root) / name).write_bytes(content)
        (Path(download_root) / filename).write_bytes(gzip.compress(content))

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fetch)
    assert same(load_dataset("mnist", root), arrays)
    assert [path for path in sorted(root.rglob("*")) if path.is_file()] == [
        root / "MNIST" / "raw" / name for name in sorted(IDX_NAMES)
    ]
    assert capsys.readouterr().out == ""


def labels_with(value: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:-1] + bytes([value])


DAMAGE: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "magic number": (0, lambda content: b"\x1f\x8b" + content[2:]),
    "labels in place of images": (0, lambda content: idx_bytes(np.arange(40) % 10)),
    "truncated images": (2, lambda content: content[:-5]),
    "truncated header": (1, lambda content: content[:6]),
    "empty": (1, lambda content: b""),
    "too long": (3, lambda content: content + b"\0"),
    "not 28×28": (0, lambda content: idx_bytes(np.zeros((40, 32, 32)))),
    "label out of range": (1, lambda content: content[:-1] + b"\x0a"),
    "fewer labels": (1, lambda content: idx_bytes(np.arange(39) % 10)),
    "a class without images": (3, lambda content: idx_bytes(np.arange(20) % 9)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(damage: str, root: Path, cache_folder: Path) -> None:
    make_mnist(root)
    place, change = DAMAGE[damage]
    path = root / "MNIST" / "raw" / IDX_NAMES[place]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match="is damaged") as error:
        load_dataset("mnist", root)
    assert one_line(error).startswith(str(path))
    assert not any(cache_folder.iterdir())


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(b"\0" * 1000)[:-12], gzip.compress(b"")], ids=["no gzip", "cut", "empty"]
)
def test_a_damaged_gzip_file_is_named(content: bytes, root: Path, cache_folder: Path) -> None:
    make_mnist(root)
    path = root / "MNIST" / "raw" / IDX_NAMES[0]
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"ubyte\.gz is damaged") as error:
        load_dataset("mnist", root)
    assert one_line(error)
    assert not any(cache_folder.iterdir())


@pytest.mark.parametrize("with_checksum", [True, False])
def test_damaged_cifar_is_named(
    with_checksum: bool, root: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cifar(root, monkeypatch)
    path = root / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:100])
    if not with_checksum:  # then it fails in unpickling
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    with pytest.raises(DataError, match="cifar-10-batches-py is damaged") as error:
        load_dataset("cifar10", root)
    assert one_line(error)
    assert not any(cache_folder.iterdir())

"""Data sets: what is read equals what lies in the files, the cache can be trusted, each fault has one clear line."""

import contextlib
import gzip
import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets
from sklearn.datasets import load_digits

from clbench.data import datasets as data
from clbench.data.datasets import AvalancheBenchmark, DataSet, load_benchmark, load_dataset, scaled
from clbench.errors import DataError, UsageError

IDX_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
IMPORTED = "; import sys; print([m for m in ('torchvision', 'sklearn', 'avalanche') if m in sys.modules])"


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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no data root in the environment."""
    monkeypatch.setenv("CLBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CLBENCH_DATA_ROOT", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


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
    assert (found.train_images.double() / 255).mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert (found.train_images.double() / 255).std().item() == pytest.approx(0.3081, abs=5e-5)


def test_the_warm_path_imports_nothing_heavy(root: Path) -> None:
    make_mnist(root)
    for name, given in (("digits", None), ("mnist", root)):
        load_dataset(name, given)
        code = f"from clbench.data.datasets import load_dataset; load_dataset({name!r}, {given and str(given)!r})"
        run = subprocess.run([sys.executable, "-c", code + IMPORTED], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "[]"


def test_changed_files_are_read_anew(root: Path) -> None:
    first = load_dataset_after(make_mnist, root)
    path = root / "MNIST" / "raw" / IDX_NAMES[0]
    pixels = bytearray(path.read_bytes())
    pixels[-1] ^= 1
    path.write_bytes(pixels)
    os.utime(path, ns=(1, 1))
    second = load_dataset("mnist", root)
    assert second.fingerprint != first.fingerprint
    assert second.train_images[-1, 0, -1, -1] == first.train_images[-1, 0, -1, -1] ^ 1


@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize(("mean", "std"), [((0.1307,), (0.3081,)), ((0.0,), (1.0,))])
def test_scaled_images_are_by_the_formula(
    mean: tuple[float, ...], std: tuple[float, ...], padding: int, root: Path, cache: Path
) -> None:
    arrays = make_mnist(root, train=1100)  # more than are scaled at once
    found = load_dataset("mnist", root)
    ready = scaled(found, mean, std, 255.0, padding)
    assert ready is not None
    pixels = np.pad(arrays[0][:, None], ((0, 0), (0, 0), (padding, padding), (padding, padding))).astype(np.float64)
    assert ready.train_images.dtype == torch.float32
    np.testing.assert_allclose(ready.train_images.numpy(), (pixels / 255 - mean[0]) / std[0], rtol=0, atol=1e-6)
    assert torch.equal(ready.test_labels, found.test_labels)
    assert len(entries(cache)) == 2
    assert scaled(found, mean, std, 255.0, padding) is not None
    assert scaled(found, (0.5,), std, 255.0, padding) is not None
    assert len(entries(cache)) == 3  # one for each way to scale


def test_large_data_sets_are_not_scaled_beforehand(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_mnist(root, train=40, test=20)
    monkeypatch.setattr("clbench.data.datasets.SCALED_LIMIT", 60 * 784 * 4 - 1)
    assert scaled(load_dataset("mnist", root), (0.5,), (0.5,), 255.0) is None
    assert len(entries(cache)) == 1


def test_a_cache_that_may_only_be_read_will_do(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_mnist(root)
    found = load_dataset("mnist", root)

    def refuse(*arguments: object, **options: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("clbench.data.datasets.tempfile.mkdtemp", refuse)
    assert torch.equal(load_dataset("mnist", root).train_images, found.train_images)
    assert scaled(found, (0.5,), (0.5,), 255.0) is None


def load_dataset_after(make: Callable[[Path], object], root: Path) -> DataSet:
    make(root)
    return load_dataset("mnist", root)


def test_writing_to_the_images_leaves_the_cache_alone(root: Path) -> None:
    arrays = make_mnist(root)
    load_dataset("mnist", root).train_images.fill_(7)
    assert same(load_dataset("mnist", root), arrays)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "meta", "other shape"])
def test_a_damaged_entry_is_made_anew(damage: str, root: Path, cache: Path) -> None:
    arrays = make_mnist(root)
    load_dataset("mnist", root)
    (entry,) = entries(cache)
    path = entry / "train_images.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "meta":
        (entry / "meta.json").write_text(json.dumps([]))
    else:
        np.save(path, np.zeros((3, 1, 28, 28), np.uint8))
    assert same(load_dataset("mnist", root), arrays)
    assert entries(cache) == [entry]


@pytest.mark.parametrize("damaged", [False, True])
def test_two_writers_at_once(damaged: bool, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_locked", contextlib.nullcontext)  # as on two hosts that share a cache
    arrays = make_mnist(root)
    if damaged:
        load_dataset("mnist", root)
        (entries(cache)[0] / "meta.json").unlink()
    write, winners = data._write_torchvision, []

    def slow(*arguments: object) -> object:
        monkeypatch.setattr(data, "_write_torchvision", write)
        winners.append(load_dataset("mnist", root))  # another process starts later and is done first
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(data, "_write_torchvision", slow)
    loser = load_dataset("mnist", root)
    assert same(loser, arrays)
    assert same(winners[0], arrays)
    assert len(entries(cache)) == 1


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


def test_an_unusable_cache_folder(cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(DataError, match="CLBENCH_CACHE") as error:
        load_dataset("digits")
    assert str(cache) in one_line(error)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
@pytest.mark.parametrize("named", [True, False])
def test_a_failed_download_leaves_nothing_behind(
    name: str, named: bool, root: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="no route to host") as error:
        load_dataset(name, root if named else None)
    message = one_line(error)
    assert str(root if named else cache / "datasets") in message
    assert ("train-images-idx3-ubyte" if name == "mnist" else "data_batch_1") in message
    assert "--sequence split-digits" in message
    assert not any(root.iterdir())
    assert not cache.exists()
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
def test_a_damaged_file_is_named(damage: str, root: Path, cache: Path) -> None:
    make_mnist(root)
    place, change = DAMAGE[damage]
    path = root / "MNIST" / "raw" / IDX_NAMES[place]
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match="is damaged") as error:
        load_dataset("mnist", root)
    assert one_line(error).startswith(str(path))
    assert entries(cache) == []


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(b"\0" * 1000)[:-12], gzip.compress(b"")], ids=["no gzip", "cut", "empty"]
)
def test_a_damaged_gzip_file_is_named(content: bytes, root: Path, cache: Path) -> None:
    make_mnist(root)
    path = root / "MNIST" / "raw" / IDX_NAMES[0]
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"ubyte\.gz is damaged") as error:
        load_dataset("mnist", root)
    assert one_line(error)
    assert entries(cache) == []


@pytest.mark.parametrize("with_checksum", [True, False])
def test_damaged_cifar_is_named(with_checksum: bool, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cifar(root, monkeypatch)
    path = root / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:100])
    if not with_checksum:  # then it fails in unpickling
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    with pytest.raises(DataError, match="cifar-10-batches-py is damaged") as error:
        load_dataset("cifar10", root)
    assert one_line(error)
    assert entries(cache) == []


BENCHMARK = """
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor
from avalanche.benchmarks import nc_benchmark

TRANSFORM = Compose([Resize(12), Compose([CenterCrop(10)]), ToTensor(), Normalize((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))])

class Photographs(torch.utils.data.Dataset):
    def __init__(self, count, sizes, transform=None):
        draws = np.random.default_rng(count)
        shapes = [(*sizes[i % len(sizes)], 3) for i in range(count)]
        self.images = [Image.fromarray(draws.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
        self.targets = [int(c) for c in draws.permutation(np.arange(count) % 6)]
        self.transform = transform
    def __len__(self):
        return len(self.images)
    def __getitem__(self, row):
        image = self.images[row]
        return (image if self.transform is None else self.transform(image)), self.targets[row]

def _make(sizes, n_experiences, seed, shuffle, train_transform, eval_transform):
    train, test = Photographs(18, sizes), Photographs(12, sizes)
    return nc_benchmark(train, test, n_experiences, False, seed=seed, shuffle=shuffle,
                        train_transform=train_transform, eval_transform=eval_transform)

def Good(n_experiences, *, seed=None, shuffle=True, train_transform=None, eval_transform=TRANSFORM, dataset_root=None):
    print("chatter")
    return _make([(16, 20), (24, 13)], n_experiences, seed, shuffle, train_transform, eval_transform)

def Ragged(n_experiences, *, seed=None, shuffle=True, train_transform=None, eval_transform=None, dataset_root=None):
    return _make([(16, 20), (24, 13)], n_experiences, seed, shuffle, train_transform, eval_transform)

def Failing(n_experiences, *, seed=None, shuffle=True, train_transform=None, eval_transform=None, dataset_root=None):
    raise ConnectionError("first line\\nno such host")
"""


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with benchmarks made by Avalanche on colour photographs of different sizes."""
    (tmp_path / "photographs.py").write_text(BENCHMARK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "photographs", raising=False)
    return "photographs"


def test_a_benchmark_is_stored_as_its_own_transform_makes_it(
    photographs: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = torch.random.get_rng_state()
    benchmark = AvalancheBenchmark("Good", photographs, {})
    found = load_benchmark(benchmark, root, {"n_experiences": 2, "seed": 3})
    assert torch.equal(torch.random.get_rng_state(), random)
    assert capsys.readouterr().out == ""
    module = sys.modules[photographs]
    truth = module.Photographs(18, [(16, 20), (24, 13)], module.TRANSFORM)
    classes = np.array(truth.targets)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3)).tolist()  # Avalanche's order for seed 3
    rows = [row for task in (order[:3], order[3:]) for c in set(task) for row in np.flatnonzero(classes == c)]
    mean, std = (torch.tensor(found.notes[name]).view(3, 1, 1) for name in ("mean", "std"))
    assert torch.allclose((found.train_images / 255 - mean) / std, torch.stack([truth[r][0] for r in rows]), atol=1e-6)
    assert found.train_labels.tolist() == classes[rows].tolist()
    assert found.notes["train_sizes"] == [9, 9]
    assert found.notes["test_sizes"] == [6, 6]


@pytest.mark.parametrize(("name", "reason"), [("Ragged", "images differ in size"), ("Failing", "no such host")])
def test_a_benchmark_that_cannot_be_made(name: str, reason: str, photographs: str, root: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=reason) as error:
        load_benchmark(AvalancheBenchmark(name, photographs, {}), root, {"n_experiences": 2, "seed": 0})
    message = one_line(error)
    assert name in message
    assert str(root) in message
    assert entries(cache) == []

"""Sources of data sets: torchvision's, found in the data root or downloaded, and scikit-learn's digits."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.metadata
import math
import os
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clbench.data.cache import (
    ARRAYS,
    INSTEAD,
    DataSet,
    cached,
    data_root_folder,
    locked,
    save_arrays,
    stamp,
    temporary_folder,
)
from clbench.data.listed import load_listed
from clbench.data.streaming import Form
from clbench.data.torchvision_sets import load_torchvision
from clbench.errors import DataError


@dataclass(frozen=True)
class Source:
    """Where torchvision keeps a data set."""

    torchvision_name: str
    folder: str  # below the data root
    files: tuple[str, ...]
    classes: int

    @property
    def is_idx(self) -> bool:
        """Whether its files are in MNIST's IDX format, which is read here; torchvision reads the others."""
        return self.files == IDX_FILES


IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CIFAR10_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
SOURCES = {
    "mnist": Source("MNIST", "MNIST/raw", IDX_FILES, 10),
    "fashion-mnist": Source("FashionMNIST", "FashionMNIST/raw", IDX_FILES, 10),
    "cifar10": Source("CIFAR10", "cifar-10-batches-py", CIFAR10_FILES, 10),
    "cifar100": Source("CIFAR100", "cifar-100-python", ("train", "test", "meta"), 100),
}

# those that have a reader of their own
OTHERS: dict[str, Callable[[Path | None], DataSet]] = {
    "svhn": lambda root: load_torchvision("svhn", "SVHN", None, root, Form()),
    "notmnist": lambda root: load_listed("notmnist", root, Form(channels=1)),
}

# SHA-256 of what is known under a name: of the bytes of its images and labels (int64), each in their order. There is
# none of CIFAR, as torchvision refuses files that are not those it knows.
KNOWN: dict[str, dict[str, str]] = {
    "digits": {
        "train_images": "5760f944f9d4583320655eb3932bdbb8a1d7ecccece1d5e8ac73699a93fdf434",
        "train_labels": "c1281028e5251b910fbb998bc625b6d6473e39ec5817e7c6d69de2f5f8bf38ab",
        "test_images": "3cc232bd25364446c8646cd9434a26e35ea92e20045d395b2fdd2232a75c9b8f",
        "test_labels": "4493b2052e7b4258621d51f10f17a672594c5e3f2beaa1cf97c818dc583aafe7",
    },
    "mnist": {
        "train_images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "train_labels": "e474323ac02fc156161b0bbb1f8c9cfeb327a74bcd9f9680a8385269a24f566c",
        "test_images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "test_labels": "2fd8de6bdb8d11780b4b96dc57847bcfe6953f7c32aa48bfcd8237c3b7847243",
    },
    "fashion-mnist": {
        "train_images": "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "train_labels": "e3245b63f7c40d1c8b652835f19744d970c1613b40ddac6bcfc87b9c46e16a0b",
        "test_images": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "test_labels": "d51d859896c55775b9e9e219b77ff03bcec1b6ac322f313544dc3f9e7bc94fae",
    },
}


def load_dataset(name: str, data_root: Path | None = None) -> DataSet:
    """Return a data set, materialised and downloaded if need be: `digits`, or one of SOURCES or OTHERS.

    Raises UsageError if the data root that was named is no folder, DataError if files are missing or damaged.
    """
    root = data_root_folder(data_root)
    if name == "digits":
        return cached(name, lambda: ["scikit-learn", importlib.metadata.version("scikit-learn")], _write_digits)
    if name in OTHERS:
        return OTHERS[name](data_root)
    source = SOURCES[name]
    files = _find(source, root)
    return cached(name, lambda: stamp(files), lambda folder: _write_checked(name, root, files, folder))


def remarks(name: str, data_root: Path | None = None) -> list[str]:
    """Return what the user should hear about a data set: how it differs from what is known under its name."""
    differs: Mapping[str, str | None] = load_dataset(name, data_root).notes.get("differs", {})
    if not differs:
        return []
    parts = ", ".join(part.replace("_", " ").replace("train ", "training ") for part in differs)
    others = sorted({other for other in differs.values() if other is not None})
    whose = f" (they are those of {' and '.join(others)})" if others else ""
    where = f" in {data_root_folder(data_root) / SOURCES[name].folder}" if name in SOURCES else ""
    return [f"the data{where} are not {name} as it is known: its {parts} differ{whose}"]


def _differences(name: str, arrays: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
    """Return notes that say which arrays differ from what is known under a name, and whose those are; else none."""
    differs: dict[str, str | None] = {}
    for part, known in KNOWN.get(name, {}).items():
        found = hashlib.sha256(arrays[part].tobytes()).hexdigest()
        if found != known:
            differs[part] = next((other for other, parts in KNOWN.items() if found in parts.values()), None)
    return {"differs": differs} if differs else {}


def _write_digits(folder: Path) -> Mapping[str, Any]:
    """Split scikit-learn's digits 80/20, stratified, the same for every seed."""
    from sklearn.datasets import load_digits  # here, since a run on materialised data need not wait for scikit-learn
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images, labels = digits.images.astype(np.uint8)[:, None], digits.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    arrays = {"train_images": images[train], "train_labels": labels[train]}
    arrays |= {"test_images": images[test], "test_labels": labels[test]}
    save_arrays(folder, **arrays)
    return _differences("digits", arrays)


def _find(source: Source, root: Path) -> list[Path]:
    """Return the files of a data set in the data root, downloaded if any is missing; MNIST's may be gzipped."""
    files = present(source, root)
    if len(files) < len(source.files):
        above = [parent for parent in root.parents if len(present(source, parent)) == len(source.files)]
        if above:
            raise DataError(f"{source.torchvision_name} is not below {root}: did you mean --data-root {above[0]}?")
        with locked(root / source.folder):
            if len(present(source, root)) < len(source.files):
                _download(source, root)
        files = present(source, root)
    return files


def present(source: Source, root: Path) -> list[Path]:
    """Return those of a data set's files that are in a data root."""
    folder = root / source.folder
    suffixes = ("", ".gz") if source.is_idx else ("",)
    choices = [[folder / f"{name}{suffix}" for suffix in suffixes] for name in source.files]
    return [path for paths in choices for path in [p for p in paths if p.is_file()][:1]]


def _download(source: Source, root: Path) -> None:
    """Let torchvision download into a temporary folder beside, then move the files into the data root."""
    beside = next(path for path in [root, *root.parents] if path.is_dir())
    try:
        with temporary_folder(beside) as temporary:
            with contextlib.redirect_stdout(sys.stderr):
                _torchvision(source)(str(temporary), download=True)
            (root / source.folder).mkdir(parents=True, exist_ok=True)
            for name in source.files:
                os.replace(temporary / source.folder / name, root / source.folder / name)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        where = f"{source.torchvision_name} is not in {root / source.folder} (expected: {', '.join(source.files)})"
        raise DataError(f"{where} and the download failed ({reason[-1]}): {INSTEAD}") from None


def _torchvision(source: Source) -> Any:
    import torchvision.datasets  # here, since a run on materialised data need not wait for torchvision

    return getattr(torchvision.datasets, source.torchvision_name)


def _write_checked(name: str, root: Path, files: Sequence[Path], folder: Path) -> Mapping[str, Any]:
    source = SOURCES[name]
    arrays = _read_idx_files(files) if source.is_idx else _read_cifar(source, root)
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        where = files[1 if part == "train" else 3] if source.is_idx else root / source.folder
        if len(images) != len(labels):
            raise _damaged(where, f"{len(labels)} labels for {len(images)} images")
        counts = np.bincount(labels, minlength=source.classes)
        if len(counts) > source.classes:
            raise _damaged(where, f"label {labels.max()} is out of range, there are {source.classes} classes")
        if not counts.all():
            raise _damaged(where, f"no image of class {counts.argmin()}")
    save_arrays(folder, **arrays)
    return _differences(name, arrays)


def _damaged(where: Path, reason: str) -> DataError:
    return DataError(f"{where} is damaged ({reason}): delete it to have it downloaded anew, or put a good copy there")


def _read_idx_files(files: Sequence[Path]) -> dict[str, np.ndarray]:
    arrays = {name: _read_idx(path, 3 if "images" in name else 1) for name, path in zip(ARRAYS, files, strict=True)}
    for part, path in (("train", files[0]), ("test", files[2])):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.shape[1:] != (28, 28):
            raise _damaged(path, f"images of {images.shape[1]}×{images.shape[2]} pixels instead of 28×28")
        arrays |= {f"{part}_images": images[:, None], f"{part}_labels": labels.astype(np.int64)}
    return arrays


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read unsigned bytes in MNIST's IDX format: 0, 0, 8, the number of dimensions, their sizes, the bytes."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, f"it cannot be read: {error}") from None
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < start:
        raise _damaged(path, f"it does not start as an IDX file with {dimensions} dimensions does")
    shape = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
    if len(content) != start + math.prod(shape):
        raise _damaged(path, f"{len(content)} bytes instead of {start + math.prod(shape)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _read_cifar(source: Source, root: Path) -> dict[str, np.ndarray]:
    """Read CIFAR through torchvision, which compares checksums before it unpickles."""
    dataset, arrays = _torchvision(source), {}
    for part in ("train", "test"):
        try:
            found = dataset(str(root), train=part == "train")
            arrays[f"{part}_images"] = found.data.transpose(0, 3, 1, 2)
            arrays[f"{part}_labels"] = np.array(found.targets, dtype=np.int64)
        except Exception as error:
            raise _damaged(root / source.folder, str(error).split(".")[0] or type(error).__name__) from None
    return arrays

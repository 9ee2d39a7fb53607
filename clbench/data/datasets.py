"""Data sets, materialised to bytes once: a cache of memory-mapped arrays, with torchvision and Avalanche behind it.

A cache entry is a folder that appears whole or not at all. Its name holds a hash of where the data came from: the
resolved folder, the files' names, sizes and times, and FORMAT_VERSION.
"""

from __future__ import annotations

import ast
import contextlib
import gzip
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import math
import os
import shutil
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from filelock import FileLock
from torch import Tensor

from clbench import NUMBERS
from clbench.errors import DataError, UsageError

FORMAT_VERSION = 1
SCALED_LIMIT = 2**30  # bytes
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class DataSet:
    """A data set in memory-mapped tensors, shared by all processes that load it."""

    name: str
    train_images: Tensor  # uint8 [n, channels, height, width]
    train_labels: Tensor  # int64 [n]
    test_images: Tensor
    test_labels: Tensor
    fingerprint: str  # SHA-256 of the arrays and notes
    notes: Mapping[str, Any] = field(default_factory=dict)  # what else the source says of them, as JSON values


@dataclass(frozen=True)
class _Source:
    """Where torchvision keeps a data set."""

    torchvision_name: str
    folder: str  # below the data root
    files: tuple[str, ...]
    classes: int


_IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_BATCHES = (
    "data_batch_1",
    "data_batch_2",
    "data_batch_3",
    "data_batch_4",
    "data_batch_5",
    "test_batch",
    "batches.meta",
)
SOURCES = {
    "mnist": _Source("MNIST", "MNIST/raw", _IDX, 10),
    "fashion-mnist": _Source("FashionMNIST", "FashionMNIST/raw", _IDX, 10),
    "cifar10": _Source("CIFAR10", "cifar-10-batches-py", _BATCHES, 10),
    "cifar100": _Source("CIFAR100", "cifar-100-python", ("train", "test", "meta"), 100),
}


def load_dataset(name: str, data_root: Path | None = None) -> DataSet:
    """Return a data set, materialised and downloaded if need be: `digits` or one of SOURCES.

    Raises UsageError if the data root that was named is no folder, DataError if files are missing or damaged.
    """
    root = data_root_folder(data_root)
    if name == "digits":
        spec = importlib.util.find_spec("sklearn")
        assert spec is not None
        assert spec.origin is not None
        files = [Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"]
        return _cached(name, lambda: _stamp(files), _write_digits)
    source = SOURCES[name]
    files = _find(source, root)
    return _cached(name, lambda: _stamp(files), lambda folder: _write_torchvision(source, root, files, folder))


def scale(pixels: Tensor, mean: Sequence[float], std: Sequence[float], divisor: float) -> Tensor:
    """Return bytes [n, channels, …] as (pixels / divisor − mean) / std, float32; constants for all channels or each."""
    x = pixels.float()
    planes = (x,) if len(mean) == 1 else x.unbind(1)
    for plane, m, s in zip(planes, mean, std, strict=True):
        plane.mul_(1 / (divisor * s))
        if m:
            plane.sub_(m / s)
    return x


def scaled(
    found: DataSet, mean: Sequence[float], std: Sequence[float], divisor: float, padding: int = 0
) -> DataSet | None:
    """Return a data set with its images scaled and padded, float32, materialised; None if over SCALED_LIMIT or no room.

    Gathering a batch from it takes less time than scaling bytes does. All processes share the one copy.
    """
    shape = (found.train_images.shape[1], *(size + 2 * padding for size in found.train_images.shape[2:]))
    if 4 * math.prod(shape) * (len(found.train_images) + len(found.test_images)) > SCALED_LIMIT:
        return None

    def write(folder: Path) -> Mapping[str, Any]:
        for part, images in (("train", found.train_images), ("test", found.test_images)):
            layout = {"descr": "<f4", "fortran_order": False, "shape": (len(images), *shape)}
            with open(folder / f"{part}_images.npy", "wb") as file:
                np.lib.format.write_array_header_2_0(file, layout)
                for some in images.split(1024):
                    padded = torch.nn.functional.pad(some, (padding,) * 4)
                    file.write(scale(padded, mean, std, divisor).contiguous().numpy().tobytes())
        _save(folder, train_labels=found.train_labels.numpy(), test_labels=found.test_labels.numpy())
        return {}

    source = [NUMBERS, found.fingerprint, list(mean), list(std), divisor, padding]
    try:
        return _cached(f"{found.name}:scaled", lambda: source, write)
    except DataError:  # no room for it, or a cache that may only be read
        return None


def data_root_folder(given: Path | None) -> Path:
    """Return the data root: as given, else CLBENCH_DATA_ROOT, else `datasets` in the cache folder."""
    named = given or os.environ.get("CLBENCH_DATA_ROOT")
    if not named:
        return cache_folder() / "datasets"
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise UsageError(f"the data root {named} is not a folder: make it, or name another with --data-root")
    return folder.resolve()


def cache_folder() -> Path:
    """Return the folder of materialised data: CLBENCH_CACHE, else the user's cache folder."""
    named = os.environ.get("CLBENCH_CACHE")
    return Path(named).expanduser().absolute() if named else Path(platformdirs.user_cache_dir("clbench"))


# The cache


def _cached(name: str, source: Callable[[], Any], write: Callable[[Path], Mapping[str, Any]]) -> DataSet:
    """Return the entry of a source, made by `write` if it isn't there or is damaged.

    `write` puts one .npy file for each of ARRAYS into a folder and returns notes. One process of a host does that, and
    others wait for it meanwhile.
    """
    entry = _entry(name, source())
    found = _read(name, entry)
    if found is not None:
        return found
    with _locked(entry):
        return _read(name, entry) or _made(name, entry, source, write)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Be the only process of this host to make something; where there can be no lock, several do, without harm."""
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):
            stack.enter_context(FileLock(Path(tempfile.gettempdir()) / f".clbench-{name}.lock"))
        yield


def _made(name: str, entry: Path, source: Callable[[], Any], write: Callable[[Path], Mapping[str, Any]]) -> DataSet:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        workplace = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
    except OSError as error:
        raise _unusable_cache(error) from None
    try:
        notes = write(workplace)
        _describe(workplace, notes)
        entry = _entry(name, source())  # making it may have added or touched files at the source
        _put(name, workplace, entry)
    except OSError as error:
        raise _unusable_cache(error) from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    found = _read(name, entry)
    if found is None:
        raise DataError(f"{entry} cannot be read back: set CLBENCH_CACHE to another folder")
    return found


def _unusable_cache(error: OSError) -> DataError:
    return DataError(
        f"the cache folder {cache_folder()} cannot be used ({error.strerror or error}): "
        "set CLBENCH_CACHE to a folder that can be written"
    )


def _entry(name: str, source: Any) -> Path:
    key = hashlib.sha256(json.dumps([FORMAT_VERSION, name, source], sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / f"{name.replace(':', '-')}-{key}"


def _stamp(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Say which files these are, without reading them."""
    found = [(path.resolve(), path.stat()) for path in paths]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found]


def _save(folder: Path, **arrays: np.ndarray) -> None:
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)


def _describe(folder: Path, notes: Mapping[str, Any]) -> None:
    """Write what the arrays should look like, so that a damaged entry is noticed, and their fingerprint."""
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    layout = {}
    for name in ARRAYS:
        array = np.load(folder / f"{name}.npy", mmap_mode="r")
        layout[name] = [array.dtype.str, *array.shape]
        digest.update(f"{name} {layout[name]};".encode())
        digest.update(array)
    meta = {"fingerprint": digest.hexdigest(), "layout": layout, "notes": notes}
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _put(name: str, workplace: Path, entry: Path) -> None:
    """Move a finished folder to its place, unless another process was faster."""
    os.chmod(workplace, 0o755)
    try:
        os.rename(workplace, entry)
    except OSError:
        if _read(name, entry) is not None:
            return
        damaged = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
        os.rename(entry, damaged / "damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        os.rename(workplace, entry)


def _read(name: str, entry: Path) -> DataSet | None:
    """Open an entry; None if there is none or it is damaged."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        # copy-on-write: shared pages, and tensors that may be written to without touching the file
        arrays = {part: np.load(entry / f"{part}.npy", mmap_mode="c", allow_pickle=False) for part in ARRAYS}
        if any([array.dtype.str, *array.shape] != meta["layout"][part] for part, array in arrays.items()):
            return None
        tensors = {part: torch.from_numpy(array) for part, array in arrays.items()}
        return DataSet(name, **tensors, fingerprint=meta["fingerprint"], notes=meta["notes"])
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None


# Digits and torchvision's data sets


def _write_digits(folder: Path) -> Mapping[str, Any]:
    """Split scikit-learn's digits 80/20, stratified, the same for every seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = digits.images.astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    _save(
        folder,
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
    )
    return {}


def _find(source: _Source, root: Path) -> list[Path]:
    """Return the files of a data set in the data root, downloaded if any is missing; MNIST's may be gzipped."""
    files = _present(source, root)
    if len(files) < len(source.files):
        above = [parent for parent in root.parents if len(_present(source, parent)) == len(source.files)]
        if above:
            raise DataError(f"{source.torchvision_name} is not below {root}: did you mean --data-root {above[0]}?")
        with _locked(root / source.folder):
            if len(_present(source, root)) < len(source.files):
                _download(source, root)
        files = _present(source, root)
    return files


def _present(source: _Source, root: Path) -> list[Path]:
    folder = root / source.folder
    suffixes = ("", ".gz") if source.files is _IDX else ("",)
    choices = [[folder / f"{name}{suffix}" for suffix in suffixes] for name in source.files]
    return [path for paths in choices for path in [p for p in paths if p.is_file()][:1]]


def _download(source: _Source, root: Path) -> None:
    """Let torchvision download into a temporary folder beside, then move the files into the data root."""
    beside = next(path for path in [root, *root.parents] if path.is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix=".clbench-download-", dir=beside) as temporary:
            with contextlib.redirect_stdout(sys.stderr):
                import torchvision.datasets

                getattr(torchvision.datasets, source.torchvision_name)(temporary, download=True)
            (root / source.folder).mkdir(parents=True, exist_ok=True)
            for name in source.files:
                os.replace(Path(temporary) / source.folder / name, root / source.folder / name)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{source.torchvision_name} is not in {root / source.folder} (expected: {', '.join(source.files)}) "
            f"and the download failed ({reason[-1]}): put the files there, or use --sequence split-digits, which needs "
            "no download"
        ) from None


def _write_torchvision(source: _Source, root: Path, files: Sequence[Path], folder: Path) -> Mapping[str, Any]:
    arrays = _read_idx_files(files) if source.files is _IDX else _read_cifar(source, root)
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        where = files[1 if part == "train" else 3] if source.files is _IDX else root / source.folder
        if len(images) != len(labels):
            raise _damaged(where, f"{len(labels)} labels for {len(images)} images")
        counts = np.bincount(labels, minlength=source.classes)
        if len(counts) > source.classes:
            raise _damaged(where, f"label {labels.max()} is out of range, there are {source.classes} classes")
        if not counts.all():
            raise _damaged(where, f"no image of class {counts.argmin()}")
    _save(folder, **arrays)
    return {}


def _damaged(where: Path, reason: str) -> DataError:
    return DataError(f"{where} is damaged ({reason}): delete it to have it downloaded anew, or put a good copy there")


def _read_idx_files(files: Sequence[Path]) -> dict[str, np.ndarray]:
    arrays = {}
    for name, path in zip(ARRAYS, files, strict=True):
        if name.endswith("images"):
            images = _read_idx(path, 3)
            if images.shape[1:] != (28, 28):
                raise _damaged(path, f"images of {images.shape[1]}×{images.shape[2]} pixels instead of 28×28")
            arrays[name] = images[:, None]
        else:
            arrays[name] = _read_idx(path, 1).astype(np.int64)
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


def _read_cifar(source: _Source, root: Path) -> dict[str, np.ndarray]:
    """Read CIFAR through torchvision, which compares checksums before it unpickles."""
    import torchvision.datasets

    arrays = {}
    for part in ("train", "test"):
        try:
            found = getattr(torchvision.datasets, source.torchvision_name)(str(root), train=part == "train")
            arrays[f"{part}_images"] = found.data.transpose(0, 3, 1, 2)
            arrays[f"{part}_labels"] = np.array(found.targets, dtype=np.int64)
        except Exception as error:
            raise _damaged(root / source.folder, str(error).split(".")[0] or type(error).__name__) from None
    return arrays


# Avalanche's benchmarks


@dataclass(frozen=True)
class AvalancheBenchmark:
    """A function of avalanche.benchmarks.classic, as its source declares it."""

    name: str
    module: str
    parameters: Mapping[str, Any]  # names and defaults; None where the default is no constant


@cache
def avalanche_benchmarks() -> dict[str, AvalancheBenchmark]:
    """Return Avalanche's classic benchmarks by name; reads its source, because importing it takes seconds."""
    spec = importlib.util.find_spec("avalanche")
    if spec is None or spec.origin is None:
        raise UsageError("Avalanche is not installed: pip install avalanche-lib")
    found = {}
    for path in sorted((Path(spec.origin).parent / "benchmarks" / "classic").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                parameters = dict(_parameters(node.args))
                if {"eval_transform", "dataset_root"} <= set(parameters):
                    module = f"avalanche.benchmarks.classic.{path.stem}"
                    found[node.name] = AvalancheBenchmark(node.name, module, parameters)
    return found


def _parameters(arguments: ast.arguments) -> Iterator[tuple[str, Any]]:
    missing: list[ast.expr | None] = [None] * (len(arguments.args) - len(arguments.defaults))
    pairs = [
        *zip(arguments.args, [*missing, *arguments.defaults], strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    for argument, default in pairs:
        yield argument.arg, default.value if isinstance(default, ast.Constant) else None


def load_benchmark(
    benchmark: AvalancheBenchmark, data_root: Path | None, arguments: Mapping[str, int | bool]
) -> DataSet:
    """Return what an Avalanche benchmark gives for these arguments, one experience after another.

    Images are those of its evaluation transform but for the normalisation; `notes` has its `mean` and `std`, and
    `train_sizes` and `test_sizes`, the numbers of images of its experiences.
    """
    root = data_root_folder(data_root)

    def source() -> Any:
        # three levels of the data root show whatever is added, removed or changed without walking 100 000 images
        entries = sorted(path for pattern in ("*", "*/*", "*/*/*") for path in root.glob(pattern) if path.exists())
        return [str(root), _stamp(entries), dict(arguments), importlib.metadata.version("avalanche-lib")]

    def write(folder: Path) -> Mapping[str, Any]:
        try:
            with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.simplefilter("ignore")
                return _write_benchmark(benchmark, root, arguments, folder)
        except Exception as error:
            reason = str(error).strip().splitlines() or [""]
            raise DataError(
                f"Avalanche cannot make {benchmark.name} from the data root {root} "
                f"({type(error).__name__}: {reason[-1]}): put its files there, or use --sequence split-digits, "
                "which needs no download"
            ) from None

    return _cached(f"avalanche:{benchmark.name}", source, write)


def _write_benchmark(
    benchmark: AvalancheBenchmark, root: Path, arguments: Mapping[str, int | bool], folder: Path
) -> Mapping[str, Any]:
    from torchvision.transforms import Compose

    function = getattr(importlib.import_module(benchmark.module), benchmark.name)
    geometry, mean, std = _without_normalisation(inspect.signature(function).parameters["eval_transform"].default)
    transform = Compose([*geometry, _pixels])
    made = function(**arguments, dataset_root=str(root), train_transform=transform, eval_transform=transform)
    notes: dict[str, Any] = {"mean": mean, "std": std}
    for part in ("train", "test"):
        datasets = [experience.dataset for experience in getattr(made, f"{part}_stream")]
        notes[f"{part}_sizes"] = [len(dataset) for dataset in datasets]
        _write_images(folder, part, (item for dataset in datasets for item in dataset), sum(notes[f"{part}_sizes"]))
    return notes


def _write_images(folder: Path, part: str, items: Iterator[Any], count: int) -> None:
    """Write images one by one, so that they need not fit into memory."""
    labels = np.empty(count, np.int64)
    images: np.ndarray | None = None
    for row, (image, label, *_) in enumerate(items):
        if images is None:
            images = np.lib.format.open_memmap(folder / f"{part}_images.npy", "w+", np.uint8, (count, *image.shape))
        if image.shape != images.shape[1:]:
            raise ValueError(
                f"its images differ in size ({tuple(image.shape)} after {images.shape[1:]}), and its own "
                "transform does not make them equal"
            )
        images[row], labels[row] = image, int(label)
    if images is None:
        raise ValueError("it has no images")
    _save(folder, **{f"{part}_labels": labels})


def _without_normalisation(transform: Any) -> tuple[list[Any], list[float], list[float]]:
    """Take a transform apart: its geometric steps, and the mean and standard deviation that it normalises with."""
    from torchvision.transforms import Compose, Normalize, ToTensor

    if isinstance(transform, Compose):
        steps, mean, std = [], [0.0], [1.0]
        for step in transform.transforms:
            inner, inner_mean, inner_std = _without_normalisation(step)
            steps += inner
            if isinstance(step, (Compose, Normalize)):
                mean, std = inner_mean, inner_std
        return steps, mean, std
    if isinstance(transform, Normalize):
        return [], [float(m) for m in transform.mean], [float(s) for s in transform.std]
    return [] if transform is None or isinstance(transform, ToTensor) else [transform], [0.0], [1.0]


def _pixels(image: Any) -> np.ndarray:
    """Turn a PIL image, or a tensor with values in [0, 1], into uint8 [channels, height, width]."""
    if not isinstance(image, Tensor):
        pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if image.ndim != 3 or image.min() < 0 or image.max() > 1:
        raise ValueError(f"it gives tensors of shape {list(image.shape)} which are no images with values in [0, 1]")
    return (image * 255).round().to(torch.uint8).numpy()

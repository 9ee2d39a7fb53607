"""Where data lie, and the cache of materialised data sets: memory-mapped arrays, made once, shared by all processes.

An entry is a folder that appears whole or not at all. Its name holds a hash of where the data came from: what the
source says of itself (such as its files' names, sizes and times) and FORMAT_VERSION.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from filelock import FileLock
from torch import Tensor

from clbench.errors import DataError, UsageError

FORMAT_VERSION = 1
INSTEAD = "put the files there, name the folder that has them with --data-root, or use --sequence split-digits"
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


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


def cached(name: str, source: Callable[[], Any], write: Callable[[Path], Mapping[str, Any]]) -> DataSet:
    """Return the entry of a source, made by `write` if it isn't there or is damaged.

    `source` says where the data come from, as JSON values: while that stays, the entry is used. `write` puts one .npy
    file for each of ARRAYS into a folder and returns notes. One process of a host does that, others wait for it.
    Raises DataError if the cache folder cannot be used.
    """
    entry = _entry(name, source())
    found = _read(name, entry)
    if found is None:
        with locked(entry):
            found = _read(name, entry) or _make(name, entry, source, write)
    return found


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process of this host at a time make something; where there can be no lock, several do, without harm."""
    name = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):
            stack.enter_context(FileLock(Path(tempfile.gettempdir()) / f".clbench-{name}.lock"))
        yield


def _make(name: str, entry: Path, source: Callable[[], Any], write: Callable[[Path], Mapping[str, Any]]) -> DataSet:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{entry.name}-", dir=entry.parent) as folder:
            workplace = Path(folder) / "entry"
            workplace.mkdir()
            _describe(workplace, write(workplace))
            entry = _entry(name, source())  # making it may have added or touched files at the source
            _move_into_place(name, workplace, entry)
    except OSError as error:
        what = f"the cache folder {cache_folder()} cannot be used ({error.strerror or error})"
        raise DataError(f"{what}: set CLBENCH_CACHE to a folder that can be written") from None
    found = _read(name, entry)
    if found is None:
        raise DataError(f"{entry} cannot be read back: set CLBENCH_CACHE to another folder")
    return found


def _entry(name: str, source: Any) -> Path:
    key = hashlib.sha256(json.dumps([FORMAT_VERSION, name, source], sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / f"{name.replace(':', '-')}-{key}"


def stamp(paths: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Return the paths, sizes and times (ns) of files: another stamp means other files."""
    found = [(path.resolve(), path.stat()) for path in paths]
    return [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found]


def save_arrays(folder: Path, **arrays: np.ndarray) -> None:
    """Write arrays, each to a .npy file of its name."""
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


def _move_into_place(name: str, workplace: Path, entry: Path) -> None:
    """Move a finished folder to its place, unless another process was faster."""
    try:
        os.rename(workplace, entry)
    except OSError:
        if _read(name, entry) is None:  # what is there is damaged
            shutil.rmtree(entry, ignore_errors=True)
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

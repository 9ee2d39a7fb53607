"""Where data lie, and the cache of materialised data sets: memory-mapped arrays, made once, shared by all processes.

An entry is a folder that appears whole or not at all. Its name holds a hash of where the data came from: what the
source says of itself (such as its files' names, sizes and times) and FORMAT_VERSION.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import platformdirs
import torch
from filelock import FileLock, Timeout
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
    folder = _without_tilde(Path(named), "name the data root in full")
    if not folder.is_dir():
        raise UsageError(f"the data root {named} is not a folder: make it, or name another with --data-root")
    return folder.resolve()


def cache_folder() -> Path:
    """Return the folder of materialised data: CLBENCH_CACHE, else the user's cache folder."""
    named = os.environ.get("CLBENCH_CACHE")
    instead = "set CLBENCH_CACHE to a folder for data that are turned into bytes"
    if named:
        return _without_tilde(Path(named), instead).absolute()
    try:
        folder = Path(platformdirs.user_cache_dir("clbench"))
    except RuntimeError:  # it finds no home
        folder = Path("~")
    return _without_tilde(folder, instead)


def _without_tilde(path: Path, instead: str) -> Path:
    """Return a path with the home folder in place of ~; raise DataError where there is none."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise DataError(f"there is no home folder (is HOME set?): {instead}") from None


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


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Make a folder inside another that is removed with this context; remove those that killed processes have left.

    Each has a lock, held as long as its process lives. Those of other hosts are left alone: a lock may not be seen
    there.
    """
    prefix = f".clbench-making-{platform.node()}-"
    for left in parent.glob(f"{glob.escape(prefix)}*/.lock"):
        with contextlib.suppress(OSError, NotImplementedError, Timeout), FileLock(left, timeout=0):
            shutil.rmtree(left.parent, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):  # no locks here, so that no one removes anything
            stack.enter_context(FileLock(Path(folder) / ".lock"))
        yield Path(folder)


def _make(name: str, entry: Path, source: Callable[[], Any], write: Callable[[Path], Mapping[str, Any]]) -> DataSet:
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(entry.parent) as folder:
            workplace = folder / "entry"
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


def stamp(paths: Iterable[str | Path]) -> list[tuple[str, int, int, int]]:
    """Return the paths, sizes and times (ns) of files: another stamp means other files.

    The second time is that of the last change to the file or to what the file system says of it. It tells files apart
    that were put in place of others with their sizes and dates.
    """
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # a link to nothing, or removed meanwhile
            about = os.stat(path)
            found.append((str(path), about.st_size, about.st_mtime_ns, about.st_ctime_ns))
    return found


def files_below(root: Path) -> list[str]:
    """Return the paths of all files below a folder, in order, those behind links too; each folder once."""
    found: list[str] = []
    been: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in been:  # a link leads back
            folders.clear()
            continue
        been.add(real)
        folders.sort()
        found += [os.path.join(folder, name) for name in sorted(names)]
    return found


@contextlib.contextmanager
def folders_in_order() -> Iterator[None]:
    """Let folders be listed by name meanwhile, as file systems do not promise to: each has an order of its own."""
    listdir, scandir = os.listdir, os.scandir

    def sorted_names(*folder: Any) -> list[Any]:
        return sorted(listdir(*folder))

    def sorted_entries(*folder: Any) -> _Entries:
        with scandir(*folder) as entries:
            return _Entries(sorted(entries, key=lambda entry: entry.name))

    with mock.patch.object(os, "listdir", sorted_names), mock.patch.object(os, "scandir", sorted_entries):
        yield


class _Entries(contextlib.AbstractContextManager["_Entries"]):
    """What `os.scandir` returns: an iterator that can be closed."""

    def __init__(self, entries: Sequence[os.DirEntry[Any]]):
        self.entries = iter(entries)

    def __iter__(self) -> _Entries:
        return self

    def __next__(self) -> os.DirEntry[Any]:
        return next(self.entries)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        pass


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


def _mapped(path: Path) -> np.ndarray:
    """Map an array copy-on-write: shared pages, and tensors that may be written to without touching the file.

    Linux refuses that for what is larger than its memory, as it may all be written to: such a file may only be read.
    """
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        return np.load(path, mmap_mode="r", allow_pickle=False)


def _read(name: str, entry: Path) -> DataSet | None:
    """Open an entry; None if there is none or it is damaged."""
    try:
        meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
        arrays = {part: _mapped(entry / f"{part}.npy") for part in ARRAYS}
        if any([array.dtype.str, *array.shape] != meta["layout"][part] for part, array in arrays.items()):
            return None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # and nothing writes to it
            tensors = {part: torch.from_numpy(array) for part, array in arrays.items()}
        return DataSet(name, **tensors, fingerprint=meta["fingerprint"], notes=meta["notes"])
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None

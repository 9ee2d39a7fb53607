"""torchvision's classification data sets by the names of their classes, found in the data root or downloaded."""

from __future__ import annotations

import contextlib
import importlib.metadata
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clbench.data.cache import (
    INSTEAD,
    DataSet,
    cached,
    data_root_folder,
    files_below,
    folders_in_order,
    locked,
    stamp,
)
from clbench.data.folders import HELD_OUT, held_out
from clbench.data.images import from_pil
from clbench.data.streaming import Form, Part, blocks_of, write_parts
from clbench.errors import DataError, UsageError
from clbench.version import NUMBERS

SPLITS = {"train": ("train", "trainval"), "test": ("test", "val", "valid")}  # the first that there is
Listed = list[tuple[int, int]]  # rows of a data set, and their labels


def load_torchvision(name: str, kind: str, split: str | None, data_root: Path | None, form: Form) -> DataSet:
    """Return torchvision's data set of this class, materialised; `name` is what messages call it.

    `split` is for sets that have several (EMNIST). Its training and test images are its own; a fifth of each class is
    held out for test where it has no test images. Raises DataError for what is neither there nor can be downloaded.
    """
    root = data_root_folder(data_root)

    def source() -> Any:
        version = importlib.metadata.version("torchvision")
        return [NUMBERS, kind, split, str(root), stamp(files_below(root)), version, vars(form)]

    def write(folder: Path) -> Mapping[str, Any]:
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / kind), contextlib.redirect_stdout(sys.stderr), folders_in_order():
            try:
                return _write(kind, split, root, folder, form)
            except UsageError as error:
                raise type(error)(f"{name}: {error}") from None
            except Exception as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                raise DataError(f"{name}: it is not in {root}, and cannot be had ({reason}): {INSTEAD}") from None

    return cached(f"torchvision:{kind}", source, write)


def _write(kind: str, split: str | None, root: Path, folder: Path, form: Form) -> dict[str, Any]:
    train, test = _made(kind, split, root)
    listed = _labels(train)
    remarks = []
    if test is None:
        test = train
        listed, tested = held_out(listed)
        remarks.append(f"no test images of its own: {HELD_OUT:.0%} of each class are held out, always the same ones")
    else:
        tested = _labels(test)
    parts = [
        Part([label for _, label in rows], blocks_of(_images(data, rows, form)), lambda row, what=what: f"{what} {row}")  # type: ignore[misc]
        for data, rows, what in ((train, listed, "training image"), (test, tested, "test image"))
    ]
    notes = write_parts(folder, parts[0], parts[1], form)
    return notes | {"remarks": remarks + notes["remarks"]}


def _made(kind: str, split: str | None, root: Path) -> tuple[Any, Any]:
    """Make the training set and the test set, None where it has none; downloaded if need be."""
    import torchvision.datasets  # here, since a run on materialised data need not wait for torchvision

    cls = getattr(torchvision.datasets, kind)
    parameters = _parameters(cls)
    if split is not None and not {"train", "split"} <= parameters:
        raise UsageError(f"torchvision's {kind} has no split to choose: leave it out")
    own = {} if split is None else {"split": split}
    if "train" in parameters:
        if "split" in parameters and split is None:
            raise UsageError(
                f"torchvision's {kind} has several splits: choose one, as in torchvision:EMNIST@split=letters"
            )
        return tuple(_set(cls, root, {**own, "train": train}) for train in (True, False))
    if "split" in parameters:
        return tuple(_first(cls, root, SPLITS[part]) for part in ("train", "test"))
    return _set(cls, root, {}), None


def _parameters(cls: Any) -> set[str]:
    """Return the names of what a class is made of, those that it hands on to the one it derives from too."""
    names: set[str] = set()
    for part in cls.__mro__:
        found = inspect.signature(part.__init__).parameters if "__init__" in vars(part) else {}
        names |= set(found)
        if found and not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in found.values()):
            break
    return names


def _first(cls: Any, root: Path, splits: Sequence[str]) -> Any:
    """Make the first of some splits that the class knows."""
    for split in splits[:-1]:
        with contextlib.suppress(ValueError):  # what it says of a split that it does not know
            return _set(cls, root, {"split": split})
    return _set(cls, root, {"split": splits[-1]})


def _set(cls: Any, root: Path, arguments: Mapping[str, Any]) -> Any:
    """Make a data set from what is there, or else download it."""
    try:
        return cls(str(root), download=False, **arguments)
    except (RuntimeError, FileNotFoundError):  # it is not there, or not all of it
        return cls(str(root), download=True, **arguments)


def _labels(data: Any) -> Listed:
    """Return the label of each row; without opening the images where the set lists them."""
    for name in ("targets", "labels", "y"):
        found = getattr(data, name, None)
        if found is not None and len(found) == len(data):
            return [(row, int(label)) for row, label in enumerate(found)]
    return [(row, int(data[row][1])) for row in range(len(data))]


def _images(data: Any, rows: Listed, form: Form) -> Iterator[np.ndarray]:
    for row, label in rows:
        image, own = data[row]
        if int(own) != label:
            raise DataError(f"image {row} has label {own}, but is listed with {label}")
        if not isinstance(image, Image.Image):
            raise DataError(f"image {row} is {type(image).__name__}, not an image")
        try:
            yield from_pil(image, form.channels)
        except ValueError as error:
            raise DataError(f"image {row}: {error}") from None

"""Data sets as folders of image files, a folder for each class, in the layout of torchvision's ImageFolder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from clbench.data.cache import DataSet, cached, files_below, stamp
from clbench.data.images import ENDINGS, read_image
from clbench.data.streaming import Form, Part, blocks_of, write_parts
from clbench.errors import DataError
from clbench.seeding import stream
from clbench.version import NUMBERS

TEST_NAMES = ("test", "val", "valid", "validation")
HELD_OUT = 0.2  # of each class, for test, where a folder has no test images of its own
T = TypeVar("T")
L = TypeVar("L", int, str)
NAMED = 5  # so many broken files are named in a message


def load_folder(name: str, path: Path, form: Form) -> DataSet:
    """Return the data set in a folder, materialised; `name` is what messages call it.

    With `train` and one of TEST_NAMES below it, these are its parts. Else a fifth of each class is held out for test,
    the same for every seed. Raises DataError that names the file or folder at fault.
    """
    if not path.is_dir():
        raise DataError(f"{name}: there is no folder {path}")

    def write(folder: Path) -> Mapping[str, Any]:
        try:
            return _write(path, folder, form)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None

    def source() -> Any:
        root = path.resolve()
        return [NUMBERS, str(root), stamp(files_below(root)), vars(form)]

    return cached("folder", source, write)


def _write(path: Path, folder: Path, form: Form) -> dict[str, Any]:
    subfolders = {one.name.lower(): one for one in _folders(path)}
    train = subfolders.get("train")
    named = [name for name in TEST_NAMES if name in subfolders]
    if train is None and named and len(subfolders) <= len(TEST_NAMES):
        raise DataError(f"it has {named[0]}, but no folder train beside it")
    remarks: list[str] = []
    listed = _list(train or path, path, remarks)
    if train is not None and named:
        tested = _list(subfolders[named[0]], path, remarks)
        remarks += [f"tested on {named[0]}; {other} is not used" for other in named[1:]]
    else:
        listed, tested = held_out(listed)
        remarks.append(f"no test images of its own: {HELD_OUT:.0%} of each class are held out, always the same ones")
    notes = write_files(path, listed, tested, folder, form)
    return notes | {"remarks": remarks + notes["remarks"]}


def write_files(
    root: Path, train: Sequence[tuple[Path, str]], test: Sequence[tuple[Path, str]], folder: Path, form: Form
) -> dict[str, Any]:
    """Write a data set from lists of image files below a root with their classes; return its notes.

    Raises DataError that names the files that cannot be used.
    """
    parts = [
        Part([label for _, label in own], blocks_of(_images(own, root, form)), _namer(own, root))
        for own in (train, test)
    ]
    return write_parts(folder, parts[0], parts[1], form)


def _folders(path: Path) -> list[Path]:
    return sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith((".", "__")))


def _list(path: Path, root: Path, remarks: list[str]) -> list[tuple[Path, str]]:
    """Return the image files below the folders of a part, and their classes, both in the order of names."""
    where = "it" if path == root else path.name
    found: list[tuple[Path, str]] = []
    others: list[Path] = []
    folders = _folders(path)
    for folder in folders:
        files = [Path(file) for file in files_below(folder) if not Path(file).name.startswith(".")]
        own = [file for file in files if file.suffix.lower() in ENDINGS]
        others += [file for file in files if file.suffix.lower() not in ENDINGS]
        if not own:
            what = f"{folder.relative_to(root)} has no image ({', '.join(ENDINGS)})"
            raise DataError(f"{what}: each folder is a class; put images there, or remove it")
        found += [(file, folder.name) for file in own]
    if not folders:
        raise DataError(f"{where} has no folders: put the images of each class into a folder of their own")
    if len(folders) == 1 and len(_folders(folders[0])) > 1:
        inner = folders[0]
        raise DataError(f"{where} has one folder, {inner.name}, which has others: did you mean folder:{inner}?")
    if others:
        names = ", ".join(str(file.relative_to(root)) for file in others[:NAMED])
        remarks.append(f"left out, no image by the name: {names}{', …' if len(others) > NAMED else ''} ({len(others)})")
    return found


def held_out(listed: Sequence[tuple[T, L]], share: float = HELD_OUT) -> tuple[list[tuple[T, L]], list[tuple[T, L]]]:
    """Share things and their labels into training and test.

    Of each class this share, at least one, is for test: drawn at random, but always the same.
    """
    labels = np.array([label for _, label in listed])
    test: set[int] = set()
    for number, label in enumerate(dict.fromkeys(labels.tolist())):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise DataError(f"class {label} has one image: two are needed, one to train on and one to test on")
        draws = stream(0, "held out for test", number)
        chosen = torch.randperm(len(rows), generator=draws)[: max(1, round(share * len(rows)))]
        test |= set(rows[chosen.numpy()].tolist())
    return (
        [item for row, item in enumerate(listed) if row not in test],
        [item for row, item in enumerate(listed) if row in test],
    )


def _namer(listed: Sequence[tuple[Path, str]], root: Path) -> Any:
    return lambda row: str(listed[row][0].relative_to(root))


def _images(listed: Sequence[tuple[Path, str]], root: Path, form: Form) -> Iterator[np.ndarray]:
    """Yield the images; after one that cannot be used only look for others, and raise DataError that names them."""
    broken: list[str] = []
    for path, _ in listed:
        try:
            image = read_image(path, form.channels)
        except ValueError as error:
            broken.append(f"{path.relative_to(root)}: {error}")
        else:
            if not broken:
                yield image
    if broken:
        more = f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        raise DataError(f"{'; '.join(broken[:NAMED])}{more}")

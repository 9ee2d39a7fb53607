"""Data sets of any source written block by block, so that they need not fit into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clbench.data.cache import save_arrays
from clbench.data.images import fitted, with_channels
from clbench.errors import DataError

BLOCK = 2**22  # bytes of images that are held at a time, at least one image


@dataclass(frozen=True)
class Part:
    """The training or the test images of a data set."""

    labels: Sequence[int] | Sequence[str]  # [n], of any kind
    blocks: Generator[np.ndarray]  # one after another [m, channels, height, width], n images together
    place: Callable[[int], str]  # what an image is called in messages, by its number


@dataclass(frozen=True)
class Form:
    """What images are brought to; None: as they are."""

    resize: int | None = None  # height and width
    channels: int | None = None
    # of floats: subtracted, and what the difference is divided by; one for all channels, or one for each
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def write_parts(folder: Path, train: Part, test: Part, form: Form) -> dict[str, Any]:
    """Write a data set's arrays into a folder, and return notes: `classes`, and the `mean` and `std` of its channels.

    Labels become 0, 1, 2, … in the order of the classes' names, numbers by their size. Bytes stay bytes, and the
    constants are those of the training images in [0, 1]. Floats are normalised by theirs here, as they are handed out
    as they lie. Raises DataError for images and labels that cannot be used.
    """
    classes = _classes(train, test)
    place_of = {name: place for place, name in enumerate(classes)}
    for part, labels in (("train", train.labels), ("test", test.labels)):
        save_arrays(folder, **{f"{part}_labels": np.array([place_of[label] for label in labels], np.int64)})
    sums = _Sums()
    first = _write_images(folder / "train_images.npy", train, form, sums, None)
    _write_images(folder / "test_images.npy", test, form, None, first)
    mean, std = sums.constants(255.0 if first.dtype == np.uint8 else 1.0)
    if first.dtype != np.uint8:
        mean, std = form.mean or mean, form.std or std
        for part in ("train", "test"):
            _normalise(folder / f"{part}_images.npy", mean, std)
    return {"classes": list(classes), "mean": list(mean), "std": list(std), "remarks": _untested(train, test)}


def rows_of(shape: Sequence[int], item: int) -> int:
    """Return how many images of this shape and size of a number, in bytes, make a block."""
    return max(1, BLOCK // max(1, int(np.prod(shape)) * item))


def _classes(train: Part, test: Part) -> list[int] | list[str]:
    for name, part in (("training", train), ("test", test)):
        if not len(part.labels):
            raise DataError(f"there is no {name} image")
    in_training = set(train.labels)
    unknown = [row for row, label in enumerate(test.labels) if label not in in_training]
    if unknown:
        label, where = test.labels[unknown[0]], test.place(unknown[0])
        raise DataError(f"class {label} has test images ({where}), but no training image: add some, or leave it out")
    return sorted(in_training)  # type: ignore[type-var, return-value]


def _untested(train: Part, test: Part) -> list[str]:
    absent = sorted(set(train.labels) - set(test.labels))  # type: ignore[type-var]
    return [f"no test image of {', '.join(map(str, absent))}"] if absent else []


class _Sums:
    """Sums over the pixels of each channel, in float64."""

    def __init__(self) -> None:
        self.count, self.sum, self.squares = 0, np.zeros(1), np.zeros(1)

    def add(self, images: np.ndarray) -> None:
        self.count += images.size // images.shape[1]
        self.sum = self.sum + images.sum(axis=(0, 2, 3), dtype=np.float64)
        self.squares = self.squares + np.square(images, dtype=np.float64).sum(axis=(0, 2, 3))

    def constants(self, divisor: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return each channel's mean and standard deviation over `divisor`; 1 for a channel without any contrast."""
        mean = self.sum / self.count
        deviation = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0.0)) / divisor
        deviation[deviation < 1e-12] = 1.0
        return tuple((mean / divisor).tolist()), tuple(deviation.tolist())


def _write_images(path: Path, part: Part, form: Form, sums: _Sums | None, first: np.ndarray | None) -> np.ndarray:
    """Write a part's images and return its first one; they must be alike, and like `first` where that is given."""
    images: np.ndarray | None = None
    row = 0
    with contextlib.closing(part.blocks):  # it holds a file
        for block in part.blocks:
            block = _formed(block, part, row, form)
            first = block[0].copy() if first is None else first
            _check_alike(block, part, row, first)
            if images is None:
                images = np.lib.format.open_memmap(path, "w+", first.dtype, (len(part.labels), *first.shape))
            images[row : row + len(block)] = block
            if sums is not None:
                sums.add(block)
            row += len(block)
    if row != len(part.labels):
        raise DataError(f"{len(part.labels)} labels for {row} images")
    assert first is not None  # there is a label, so there was an image
    return first


def _formed(block: np.ndarray, part: Part, row: int, form: Form) -> np.ndarray:
    if block.dtype != np.uint8:
        block = block.astype(np.float32)
        bad = ~np.isfinite(block)
        if bad.any():
            image, *pixel = (int(index) for index in np.argwhere(bad)[0])
            what = f"is {block[image, *pixel]} at channel, row and column {pixel}"
            raise DataError(f"{part.place(row + image)} {what}, counted from 0: replace it, or leave the image out")
    try:
        block = with_channels(block, form.channels)
    except ValueError as error:
        raise DataError(f"{part.place(row)}: {error}") from None
    return block if form.resize is None else np.stack([fitted(image, form.resize) for image in block])


def _check_alike(block: np.ndarray, part: Part, row: int, first: np.ndarray) -> None:
    own, other, where = block.shape[1:], first.shape, part.place(row)
    if block.dtype != first.dtype:
        raise DataError(f"{where} is {block.dtype}, the first image is {first.dtype}: all need to be of one type")
    if own[0] != other[0]:
        what = f"{where} has {own[0]} channel{'s' * (own[0] > 1)}, the first image has {other[0]}"
        raise DataError(f"{what}: channels=3 makes all of them colour, channels=1 grey")
    if own != other:
        sizes = f"{where} has {own[1]}×{own[2]} pixels (height×width), the first image has {other[1]}×{other[2]}"
        raise DataError(f"{sizes}: resize=64 makes all of them 64×64")


def _normalise(path: Path, mean: Sequence[float], std: Sequence[float]) -> None:
    """Replace floats by (x − mean) / std, a block at a time."""
    images = np.load(path, mmap_mode="r+")
    shape = (1, -1, 1, 1)
    m, s = np.array(mean, np.float32).reshape(shape), np.array(std, np.float32).reshape(shape)
    step = rows_of(images.shape[1:], 4)
    for start in range(0, len(images), step):
        images[start : start + step] = (images[start : start + step] - m) / s
    images.flush()


def blocks_of(images: Iterable[np.ndarray]) -> Generator[np.ndarray]:
    """Return images [channels, height, width] as blocks of one."""
    return (image[None] for image in images)


def described(notes: Mapping[str, Any], train: Sequence[int], test: int) -> str:
    """Return a data set in words: how many images of what shape, [n, channels, height, width], and classes."""
    n, channels, height, width = train
    colours = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    counts = f"{n:,} training and {test:,} test images, {height}×{width}, {colours}"
    classes = len(notes["classes"])
    return f"{counts}, {classes} class{'es' * (classes != 1)}"

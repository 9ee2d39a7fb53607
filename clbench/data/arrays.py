"""Arrays, tensors and data sets of Python written to a .npz file, image by image."""

from __future__ import annotations

import contextlib
import filecmp
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from clbench.data.images import from_pil
from clbench.errors import DataError, UsageError, shown


def write_npz(path: Path, parts: Mapping[str, Any]) -> None:
    """Write each part, a pair of images and labels or a data set, as x_PART and y_PART.

    A file that says the same already is left alone, so that it counts as unchanged. Raises UsageError for parts that
    cannot be written; then what was there stays.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(new, "w") as file:
            for part, data in parts.items():
                _write_part(file, part, data)
        if path.is_file() and filecmp.cmp(new, path, shallow=False):
            return
        os.replace(new, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def _write_part(file: zipfile.ZipFile, part: str, data: Any) -> None:
    labels: list[Any] = []
    count, items = _items(part, data)
    first: np.ndarray | None = None
    # an entry without a date of its own: the same content makes the same file
    with file.open(zipfile.ZipInfo(f"x_{part}.npy"), "w", force_zip64=True) as stream:
        for row, (image, label) in enumerate(items):
            pixels = _array(image)
            if first is None:
                first = pixels
                about = {"descr": first.dtype.str, "fortran_order": False, "shape": (count, *first.shape)}
                np.lib.format.write_array_header_1_0(stream, about)
            if (pixels.shape, pixels.dtype) != (first.shape, first.dtype):
                own, other = (f"{list(x.shape)} {x.dtype}" for x in (pixels, first))
                what = f"{part}: image {row} is {own}, the first is {other}"
                raise UsageError(f"{what}: all need one shape and type, as torchvision's Resize gives them")
            stream.write(np.ascontiguousarray(pixels).tobytes())
            labels.append(label)
    if len(labels) != count or first is None:
        raise UsageError(f"{part}: {len(labels)} images came of a data set that says it has {count}")
    with file.open(zipfile.ZipInfo(f"y_{part}.npy"), "w") as stream:
        np.lib.format.write_array(stream, _labels(part, labels), allow_pickle=False)


def _items(part: str, data: Any) -> tuple[int, Iterator[tuple[Any, Any]]]:
    """Return how many images a part has, and an iterator over these with their labels."""
    if isinstance(data, tuple | list) and len(data) == 2 and all(hasattr(one, "__len__") for one in data):
        images, labels = data
        if len(images) != len(labels):
            raise UsageError(f"{part}: {len(labels)} labels for {len(images)} images")
        return len(images), zip(images, labels, strict=True)
    if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        what = f"{part}={shown(data)}: a pair (images, labels) is needed, or a data set with a length and items"
        raise UsageError(what)
    return len(data), ((item[0], item[1]) for item in (data[row] for row in range(len(data))))


def _array(image: Any) -> np.ndarray:
    if isinstance(image, Image.Image):
        pixels = from_pil(image, 1 if image.mode in ("1", "L") else 3)
        return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    return image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)


def _labels(part: str, labels: list[Any]) -> np.ndarray:
    plain = np.array([label.item() if hasattr(label, "item") else label for label in labels])
    if plain.ndim != 1 or plain.dtype.kind not in "iubU":
        raise UsageError(f"{part}: the labels are {shown(plain)} of {plain.dtype}: whole numbers or text are needed")
    return plain

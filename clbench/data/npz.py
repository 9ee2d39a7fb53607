"""Data sets in .npz files: arrays x_train, y_train, x_test and y_test, read without being held in memory as a whole."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from clbench.data.cache import DataSet, cached, stamp
from clbench.data.streaming import Form, Part, rows_of, write_parts
from clbench.errors import DataError
from clbench.version import NUMBERS

NAMES = ("x_train", "y_train", "x_test", "y_test")
READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError)
Header = tuple[tuple[int, ...], bool, np.dtype[Any]]  # shape, whether in Fortran's order, type


def load_npz(name: str, path: Path, form: Form) -> DataSet:
    """Return the data set in a .npz file, materialised; `name` is what messages call it.

    Images are uint8 or floats: [n, height, width], [n, height, width, channels] or [n, channels, height, width].
    Raises DataError for a file that is damaged or holds anything else.
    """
    if not path.is_file():
        raise DataError(f"{name}: there is no file {path}")

    def write(folder: Path) -> Mapping[str, Any]:
        try:
            with zipfile.ZipFile(path) as file:
                return _write(file, folder, form)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        except zipfile.BadZipFile as error:
            what = f"it is damaged or no .npz file ({error})"
            raise DataError(
                f"{name}: {what}: np.savez(FILE, x_train=…, y_train=…, x_test=…, y_test=…) makes one"
            ) from None
        except UNREADABLE as error:
            raise DataError(f"{name}: it cannot be read ({error}): write it again") from None

    return cached("npz", lambda: [NUMBERS, *stamp([path.resolve()]), vars(form)], write)


def _write(file: zipfile.ZipFile, folder: Path, form: Form) -> dict[str, Any]:
    there = [name.removesuffix(".npy") for name in file.namelist()]
    missing = [name for name in NAMES if name not in there]
    if missing:
        has = f"it has {', '.join(there)}" if there else "it is empty"
        raise DataError(f"there is no array {missing[0]}: {', '.join(NAMES)} are needed, {has}")
    axes, parts = [], []
    for part in ("train", "test"):
        x, labels = f"x_{part}", _labels(file, f"y_{part}")
        header = _header(file, x)
        axis = _channel_axis(x, header)
        if header[0][0] != len(labels):
            raise DataError(f"{x} has {header[0][0]} images, y_{part} has {len(labels)} labels")
        parts.append(Part(labels, _blocks(file, x, header, axis), lambda row, x=x: f"{x}[{row}]"))  # type: ignore[misc]
        axes.append((len(header[0]), axis))
    if axes[0] != axes[1]:
        raise DataError("x_train and x_test have their channels at different axes: write both in the same order")
    notes = write_parts(folder, parts[0], parts[1], form)
    order = {None: "", 1: ", read as [n, channels, height, width]", 3: ", read as [n, height, width, channels]"}
    return notes | {"order": order[axes[0][1]]}


@contextlib.contextmanager
def _opened(file: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], Header]]:
    """Open an array of the file behind its header; raise DataError for one that is refused."""
    with file.open(f"{name}.npy") as stream:
        try:
            header = READERS[np.lib.format.read_magic(stream)](stream)
        except (ValueError, KeyError) as error:
            raise DataError(f"{name} cannot be read ({error}): write the file again with np.savez") from None
        if header[2].hasobject:
            what = f"{name} holds Python objects (pickled), which are refused, as reading them can run any code"
            raise DataError(f"{what}: make it an array of numbers or text, as in np.array({name}.tolist())")
        yield stream, header


def _header(file: zipfile.ZipFile, name: str) -> Header:
    with _opened(file, name) as (_, header):
        return header


def _labels(file: zipfile.ZipFile, name: str) -> list[int] | list[str]:
    """Return labels as whole numbers or text; [n, 1] stands for [n]."""
    with _opened(file, name) as (stream, (shape, _, kind)):
        if len(shape) > 1 and shape[1:] != (1,):
            raise DataError(f"{name} has the shape {list(shape)}: one label for each image is needed, [n]")
        if kind.kind not in "iubUS":
            raise DataError(f"{name} holds {kind}: labels are whole numbers or text; {name}.astype(int) makes numbers")
        labels = _read(stream, name, int(np.prod(shape)), kind)
    if kind.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    return labels.tolist()


def _channel_axis(name: str, header: Header) -> int | None:
    """Return which axis of images is their channels: the shorter one of axis 1 and the last; None: they are grey."""
    shape, fortran, kind = header
    if not (kind == np.uint8 or kind.kind == "f"):
        what = f"{name} holds {kind}: images are bytes (uint8, 0 to 255) or floats"
        raise DataError(f"{what}; {name}.astype('uint8') makes bytes of whole numbers from 0 to 255")
    if fortran:
        raise DataError(f"{name} lies in Fortran's order: write np.ascontiguousarray({name})")
    if len(shape) not in (3, 4) or not all(shape):
        forms = "[n, height, width], [n, height, width, channels] or [n, channels, height, width]"
        raise DataError(f"{name} has the shape {list(shape)}: images are {forms}")
    if len(shape) == 3:
        return None
    if shape[1] == shape[3]:
        what = f"{name} has the shape {list(shape)}: axis 1 and the last are equally long, and either may be channels"
        raise DataError(f"{what}; of grey images leave that axis out, others need more pixels than channels")
    return 1 if shape[1] < shape[3] else 3


def _blocks(file: zipfile.ZipFile, name: str, header: Header, axis: int | None) -> Generator[np.ndarray]:
    shape, _, kind = header
    with _opened(file, name) as (stream, _):
        step = rows_of(shape[1:], kind.itemsize)
        for start in range(0, shape[0], step):
            rows = min(step, shape[0] - start)
            images = _read(stream, name, rows * int(np.prod(shape[1:])), kind).reshape(rows, *shape[1:])
            yield images[:, None] if axis is None else np.moveaxis(images, axis, 1)
        stream.read()  # to the end, where the checksum is compared


def _read(stream: IO[bytes], name: str, count: int, kind: np.dtype[Any]) -> np.ndarray:
    content = stream.read(count * kind.itemsize)
    if len(content) < count * kind.itemsize:
        raise DataError(f"{name} ends too early: the file is not complete, write it again")
    return np.frombuffer(content, kind, count)

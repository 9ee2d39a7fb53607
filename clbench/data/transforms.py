"""What is done to images: scaled, a whole data set or a batch; their pixels moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.data.cache import DataSet, cached, save_arrays
from clbench.errors import DataError
from clbench.version import NUMBERS

SCALED_LIMIT = 2**30  # bytes
SCALED_AT_ONCE = 512  # images


def scale(pixels: Tensor, mean: Sequence[float], std: Sequence[float], divisor: float) -> Tensor:
    """Return bytes [n, channels, …] as (pixels / divisor − mean) / std, float32; constants for all channels or each.

    `mean` may also be an image: one number for each pixel, channel after channel and row after row.
    """
    x = pixels.float()
    if len(mean) > x.shape[1]:
        image, deviation = (torch.tensor(values, device=x.device) for values in (mean, std))
        return x.mul_(1 / divisor).sub_(image.view(x.shape[1:])).div_(deviation.view(-1, 1, 1))
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
        save_arrays(folder, train_labels=found.train_labels.numpy(), test_labels=found.test_labels.numpy())
        for part, images in (("train", found.train_images), ("test", found.test_images)):
            to, place = (len(images), *shape), folder / f"{part}_images.npy"
            floats = np.lib.format.open_memmap(place, "w+", np.dtype(np.float32), to)
            for rows in torch.arange(len(images)).split(SCALED_AT_ONCE):
                some = images[rows[0] : rows[-1] + 1]
                floats[rows[0] : rows[-1] + 1] = scale(F.pad(some, (padding,) * 4), mean, std, divisor).numpy()
            floats.flush()
        return {}

    source = [NUMBERS, found.fingerprint, list(mean), list(std), divisor, padding]
    try:
        return cached(f"{found.name}:scaled", lambda: source, write)
    except DataError:  # no room for it, or a cache that may only be read
        return None


def alike(found: DataSet, channels: int, size: tuple[int, int], divisor: float) -> DataSet:
    """Return a data set with images of [channels, *size], bytes from 0 to 255, materialised.

    Grey images are repeated in all channels, smaller ones get a black border on all sides, and bytes whose largest is
    `divisor` are brought to 255. Raises DataError where there is no room for it.
    """
    shape = tuple(found.train_images.shape[1:])
    if shape == (channels, *size) and divisor == 255:
        return found
    down, across = size[0] - shape[1], size[1] - shape[2]
    border = (across // 2, across - across // 2, down // 2, down - down // 2)

    def write(folder: Path) -> Mapping[str, Any]:
        arrays = {"train_labels": found.train_labels.numpy(), "test_labels": found.test_labels.numpy()}
        for part, images in (("train", found.train_images), ("test", found.test_images)):
            levels = images if divisor == 255 else (images.float() * (255 / divisor)).round().to(torch.uint8)
            arrays[f"{part}_images"] = F.pad(levels, border).expand(-1, channels, -1, -1).numpy()
        save_arrays(folder, **arrays)
        return {}

    return cached(f"{found.name}:alike", lambda: [NUMBERS, found.fingerprint, channels, list(size), divisor], write)


def move_pixels(x: Tensor, maps: Tensor) -> Tensor:
    """Take each pixel of images [n, channels, height, width] from where a map says; −1 stands for a pixel of 0.

    `maps` is int64 [n, height·width], or [1, height·width] for all images.
    """
    padded = F.pad(x.flatten(2), (1, 0))  # a pixel of 0 in front, where −1 points to
    source = (maps + 1)[:, None].expand(*x.shape[:2], -1)
    return padded.gather(2, source).view(x.shape)

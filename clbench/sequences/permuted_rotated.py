"""Permuted and rotated MNIST: all classes in every task, the pixels moved in a way of the task's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from clbench.data import load_dataset, remarks
from clbench.errors import UsageError
from clbench.sequences.splits import ADDED, MNIST_BUDGET, MNIST_CONSTANTS, own_constants, train_and_test
from clbench.sequences.tasks import ClassOrder, Task, TaskSequence


@dataclass(frozen=True)
class MovedMNIST(TaskSequence):
    """All of MNIST in every task, its pixels moved in a way of the task's own."""

    scenario: ClassVar[str] = "domain"
    budget: ClassVar[Mapping[str, Any]] = MNIST_BUDGET
    tasks: Annotated[int, Ge(1)] = 10  # length of the sequence
    # rows and columns of black around each image, before its pixels are moved: the border moves too
    padding: Annotated[int, Ge(0)] = field(default=0, metadata=ADDED)
    # subtracted from pixels in [0, 1]; none: MNIST's own constants
    mean: float | None = field(default=None, metadata=ADDED)
    std: Annotated[float, Gt(0)] | None = field(default=None, metadata=ADDED)  # what the difference is divided by
    # to train on, the first so many of the data set; none: all
    images: Annotated[int, Ge(1)] | None = field(default=None, metadata=ADDED)

    @property
    def size(self) -> int:
        """Height and width of the images in pixels."""
        return 28 + 2 * self.padding

    def pixel_maps(self, seed: int) -> list[Tensor]:
        """Return each task's map, int64 [size²]; see Split."""
        raise NotImplementedError(f"{type(self).__name__} does not define pixel_maps")

    def prepare(self, data_root: Path | None, seed: int) -> str:
        return load_dataset("mnist", data_root).fingerprint

    def remarks(self, data_root: Path | None, seed: int) -> list[str]:
        return remarks("mnist", data_root)

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        found = load_dataset("mnist", data_root)
        if self.padding:
            border = (self.padding,) * 4
            train_images, test_images = F.pad(found.train_images, border), F.pad(found.test_images, border)
            found = replace(found, train_images=train_images, test_images=test_images)
        constants = own_constants(MNIST_CONSTANTS, self.mean, self.std)
        # moved pixels are scaled when used
        train, test = train_and_test(found, *constants, beforehand=False, images=self.images)
        return [
            Task(index, tuple(range(10)), replace(train, pixel_map=own[None]), replace(test, pixel_map=own[None]))
            for index, own in enumerate(self.pixel_maps(seed))
        ]


@dataclass(frozen=True)
class PermutedMNIST(MovedMNIST):
    """Handwritten digits, all 10 classes in every task, the pixels permuted; Avalanche's PermutedMNIST."""

    name = "permuted-mnist"

    def pixel_maps(self, seed: int) -> list[Tensor]:
        draws = np.random.RandomState(seed)  # the generator that Avalanche draws from
        return [torch.from_numpy(draws.permutation(self.size**2)) for _ in range(self.tasks)]


@dataclass(frozen=True)
class RotatedMNIST(MovedMNIST):
    """Handwritten digits, all 10 classes in every task, the images rotated; Avalanche's RotatedMNIST."""

    name = "rotated-mnist"
    # angles are drawn between these, in degrees, anticlockwise; none: whole degrees from −180 to 180, as in Avalanche
    lowest: float | None = field(default=None, metadata=ADDED)
    highest: float | None = field(default=None, metadata=ADDED)  # see lowest

    def check(self, class_order: ClassOrder, scenario: str) -> None:
        super().check(class_order, scenario)
        if (self.lowest is None) != (self.highest is None) or (self.lowest or 0) > (self.highest or 0):
            raise UsageError(f"{self.name}: lowest={self.lowest} and highest={self.highest} are no range of angles")

    def angles(self, seed: int) -> list[float]:
        """Return each task's angle in degrees, anticlockwise."""
        draws = np.random.RandomState(seed)  # the generator that Avalanche draws from
        if self.lowest is None or self.highest is None:
            return [int(draws.randint(-180, 181)) for _ in range(self.tasks)]
        return [float(draws.uniform(self.lowest, self.highest)) for _ in range(self.tasks)]

    def pixel_maps(self, seed: int) -> list[Tensor]:
        return [rotation_map(angle, self.size) for angle in self.angles(seed)]


def rotation_map(angle: float, size: int = 28) -> Tensor:
    """Return the source pixel of each pixel [size²] when a square image turns by `angle` degrees anticlockwise.

    The nearest pixel is taken, −1 where that lies outside: what torchvision's RandomRotation does to tensors.
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    across, down = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]]) / (size / 2)
    centred = torch.linspace(0.5 - size / 2, size / 2 - 0.5, size)
    y, x = torch.meshgrid(centred, centred, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=2).view(-1, 3) @ torch.stack([across, down]).T
    numbers = torch.arange(1.0, size * size + 1).view(1, 1, size, size)  # exact in float32; 0 comes from outside
    turned = F.grid_sample(numbers, points.view(1, size, size, 2), mode="nearest", align_corners=False)
    return turned.flatten().long() - 1

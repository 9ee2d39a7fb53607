"""Permuted and rotated MNIST: all classes in every task, the pixels moved in a way of the task's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from clbench.data import load_dataset
from clbench.sequences.splits import MNIST_BUDGET, MNIST_CONSTANTS, train_and_test
from clbench.sequences.tasks import Task, TaskSequence


@dataclass(frozen=True)
class MovedMNIST(TaskSequence):
    """All of MNIST in every task, its pixels moved in a way of the task's own."""

    scenario: ClassVar[str] = "domain"
    budget: ClassVar[Mapping[str, Any]] = MNIST_BUDGET
    tasks: Annotated[int, Ge(1)] = 10  # length of the sequence

    def pixel_maps(self, seed: int) -> list[Tensor]:
        """Return each task's map, int64 [784]; see Split."""
        raise NotImplementedError(f"{type(self).__name__} does not define pixel_maps")

    def prepare(self, data_root: Path | None, seed: int) -> str:
        return load_dataset("mnist", data_root).fingerprint

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        found = load_dataset("mnist", data_root)
        train, test = train_and_test(found, *MNIST_CONSTANTS, beforehand=False)  # moved pixels are scaled when used
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
        return [torch.from_numpy(draws.permutation(784)) for _ in range(self.tasks)]


@dataclass(frozen=True)
class RotatedMNIST(MovedMNIST):
    """Handwritten digits, all 10 classes in every task, the images rotated; Avalanche's RotatedMNIST."""

    name = "rotated-mnist"

    def angles(self, seed: int) -> list[int]:
        """Return each task's angle in degrees, anticlockwise."""
        draws = np.random.RandomState(seed)  # the generator that Avalanche draws from
        return [int(draws.randint(-180, 181)) for _ in range(self.tasks)]

    def pixel_maps(self, seed: int) -> list[Tensor]:
        return [rotation_map(angle) for angle in self.angles(seed)]


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

"""Small tasks of random images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clbench.sequences.tasks import Split, Task


def tiny_tasks(
    tasks: int = 2,
    classes: int = 2,
    images: int = 24,
    shape: Sequence[int] = (1, 8, 8),
    seed: int = 0,
    as_bytes: bool = False,
) -> list[Task]:
    """Make small tasks of random images, each class around a mean of its own: floats, or bytes to be scaled."""
    generator = torch.Generator().manual_seed(seed)

    def split(means: Tensor, n: int) -> Split:
        y = torch.arange(n) % classes
        x = means[y] + 0.5 * torch.randn(n, *shape, generator=generator)
        if not as_bytes:
            return Split(x, torch.arange(n), y)
        stored = ((x / 8 + 0.5) * 16).round().clamp(0, 16).to(torch.uint8)
        return Split(stored, torch.arange(n), y, mean=(0.5,), std=(0.125,), divisor=16.0)

    made = []
    for index in range(tasks):
        means = torch.randn(classes, *shape, generator=generator)
        ids = tuple(range(index * classes, (index + 1) * classes))
        made.append(Task(index, ids, split(means, images), split(means, images // 2)))
    return made

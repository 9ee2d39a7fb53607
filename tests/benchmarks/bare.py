"""Hand-written training loops, to measure the training core against: the same arithmetic, and nothing else."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def finetune(
    backbone: nn.Module,
    head: nn.Linear,
    images: Tensor,
    y: Tensor,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
) -> None:
    """Train one epoch on images [n, *shape] with labels [n]."""
    for index in torch.randperm(len(y)).split(batch_size):
        x = prepare(images.index_select(0, index))
        loss = F.cross_entropy(head(backbone(x)), y.index_select(0, index))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def crop_and_flip(images: Tensor, padding: int = 4) -> Tensor:
    """Crop bytes [n, 3, h, w] after padding, mirror half of them, and scale all to [0, 1]."""
    n, channels, height, width = images.shape
    top, left = (torch.randint(0, 2 * padding + 1, (n, 1)) for _ in range(2))
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    padded = F.pad(images, (padding,) * 4)
    which, channel = torch.arange(n).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1)
    return padded[which, channel, rows[:, None, :, None], columns[:, None, None, :]] / 255


def lwf(
    backbone: nn.Module,
    old: nn.Linear,
    head: nn.Linear,
    images: Tensor,
    y: Tensor,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    chunk: int,
    temperature: float = 2.0,
) -> None:
    """Train one epoch with one old task's responses, recorded first, `chunk` images at a time, as soft targets."""
    with torch.no_grad():
        responses = torch.cat([(old(backbone(some)) / temperature).softmax(1) for some in images.split(chunk)])
    for index in torch.randperm(len(y)).split(batch_size):
        features = backbone(images.index_select(0, index))
        student = (old(features) / temperature).log_softmax(1)
        distillation = (responses.index_select(0, index) * student).sum() / -len(index)
        loss = F.cross_entropy(head(features), y.index_select(0, index)) + distillation
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def er(
    backbone: nn.Module,
    heads: list[nn.Linear],
    images: Tensor,
    y: Tensor,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    memory: Tensor,
    labels: Tensor,
    seen: int,
) -> None:
    """Train one epoch with a full reservoir: as many of its images join each batch, then the batch is offered to it."""
    size = len(labels)
    for index in torch.randperm(len(y)).split(batch_size):
        x, target = images.index_select(0, index), y.index_select(0, index)
        old = torch.randperm(size)[: len(index)]
        features = backbone(torch.cat([x, memory.index_select(0, old)]))
        outputs = torch.cat([head(features) for head in heads], 1)
        loss = F.cross_entropy(outputs, torch.cat([target, labels.index_select(0, old)]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for row, u in enumerate(torch.rand(len(index)).tolist()):
            place = int(u * (seen + row + 1))
            if place < size:
                memory[place], labels[place] = x[row], target[row]
        seen += len(index)

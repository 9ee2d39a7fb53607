"""Hand-written training loops, to measure the training core against: the same arithmetic, and nothing else."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def finetune(
    backbone: nn.Module, head: nn.Linear, images: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, batch_size: int
) -> None:
    """Train one epoch on images [n, *shape] with labels [n]."""
    for index in torch.randperm(len(y)).split(batch_size):
        loss = F.cross_entropy(head(backbone(images.index_select(0, index))), y.index_select(0, index))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


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

"""Hand-written training loops, to measure the training core against: the same arithmetic, and nothing else."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def finetune(
    backbone: nn.Module, head: nn.Linear, images: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, batch_size: int
) -> None:
    """Train one epoch on images [n, *shape] with labels [n]."""
    for index in torch.randperm(len(y)).split(batch_size):
        loss = F.cross_entropy(head(backbone(images[index])), y[index])
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
    temperature: float = 2.0,
) -> None:
    """Train one epoch with one old task's responses, recorded first, as soft targets."""
    with torch.no_grad():
        chunks = [(old(backbone(chunk)) / temperature).softmax(1) for chunk in images.split(256)]
        responses = torch.cat(chunks)
    for index in torch.randperm(len(y)).split(batch_size):
        features = backbone(images[index])
        student = (old(features) / temperature).log_softmax(1)
        loss = F.cross_entropy(head(features), y[index]) - (responses[index] * student).sum(1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

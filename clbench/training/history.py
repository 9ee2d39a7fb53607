"""The history of an epoch: its losses and right answers."""

from __future__ import annotations

import torch
from torch import Tensor


class EpochHistory:
    """Losses and right answers of an epoch's steps, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self.images = 0
        self.losses: list[Tensor] = []
        self.sizes: list[int] = []
        self.hits: list[Tensor] = []
        self.answered = 0  # images whose outputs were seen

    def add(self, loss: Tensor, size: int, answer: tuple[Tensor, Tensor] | None) -> None:
        """Take a step's loss, its number of images, and its outputs [n, k] with the right ones of them [n]."""
        self.losses.append(loss.detach())
        self.sizes.append(size)
        self.images += size
        if answer is not None:
            outputs, y = answer
            self.hits.append((outputs.argmax(1) == y).sum())
            self.answered += len(y)

    def means(self) -> tuple[float, float | None]:
        """Return the mean loss of an image, and the share answered right; None if not all steps had answers."""
        losses = torch.stack(self.losses).double()
        loss = (losses * losses.new_tensor(self.sizes)).sum().item() / self.images
        if len(self.hits) < len(self.sizes):
            return loss, None
        return loss, torch.stack(self.hits).sum().item() / self.answered

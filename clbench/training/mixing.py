"""Images mixed in pairs within a batch, and their labels: mixup and CutMix.

    mixup    x ← λ x + (1 − λ) x'                              (Zhang et al. 2018, arXiv 1710.09412)
    CutMix   a box of x ← that of x',  λ = 1 − its share       (Yun et al. 2019, arXiv 1905.04899)

x' is another image of the batch. The loss is λ CE(ŷ, y) + (1 − λ) CE(ŷ, y'). λ ~ Beta(1, 1), as both papers have it for
CIFAR, that is uniform in [0, 1): one for a batch. CutMix's box has the share 1 − λ of the image and its centre anywhere
in it, and what lies outside is cut off.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from clbench.method import Batch

Box = tuple[int, int, int, int]  # first and last + 1 row, first and last + 1 column


def mixed(batch: Batch, how: str, draws: torch.Generator, within_tasks: bool) -> Batch:
    """Return a batch whose images are mixed in pairs, with both labels; `within_tasks` pairs images of one task.

    The draws come from a (CPU) generator.
    """
    share = torch.rand((), generator=draws).item()
    partner = torch.randperm(len(batch), generator=draws).to(batch.y.device)
    if within_tasks:  # the first of a task gets the one that was drawn first of that task, and so on
        drawn = partner[batch.task_ids[partner].argsort(stable=True)]
        partner = torch.empty_like(drawn).index_copy(0, batch.task_ids.argsort(stable=True), drawn)
    if how == "mixup":
        x = mixup(batch.x, partner, share)
    else:
        height, width = batch.x.shape[-2:]
        row, column = (int(torch.randint(size, (), generator=draws)) for size in (height, width))
        box = box_around(row, column, share, height, width)
        x, share = cutmix(batch.x, partner, box), 1 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width)
    return replace(batch, x=x, other_y=batch.y[partner], share=batch.x.new_full((len(batch),), share))


def mixup(x: Tensor, partner: Tensor, share: float) -> Tensor:
    """Return share · x + (1 − share) · x[partner] for images [n, …] and rows [n]."""
    return share * x + (1 - share) * x.index_select(0, partner)


def cutmix(x: Tensor, partner: Tensor, box: Box) -> Tensor:
    """Return images [n, channels, height, width] with a box of x[partner] in each."""
    top, bottom, left, right = box
    cut = x.clone()
    cut[..., top:bottom, left:right] = x[..., top:bottom, left:right].index_select(0, partner)
    return cut


def box_around(row: int, column: int, share: float, height: int, width: int) -> Box:
    """Return a box that leaves about `share` of an image, around a pixel, cut off at the border."""
    half = 0.5 * math.sqrt(1 - share)
    down, across = int(half * height), int(half * width)
    return max(row - down, 0), min(row + down, height), max(column - across, 0), min(column + across, width)

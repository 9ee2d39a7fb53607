"""The old network, asked about images of the new task; and what is computed once for a whole split."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from clbench.method.step import Batch
from clbench.models.head import ExpandingHeadModel
from clbench.sequences.tasks import Split


def in_chunks(function: Callable[[Tensor], Tensor], split: Split, size: int) -> Tensor:
    """Apply a function of images [n, *input_shape] to a whole split without gradients, `size` at a time: [n, …]."""
    with torch.no_grad():
        rows = torch.arange(len(split), device=split.y.device)
        return torch.cat([function(split.batch(chunk)) for chunk in rows.split(size)])


class Teacher:
    """The old network's responses to the images of a split, for each batch drawn from it: [n, …].

    They are recorded once. Where images are augmented, a frozen copy of the network answers each batch instead, in eval
    mode; with `train_mode` it does so always, its dropout and batch norm as in training.
    """

    def __init__(
        self,
        network: ExpandingHeadModel,
        respond: Callable[[ExpandingHeadModel, Tensor], Tensor],
        split: Split,
        train_mode: bool = False,
    ):
        self.recorded: Tensor | None = None
        self.respond, self.train_mode = respond, train_mode
        if train_mode or split.augment:
            self.network = copy.deepcopy(network).requires_grad_(False).train(train_mode)
        else:
            self.recorded = in_chunks(lambda x: respond(network, x), split, network.chunk)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the responses to a batch of the split [n, …]."""
        if self.recorded is not None:
            return self.recorded.index_select(0, batch.index)
        # in training mode it draws dropout masks of its own, and leaves those of the network that trains as they come
        devices = [batch.x.device] if batch.x.is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices, enabled=self.train_mode):
            return self.respond(self.network, batch.x)

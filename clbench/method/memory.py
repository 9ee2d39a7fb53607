"""A memory of samples, filled while training goes on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from clbench.errors import ClbenchError
from clbench.method.step import Batch
from clbench.sequences.tasks import Split

_CONTENT = ("seen", "images", "y", "task_ids", "extras")
_PREPARATION = ("mean", "std", "divisor", "augment", "padding")  # of a split: what makes stored images ready


class Memory:
    """A reservoir of at most `size` samples: each one seen so far is as likely to be in it (Vitter 1985).

    Images are kept as the data set stores them, and augmented anew when they are drawn. Other tensors can be stored
    with a sample, such as the outputs at that time. Storage is allocated once, on the device of the data.
    """

    def __init__(self, size: int, generator: torch.Generator):
        self.size, self.generator = size, generator
        self.seen = 0  # samples offered so far
        self.images: Tensor | None = None  # [size, *stored_shape]
        self.y = torch.zeros(size, dtype=torch.long)  # on the CPU, so that choosing samples needs no device
        self.task_ids = torch.zeros(size, dtype=torch.long)
        self.extras: dict[str, Tensor] = {}  # [size, …]
        self.split: Split | None = None  # how images are scaled and augmented

    def __len__(self) -> int:
        return min(self.seen, self.size)

    def add(self, batch: Batch, **extras: Tensor) -> None:
        """Offer the samples of a batch of the loop, and tensors [n, …] to store with them."""
        if batch.split is None:
            raise ClbenchError("a memory takes the batches that the loop draws, not joined ones: add step.batch")
        if self.size == 0:
            return
        rows, places = self._choose(len(batch))
        self.seen += len(batch)
        if not rows:
            return
        chosen = torch.tensor(rows, device=batch.index.device)
        images = batch.split.raw(batch.index[chosen])
        if self.images is None:
            self.images = images.new_zeros(self.size, *images.shape[1:])
            self.split = batch.split
        place = torch.tensor(places, device=chosen.device)
        self.images[place] = images
        self.y[places] = batch.y[chosen].cpu()
        self.task_ids[places] = batch.task_ids[chosen].cpu()
        for name, values in extras.items():
            if name not in self.extras:
                self.extras[name] = values.new_zeros(self.size, *values.shape[1:])
            stored = self.extras[name]
            if values.shape[1:] != stored.shape[1:]:  # outputs of a head that has grown
                self.extras[name] = stored = _widened(stored, values.shape[1])
            stored[place] = values[chosen].detach()

    def _choose(self, n: int) -> tuple[list[int], list[int]]:
        """Return the samples that are taken, and their places; the last one in a place stays."""
        taken: dict[int, int] = {}
        positions = torch.arange(self.seen + 1, self.seen + n + 1)
        draws = (torch.rand(n, generator=self.generator, dtype=torch.double) * positions).long().tolist()
        for row, draw in enumerate(draws):
            place = self.seen + row if self.seen + row < self.size else draw
            if place < self.size:
                taken[place] = row
        return list(taken.values()), list(taken)

    def sample(self, n: int, augmentation: torch.Generator | None = None) -> Batch:
        """Draw up to `n` samples without replacement; the batch's `extras` have what was stored with them."""
        assert self.images is not None, "the memory is empty: ask len(memory) first"
        assert self.split is not None
        rows = torch.randperm(len(self), generator=self.generator)[:n]
        device = self.images.device
        there, y, task_ids = rows.to(device), self.y[rows], self.task_ids[rows]
        x = self.split.prepare(self.images.index_select(0, there), augmentation)
        extras = {name: values.index_select(0, there) for name, values in self.extras.items()}
        present = sorted(set(task_ids.tolist()))
        index = torch.full((len(rows),), -1, device=device)
        return Batch(x, y.to(device), task_ids.to(device), present, index, extras=extras)

    def state(self) -> dict[str, Any]:
        """Return all that it holds, as tensors and plain values."""
        content = {name: vars(self)[name] for name in _CONTENT}
        preparation = {name: getattr(self.split, name) for name in _PREPARATION} if self.split else {}
        return {**content, "preparation": preparation, "generator": self.generator.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        vars(self).update({name: state[name] for name in _CONTENT})
        self.generator.set_state(state["generator"].cpu())
        if self.images is not None:
            none = self.y[:0].to(self.images.device)
            self.split = Split(self.images[:0], none, none, **state["preparation"])


def _widened(stored: Tensor, width: int) -> Tensor:
    """Return a tensor [size, old width] with columns of zero added: [size, width]."""
    wider = stored.new_zeros(len(stored), width)
    wider[:, : stored.shape[1]] = stored
    return wider

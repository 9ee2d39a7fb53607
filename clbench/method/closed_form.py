"""The base of methods whose backbone is frozen after the first task, and whose classifier has a closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.method.learner import Costs, Run
from clbench.method.method import Method
from clbench.method.phase import Phase
from clbench.method.teacher import in_chunks
from clbench.sequences.tasks import Task

CHUNK = 512  # samples that are added at once


@dataclass
class ClosedForm(Method):
    """Base of methods that add up features, and solve for a linear classifier of them after each task.

    The first task trains the network by gradient, as fine-tuning does. From then on nothing does. One pass over a
    task's images gives their features z; h = `embed`(z) are added up in float64, and no image is kept. A class derived
    from this defines `solve`, and `update` if it needs more than counts and sums. In `domain` a class is the same in
    all tasks. An image's scores are W h + b, −∞ for a class that has not been seen.
    """

    family: ClassVar[str] = "closed-form"
    mixed_labels: ClassVar[bool] = True  # of the first task; what is added up is neither augmented nor mixed
    kept: ClassVar[tuple[str, ...]] = ()  # names of the tensors that a class keeps beside those of this base
    # whether the first task trains the backbone, as fine-tuning does; false: it keeps the weights that it has
    first_task: bool = True

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.counts = torch.zeros(0, dtype=torch.double, device=run.device)  # samples of each column of the head [k]
        self.sums = self.counts.new_zeros(0, self.network.n_features)  # Σ h of each column [k, d]
        self.weight: Tensor | None = None  # W [k, d]
        self.bias: Tensor | None = None  # b [k]

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        return super().phases(task, earlier) if self.first_task and task.index == 0 else []

    def learn(self, task: Task) -> Costs:
        costs = super().learn(task)
        if not costs.trained:  # by gradient
            costs.trained, costs.images = True, len(task.train)
        return costs

    @torch.no_grad()
    def finish_task(self, task: Task) -> None:
        z = in_chunks(self.network.features, task.train, self.network.chunk)
        new = sum(self.network.widths) - len(self.counts)
        self.counts, self.sums = F.pad(self.counts, (0, new)), F.pad(self.sums, (0, 0, 0, new))
        self.take(task, z, task.train.y + self.run.first_column(self.network, task.index))
        weight, bias = self.solve()
        self.weight, self.bias = weight, bias.masked_fill(self.counts == 0, -torch.inf)

    def take(self, task: Task, z: Tensor, y: Tensor) -> None:
        """Add a task's features [n, n_features], whose columns of the head are y [n]."""
        self.add(z, y)

    def add(self, z: Tensor, y: Tensor) -> None:
        """Add features [n, n_features], one chunk after another, in their order."""
        for part, columns in zip(z.split(CHUNK), y.split(CHUNK), strict=True):
            h, members = self.embed(part.double()), self.one_hot(columns)
            self.update(h, members)
            self.counts = self.counts + members.sum(0)
            self.sums = self.sums + members.T @ h

    def one_hot(self, y: Tensor) -> Tensor:
        """Return 1 in each sample's column of the head, 0 elsewhere: float64 [n, k]."""
        return (y[:, None] == torch.arange(len(self.counts), device=y.device)).double()

    def means(self) -> Tensor:
        """Return the mean of h of each column [k, d]; 0 for one that has not been seen."""
        return self.sums / self.counts.clamp(min=1)[:, None]

    def embed(self, z: Tensor) -> Tensor:
        """Map features [n, n_features] to what is added up, h [n, d]."""
        return z

    def update(self, h: Tensor, members: Tensor) -> None:
        """Add h [n, d] of the samples that `members` [n, k] says to what else is kept, before counts and sums do."""

    def solve(self) -> tuple[Tensor, Tensor]:
        """Return W [k, d] and b [k], from all that has been added."""
        raise NotImplementedError(f"{type(self).__name__} does not define solve")

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        if self.weight is None or self.bias is None:  # while the first task trains
            return self.network(x)
        return self.embed(self.network.features(x).double()) @ self.weight.T + self.bias

    def state(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("counts", "sums", "weight", "bias", *self.kept)}

    def load_state(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

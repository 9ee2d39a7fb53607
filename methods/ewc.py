"""Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796, equation 3).

    minimise  CE(ŷ_n, y_n) + λ/2 · Σ_{t < n} Σ_i F_t,i (θ_i − θ*_t,i)²      θ*_t: the weights after task t

    F_t,i = mean over the images of task t of (∂ log p(y | x; θ*_t) / ∂θ_i)²      the Fisher information's diagonal

The fields are the choices on which published codes differ: whose label y is, whether gradients are squared one image at
a time, and the factor ½. There is a term per old task; they are kept as one quadratic, which is what their sum is.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from clbench.method import Criterion, Search
from clbench.method.importance import Scores, importance
from clbench.method.penalty import Quadratic, QuadraticPenalty, Weights, add, snapshot
from clbench.sequences import Split, Task


@dataclass
class EWC(QuadraticPenalty):
    """Elastic weight consolidation: a pull towards the weights after each old task, by its Fisher information"""

    name: ClassVar[str] = "ewc"
    captured: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    first_task_is_finetuning: ClassVar[bool] = True
    strength: Annotated[float, Ge(0), Search(0.1, 1e6, log=True)] = 1000.0  # λ: how strongly old weights pull
    half: bool = True  # whether λ is halved: λ/2, as in the paper; false: λ (Hsu et al. 2018)
    # y in the Fisher information. sampled: drawn from the network's own distribution; argmax: its likeliest (Hsu, van
    # de Ven); true: the data's (the 'empirical' Fisher, Avalanche); true-weighted: the same times p(y | x) (Mammoth);
    # exact: the expectation over that distribution
    label: Literal["sampled", "argmax", "true", "exact", "true-weighted"] = "sampled"
    batch: Annotated[int, Ge(1)] = 1  # images whose mean gradient is squared; 1: one at a time, as defined
    samples: Annotated[int, Ge(1)] | None = None  # images that it is estimated on, drawn at random; none: all

    def finish_task(self, task: Task) -> None:
        new = Quadratic(snapshot(self.network), self.fisher(task))
        self.quadratic = new if self.quadratic is None else self.quadratic.plus(new)

    def fisher(self, task: Task) -> Weights:
        """Return the diagonal of the Fisher information on a task's images, for every parameter."""
        network, images = self.network, task.train
        if self.samples is not None and self.samples < len(images):
            order = torch.randperm(len(images), generator=self.run.stream("fisher images", task.index))
            images = images.subset(order[: self.samples].to(images.y.device))
        outputs = Criterion(self.run.scenario).columns(network, task.index)
        first = 0 if self.run.scenario == "domain" else network.columns(task.index).start - outputs.start
        total: Weights | None = None
        for scores in self._scores(images, task.index, first, outputs.stop - outputs.start):
            batches = self.run.stream("fisher batches", task.index)
            total = add(total, importance(network, images, outputs, scores, torch.square, self.batch, batches))
        assert total is not None
        return total

    def _scores(self, images: Split, task: int, first: int, classes: int) -> Iterator[Scores]:
        """Yield log p(y | x) per sample, for each way to choose y; the squares of their gradients are summed."""
        if self.label == "exact":
            yield from (partial(_weighted, c) for c in range(classes))
            return
        uniform = torch.rand(len(images), generator=self.run.stream("fisher labels", task)).to(images.y.device)

        def score(z: Tensor, rows: Tensor) -> Tensor:
            logs = z.log_softmax(1)
            if self.label in ("true", "true-weighted"):
                y = images.y[rows] + first
            elif self.label == "argmax":
                y = logs.argmax(1)
            else:  # the first class at which the cumulated probability passes a uniform draw
                y = (logs.detach().exp().cumsum(1) < uniform[rows, None]).sum(1).clamp(max=classes - 1)
            chosen = logs.gather(1, y[:, None])[:, 0]
            return (chosen.detach() / 2).exp() * chosen if self.label == "true-weighted" else chosen

        yield score


def _weighted(c: int, z: Tensor, rows: Tensor) -> Tensor:
    """Return log p(c), scaled so that the square of its gradient is weighted by p(c)."""
    logs = z.log_softmax(1)[:, c]
    return (logs.detach() / 2).exp() * logs

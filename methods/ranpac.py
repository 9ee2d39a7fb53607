"""RanPAC: random projections and pre-trained models for continual learning (McDonnell et al. 2023, arXiv 2307.02251).

    h = max(0, Pᵀ z),   P ~ N(0, 1) of shape L × M, drawn once
    G ← G + h hᵀ,   C ← C + h yᵀ,   answer   argmax hᵀ W,   W = (G + λ I)⁻¹ C

z: the L features of a backbone that is frozen after the first task; y: one-hot. W is the ridge regression on all
samples so far, whatever their order. After each task λ is chosen from 10⁻⁸, 10⁻⁷, …, 10⁸: the one with the least
squared error on a fifth of the task's images, drawn at random, by G and C of the others and of all tasks before. Then
these are added, too. The paper adapts a pretrained network to the first task by small modules; here all of it trains.
Beside the network it keeps L M + M² numbers and M per class, of 8 bytes: 10 MB with M = 1000, 820 MB with 10,000.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from clbench.method import ClosedForm, Run
from clbench.sequences import Task


@dataclass
class RanPAC(ClosedForm):
    """RanPAC: ridge regression on random projections of features that are frozen after the first task"""

    name: ClassVar[str] = "ranpac"
    first_task_is_finetuning: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("projection", "gram")
    width: Annotated[int, Ge(1)] = 1000  # M: random features; the paper has 10,000 of a network's 768
    ridge: Annotated[float, Gt(0)] | None = None  # λ; none: chosen after each task
    validation: Annotated[float, Gt(0), Lt(1)] = 0.2  # share of a task's training images that λ is chosen on

    def begin(self, run: Run) -> None:
        super().begin(run)
        draws = run.stream("projection")
        projection = torch.randn(self.network.n_features, self.width, generator=draws, dtype=torch.double)
        self.projection = projection.to(run.device)  # P [L, M]
        self.gram = self.counts.new_zeros(self.width, self.width)  # G
        self.sums = self.counts.new_zeros(0, self.width)  # Cᵀ

    def embed(self, z: Tensor) -> Tensor:
        return (z @ self.projection).relu()

    def update(self, h: Tensor, members: Tensor) -> None:
        self.gram = self.gram + h.T @ h

    def take(self, task: Task, z: Tensor, y: Tensor) -> None:
        order = torch.randperm(len(y), generator=self.run.stream("validation", task.index)).to(y.device)
        some, others = order.tensor_split([math.ceil(self.validation * len(y))])
        self.add(z[others], y[others])
        self.chosen = self.best(z[some], y[some]) if self.ridge is None else self.counts.new_tensor(self.ridge)
        self.add(z[some], y[some])

    def best(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the λ of the least squared error on features [n, L] in columns y [n], which have not been added."""
        grid = 10.0 ** torch.arange(-8, 9, dtype=torch.double, device=y.device)
        h, targets = self.embed(z.double()), self.one_hot(y)
        errors = torch.stack([(h @ self.regression(ridge) - targets).square().mean() for ridge in grid])
        return grid.take(errors.nan_to_num(nan=torch.inf).argmin())

    def regression(self, ridge: Tensor) -> Tensor:
        """Return W [M, k]; it may not be finite where λ is too small for float64."""
        return torch.linalg.solve_ex(self.gram + ridge * torch.eye(self.width).to(self.gram), self.sums.T).result

    def solve(self) -> tuple[Tensor, Tensor]:
        return self.regression(self.chosen).T, torch.zeros_like(self.counts)

"""Lifelong machine learning with deep streaming linear discriminant analysis (Hayes & Kanan 2020, arXiv 1909.01520).

    Σ ← (t Σ + Δ) / (t + 1),   Δ = f · (z − μ_y)(z − μ_y)ᵀ,   then   μ_y ← (n_y μ_y + z) / (n_y + 1)
    Λ = [(1 − ε) Σ + ε I]⁻¹,   answer   argmax_k w_kᵀ z + b_k,   w_k = Λ μ_k,   b_k = −½ μ_kᵀ Λ μ_k

sample by sample, for features z of a backbone that is frozen after the first task; t counts all samples so far, n_y
those of the class. With f = n_y / (n_y + 1) (Welford 1962) Σ is the covariance within classes of all samples, whatever
their order. The paper's f is t / (t + 1): then Σ depends on the order, which is that of the stored images, and the
first sample of a class counts by its distance from 0, where the mean of an unseen class is. The paper starts from the
means and the covariance of its first classes, computed at once; here both start from nothing.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt, Le
from torch import Tensor

from clbench.method import ClosedForm, Run, Search


@dataclass
class SLDA(ClosedForm):
    """Deep SLDA: running class means and one covariance, of features that are frozen after the first task"""

    name: ClassVar[str] = "slda"
    first_task_is_finetuning: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("scatter",)
    # ε: share of the identity in what is inverted
    shrinkage: Annotated[float, Gt(0), Le(1), Search(1e-6, 0.1, log=True)] = 1e-4
    # f, by which a sample's deviation counts. welford: n/(n + 1) after n samples of its class; paper: t/(t + 1) after t
    # samples of any class
    covariance: Literal["welford", "paper"] = "welford"

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.scatter = self.counts.new_zeros(self.network.n_features, self.network.n_features)  # t Σ [d, d]

    def update(self, h: Tensor, members: Tensor) -> None:
        earlier = (members @ members.T).tril(-1)  # 1 where a sample of the same class came before [n, n]
        n = members @ self.counts + earlier.sum(1)
        means = (members @ self.sums + earlier @ h) / n.clamp(min=1)[:, None]  # μ_y as each sample found it [n, d]
        t = n if self.covariance == "welford" else self.counts.sum() + torch.arange(len(h), device=h.device)
        moved = h - means
        self.scatter = self.scatter + (t / (t + 1) * moved.T) @ moved

    def solve(self) -> tuple[Tensor, Tensor]:
        means, sigma = self.means(), self.scatter / self.counts.sum()
        identity = torch.eye(len(sigma)).to(sigma)
        weight = torch.linalg.solve((1 - self.shrinkage) * sigma + self.shrinkage * identity, means.T).T
        return weight, -(means * weight).sum(1) / 2

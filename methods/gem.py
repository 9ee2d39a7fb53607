"""Gradient episodic memory (Lopez-Paz & Ranzato 2017, arXiv 1706.08840, equations 8 and 9).

    g' = the closest to g with  g'ᵀ r_t ≥ 0  for every old task t:   g' = g + Gᵀ v,   G = the r_t as rows
    v = argmin ½ vᵀ G Gᵀ v + gᵀ Gᵀ v   over v ≥ γ

g: the gradient on the new batch; r_t: that on all samples kept of task t, M/T of each. With γ = 0 and no ridge this is
the projection itself; γ > 0 favours old tasks beyond that. The dual problem is solved as non-negative least squares by
SciPy: with G Gᵀ = L Lᵀ it is ‖Lᵀ u − L⁻¹ (−G g − γ G Gᵀ 1)‖² over u = v − γ ≥ 0.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge

from clbench.method import Choice, GradientOf, Gradients, Rehearsal, Search, Step
from clbench.sequences import Task


@dataclass
class GEM(Rehearsal):
    """GEM: a step may not raise the loss on the samples of any old task, to first order"""

    name: ClassVar[str] = "gem"
    first_task_is_finetuning: ClassVar[bool] = True
    keeps: ClassVar[Choice] = "random"
    groups: ClassVar[Literal["classes", "tasks"]] = "tasks"
    margin: Annotated[float, Ge(0), Search(0.0, 1.0)] = 0.5  # γ: lower bound of v, a push towards old tasks
    ridge: Annotated[float, Ge(0)] = 0.001  # added to the diagonal of G Gᵀ, as in the authors' code

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        own = gradient_of(self.loss(step))
        references = []
        for task in self.buffer.stored_tasks():
            old = step.on(self.buffer.at(self.buffer.places(task), self.buffer.draws["first"]))
            references.append(gradient_of(old.cross_entropy()))
        return project(own, references, self.margin, self.ridge) if references else own

    def finish_task(self, task: Task) -> None:
        self.keep_share(task)


def project(own: Gradients, references: list[Gradients], margin: float, ridge: float) -> Gradients:
    """Return g' for gradients by parameter name; one that is missing is zero."""
    names = {name: g for gradients in (own, *references) for name, g in gradients.items()}
    g, *rows = (
        torch.cat([gradients.get(name, torch.zeros_like(like)).flatten() for name, like in names.items()]).double()
        for gradients in (own, *references)
    )
    G = torch.stack(rows)
    if (G @ g >= 0).all():
        return own
    v = torch.from_numpy(dual((G @ G.T).cpu().numpy(), (G @ g).cpu().numpy(), margin, ridge)).to(G)
    parts = (g + v @ G).split([like.numel() for like in names.values()])
    return {name: part.view_as(like).to(like.dtype) for part, (name, like) in zip(parts, names.items(), strict=True)}


def dual(products: np.ndarray, along: np.ndarray, margin: float, ridge: float) -> np.ndarray:
    """Return v for G Gᵀ [t, t] and G g [t]."""
    from scipy.linalg import solve_triangular  # here: half a second, which only GEM's runs should take
    from scipy.optimize import nnls

    P = products + max(ridge, 1e-12 * products.trace()) * np.eye(len(products))
    L = np.linalg.cholesky(P)
    return nnls(L.T, solve_triangular(L, -along - margin * P.sum(1), lower=True))[0] + margin

"""Nearest class mean (Mensink et al. 2013; as a baseline of continual learning Janson et al. 2022, arXiv 2210.04428).

    answer   argmin_c d(φ(x), μ_c),   μ_c = 1/N_c · Σ_{i: y_i = c} φ(x_i)

Mensink et al.: 'Distance-based image classification: generalizing to new classes at near-zero cost'; Janson et al.: 'A
simple baseline that questions the use of pretrained-models in continual learning'.

φ: features of the backbone, frozen after the first task; d: the Euclidean distance, or 1 − cosine. A mean is kept as a
sum and a count, so that the order of the tasks does not matter. Scores are what differs between classes of −½ d², or of
the cosine: μ_cᵀ φ − ½ ‖μ_c‖², or μ_cᵀ φ / ‖μ_c‖.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.method import ClosedForm


@dataclass
class NCM(ClosedForm):
    """Nearest class mean, of features that are frozen after the first task"""

    name: ClassVar[str] = "ncm"
    first_task_is_finetuning: ClassVar[bool] = True
    distance: Literal["euclidean", "cosine"] = "euclidean"  # d: between an image's features and a class's mean

    def solve(self) -> tuple[Tensor, Tensor]:
        means = self.means()
        if self.distance == "cosine":
            return F.normalize(means), torch.zeros_like(self.counts)
        return means, -means.square().sum(1) / 2

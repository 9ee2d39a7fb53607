"""iCaRL: incremental classifier and representation learning (Rebuffi et al. 2017, arXiv 1611.07725, algorithms 1 to 5).

    minimise  Σ_{new classes} BCE(σ(z_c), 1[y = c])  +  Σ_{old classes} BCE(σ(z_c), q_c)   over new images and exemplars
    answer    argmin_c ‖ φ(x) − μ_c ‖,   μ_c = mean of φ over the exemplars of class c

φ: features of length 1; q_c: the old network's σ(z_c) on the same image. Exemplars are chosen by herding, M/k of each
of k classes so far, and fewer of them are kept, the first ones, as classes come. The means are scaled to length 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from clbench.method import Choice, Rehearsal, Run
from clbench.sequences import Task

from .lwf_mc import LwFMC


@dataclass
class ICaRL(LwFMC, Rehearsal):
    """iCaRL: binary losses with distillation, exemplars chosen by herding, and answers by the nearest mean"""

    name: ClassVar[str] = "icarl"
    family: ClassVar[str] = "rehearsal"
    keeps: ClassVar[Choice] = "herding"
    unit_length: bool = True  # scale features and means to length 1; false: as they are (Buzzega et al. 2020)
    rehearse: bool = True  # train on exemplars; false: they serve the means alone
    # images of each class that are kept at most; none: each class has an equal share of the memory
    per_class: Annotated[int, Ge(1)] | None = field(default=None, metadata={"added": True})

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.means: Tensor | None = None  # μ [classes, d]

    def kept(self, earlier: Sequence[Task]) -> Sequence[Task]:
        return self.buffer.tasks(earlier) if self.rehearse else []

    def finish_task(self, task: Task) -> None:
        super().finish_task(task)
        self.keep(task, most=self.per_class)
        self.means = self.class_means()

    @torch.no_grad()
    def class_means(self) -> Tensor | None:
        """Return μ of every class so far."""
        if not len(self.buffer):
            return None
        places = self.buffer.places()
        parts = places.split(self.network.chunk)
        features = torch.cat([self.embed(self.buffer.at(part).x) for part in parts])
        classes = torch.arange(sum(self.network.widths[: self.network.seen]), device=features.device)
        y = self.buffer.y[places].to(features.device)
        members = (y == classes[:, None]).to(features)
        means = members @ features / members.sum(1, keepdim=True).clamp(min=1)
        return F.normalize(means) if self.unit_length else means

    def embed(self, x: Tensor) -> Tensor:
        return super().embed(x) if self.unit_length else self.network.features(x)

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        if self.means is None:
            return self.network(x)
        scores = -torch.cdist(self.embed(x), self.means)
        later = sum(self.network.widths) - len(self.means)  # classes without exemplars so far
        return F.pad(scores, (0, later), value=-torch.inf)

    def state(self) -> dict[str, Any]:
        return {"memory": self.buffer.state(), "means": self.means}

    def load_state(self, state: dict[str, Any]) -> None:
        self.buffer.load_state(state["memory"])
        self.means = state["means"]

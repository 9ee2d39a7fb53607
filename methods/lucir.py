"""LUCIR: learning a unified classifier by rebalancing (Hou, Pan, Loy, Wang & Lin 2019, CVPR, equations 3, 6 and 8).

    minimise  CE(softmax(η · cos(w, f)), y)  +  λ · (1 − cos(f*, f))  +  Σ_k max(m − cos(w_y, f) + cos(w_k, f), 0)

f: features; f*: those of the old network; λ = λ_base · √(old classes / new classes). The last term is for stored images
alone, and its mean over them; k are the K new classes that come closest. A cosine needs no bias: those of the head take
no part. Exemplars are chosen by herding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from clbench.method import Choice, Run, Search, Step
from clbench.method.exemplars import WithExemplars
from clbench.models import ExpandingHeadModel


@dataclass
class LUCIR(WithExemplars):
    """LUCIR: cosine outputs, features that keep their direction, and a margin between old classes and new ones"""

    name: ClassVar[str] = "lucir"
    keeps: ClassVar[Choice] = "herding"
    scale: Annotated[float, Gt(0)] = 1.0  # what η, which is learnt, begins with
    less_forget: Annotated[float, Ge(0), Search(0.5, 50.0, log=True)] = 5.0  # λ_base
    margin: Annotated[float, Ge(0), Search(0.0, 1.0)] = 0.5  # m
    rivals: Annotated[int, Ge(1)] = 2  # K
    ranking: Annotated[float, Ge(0)] = 1.0  # weight of the last term

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.eta = nn.Parameter(torch.tensor(self.scale, device=run.device))

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {"eta": self.eta}

    def responses(self, network: ExpandingHeadModel, x: Tensor) -> Tensor:
        """Return f* of images, scaled to length 1 [n, d]."""
        return F.normalize(network.features(x))

    def cosines(self, features: Tensor) -> Tensor:
        """Return cos(w, f) of every class there is, for features [n, d]: [n, classes]."""
        weights = torch.cat([block.weight for block in self.network.head])  # type: ignore[misc]
        return F.normalize(features) @ F.normalize(weights).T

    def loss(self, step: Step) -> Tensor:
        blocks = step.criterion.blocks(step.network)
        cosines = self.cosines(step.features)[:, : sum(self.network.widths[: len(blocks)])]
        outputs, y = self.eta * cosines, step.batch.y
        loss = step.cross_entropy_of(outputs, y)
        if self.old_network is None:
            return loss
        new = self.network.columns(self.network.seen - 1)
        weight = self.less_forget * (new.start / (new.stop - new.start)) ** 0.5
        kept = (self.old_network(step.batch) * F.normalize(step.features)).sum(1)
        return loss + weight * (1 - kept).mean() + self.ranking * self.margins(cosines, y, new)

    def margins(self, cosines: Tensor, y: Tensor, new: slice) -> Tensor:
        """Return the ranking term, mean over the stored images of the batch; 0 without any."""
        old = (y < new.start).to(cosines)
        own = cosines.gather(1, y[:, None])
        rivals = cosines[:, new].topk(min(self.rivals, new.stop - new.start), 1).values
        terms = (self.margin - own + rivals).clamp(min=0).sum(1)
        return (old * terms).sum() / old.sum().clamp(min=1)

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        return self.cosines(self.network.features(x))

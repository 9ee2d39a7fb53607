"""Maximally interfered retrieval (Aljundi et al. 2019, arXiv 1908.04742, section 3.1).

    θ' = θ − α ∇ CE(B_n; θ)                                   a virtual step on the new batch, α: the learning rate
    B_M = the k of C samples of earlier tasks, drawn from the memory, with the largest  CE(x, y; θ') − CE(x, y; θ)
    minimise  CE(ŷ, y)  over B_n and B_M together

The memory is a reservoir. As in the authors' code, images of the task under way are not drawn.
"""

import copy
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from clbench.method import GradientOf, Gradients, Rehearsal, Step
from clbench.models import ExpandingHeadModel
from clbench.sequences import Task


@dataclass
class MIR(Rehearsal):
    """ER that draws those images of the memory whose loss the coming step would raise most"""

    name: ClassVar[str] = "mir"
    memory_batch: Annotated[int, Ge(1)] | None = None  # k = |B_M|; none: as many as new images
    candidates: Annotated[int, Ge(1)] = 50  # C: samples of the memory that it chooses from

    def start_task(self, task: Task) -> None:
        self.virtual: ExpandingHeadModel | None = None  # a network with the weights θ'

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        new = gradient_of(step.cross_entropy())
        places, draws = self.buffer.places_before(max(step.batch.tasks)), self.buffer.draws["first"]
        if not len(places):
            return new
        places = places[torch.randperm(len(places), generator=draws)[: self.candidates]]
        interference = self.interference(step.on(self.buffer.at(places)), new)
        most = interference.topk(min(self.memory_batch or len(step.batch), len(places))).indices.cpu()
        return gradient_of(step.on(step.batch.joined(self.buffer.at(places[most], draws))).cross_entropy())

    @torch.no_grad()
    def interference(self, step: Step, gradients: Gradients) -> Tensor:
        """Return by how much a step against these gradients would raise the loss of each sample of a batch [n]."""
        if self.virtual is None:
            self.virtual = copy.deepcopy(self.network)
        self.virtual.load_state_dict(self.network.state_dict())
        for name, parameter in self.virtual.named_parameters():
            if name in gradients:
                parameter.sub_(gradients[name], alpha=step.lr)
        before = step.criterion.of_samples(step)
        return step.criterion.of_samples(replace(step, network=self.virtual)) - before

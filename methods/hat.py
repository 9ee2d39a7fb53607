"""HAT: overcoming catastrophic forgetting with hard attention to the task (Serrà et al. 2018, arXiv 1801.01423).

    minimise  CE(ŷ_t, y_t) + c · R(A^t, A^{<t})   over θ and the embeddings e_l^t of task t
    units     h'_l = a_l^t ⊙ h_l,   a_l^t = σ(s e_l^t),   a^{≤t} = max(a^t, a^{≤t−1})
    R         Σ_{l,i} a_{l,i}^t (1 − a_{l,i}^{<t}) / Σ_{l,i} (1 − a_{l,i}^{<t})
    s         = 1/s_max + (s_max − 1/s_max) (b − 1) / (B − 1)  in step b of the B of an epoch, s_max when asked
    step      of weight ij of layer l, multiplied by  1 − min(a_{l,i}^{<t}, a_{l−1,j}^{<t})
    ∂/∂e      multiplied by  s_max (cosh(s e) + 1) / (s (cosh(e) + 1)),   |s e| ≤ 50;   |e| ≤ 6 after each step

The paper multiplies the gradient. We multiply the step, which is the same for SGD: it holds with Adam and decay too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from clbench.method import GradientOf, Gradients, Method, Phase, Run, Search, Step
from clbench.models.layers import layers_in_a_row, scaled_units
from clbench.sequences import Task


@dataclass
class HAT(Method):
    """HAT: each task learns which units it uses, and what earlier tasks use does not move"""

    name: ClassVar[str] = "hat"
    mixed_labels: ClassVar[bool] = True
    family: ClassVar[str] = "masks"
    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})
    scale: Annotated[float, Gt(0), Search(25.0, 800.0, log=True)] = 400.0  # s_max: the higher, the harder the gates
    weight: Annotated[float, Ge(0), Search(0.1, 2.5)] = 0.75  # c: of the units that no earlier task has used

    def begin(self, run: Run) -> None:
        super().begin(run)
        units, draws = [len(layer.weight) for layer in self.layers.values()], run.stream("embeddings")
        drawn = [[torch.randn(n, generator=draws).to(run.device) for n in units] for _ in range(run.tasks)]
        self.embeddings = [[nn.Parameter(e) for e in own] for own in drawn]  # e_l^t, of each task and layer [units]

    @property
    def layers(self) -> dict[str, nn.Linear | nn.Conv2d]:
        return layers_in_a_row(self.network, self.name)

    def parameters(self) -> Mapping[str, nn.Parameter]:
        return {f"embedding.{t}.{i}": e for t, own in enumerate(self.embeddings) for i, e in enumerate(own)}

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        size, batch = len(task.train), self.run.training.batch_size
        self.per_epoch = size // batch if self.run.training.drop_last else math.ceil(size / batch)
        self.steps, self.task = 0, task.index
        each = [[torch.zeros_like(e) for e in self.embeddings[0]]]
        each += [self.gates(old, self.scale) for old in range(task.index)]
        self.used = [torch.stack(gates).amax(0).detach() for gates in zip(*each, strict=True)]  # a^{<t} of each layer
        self.shares = self.shares_of_steps()
        own = [*self.network.newest.parameters(), *self.embeddings[task.index]]
        return [Phase(tasks=[task], trainable=[*self.network.backbone.parameters(), *own])]

    def gates(self, task: int, s: float) -> list[Tensor]:
        """Return a^t of each layer [units]."""
        return [torch.sigmoid(s * e) for e in self.embeddings[task]]

    def shares_of_steps(self) -> dict[str, Tensor]:
        """Return 1 − min(a_i, a_j) for the parameters of the backbone, by name; a bias has a_i alone."""
        shares, before = {}, torch.ones(1, device=self.run.device)  # what goes in is always used
        for (name, layer), a in zip(self.layers.items(), self.used, strict=True):
            both = torch.minimum(a[:, None], before.repeat_interleave(layer.weight.shape[1] // len(before)))
            shares[f"{name}.weight"] = 1 - both.view(*both.shape, *[1] * (layer.weight.ndim - 2))
            if layer.bias is not None:
                shares[f"{name}.bias"] = 1 - a
            before = a
        return shares

    def s(self) -> float:
        """Return s of the step to come; in an epoch of one step it is s_max."""
        done = self.steps % self.per_epoch / (self.per_epoch - 1) if self.per_epoch > 1 else 1.0
        return 1 / self.scale + (self.scale - 1 / self.scale) * done

    def loss(self, step: Step) -> Tensor:
        gates = self.gates(self.task, self.s())
        with scaled_units(self.network, self.layers, gates):
            loss = step.on(step.batch).cross_entropy()  # without features that were recorded, which have no gates
        return loss + self.weight * regulariser(gates, self.used)

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        gradients = super().gradients(step, gradient_of)
        for name, e in self.parameters().items():
            if f"method.{name}" in gradients:
                gradients[f"method.{name}"] *= compensation(e.detach(), self.s(), self.scale)
        self.before = {name: self.network.get_parameter(name).detach().clone() for name in self.shares}
        return gradients

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        self.steps += 1
        for name, share in self.shares.items():
            parameter = self.network.get_parameter(name)
            parameter.copy_(torch.lerp(self.before[name], parameter, share))
        for e in self.embeddings[self.task]:
            e.clamp_(-6, 6)

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        if task is None or task >= self.network.seen:
            return None
        with scaled_units(self.network, self.layers, self.gates(task, self.scale)):
            return self.network(x)


def regulariser(gates: Sequence[Tensor], used: Sequence[Tensor]) -> Tensor:
    """Return R: the share of the units that no earlier task has used that is used now."""
    a, free = torch.cat(list(gates)), 1 - torch.cat(list(used))
    return (a * free).sum() / free.sum().clamp(min=1e-8)


def compensation(e: Tensor, s: float, s_max: float) -> Tensor:
    """Return what the gradient of an embedding is multiplied by: as if ∂a/∂e were s_max σ'(e)."""
    return s_max / s * ((s * e).clamp(-50, 50).cosh() + 1) / (e.cosh() + 1)

"""Synaptic intelligence (Zenke, Poole & Ganguli 2017, arXiv 1703.04200, equations 3 to 5).

minimise  CE(ŷ_n, y_n) + c · Σ_i Ω_i (θ_i − θ*_i)²      θ*: the weights after task n − 1

Ω_i = Σ_{t < n} ω_t,i / (Δ_t,i² + ξ)      Δ_t: how far the weight moved during task t
ω_t,i = − Σ_{steps of task t} g_i · δ_i   the path integral: gradient before the step times the step
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Gt

from clbench.method import GradientOf, Gradients, Run, Step
from clbench.method.penalty import QuadraticPenalty, Weights, snapshot
from clbench.sequences import Task


@dataclass
class SI(QuadraticPenalty):
    """Synaptic intelligence: a pull by how much each weight's path lowered the loss of old tasks"""

    name: ClassVar[str] = "si"
    damping: Annotated[float, Gt(0)] = 0.1  # ξ: keeps the division finite where a weight did not move
    # the loss that g is the gradient of. task: without the penalty (the paper, Hsu et al. 2018); total: with it (van de
    # Ven)
    path: Literal["task", "total"] = "task"
    clip: bool = False  # negative importances of a task become 0

    def begin(self, run: Run) -> None:
        super().begin(run)
        self._leave()

    def _leave(self) -> None:
        self.start: Weights = {}  # the weights before the task's first step
        self.integral: Weights = {}  # ω
        self.before: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}  # g and θ of the step under way

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        gradients = gradient_of(self.loss(step))
        if not self.start:
            self.start = snapshot(self.network)
            self.integral = {name: torch.zeros_like(value) for name, value in self.start.items()}
        own = self.of_cross_entropy(gradients, step.lr) if self.path == "task" else gradients
        for name, parameter in self.network.named_parameters():
            if name in own:
                self.before[name] = own[name].clone(), parameter.detach().clone()
        return gradients

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        for name, parameter in self.network.named_parameters():
            if name in self.before:
                gradient, start = self.before[name]
                self.integral[name].addcmul_(gradient, parameter - start, value=-1)
        self.before = {}

    @torch.no_grad()
    def finish_task(self, task: Task) -> None:
        now = snapshot(self.network)
        new = {}
        for name, value in now.items():
            omega = self.integral[name] / ((value - self.start[name]).square() + self.damping)
            new[name] = omega.clamp(min=0) if self.clip else omega
        self.accumulate(now, new)
        self._leave()

"""EWC++: EWC whose Fisher information runs along with the training steps (Chaudhry et al. 2018, arXiv 1801.10112).

    minimise  CE(ŷ, y) + λ · Σ_i F̂_i (θ_i − θ*_i)²        θ*: the weights after the last task
    F ← α · mean of the last k steps' g² + (1 − α) · F    every k steps,   F̂ = (F − min F) / (max F − min F)

g: the gradient of CE on a step's batch; min and max are over all weights. This is what A-GEM's tables call EWC.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le

from clbench.method import GradientOf, Gradients, Run, Search, Step
from clbench.method.penalty import Quadratic, QuadraticPenalty, Weights, add, snapshot
from clbench.sequences import Task


@dataclass
class EWCPlusPlus(QuadraticPenalty):
    """EWC++: a pull by the Fisher information, estimated from the training steps as they pass"""

    name: ClassVar[str] = "ewc++"
    first_task_is_finetuning: ClassVar[bool] = False
    strength: Annotated[float, Ge(0), Search(0.01, 1e5, log=True)] = 10.0  # λ
    decay: Annotated[float, Gt(0), Le(1)] = 0.9  # α
    every: Annotated[int, Ge(1)] = 10  # k

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.fisher: Weights = {}  # F

    def start_task(self, task: Task) -> None:
        self.squares: Weights = {}  # sum of g² over the steps since F was last updated
        self.start_interval()

    def start_interval(self) -> None:
        self.steps = 0

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        gradients = gradient_of(self.loss(step))
        self.see(self.of_cross_entropy(gradients, step.lr))
        return gradients

    def see(self, own: Gradients) -> None:
        """Take a step's g."""
        self.squares = {**self.squares, **add(self.squares, {name: g.square() for name, g in own.items()})}

    def after_step(self, step: Step) -> None:
        self.steps += 1
        if self.steps == self.every:
            self.finish_interval()
            self.start_interval()

    @torch.no_grad()
    def finish_interval(self) -> None:
        """Update F."""
        for name, total in self.squares.items():
            old = self.fisher.get(name, torch.zeros_like(total))
            self.fisher[name] = (1 - self.decay) * old + self.decay / self.every * total
        self.squares = {}

    def finish_task(self, task: Task) -> None:
        self.quadratic = Quadratic(snapshot(self.network), self.importance())

    def importance(self) -> Weights:
        """Return F̂ for every parameter."""
        return scaled(self.fisher, snapshot(self.network))

    def state(self) -> dict[str, Any]:
        return {"quadratic": super().state(), "fisher": self.fisher}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state["quadratic"])
        self.fisher = state["fisher"]


def scaled(values: Weights, like: Weights) -> Weights:
    """Scale values of all weights to [0, 1]; those of weights that no loss has reached are 0."""
    there = {name: values.get(name, torch.zeros_like(weight)) for name, weight in like.items()}
    low = torch.stack([value.min() for value in there.values()]).min()
    high = torch.stack([value.max() for value in there.values()]).max()
    return {name: (value - low) / (high - low).clamp(min=1e-32) for name, value in there.items()}

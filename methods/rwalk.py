"""Riemannian walk (Chaudhry et al. 2018, arXiv 1801.10112, equations 7 to 9).

    minimise  CE(ŷ, y) + λ · Σ_i (F̂_i + ŝ_i) (θ_i − θ*_i)²        F̂: the running Fisher information of `ewc_pp.py`
    s_task ← s_task + max(0, ω) / (F Δ² + ξ)    every k steps;    s = ½ s + ½ s_task after a task,  ŝ: scaled to [0, 1]

ω = − Σ_{k steps} g · δ, gradient of CE before a step times the step; Δ: how far the weight moved in these k steps.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt

from clbench.method import Gradients, Run, Search, Step
from clbench.method.penalty import Weights, add, snapshot
from clbench.sequences import Task

from .ewc_pp import EWCPlusPlus, scaled


@dataclass
class RWalk(EWCPlusPlus):
    """Riemannian walk: EWC++ and path scores, by how much a weight lowered the loss for the distance it went"""

    name: ClassVar[str] = "rwalk"
    strength: Annotated[float, Ge(0), Search(0.001, 1e4, log=True)] = 1.0  # λ
    damping: Annotated[float, Gt(0)] = 0.001  # ξ
    # the weight of earlier tasks' s beside ½ of the new one's; 1.5: the authors' code, which adds where the paper sets
    carried: Annotated[float, Ge(0)] = 0.5
    # the steps whose g² are summed and divided by k; task: all of the task so far, as the authors' code does for A-GEM
    summed: Literal["interval", "task"] = field(default="interval", metadata={"added": True})

    def begin(self, run: Run) -> None:
        self.scores_so_far: Weights = {}  # s
        self.of_task: Weights = {}  # s_task
        super().begin(run)

    def start_task(self, task: Task) -> None:
        super().start_task(task)
        self.of_task = {}

    def start_interval(self) -> None:
        super().start_interval()
        self.path: Weights = {}  # ω
        self.start: Weights = {}  # weights at the first step of the interval

    def see(self, own: Gradients) -> None:
        super().see(own)
        self.own, self.before = own, snapshot(self.network)
        self.start = self.start or self.before

    def after_step(self, step: Step) -> None:
        now = dict(self.network.named_parameters())
        new = {name: -g * (now[name].detach() - self.before[name]) for name, g in self.own.items()}
        self.path = {**self.path, **add(self.path, new)}
        super().after_step(step)

    @torch.no_grad()
    def finish_interval(self) -> None:
        now, new = snapshot(self.network), {}
        for name, omega in self.path.items():
            fisher = self.fisher.get(name, torch.zeros_like(omega))
            new[name] = omega.clamp(min=0) / (fisher * (now[name] - self.start[name]).square() + self.damping)
        self.of_task = {**self.of_task, **add(self.of_task, new)}
        squares = self.squares
        super().finish_interval()
        if self.summed == "task":
            self.squares = squares

    def finish_task(self, task: Task) -> None:
        if task.index == 0:
            self.scores_so_far = self.of_task
        else:
            half = {name: value / 2 for name, value in self.of_task.items()}
            kept = {name: self.carried * value for name, value in self.scores_so_far.items()}
            self.scores_so_far = {**kept, **add(kept, half)}
        super().finish_task(task)

    def importance(self) -> Weights:
        path = scaled(self.scores_so_far, snapshot(self.network))
        return {name: value + path[name] for name, value in super().importance().items()}

    def state(self) -> dict[str, Any]:
        return {**super().state(), "scores": self.scores_so_far}

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.scores_so_far = state["scores"]

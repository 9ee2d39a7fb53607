"""PackNet: adding multiple tasks to a single network by iterative pruning (Mallya & Lazebnik 2018, arXiv 1711.05769).

    minimise  CE(ŷ_t, y_t)  over the free weights W_t, with the weights of tasks 1 … t−1 in place but fixed
    free      in each layer the share p of W_t with the smallest |w|: they become 0, and wait for task t + 1
    minimise  CE(ŷ_t, y_t)  again, over the weights of W_t that are left
    answer    task t with the weights of tasks 1 … t, all others 0

Biases and batch norm, its statistics too, are those of the first task before it is pruned: a channel that has lost all
its weights would have variance 0, and what a later task puts there would be blown up. Each task has its own block of
the head. So old answers stay, to the last bit. As in the paper, retraining comes after training, beside its budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor

from clbench.errors import UsageError
from clbench.method import Method, Phase, Run, Search, Step
from clbench.sequences import Task

FREE = torch.iinfo(torch.int16).max  # owner of a weight that no task has


@dataclass
class PackNet(Method):
    """PackNet: prune after each task, give later tasks the weights that this frees, and fix those that are left"""

    name: ClassVar[str] = "packnet"
    family: ClassVar[str] = "masks"
    scenarios: ClassVar[frozenset[str]] = frozenset({"task"})
    # p: share of a task's weights that is freed, in each layer
    pruned: Annotated[float, Ge(0), Lt(1), Search(0.5, 0.9)] = 0.75
    # passes of the second phase, beside the budget; none: half of the budget's, as in the paper (10 after 20), one at
    # least
    retrain_epochs: Annotated[int, Ge(0)] | None = None

    def begin(self, run: Run) -> None:
        super().begin(run)
        weights = {name: p for name, p in self.network.backbone.named_parameters() if p.ndim > 1}
        self.owners = {name: torch.full_like(w, FREE, dtype=torch.int16) for name, w in weights.items()}
        free = [weight.numel() for weight in weights.values()]
        for task in range(run.tasks):
            if not any(free):
                what = f"pruned={self.pruned} of packnet leaves no free weight for task {task + 1} of {run.tasks}"
                raise UsageError(f"{what}: prune a larger share, or take a larger network")
            free = [round(self.pruned * count) for count in free]

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        self.task = task.index
        for owner in self.owners.values():
            owner[owner == FREE] = task.index
        self.fix()
        backbone, newest = list(self.network.backbone.parameters()), list(self.network.newest.parameters())
        weights = [p for p in backbone if p.ndim > 1] + newest  # without its parameters batch norm runs in eval mode
        epochs = self.retrain_epochs
        if epochs is None:
            epochs = max(1, (self.run.training.epochs or 0) // 2)
        train = Phase(tasks=[task], trainable=weights if task.index else backbone + newest)
        return [train, Phase(name="retrain", tasks=[task], trainable=weights, epochs=epochs, extra=True)]

    def fix(self) -> None:
        """Note what the weights are that are not this task's."""
        self.fixed = {name: self.network.backbone.get_parameter(name).detach().clone() for name in self.owners}

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        for name, owner in self.owners.items():  # momentum, decay and Adam would move them
            weight = self.network.backbone.get_parameter(name)
            weight.copy_(torch.where(owner == self.task, weight, self.fixed[name]))

    def finish_phase(self, phase: Phase) -> None:
        if phase.name == "train":
            self.prune()
            self.fix()

    @torch.no_grad()
    def prune(self) -> None:
        """Free the smallest of this task's weights, in each layer, and set them to 0."""
        for name, owner in self.owners.items():
            weight, own = self.network.backbone.get_parameter(name), owner == self.task
            order = weight.abs().masked_fill(~own, torch.inf).flatten().argsort(stable=True)
            smallest = torch.zeros_like(order, dtype=torch.bool)
            smallest[order[: round(self.pruned * int(own.sum()))]] = True
            smallest = smallest.view(weight.shape)
            owner[smallest] = FREE
            weight[smallest] = 0

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        if task is None or task >= self.network.seen:
            return None
        backbone = self.network.backbone
        packed = {name: backbone.get_parameter(name) * (owner <= task) for name, owner in self.owners.items()}
        self.network.passes.count_forward(len(x))
        features = torch.func.functional_call(backbone, packed, (x,))
        scores = self.network.logits(features, [task])  # alone: in a wider product it would be rounded otherwise
        return self.network.beside_others(scores, task)

    def state(self) -> dict[str, Any]:
        return {"owners": self.owners}

    def load_state(self, state: dict[str, Any]) -> None:
        self.owners = state["owners"]

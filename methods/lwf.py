"""Learning without Forgetting (Li & Hoiem 2016/2017, arXiv 1606.09282, equations 1 to 4).

    Y_o ← network(X_n; θ_s, θ_o)      before training: the old network's responses to the new images
    minimise  CE(ŷ_n, y_n) + λ_o · Σ_{old tasks} H(y'_o, ŷ'_o)   over θ_s, θ_o, θ_n

    y' = softmax(z / T),   H(y'_o, ŷ'_o) = − Σ_classes y'_o · log ŷ'_o,   mean over the batch

No image of an old task is needed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from clbench.method import Method, Run, Search, Step, Teacher
from clbench.models import ExpandingHeadModel
from clbench.sequences import Task


@dataclass
class LwF(Method):
    """Learning without Forgetting: distil the old network's responses to the new task's images"""

    name: ClassVar[str] = "lwf"
    family: ClassVar[str] = "distillation"
    core: ClassVar[bool] = True
    first_task_is_finetuning: ClassVar[bool] = True
    mixed_labels: ClassVar[bool] = True
    beside: ClassVar[bool] = True
    # T: what logits are divided by; the higher, the softer the responses
    temperature: Annotated[float, Gt(0), Search(choices=(1.0, 2.0, 4.0))] = 2.0
    # λ_o: of the distillation, beside the cross-entropy
    weight: Annotated[float, Ge(0), Search(0.01, 100.0, log=True)] = 1.0
    # outputs that share a softmax. auto: those of an old task in `task`, all old ones elsewhere; padded: all old ones,
    # whose probabilities, padded with zeros, stand against old + new outputs (van de Ven 2018)
    scope: Literal["auto", "per-task", "joined", "padded"] = "auto"
    scale_t2: bool = False  # multiply the distillation by T² (Hinton et al. 2015)
    reduction: Literal["sum", "mean"] = "sum"  # over all the outputs distilled; mean: van de Ven before May 2019
    # how cross-entropy and distillation mix, with n tasks so far. constant: CE + λ KD; share: CE/n + (1 − 1/n) λ KD
    # (van de Ven 2018); convex: α CE + (1 − α) λ KD (the note)
    mixing: Literal["constant", "share", "convex"] = "constant"
    alpha: Annotated[float, Ge(0), Le(1)] = 0.5  # α of mixing=convex
    # recorded: responses recorded once, in eval mode (where images are augmented, the old network looks at each batch);
    # train-mode: the old network looks at each batch, in training mode (Avalanche)
    teacher: Literal["recorded", "train-mode"] = "recorded"

    @property
    def captured(self) -> bool:  # type: ignore[override]
        return self.teacher == "recorded"  # the other one draws dropout masks apart from the network's

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.old_widths: list[int] = []  # classes of each old task
        self.old_network: Teacher | None = None  # gives y'_o of new images [n, old classes]

    def start_task(self, task: Task) -> None:
        n = task.index + 1
        self.new_weight, self.old_weight = {
            "constant": (1.0, self.weight),
            "share": (1 / n, (1 - 1 / n) * self.weight),
            "convex": (self.alpha, (1 - self.alpha) * self.weight),
        }[self.mixing]
        if task.index > 0 and self.old_weight > 0:
            self.old_widths = self.network.widths[: self.network.seen]
            self.old_network = Teacher(self.network, self.responses, task.train, self.teacher == "train-mode")

    def responses(self, network: ExpandingHeadModel, x: Tensor) -> Tensor:
        """Return y'_o of images [n, *input_shape]: [n, old classes]."""
        return self.soften(network.logits(network.features(x), range(len(self.old_widths))), torch.softmax)

    def soften(self, z: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Apply softmax or log-softmax to z / T [n, old classes]: per old task, or over all of them."""
        z, widths = z / self.temperature, self.old_widths
        if self.scope in ("joined", "padded") or (self.scope == "auto" and self.run.scenario != "task"):
            return function(z, 1)
        if len(set(widths)) == 1:
            return function(z.unflatten(1, (len(widths), -1)), 2).flatten(1)
        return torch.cat([function(part, 1) for part in z.split(widths, 1)], 1)

    def loss(self, step: Step) -> Tensor:
        if self.old_network is None:
            return step.cross_entropy()
        targets = self.old_network(step.batch)
        distillation = self.distillation(step.outputs, targets)
        return self.new_weight * step.cross_entropy() + self.old_weight * distillation

    def distillation(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return Σ_{old tasks} H(y'_o, ŷ'_o), mean over the batch; outputs [n, classes], targets [n, old classes]."""
        n_old = sum(self.old_widths)
        if self.scope == "padded":  # the new outputs' targets are zero, so only their share of the softmax matters
            logs = self.soften(outputs, torch.log_softmax)[:, :n_old]
        else:
            outputs = outputs[:, :n_old]
            logs = self.soften(outputs, torch.log_softmax)
        loss = (targets * logs).sum() / -len(targets)
        if self.reduction == "mean":
            loss = loss / outputs.shape[1]
        return loss * self.temperature**2 if self.scale_t2 else loss

    def finish_task(self, task: Task) -> None:
        self.old_network = None

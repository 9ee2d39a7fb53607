"""Learning without Forgetting (Li & Hoiem 2016/2017, arXiv 1606.09282, equations 1 to 4).

    Y_o ← network(X_n; θ_s, θ_o)      before training: the old network's responses to the new images
    minimise  CE(ŷ_n, y_n) + λ_o · Σ_{old tasks} H(y'_o, ŷ'_o)   over θ_s, θ_o, θ_n

    y' = softmax(z / T),   H(y'_o, ŷ'_o) = − Σ_classes y'_o · log ŷ'_o,   mean over the batch

No image of an old task is needed. The other fields are the choices on which published codes differ; each names who
makes it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from clbench.errors import UsageError
from clbench.method.base import Batch, Criterion, Method, OldNetwork, Run, Scenario
from clbench.method.schedule import Training
from clbench.models.networks import ExpandingHeadModel
from clbench.sequences.tasks import Task


@dataclass
class LwF(Method):
    """Learning without Forgetting: distil the old network's responses to the new task's images"""

    name: ClassVar[str] = "lwf"
    core: ClassVar[bool] = True
    plain_first_task: ClassVar[bool] = True
    temperature: Annotated[float, Gt(0)] = 2.0  # T
    weight: Annotated[float, Ge(0)] = 1.0  # λ_o
    # auto: a softmax per old task in `task`, one over all old classes in `class`; padded: old probabilities, padded
    # with zeros, against old + new outputs (van de Ven 2018)
    scope: Literal["auto", "per-task", "joined", "padded"] = "auto"
    scale_t2: bool = False  # multiply the distillation by T² (Hinton et al. 2015)
    reduction: Literal["sum", "mean"] = "sum"  # over all the outputs distilled; mean: van de Ven before May 2019
    # how cross-entropy and distillation mix, with n tasks so far. constant: CE + λ KD; share: CE/n + (1 − 1/n) λ KD
    # (van de Ven 2018); count: CE + (n − 1) λ KD (van de Ven 2022); convex: α CE + (1 − α) λ KD
    mixing: Literal["constant", "share", "count", "convex"] = "constant"
    alpha: Annotated[float, Ge(0), Le(1)] = 0.5  # α of mixing=convex
    # recorded: responses recorded once, in eval mode; live: the frozen old network, in eval mode, looks at each batch
    # (recorded does so, too, when images are augmented); train-mode: the same in training mode (Avalanche);
    # unnormalised: recorded on raw pixels (Mammoth)
    teacher: Literal["recorded", "live", "train-mode", "unnormalised"] = "recorded"
    new_classes_only: bool = False  # cross-entropy over the new classes in the class scenario too (FACIL, PyCIL)
    freeze_old_blocks: bool = False  # old blocks do not train (FACIL)
    warmup_epochs: Annotated[int, Ge(0)] = 0  # epochs in which only the new block trains, part of the budget

    def check(self, scenario: Scenario, training: Training) -> None:
        if self.warmup_epochs and scenario == "domain":
            raise UsageError("lwf.warmup_epochs trains only the new block, but in the domain scenario no block is new")
        if self.warmup_epochs and training.epochs is None:
            raise UsageError("lwf.warmup_epochs counts epochs: give the budget as --epochs, not --iterations")
        if training.epochs is not None and self.warmup_epochs >= training.epochs:
            raise UsageError(
                f"lwf.warmup_epochs={self.warmup_epochs} leaves nothing of the budget of {training.epochs} epochs: "
                "raise --epochs or lower it"
            )

    def begin(self, run: Run) -> None:
        super().begin(run)
        self._forget()

    def _forget(self) -> None:
        self.old_widths: list[int] = []  # classes of each old task
        self.teaching: OldNetwork | None = None  # says y'_o of new images [n, old classes]

    def start_task(self, model: ExpandingHeadModel, task: Task) -> None:
        n = task.index + 1
        self.new_weight, self.old_weight = {
            "constant": (1.0, self.weight),
            "share": (1 / n, (1 - 1 / n) * self.weight),
            "count": (1.0, (n - 1) * self.weight),
            "convex": (self.alpha, (1 - self.alpha) * self.weight),
        }[self.mixing]
        if task.index == 0 or self.old_weight == 0:
            return
        self.old_widths = model.widths[: model.seen]
        images = task.train.unnormalised() if self.teacher == "unnormalised" else task.train
        live = self.teacher in ("live", "train-mode") or images.augment
        self.teaching = OldNetwork(
            model,
            self.live_responses if live else self.responses,
            images,
            live=live,
            train_mode=self.teacher == "train-mode",
            reuse=self.run.reuse,
        )

    def trainable(self, model: ExpandingHeadModel, task: Task, epoch: int) -> Iterable[nn.Parameter]:
        if task.index > 0 and epoch < self.warmup_epochs:
            return model.newest.parameters()
        if task.index > 0 and self.freeze_old_blocks and self.run.scenario != "domain":
            return [*model.backbone.parameters(), *model.newest.parameters()]
        return model.parameters()

    def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
        only_new = self.new_classes_only and self.run.scenario != "domain"
        blocks = batch.tasks if only_new else None
        if self.teaching is None:
            return criterion(model, batch, blocks)
        targets = self.teaching(batch)
        outputs = model.logits(batch.features, range(model.seen))  # old and new ones by one product
        loss = criterion(model, batch, blocks, outputs=outputs)
        return _times(self.new_weight, loss) + _times(self.old_weight, self.distillation(outputs, targets))

    def finish_task(self, model: ExpandingHeadModel, task: Task) -> None:
        self._forget()

    def responses(self, network: ExpandingHeadModel, x: Tensor) -> Tensor:
        """Return y'_o of images [n, *input_shape]: [n, old classes], or as `soften` shapes it."""
        return self.soften(network.logits(network.features(x), range(len(self.old_widths))), torch.softmax)

    def live_responses(self, network: ExpandingHeadModel, x: Tensor) -> Tensor:
        """Return the same from the whole head's outputs, blocks still to come included, which round differently."""
        return self.soften(network(x)[:, : sum(self.old_widths)], torch.softmax)

    def distillation(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return Σ_{old tasks} H(y'_o, ŷ'_o), mean over the batch; outputs [n, classes], targets of `responses`."""
        n_old = sum(self.old_widths)
        if self.scope == "padded":  # the new outputs' targets are zero, so only their share of the softmax matters
            student = outputs
            logs = torch.log_softmax(student / self.temperature, 1)[:, :n_old]
        else:
            student = outputs[:, :n_old]
            logs = self.soften(student, torch.log_softmax)
        loss = (targets * logs).sum() / -len(targets)
        if self.reduction == "mean":
            loss = loss / student.shape[1]
        return loss * self.temperature**2 if self.scale_t2 else loss

    def soften(self, z: Tensor, function: Callable[[Tensor, int], Tensor]) -> Tensor:
        """Apply softmax or log-softmax to old logits z / T [n, old classes]: per old task, or over all of them.

        Tasks of one width come out as [n, old tasks, classes of each], everything else as [n, old classes].
        """
        z, widths = z / self.temperature, self.old_widths
        if self.scope in ("joined", "padded") or (self.scope == "auto" and self.run.scenario != "task"):
            return function(z, 1)
        if len(set(widths)) == 1:
            return function(z.view(len(z), len(widths), -1), 2)
        return torch.cat([function(part, 1) for part in z.split(widths, 1)], 1)


def _times(weight: float, loss: Tensor) -> Tensor:
    """Return weight · loss, without a product where the weight is 1."""
    return loss if weight == 1 else weight * loss

"""The one training loop: it draws batches, computes the gradients that a method asks for, and steps the optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from clbench.data.augmentation import mixing_of
from clbench.errors import ClbenchError, DivergedError
from clbench.method import (
    Batch,
    Costs,
    Criterion,
    Gradients,
    Method,
    Phase,
    Step,
    can_be_captured,
    hook_name,
    in_chunks,
)
from clbench.seeding import seed_default, stream
from clbench.sequences.tasks import Split, Task, concat
from clbench.training.batches import Batches, Plateau
from clbench.training.mixing import mixed
from clbench.training.optimizer import Optimizer
from clbench.training.schedules import rate_factor
from clbench.training.static import Form, StaticSteps, Taken

if TYPE_CHECKING:
    from clbench.training.trainer import Trainer


class EpochHistory:
    """Losses and right answers of an epoch's steps, kept on the device until they are asked for."""

    def __init__(self) -> None:
        self.images = 0
        self.losses: list[Tensor] = []
        self.sizes: list[int] = []
        self.hits: list[Tensor] = []
        self.answered = 0  # images whose outputs were seen

    def add(self, taken: Taken) -> None:
        """Take what a step came to."""
        self.losses.append(taken.loss)
        self.sizes.append(taken.images)
        self.images += taken.images
        if taken.hits is not None:
            self.hits.append(taken.hits)
            self.answered += taken.answered

    def means(self) -> tuple[float, float | None]:
        """Return the mean loss of an image, and the share answered right; None if not all steps had answers."""
        losses = torch.stack(self.losses).double()
        loss = (losses * losses.new_tensor(self.sizes)).sum().item() / self.images
        if len(self.hits) < len(self.sizes):
            return loss, None
        return loss, torch.stack(self.hits).sum().item() / self.answered


@dataclass(frozen=True)
class Due:
    """A step that is to be taken."""

    training: TaskTraining
    work: Work
    batch: tuple[Tensor, Tensor, Tensor]  # rows [n] of the phase's images, their columns [n] and tasks [n]
    present: tuple[int, ...]  # the tasks present
    lr: float
    progress: float  # share of the phase's steps that are done before it

    @property
    def form(self) -> Form:
        return len(self.batch[0]), self.lr, self.present


TakeAll = Callable[[Sequence[Due]], None]  # takes the steps of an epoch


def one_by_one(due: Sequence[Due]) -> None:
    """Take the steps of an epoch."""
    for each in due:
        take, static = partial(each.training.alone, each), each.work.static
        taken = take(each.batch) if static is None else static.take((each.form,), take, each.batch)
        each.training.took(taken[0])


@dataclass
class Work:
    """What the steps of a phase share."""

    phase: Phase
    split: Split
    criterion: Criterion
    static: StaticSteps | None  # where they are taken, if not one by one
    recorded: Tensor | None = None  # features of all images, where the backbone is frozen

    def draw_from(self, seed: int, task: int, epoch: int) -> None:
        """Begin an epoch's own draws."""
        self.augmentation = stream(seed, "augmentation", task, epoch)
        self.mixing = stream(seed, "mixing", task, epoch)

    @cached_property
    def mixes(self) -> str | None:
        """How images are mixed in pairs, if they are."""
        return mixing_of(self.split.augment)


class TaskTraining:
    """The training of one task: its phases share an optimiser, a budget and a history."""

    def __init__(self, trainer: Trainer, task: Task, optimizer: Optimizer, costs: Costs):
        self.trainer, self.task, self.optimizer, self.costs = trainer, task, optimizer, costs
        self.method, self.setting, self.parameters = trainer.method, trainer.setting, optimizer.parameters
        self.lr, self.rate_divisor = optimizer.lr, 1
        self.epoch = 0  # of the task, over all phases
        self.epochs_in_budget = self.updates_in_budget = 0
        self.plateau = Plateau(self.setting.training.patience)
        self.stopped = False
        self.histories: list[EpochHistory] = []
        self.loss: tuple[Tensor, int] | None = None  # the first one of a step whose gradient is asked for; its images

    def train(self, phase: Phase) -> None:
        """Train in a phase, for its own epochs or what is left of the task's budget."""
        split, columns, owners = self._data(phase)
        work = Work(phase, split, self._criterion(phase), self._static(split))
        frozen = set_trainable(self.method, phase.trainable)
        batches = Batches([len(task.train) for task in phase.tasks], self.setting.training, phase)
        steps_left = total = self._steps(phase, batches)
        if frozen and total and not split.augment:
            work.recorded = in_chunks(self.method.network.features, split, self.method.network.chunk)
        while steps_left > 0:
            order = stream(self.setting.seed, "batches", self.task.index, self.epoch)
            rows = batches.draw(order, steps_left)
            seed_default(self.setting.seed, "dropout", self.task.index, self.epoch, device=self.setting.device)
            self._run_epoch(work, columns, owners, rows, (total - steps_left, total))
            steps_left -= len(rows)
            self.epoch += 1
            if not phase.extra:
                self.epochs_in_budget += 1
                self.updates_in_budget += len(rows)
            if self.setting.training.patience and not phase.extra and self._is_flat(phase):
                break
        if work.static is not None:
            self.trainer.replayed_steps += work.static.replayed

    def _criterion(self, phase: Phase) -> Criterion:
        if phase.loss_over is None:
            return self.trainer.criterion
        return Criterion(self.setting.scenario, phase.loss_over, self.setting.training.label_smoothing)

    def _static(self, split: Split) -> StaticSteps | None:
        """Return where a phase's steps are taken, if they are to be captured and can be."""
        if not self.trainer.capture or split.augment or not can_be_captured(self.method):
            return None
        if self.optimizer.torch is not None:  # it counts its steps on the CPU
            return None
        return StaticSteps([self.method], self.setting.device)

    def _steps(self, phase: Phase, batches: Batches) -> int:
        """Return how many steps a phase takes."""
        training = self.setting.training
        own = math.inf if phase.epochs is None else phase.epochs * batches.per_epoch
        if phase.extra:
            left = math.inf
        elif self.stopped:
            left = 0
        elif training.iterations is not None:
            left = training.iterations - self.updates_in_budget
        else:
            left = ((training.epochs or 0) - self.epochs_in_budget) * batches.per_epoch
        return int(min(own, left))

    def _data(self, phase: Phase) -> tuple[Split, Tensor, Tensor]:
        """Return a phase's images, and each one's column of the head and task."""
        domain, network = self.setting.scenario == "domain", self.method.network
        split = concat([task.train for task in phase.tasks])
        starts = [network.columns(0 if domain else task.index).start for task in phase.tasks]
        columns = torch.cat([task.train.y + start for task, start in zip(phase.tasks, starts, strict=True)])
        sizes = torch.tensor([len(task.train) for task in phase.tasks])
        owners = torch.repeat_interleave(torch.tensor([task.index for task in phase.tasks]), sizes)
        return split, columns, owners

    def _run_epoch(
        self, work: Work, columns: Tensor, owners: Tensor, steps: Sequence[Tensor], done_of: tuple[int, int]
    ) -> None:
        """Train on the rows of each step."""
        work.draw_from(self.setting.seed, self.task.index, self.epoch)
        phase, training = work.phase, self.setting.training
        lengths, rows = [len(step) for step in steps], torch.cat(list(steps))
        if len(phase.tasks) > 1 and work.criterion.own_block:
            present = [tuple(sorted(set(owned.tolist()))) for owned in owners[rows].split(lengths)]
        else:
            present = [(self.task.index,)] * len(steps)
        task_ids = owners[rows].to(self.setting.device)
        rows = rows.to(self.setting.device)
        highest = self.lr * phase.lr_factor / self.rate_divisor
        batches = zip(*(each.split(lengths) for each in (rows, columns[rows], task_ids)), strict=True)
        parts = zip(batches, present, strict=True)
        due = [
            Due(self, work, batch, there, highest * rate_factor(training, number, done_of[1]), number / done_of[1])
            for number, (batch, there) in enumerate(parts, done_of[0])
        ]
        self.histories.append(EpochHistory())
        self.trainer.take_all(due)

    def took(self, taken: Taken) -> None:
        """Count a step."""
        self.histories[-1].add(taken)
        self.costs.updates += 1
        self.costs.images += taken.images
        if self.trainer.curves is not None:
            self.trainer.curves.after_update(self.method, self.task.index, self.costs.updates)

    def begin(self, due: Due, index: Tensor, y: Tensor, ids: Tensor) -> Step:
        """Begin a step on rows of the phase's images [n], their columns of the head [n] and tasks [n]."""
        work = due.work
        batch = Batch(work.split.batch(index, work.augmentation), y, ids, due.present, index, work.split)
        if work.mixes is not None:
            batch = mixed(batch, work.mixes, work.mixing, work.criterion.own_block)
        features = None if work.recorded is None else work.recorded.index_select(0, index)
        self.optimizer.lr = due.lr
        self.loss, self.batch_images, self.trainer.passes.pending = None, len(batch), 0
        return Step(self.method.network, batch, work.criterion, work.phase, due.lr, due.progress, features)

    def alone(self, due: Due, batch: Sequence[Tensor]) -> list[Taken]:
        """Take a step, with gradients as the method wants them."""
        step = self.begin(due, *batch)
        return [self.move(step, self.method.gradients(step, self._gradient_of))]

    def move(self, step: Step, gradients: Gradients) -> Taken:
        """Let the optimiser take gradients, and return what the step came to."""
        if not gradients.keys() <= self.parameters.keys():
            unknown, who = sorted(gradients.keys() - self.parameters.keys())[0], type(self.method).__name__
            raise ClbenchError(f"{who}.gradients returns one of {unknown!r}, which is no parameter")
        untouched, reached = self.setting.training.untouched, self.trainer.reached
        for name, parameter in self.parameters.items():
            parameter.grad = gradients.get(name)
            if untouched != "skip":
                if parameter.grad is not None:
                    reached.add(name)
                elif parameter.requires_grad and (untouched == "zero" or name in reached):
                    parameter.grad = torch.zeros_like(parameter)
        self._clip()
        self.optimizer.step()
        self.method.after_step(step)
        assert self.loss is not None, f"{type(self.method).__name__}.gradients asks for the gradient of no loss"
        loss, images = self.loss
        if not step.answers:
            return Taken(loss.detach(), images)
        outputs, right = step.answers[0]
        return Taken(loss.detach(), images, (outputs.argmax(1) == right).sum(), len(right))

    def _clip(self) -> None:
        """Cut or scale down the gradients that the optimiser is to take, as training says."""
        training = self.setting.training
        if training.clip_value is not None:
            nn.utils.clip_grad_value_(self.parameters.values(), training.clip_value)
        if training.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), training.clip_norm)

    def _gradient_of(self, loss: Tensor) -> Gradients:
        """Return the gradients of a scalar, by parameter name."""
        try:
            backward(loss)
        except RuntimeError as error:
            if "backward through the graph a second time" not in str(error):
                raise
            own = type(self.method)
            hook = own.loss if own.gradients is Method.gradients else own.gradients
            what = f"{hook_name(hook)}: a gradient of its loss was computed before"
            raise ClbenchError(
                f"{what}: it calls no .backward(), the loop does; gradient_of takes a loss once"
            ) from error
        return self.computed(loss)

    def computed(self, loss: Tensor) -> Gradients:
        """Take the gradients of a loss, which has been followed back, from the parameters."""
        if self.loss is None:
            self.loss = loss.detach(), self.trainer.passes.pending or self.batch_images
        self.trainer.passes.count_backward()
        gradients = {}
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                gradients[name] = parameter.grad
                parameter.grad = None
        return gradients

    def finish(self) -> None:
        """Put the epochs' means into the history; raise DivergedError if a loss or a weight is not finite."""
        losses, accuracies = [], []
        for epoch, history in enumerate(self.histories):
            loss, accuracy = history.means()
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the loss is {loss} at task {self.task.index + 1}, epoch {epoch + 1}: it diverged; "
                    "try a smaller lr"
                )
            losses.append(loss)
            accuracies += [] if accuracy is None else [accuracy]
        self.costs.history |= {"loss": losses, "accuracy": accuracies}
        if not all(tensor.isfinite().all() for tensor in self.method.weights().values()):
            raise DivergedError(
                f"a weight is not finite after task {self.task.index + 1}: it diverged; try a smaller lr"
            )

    def _is_flat(self, phase: Phase) -> bool:
        """Evaluate the validation images, and say whether the phase ends; perhaps lower the rate."""
        network = self.method.network
        modes = [(module, module.training) for module in network.modules()]
        network.eval()
        accuracy = self.trainer.evaluator.accuracy(self.method, self.task.index, self.setting.held_out[self.task.index])
        self.costs.history.setdefault("validation", []).append(accuracy)
        for module, mode in modes:
            module.training = mode
        action = self.plateau.after(accuracy, warming_up=phase.name == "warm-up")
        if action == "lower rate":
            self.rate_divisor *= 10
        self.stopped = action == "stop"
        return action in ("end phase", "stop")


def backward(loss: Tensor) -> None:
    """Compute the gradients of a scalar: the one place where that is done."""
    loss.backward()


def set_trainable(method: Method, parameters: Iterable[nn.Parameter] | None) -> bool:
    """Let just these parameters train, or all; modules without any run in eval mode.

    Returns whether the backbone is frozen, so that its features stay the same.
    """
    network = method.network
    there = {id(parameter): parameter for parameter in (*network.parameters(), *method.parameters().values())}
    chosen = set(there) if parameters is None else {id(parameter) for parameter in parameters}
    if not chosen:
        why = ": the backbone is frozen" if network.frozen_parameters else ""
        raise ClbenchError(f"a phase has no parameter to train{why}")
    if not chosen <= set(there):
        raise ClbenchError("a phase trains parameters of another network")
    for number, parameter in there.items():
        parameter.requires_grad_(number in chosen)
    network.train()
    for module in network.modules():
        inside = list(module.parameters())
        if inside and not any(parameter.requires_grad for parameter in inside):
            module.eval()
    return not network.backbone.training

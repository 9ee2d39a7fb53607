"""One step of training: the batch, the network's answers to it, and the scenario's loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.method.learner import Scenario
from clbench.method.phase import Phase
from clbench.method.settings import LossOver
from clbench.models.head import ExpandingHeadModel
from clbench.sequences.tasks import Split


@dataclass
class Batch:
    """Images and what is known of them."""

    x: Tensor  # float32 [n, *input_shape], augmented where the sequence says so
    y: Tensor  # int64 [n]: each sample's column of the head
    task_ids: Tensor  # int64 [n]: each sample's task
    tasks: Sequence[int]  # the tasks present
    index: Tensor  # int64 [n]: rows of the phase's training data
    split: Split | None = None  # the phase's training data
    extras: dict[str, Tensor] = field(default_factory=dict)  # what a memory stored with the samples
    # where images are mixed in pairs: the column of the image that was mixed in [n], and the share of the first one [n]
    other_y: Tensor | None = None
    share: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def joined(self, other: Batch) -> Batch:
        """Return the samples of both, which are no longer rows of one split."""
        other_y = share = None
        if self.other_y is not None and self.share is not None:  # those of a memory are as they are
            other_y = torch.cat([self.other_y, other.y])
            share = torch.cat([self.share, self.share.new_ones(len(other))])
        return Batch(
            torch.cat([self.x, other.x]),
            torch.cat([self.y, other.y]),
            torch.cat([self.task_ids, other.task_ids]),
            sorted({*self.tasks, *other.tasks}),
            self.index.new_full((len(self) + len(other),), -1),
            other_y=other_y,
            share=share,
        )


class Criterion:
    """The scenario's cross-entropy, mean over the batch: it decides which outputs compete.

    task: a sample's own task's outputs; class: all classes seen so far, or as `over` says; domain: the one block.
    `smoothing` is the share of the right answer that goes to all outputs which compete, alike.
    """

    def __init__(self, scenario: Scenario, over: LossOver = "seen", smoothing: float = 0.0):
        self.scenario, self.over, self.smoothing = scenario, over, smoothing
        self.own_block = scenario == "task" or (scenario == "class" and over == "own")

    def blocks(self, network: ExpandingHeadModel) -> range:
        """Return the head's blocks that compete where the task is not told."""
        return range(len(network.head) if self.over == "all" else network.seen)

    def competing(self, step: Step) -> tuple[Tensor, Tensor]:
        """Return the outputs that take part [n, k], and the right ones of them [n]."""
        network, batch = step.network, step.batch
        blocks = batch.tasks if self.own_block else self.blocks(network)
        if self.own_block and len(blocks) > 1:
            # outputs of all blocks, −∞ outside the sample's own; blocks of absent tasks get no gradient
            logits = network.logits(step.features, range(len(network.head)), reached=batch.tasks)
            return logits.masked_fill(network.owners != batch.task_ids[:, None], -torch.inf), batch.y
        start = network.columns(blocks[0]).start
        if "outputs" in vars(step):  # they have been computed anyway
            logits = step.outputs[:, start : network.columns(blocks[-1]).stop]
        else:
            logits = network.logits(step.features, blocks)
        return logits, batch.y - start if start else batch.y

    def __call__(self, step: Step, weights: Tensor | None = None) -> Tensor:
        """Return the loss; `weights` [n] multiply the samples' losses before the mean is taken."""
        if weights is None:
            return self.mean_of(*self._answer(step), step.batch)
        return (weights * self.of_samples(step)).mean()

    def of_samples(self, step: Step) -> Tensor:
        """Return each sample's loss [n]."""
        return self.of_batch(*self._answer(step), step.batch)

    def mean_of(self, outputs: Tensor, y: Tensor, batch: Batch | None = None) -> Tensor:
        """Return the mean of `of_batch`; without smoothing and mixing in one operation."""
        mixed = batch is not None and batch.other_y is not None
        return self.of_batch(outputs, y, batch).mean() if self.smoothing or mixed else F.cross_entropy(outputs, y)

    def of_batch(self, outputs: Tensor, y: Tensor, batch: Batch | None) -> Tensor:
        """Return each sample's loss [n]: of mixed images that of both labels, each with its image's share."""
        loss = self.of_outputs(outputs, y)
        if batch is None or batch.other_y is None or batch.share is None:
            return loss
        other = self.of_outputs(outputs, batch.other_y + (y - batch.y))  # y may count from the first that competes
        return batch.share * loss + (1 - batch.share) * other

    def of_outputs(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return each sample's loss [n] for outputs [n, k], −∞ where one does not compete, the right ones being y."""
        if not self.smoothing:
            return F.cross_entropy(outputs, y, reduction="none")
        logs, competes = F.log_softmax(outputs, 1), outputs > -torch.inf
        uniform = logs.masked_fill(~competes, 0).sum(1) / competes.sum(1)
        return F.nll_loss((1 - self.smoothing) * logs, y, reduction="none") - self.smoothing * uniform

    def _answer(self, step: Step) -> tuple[Tensor, Tensor]:
        logits, y = self.competing(step)
        step.answers.append((logits.detach(), y))
        return logits, y

    def columns(self, network: ExpandingHeadModel, task: int) -> slice:
        """Return the columns of the head that compete for images of a task, when the loss is taken on them alone."""
        if self.own_block:
            return network.columns(task)
        return slice(0, sum(network.widths[: len(self.blocks(network))]))


@dataclass
class Step:
    """One step of the loop, as a method sees it."""

    network: ExpandingHeadModel
    batch: Batch
    criterion: Criterion
    phase: Phase
    lr: float  # of the step to come
    progress: float  # share of the phase's steps that are done, in [0, 1)
    recorded: Tensor | None = None  # features [n, d], where the backbone is frozen and they have been computed before
    answers: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # outputs and right columns, for the history

    @cached_property
    def features(self) -> Tensor:
        """The backbone's features of the batch [n, d], computed once."""
        if self.recorded is None:
            return self.network.features(self.batch.x)
        self.network.passes.pending += len(self.batch)
        return self.recorded

    @cached_property
    def outputs(self) -> Tensor:
        """The outputs of all blocks that compete where the task is not told [n, classes], by one product."""
        return self.network.logits(self.features, self.criterion.blocks(self.network))

    def cross_entropy(self, weights: Tensor | None = None) -> Tensor:
        """Return the scenario's loss on the batch; see Criterion."""
        return self.criterion(self, weights)

    def cross_entropy_of(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the loss for other outputs of the batch [n, k], −∞ where one does not compete; y: the right ones."""
        self.answers.append((outputs.detach(), y))
        return self.criterion.mean_of(outputs, y, self.batch)

    def on(self, batch: Batch) -> Step:
        """Return the same step on another batch, for instance one that a memory has given."""
        return replace(self, batch=batch, recorded=None)

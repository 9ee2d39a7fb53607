"""The Method contract: hooks whose defaults are fine-tuning. The loop in `clbench.training` calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.model import ExpandingHeadModel
from clbench.streams import stream

if TYPE_CHECKING:
    from clbench.sequences import Split, Task
    from clbench.training import Training

Scenario = Literal["task", "class", "domain"]
SCENARIOS: tuple[Scenario, ...] = ("task", "class", "domain")


@dataclass(frozen=True)
class Run:
    """What a method may know of the run it takes part in."""

    scenario: Scenario
    tasks: int  # length of the sequence
    seed: int
    device: torch.device
    training: Training

    def stream(self, *purpose: str | int) -> torch.Generator:
        """Return a CPU generator for a method's own draws, from (seed, 'method', purpose)."""
        return stream(self.seed, "method", *purpose)


class Batch:
    """The images of one step; tensors are made when first asked for.

    `y` [n] is each sample's column of the head, `task_ids` [n] its task, `index` [n] its row of the training set at
    hand, `tasks` the tasks present.
    """

    correct: Tensor | None = None  # how many the criterion's outputs got right, kept on the device

    def __init__(
        self,
        model: ExpandingHeadModel,
        split: Split,
        index: Tensor,
        y: Tensor,
        task_ids: Tensor,
        tasks: Sequence[int],
        recorded: Tensor | None = None,
        generator: torch.Generator | None = None,
    ):
        self._model, self._split, self._recorded, self._generator = model, split, recorded, generator
        self.index, self.y, self.task_ids, self.tasks = index, y, task_ids, tasks

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def x(self) -> Tensor:
        """The images, float32 [n, *input_shape], augmented where the sequence says so."""
        return self._split.batch(self.index, self._generator)

    @cached_property
    def features(self) -> Tensor:
        """The backbone's features [n, d]: from one forward pass, or as recorded when the backbone is frozen."""
        return self._model.features(self.x) if self._recorded is None else self._recorded[self.index]


class Criterion:
    """The scenario's cross-entropy, mean over the batch: it decides which outputs take part.

    task: a sample's own task's outputs; class: all classes seen so far; domain: the one block.
    """

    def __init__(self, scenario: Scenario):
        self.scenario = scenario

    def __call__(
        self,
        model: ExpandingHeadModel,
        batch: Batch,
        blocks: Sequence[int] | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the loss; `blocks` names other blocks than the scenario's, which hold every label of the batch.

        `weights` [n] multiply the samples' losses before the mean is taken.
        """
        if blocks is None:
            blocks = batch.tasks if self.scenario == "task" else range(model.seen)
        if self.scenario == "task" and len(blocks) > 1:
            logits, y = self._masked(model, batch), batch.y
        else:
            logits = model.logits(batch.features, blocks)
            start = model.columns(blocks[0]).start
            y = batch.y - start if start else batch.y
        batch.correct = (logits.detach().argmax(1) == y).sum()
        if weights is None:
            return F.cross_entropy(logits, y)
        return (weights * F.cross_entropy(logits, y, reduction="none")).mean()

    def outputs(self, model: ExpandingHeadModel, task: int) -> slice:
        """Return the head's columns that compete for images of a task, when the loss is taken on them alone."""
        if self.scenario == "task":
            return model.columns(task)
        return slice(0, sum(model.widths[: model.seen]))

    def _masked(self, model: ExpandingHeadModel, batch: Batch) -> Tensor:
        """Outputs of all blocks [n, classes], −∞ outside the sample's own; blocks of absent tasks get no gradient."""
        logits = model.logits(batch.features, range(len(model.head)), reached=batch.tasks)
        return logits.masked_fill(model.owners != batch.task_ids[:, None], -torch.inf)


@dataclass
class Method:
    """A continual-learning method: a dataclass whose fields are hyper-parameters. These defaults are fine-tuning.

    Hooks choose, the loop acts: none steps an optimiser or calls backward. They are called in the order in which they
    stand here; draws come from `self.run.stream(...)`.
    """

    name: ClassVar[str]
    scenarios: ClassVar[frozenset[str]] = frozenset(SCENARIOS)  # those that it is defined for
    core: ClassVar[bool] = False  # whether it is one of `--methods core`, what every comparison needs
    memory: ClassVar[bool] = False  # whether it asks for the data of earlier tasks
    run: Run = field(init=False, repr=False, compare=False)  # set by `begin`

    def check(self, scenario: Scenario, training: Training) -> None:
        """Raise UsageError if these settings make no sense together; called before anything is run."""

    def begin(self, run: Run) -> None:
        """Prepare for a sequence; forget any earlier one."""
        self.run = run

    @property
    def uses_task_name(self) -> bool:
        """Whether prediction needs to be told the task, so that there is no task-agnostic accuracy."""
        return False

    @property
    def equal_shares(self) -> bool:
        """Whether each of several training tasks gets the same share of a batch, whatever its size."""
        return False

    def beside(self, batch_size: int) -> int | None:
        """Return how many images of the earlier training tasks join each batch of the newest; None: all are shuffled.

        Beside each other, the newest task's batches are those that it would have alone.
        """
        return None

    def start_from(self, task: Task) -> Literal["previous", "initial", "fresh"]:
        """Choose the weights that training on a task starts from: carried on, the seed's initial ones, or new ones."""
        return "previous"

    def start_task(self, model: ExpandingHeadModel, task: Task) -> None:
        """Look at the network and the new task's data before the head grows and training starts."""

    def training_tasks(self, seen: Sequence[Task]) -> Sequence[Task]:
        """Choose the tasks whose training data are used now; `seen` ends with the current one. None: no training."""
        return seen[-1:]

    def trainable(self, model: ExpandingHeadModel, task: Task, epoch: int) -> Iterable[nn.Parameter]:
        """Choose the parameters that train in an epoch (from 0); modules without any run in eval mode."""
        return model.parameters()

    def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
        """Return the scalar to minimise on a batch."""
        return criterion(model, batch)

    def after_backward(self, model: ExpandingHeadModel) -> None:
        """Change or read the gradients before the optimiser's step."""

    def after_step(self, model: ExpandingHeadModel) -> None:
        """Read the weights after the optimiser's step."""

    def finish_task(self, model: ExpandingHeadModel, task: Task) -> None:
        """Keep what later tasks need, while this task's data are still there; the network is in eval mode."""

    def predict(self, model: ExpandingHeadModel, x: Tensor, task: Task) -> Tensor:
        """Score images [n, *input_shape] of a task: [n, classes], the highest wins."""
        return model(x)

    def state(self) -> dict[str, Any]:
        """Return what is kept between tasks, as tensors and plain values."""
        return {}


def in_chunks(function: Callable[[Tensor], Tensor], split: Split, size: int = 256) -> Tensor:
    """Apply a function of images [n, *input_shape] to a whole split without gradients, in order: [n, …].

    Everything that is computed once instead of per step goes through here, in the same chunks, because kernels round
    differently for other batch sizes.
    """
    with torch.no_grad():
        rows = torch.arange(len(split), device=split.y.device)
        return torch.cat([function(split.batch(chunk)) for chunk in rows.split(size)])

"""The Method contract: hooks whose defaults are fine-tuning. The loop in `clbench.training.loop` calls them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clbench.errors import ClbenchError
from clbench.models.networks import ExpandingHeadModel
from clbench.seeding import stream

if TYPE_CHECKING:
    from clbench.method.schedule import Training
    from clbench.sequences.tasks import Split, Task

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
    reuse: bool = True  # whether what is computed once, such as responses, may serve again; false only for comparison

    def stream(self, *purpose: str | int) -> torch.Generator:
        """Return a CPU generator for a method's own draws, from (seed, 'method', purpose)."""
        return stream(self.seed, "method", *purpose)


class Batch:
    """The images of one step; tensors are made when first asked for.

    `y` [n] is each sample's column of the head, `task_ids` [n] its task, `index` [n] its row of the training set at
    hand, `tasks` the tasks present.
    """

    answers: tuple[Tensor, Tensor] | None = None  # the criterion's outputs [n, columns], the right ones of them [n]

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
        frozen: bool = False,
    ):
        self._model, self._split, self._recorded, self._generator = model, split, recorded, generator
        self._frozen = frozen
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
        if self._recorded is not None:
            return self._recorded.index_select(0, self.index)
        model = self._model
        return as_recorded(model.features, self.x, model.chunk) if self._frozen else model.features(self.x)


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
        outputs: Tensor | None = None,
    ) -> Tensor:
        """Return the loss; `blocks` names other blocks than the scenario's, which hold every label of the batch.

        `weights` [n] multiply the samples' losses before the mean is taken. `outputs` [n, classes] are those of all
        blocks seen so far, for a method that has computed them anyway.
        """
        if blocks is None:
            blocks = batch.tasks if self.scenario == "task" else range(model.seen)
        if self.scenario == "task" and len(blocks) > 1:
            logits, y = self._masked(model, batch), batch.y
        else:
            start = model.columns(blocks[0]).start
            if outputs is None:
                logits = model.logits(batch.features, blocks)
            else:
                logits = outputs[:, start : model.columns(blocks[-1]).stop]
            y = batch.y - start if start else batch.y
        batch.answers = logits.detach(), y
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
    # Whether the first task is trained as fine-tuning trains it, so that a sweep may train it once for several methods;
    # see `shares_first_task`. A class that overrides a hook acting before `finish_task` declares it itself, or not.
    plain_first_task: ClassVar[bool] = True
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
        """Return what is kept between tasks, as tensors and plain values in lists and dicts."""
        return {}

    def load_state(self, state: dict[str, Any], model: ExpandingHeadModel) -> None:
        """Take over what `state` returned after some task, in another process, with the network as it was then."""
        if state:
            raise ClbenchError(f"{self.name} has a state but no load_state: it cannot go on from a checkpoint")


BEFORE_FINISH = (  # what acts on a task before its `finish_task`
    *("begin", "equal_shares", "beside", "start_from", "start_task", "training_tasks"),
    *("trainable", "loss", "after_backward", "after_step", "predict", "uses_task_name"),  # the last two: for `patience`
)


def shares_first_task(method: Method) -> bool:
    """Whether a method may take over a first task that another one trained: its hooks do nothing to it.

    That is so if it overrides none of BEFORE_FINISH, or if the class that overrides one says `plain_first_task = True`
    itself: for its own hooks and those of its bases, never for those of a class derived from it. Of a task that was
    taken over, `start_task`, `training_tasks` and `finish_task` are called, `trainable` and what follows it are not.
    """
    classes = type(method).__mro__
    speakers = [cls for cls in classes if "plain_first_task" in vars(cls)]
    authors = [cls for cls in classes if not set(BEFORE_FINISH).isdisjoint(vars(cls))]
    return method.plain_first_task and all(any(issubclass(s, author) for s in speakers) for author in authors)


FEW = 16  # images: kernels round differently for fewer


def in_chunks(function: Callable[[Tensor], Tensor], split: Split, size: int) -> Tensor:
    """Apply a function of images [n, *input_shape] to a whole split without gradients, `size` at a time: [n, …].

    Everything that is computed once instead of per step goes through here, in the model's chunks.
    """
    with torch.no_grad():
        rows = torch.arange(len(split), device=split.y.device)
        return torch.cat([_padded(function, split.batch(chunk), FEW) for chunk in rows.split(size)])


def as_recorded(function: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """Apply a function to a step's images [n, *input_shape], equal bit for bit to their rows of `in_chunks`: [n, …]."""
    with torch.no_grad():
        return torch.cat([_padded(function, chunk, size) for chunk in x.split(size)])


def _padded(function: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
    """Apply a function to images [n, …], of which there are made at least `size` by repeating the first."""
    if len(x) >= size:
        return function(x)
    return function(torch.cat([x, x[:1].expand(size - len(x), *x.shape[1:])]))[: len(x)]


class OldNetwork:
    """What a network said of a task's images before training on them, for each batch: [n, …].

    It is recorded once; asked anew, frozen, where images are augmented or `live`. `train_mode` leaves its dropout and
    batch norm on. Without `reuse` it is asked anew in any case, with the same answers bit for bit.
    """

    def __init__(
        self,
        model: ExpandingHeadModel,
        respond: Callable[[ExpandingHeadModel, Tensor], Tensor],
        images: Split,
        *,
        live: bool = False,
        train_mode: bool = False,
        reuse: bool = True,
    ):
        self.model, self.images, self.train_mode = model, images, train_mode
        self.live = live or train_mode or images.augment
        self.recorded: Tensor | None = None
        if reuse and not self.live:
            self.recorded = in_chunks(partial(respond, model), images, model.chunk)
        else:
            self.respond = partial(respond, copy.deepcopy(model).requires_grad_(False).train(train_mode))

    def __call__(self, batch: Batch) -> Tensor:
        if self.recorded is not None:
            return self.recorded.index_select(0, batch.index)
        self.model.images_forwarded += len(batch)  # its pass is a cost of the run
        if not self.live:
            return as_recorded(self.respond, self.images.batch(batch.index), self.model.chunk)
        # in training mode it draws its own dropout masks, but leaves those of the network that trains as they come
        devices = [batch.x.device] if batch.x.is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices, enabled=self.train_mode):
            return self.respond(batch.x)

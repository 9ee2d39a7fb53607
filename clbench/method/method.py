"""The contract of a method that trains by the shared loop: hooks, whose defaults are fine-tuning."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from clbench.data.augmentation import mixing_of
from clbench.errors import ClbenchError, UsageError
from clbench.method.learner import Costs, Learner, Run
from clbench.method.phase import Phase
from clbench.method.step import Step
from clbench.models.head import ExpandingHeadModel
from clbench.sequences.tasks import Task

Gradients = dict[str, Tensor]  # by parameter name; a parameter that the loss does not reach is not there
GradientOf = Callable[[Tensor], Gradients]


@dataclass
class Method(Learner):
    """A method that trains by the shared loop. The defaults are fine-tuning.

    Hooks choose, the loop acts: none steps an optimiser or calls `backward`. For each task they are called in the order
    in which they stand here; `loss`, `gradients` and `after_step` in every step, `finish_phase` after each phase. Draws
    come from `self.run.stream(...)`. The hooks find the network in `self.network`; only `after_step`, `finish_phase`
    and `finish_task` may change its weights.
    """

    # whether its first task is trained exactly as fine-tuning trains it, so that a sweep trains it once for all such
    # methods. A class says so for itself, never for those derived from it. `check_method` makes sure.
    first_task_is_finetuning: ClassVar[bool] = False
    # whether its loss takes labels only by `step.cross_entropy()`, so that images and labels may be mixed in pairs. A
    # class with a loss of its own says so itself, else it is taken not to
    mixed_labels: ClassVar[bool] = True
    # whether a step of it may be captured in a CUDA graph: `loss` is tensor work on the network, the batch and tensors
    # that stay where they are, and nothing is decided, counted or kept in Python between two steps. A class says so for
    # itself, never for those derived from it; it may be a property. `check_method` makes sure.
    captured: ClassVar[bool] = False
    # whether runs of it may go side by side: it leaves `gradients` as it is, its loss asks for outputs by `step` or the
    # head, draws nothing from the global generators, and no hook changes what the backbone's layers compute. A class
    # says so for itself, never for those derived from it. `check_method` makes sure
    beside: ClassVar[bool] = False
    network: ExpandingHeadModel = field(init=False, repr=False, compare=False)

    def begin(self, run: Run) -> None:
        """Prepare for a sequence; forget any earlier one."""
        super().begin(run)
        self.network = run.new_network()

    def start_from(self, task: Task) -> Literal["previous", "initial", "fresh"]:
        """Choose the weights that a task starts from: those so far, the seed's initial ones, or new ones."""
        return "previous"

    def start_task(self, task: Task) -> None:
        """Look at the network and the new task's data before the head grows and training starts."""

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        """Choose how the task is learnt; no phase: not now.

        `earlier` are the tasks before it, with their training data, if the method declares `memory`, else none.
        """
        return [Phase(tasks=[task])]

    def parameters(self) -> Mapping[str, nn.Parameter]:
        """Return parameters of the method's own, which the optimiser trains as it does the network's."""
        return {}

    def loss(self, step: Step) -> Tensor:
        """Return the scalar to minimise."""
        return step.cross_entropy()

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        """Return the gradients that the optimiser takes; `gradient_of` computes those of a scalar."""
        loss = self.loss(step)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise ClbenchError(
                f"{hook_name(type(self).loss)} returns {_kind(loss)}: a loss is a scalar tensor with a gradient"
            )
        return gradient_of(loss)

    def after_step(self, step: Step) -> None:
        """Read the weights after the optimiser's step, set back those that must not move, or fill a memory."""

    def finish_phase(self, phase: Phase) -> None:
        """Set weights after a phase, for instance to prune them before the next one; the network is in eval mode."""

    def finish_task(self, task: Task) -> None:
        """Keep what later tasks need, while this task's data are still there; the network is in eval mode."""

    def learn(self, task: Task) -> Costs:
        """Learn a task by the shared loop, which calls the hooks above."""
        return self.run.train(task)

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        """Score images; see Learner."""
        return self.network(x)

    def weights(self) -> Mapping[str, Tensor]:
        """Return the network's parameters and buffers, and the method's own parameters."""
        return {**self.network.state_dict(), **{f"method.{n}": p.detach() for n, p in self.parameters().items()}}


def hook_name(hook: Callable[..., Any]) -> str:
    """Return a hook's class and name, and where it stands: `Pull.loss (pull.py, line 12)`."""
    code = inspect.unwrap(hook).__code__
    return f"{hook.__qualname__} ({Path(code.co_filename).name}, line {code.co_firstlineno})"


def _kind(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"{type(value).__name__}, no tensor" if value is not None else "nothing"
    return f"{list(value.shape)} numbers" if value.numel() != 1 else "a number without a gradient"


def check_mixing(cls: type[Learner], augment: bool | str) -> None:
    """Raise UsageError if a sequence's augmentation mixes labels, and a method does not take mixed ones."""
    how = mixing_of(augment)
    said = next((base for base in cls.__mro__ if {"mixed_labels", "loss", "learn"} & vars(base).keys()), cls)
    if how is not None and not vars(said).get("mixed_labels", False):
        what = f"{cls.name} takes no mixed labels, which augment={augment} makes"
        raise UsageError(f"{what}: leave {how} out; docs/data.md, 'Augmentation', says which methods take them")


def can_be_captured(method: Method) -> bool:
    """Whether a method's own class says that its steps may be captured."""
    return "captured" in vars(type(method)) and method.captured


def can_go_beside(method: Learner) -> bool:
    """Whether a method's own class says that its runs may go side by side."""
    return bool(vars(type(method)).get("beside", False))


def shares_first_task(cls: type[Learner]) -> bool:
    """Whether a class says of itself that it trains its first task as fine-tuning does."""
    return bool(vars(cls).get("first_task_is_finetuning", False))

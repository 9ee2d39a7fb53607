"""What a run needs of whatever learns: to learn a task, and to score images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from clbench.errors import ClbenchError
from clbench.method.settings import Training
from clbench.models.head import ExpandingHeadModel
from clbench.seeding import stream
from clbench.sequences.tasks import Task

Scenario = Literal["task", "class", "domain"]
SCENARIOS: tuple[Scenario, ...] = ("task", "class", "domain")


@dataclass
class Costs:
    """What learning a task cost, and how it went."""

    updates: int = 0  # optimiser steps
    images: int = 0  # training images seen, repeats counted
    forward_passes: int = 0  # images through the network
    backward_passes: int = 0  # images in the gradients that were computed
    seconds: float = 0.0
    stored_bytes: int = 0  # kept for later tasks beside the network
    stored_images: int = 0  # of earlier tasks, among them
    history: dict[str, list[float]] = field(default_factory=lambda: {"loss": [], "accuracy": []})  # per epoch
    trained: bool = True  # false if the method leaves this task's data for later


@dataclass(frozen=True)
class Run:
    """What a learner may know of its run, and what the run does for it."""

    scenario: Scenario
    tasks: int  # length of the sequence
    seed: int
    device: torch.device
    training: Training
    new_network: Callable[[], ExpandingHeadModel]  # with the seed's initial weights
    train: Callable[[Task], Costs]  # by the shared loop, for methods that are made of its hooks

    def __deepcopy__(self, memo: Any) -> Run:
        return self

    def first_column(self, network: ExpandingHeadModel, task: int) -> int:
        """Return the first of the head's columns of a task's classes; in `domain` all tasks have the same ones."""
        return 0 if self.scenario == "domain" else network.columns(task).start

    def stream(self, *purpose: str | int) -> torch.Generator:
        """Return a CPU generator for a method's own draws, from (seed, 'method', purpose)."""
        return stream(self.seed, "method", *purpose)


@dataclass
class Learner:
    """Base of all methods. One with a training loop of its own derives from this, any other from `Method`.

    It is a dataclass whose fields are hyper-parameters. `learn` is called once per task, in order, `scores` at any
    time.
    """

    name: ClassVar[str]
    scenarios: ClassVar[frozenset[str]] = frozenset(SCENARIOS)  # those that it is defined for
    core: ClassVar[bool] = False  # whether it is one of `--methods core`, what every comparison needs
    # a name for all methods of its kind: closed-form, distillation, masks, penalties or rehearsal
    family: ClassVar[str] = ""
    memory: ClassVar[bool] = False  # whether it trains on data of earlier tasks again
    engine: ClassVar[str] = "clbench"  # whose training loop it has: another library's name and version
    run: Run = field(init=False, repr=False, compare=False)  # set by `begin`

    def check(self, scenario: Scenario, training: Training) -> None:
        """Raise UsageError if these settings make no sense together; called before anything is run."""

    def begin(self, run: Run) -> None:
        """Prepare for a sequence; forget any earlier one."""
        self.run = run

    def learn(self, task: Task) -> Costs:
        """Learn a task, whose test images are not there, and return what it cost."""
        raise NotImplementedError(f"{type(self).__name__} does not define learn")

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        """Score images [n, *input_shape]: [n, classes], the highest wins; the network is in eval mode.

        `task` is the images' task, from 0, or None if nobody tells. None is returned where it can't be answered.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define scores")

    def weights(self) -> Mapping[str, Tensor]:
        """Return all that was trained, by name."""
        return {}

    def stored_images(self) -> int:
        """Return how many images of the tasks so far are kept beside those that `phases` returned."""
        return 0

    def differs(self) -> list[str]:
        """Return sentences on what another library's loop does otherwise than clbench's; the record has them."""
        return []

    def state(self) -> dict[str, Any] | None:
        """Return what is kept between tasks beside the network, as tensors and plain values in lists and dicts.

        None is returned where it cannot be kept: a run that was stopped begins again then.
        """
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned after some task, in another process; the network is as it was then."""
        if state:
            raise ClbenchError(
                f"{type(self).__name__} has a state but no load_state: it cannot go on from a checkpoint"
            )

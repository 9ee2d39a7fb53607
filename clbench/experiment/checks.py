"""Whether scenario, method, sequence, model, budget and data fit together; nothing is trained to find out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from clbench.errors import ClbenchError, UsageError
from clbench.experiment.choices import Choice
from clbench.method import Learner, Scenario, Training
from clbench.models import ExpandingHeadModel
from clbench.sequences.tasks import Task
from clbench.training.batches import Batches, n_held_out


@contextlib.contextmanager
def naming(choice: Choice) -> Iterator[None]:
    """Turn what code from outside raises into a UsageError that names it."""
    try:
        yield
    except ClbenchError:
        raise
    except Exception as error:
        raise UsageError(f"the {choice.kind} {choice.label} raises {type(error).__name__}: {error}") from error


def _check_scenario(choice: Choice, scenario: Scenario) -> None:
    allowed = choice.instance.scenarios
    if scenario not in allowed:
        raise UsageError(
            f"the {choice.kind} {choice.label} is not defined for the scenario {scenario}: "
            f"choose from {', '.join(sorted(allowed))}"
        )


def check_sequence(choice: Choice, scenario: Scenario, class_order: str | tuple[int, ...], training: Training) -> None:
    """Raise UsageError if a task sequence has no such scenario or class order, or its budget cannot be spent so."""
    _check_scenario(choice, scenario)
    with naming(choice):
        choice.instance.check(class_order, scenario)
    if training.warmup_epochs and scenario == "domain":
        raise UsageError("training.warmup_epochs trains only the new block: in the domain scenario no block is new")


def check_method(choice: Choice, scenario: Scenario, training: Training) -> None:
    """Raise UsageError if a method is not defined for a scenario, or its settings make no sense there."""
    _check_scenario(choice, scenario)
    with naming(choice):
        choice.instance.check(scenario, training)


def check_checkpoint(choice: Choice) -> None:
    """Raise UsageError if a method has a state but cannot take it over again."""
    cls = type(choice.instance)
    if cls.load_state is Learner.load_state and cls.state is not Learner.state:
        raise UsageError(f"{choice.label} has a state but no load_state: it cannot go on from a checkpoint")


def check_data(sequence: Choice, model: Choice, scenario: Scenario, training: Training, tasks: Sequence[Task]) -> None:
    """Raise UsageError if a sequence's tasks do not fit the scenario, the model or the budget."""
    if scenario == "domain" and len({len(task.classes) for task in tasks}) > 1:
        raise UsageError(f"{sequence.label} has tasks of different numbers of classes: domain needs equal ones")
    if len({tuple(task.train.shape) for task in tasks} | {tuple(task.test.shape) for task in tasks}) > 1:
        raise UsageError(f"{sequence.label} has images of different shapes")
    try:
        ExpandingHeadModel(model.instance, tasks[0].train.shape, 0)
    except Exception as error:
        reason = str(error) if isinstance(error, ClbenchError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"the model {model.label} does not fit {sequence.label}: {reason}") from error
    for task in tasks:
        Batches([len(task.train) - n_held_out(len(task.train), training.held_out)], training)

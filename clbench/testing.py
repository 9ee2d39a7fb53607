"""The Method contract as an executable check, for built-in methods and for those from outside."""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clbench.errors import DivergedError
from clbench.experiment import registry
from clbench.method.base import SCENARIOS, Method, Run, Scenario, shares_first_task
from clbench.method.schedule import Training
from clbench.models.networks import ExpandingHeadModel
from clbench.sequences.tasks import Split, Task
from clbench.training.loop import Outcome, run_sequence, weights_hash
from clbench.training.snapshots import Checkpoint

SMALL: dict[str, dict[str, int]] = {"cnn": {"channels": 4, "width": 32}, "resnet18": {"channels": 4}}
TRAINING = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9, weight_decay=1e-3)


def tiny_tasks(tasks: int = 2, classes: int = 2, images: int = 24, shape: Sequence[int] = (1, 8, 8)) -> list[Task]:
    """Make small tasks of random float images, each class around a mean of its own."""
    generator = torch.Generator().manual_seed(0)

    def split(means: torch.Tensor, n: int) -> Split:
        y = torch.arange(n) % classes
        return Split(means[y] + 0.5 * torch.randn(n, *shape, generator=generator), torch.arange(n), y)

    made = []
    for index in range(tasks):
        means = torch.randn(classes, *shape, generator=generator)
        ids = tuple(range(index * classes, (index + 1) * classes))
        made.append(Task(index, ids, split(means, images), split(means, images // 2)))
    return made


def check_method(
    method: type[Method] | Method,
    *,
    models: Sequence[str] = ("mlp", "cnn", "resnet18"),
    scenarios: Sequence[Scenario] | None = None,
    training: Training = TRAINING,
    tasks: int = 2,
) -> None:
    """Run a method on tiny tasks with every backbone and scenario; raise AssertionError where it breaks the contract.

    It must declare its scenarios and be configurable by name; give the same run twice, also from a used instance;
    leave the network alone outside of the loop's steps; not mind being evaluated between them; train its first task as
    fine-tuning does if it says so; go on from a checkpoint as if nothing had happened; and, unless it declares
    `memory`, not change when the tensors of earlier tasks are filled with NaN (copies that it keeps are not found).
    """
    cls = method if inspect.isclass(method) else type(method)
    assert isinstance(cls, type), f"{cls} is no class"
    assert issubclass(cls, Method), f"{cls} does not derive from clbench.method.base.Method"
    settings = {} if inspect.isclass(method) else {name: getattr(method, name) for name in registry.defaults(cls)}
    assert cls.scenarios, f"{cls.__name__}.scenarios is empty"
    assert cls.scenarios <= set(SCENARIOS), f"{cls.__name__}.scenarios has unknown names: {set(cls.scenarios)}"
    for scenario in scenarios or [s for s in SCENARIOS if s in cls.scenarios]:
        for model in models:
            try:
                _check(cls, settings, model, scenario, training, tasks)
            except AssertionError as error:
                raise AssertionError(f"{cls.__name__}, {model}, scenario {scenario}: {error}") from None
            except Exception as error:
                reason = f"it raises {type(error).__name__}: {error}"
                raise AssertionError(f"{cls.__name__}, {model}, scenario {scenario}: {reason}") from error


def _check(
    cls: type[Method], settings: dict[str, Any], model: str, scenario: Scenario, training: Training, tasks: int
) -> None:
    backbone = registry.configure(model, registry.find("model", model), SMALL.get(model, {}))

    def new() -> Method:
        instance = registry.configure(cls.__name__, cls, settings)
        instance.check(scenario, training)
        return instance

    def go(instance: Method, poison: bool = False, eval_every: int | None = None) -> Outcome:
        data = tiny_tasks(tasks)
        torch.rand(1)  # whatever was drawn before must not matter

        def spoil(_: ExpandingHeadModel, task: Task) -> None:
            for earlier in data[: task.index + 1] if poison else []:
                earlier.train.images.fill_(torch.nan)

        return run_sequence(data, instance, backbone, training, scenario, 1, after_task=spoil, eval_every=eval_every)

    watched = _watch(cls)(**{name: getattr(new(), name) for name in registry.defaults(cls)})
    first = go(watched)
    _same(first, go(watched), "a second run of the same instance differs: reset everything in `begin`")
    _same(first, go(new()), "two runs with the same seed differ: draw from self.run.stream(...)")
    _same(first, go(new(), eval_every=2), "a run with curves differs: `predict` must leave the method as it found it")
    if not cls.memory:
        message = "it looks at the data of earlier tasks without declaring `memory = True`"
        try:
            _same(first, go(new(), poison=True), message)
        except DivergedError:
            raise AssertionError(message) from None
    if shares_first_task(new()):
        message = "its first task is not that of fine-tuning: it must not declare `plain_first_task = True`"
        for terms in (training, replace(training, epochs=3, iterations=None, held_out=0.25, patience=1)):
            own, plain = (run_sequence(tiny_tasks(1), m, backbone, terms, scenario, seed=1) for m in (new(), Method()))
            assert own.updates == [0] or (own.weights_hash, own.history) == (plain.weights_hash, plain.history), message
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "run.pt")

        def stop(_: ExpandingHeadModel, task: Task) -> None:
            if task.index == tasks - 1:
                raise _Stopped

        with contextlib.suppress(_Stopped):
            run_sequence(
                tiny_tasks(tasks), new(), backbone, training, scenario, 1, after_task=stop, checkpoint=checkpoint
            )
        again = run_sequence(tiny_tasks(tasks), new(), backbone, training, scenario, 1, checkpoint=checkpoint)
        _same(first, again, "a run that goes on from its checkpoint differs: `state` must return all that it keeps")
    for matrix in (first.task_aware, first.task_agnostic):
        cells = [cell for row in matrix for cell in row if cell is not None]
        assert all(0 <= cell <= 1 for cell in cells), "an accuracy lies outside [0, 1]"
    last = first.task_aware[-1] + first.task_agnostic[-1]
    assert any(cell is not None for cell in last), "nothing was measured after the last task"


class _Stopped(Exception):
    pass


def _same(one: Outcome, other: Outcome, message: str) -> None:
    for name in ("weights_hash", "task_aware", "task_agnostic", "updates", "images"):
        assert getattr(one, name) == getattr(other, name), message


def _watch(cls: type[Method]) -> type[Method]:
    """Derive a class whose hooks assert that they leave the network as they found it."""

    class Watched(cls):  # type: ignore[misc, valid-type]
        def begin(self, run: Run) -> None:
            super().begin(run)
            assert self.run is run, "`begin` must call super().begin(run)"

        def training_tasks(self, seen: Sequence[Task]) -> Sequence[Task]:
            chosen = super().training_tasks(seen)
            places = {task.index for task in seen}
            assert all(task.index in places for task in chosen), "training_tasks returns a task that has not been seen"
            assert cls.memory or all(task is seen[-1] for task in chosen), (
                "training_tasks returns earlier tasks without declaring `memory = True`"
            )
            return chosen

        def trainable(self, model: ExpandingHeadModel, task: Task, epoch: int) -> Any:
            chosen = list(super().trainable(model, task, epoch))
            own = {id(parameter) for parameter in model.parameters()}
            assert chosen, "trainable returns no parameter"
            assert all(id(parameter) in own for parameter in chosen), "trainable returns parameters of another network"
            return chosen

        def state(self) -> dict[str, Any]:
            state = super().state()
            assert all(map(_is_plain, _leaves(state))), "state holds something else than tensors and plain values"
            return state

    for hook in ("start_task", "after_backward", "after_step", "finish_task", "predict"):
        setattr(Watched, hook, _unchanging(hook, getattr(cls, hook)))
    return Watched


def _unchanging(name: str, hook: Any) -> Any:
    def watched(self: Method, model: ExpandingHeadModel, *rest: Any) -> Any:
        before, modes = weights_hash(model), [module.training for module in model.modules()]
        result = hook(self, model, *rest)
        assert weights_hash(model) == before, f"{name} changes the network's weights or buffers"
        assert [module.training for module in model.modules()] == modes, f"{name} changes a module's train/eval mode"
        return result

    return watched


def _leaves(state: Any) -> Iterator[Any]:
    if isinstance(state, torch.nn.Module):
        yield from state.state_dict().values()
    elif isinstance(state, dict):
        for value in state.values():
            yield from _leaves(value)
    elif isinstance(state, (list, tuple)):
        for value in state:
            yield from _leaves(value)
    else:
        yield state


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (torch.Tensor, bool, int, float, str))


__all__ = ["TRAINING", "check_method", "tiny_tasks"]

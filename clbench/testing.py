"""The contract of a method as an executable check, for built-in methods and for those from outside."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from clbench.errors import ClbenchError, DivergedError, UsageError
from clbench.execution.run import using_threads
from clbench.experiment import own_code, points, registry
from clbench.method import (
    SCENARIOS,
    GradientOf,
    Gradients,
    Learner,
    Memory,
    Method,
    Run,
    Scenario,
    Step,
    Training,
    shares_first_task,
)
from clbench.models.backbones import Backbone
from clbench.results.references import BASELINE
from clbench.sequences import checking
from clbench.sequences.tasks import Split, Task, TaskSequence
from clbench.training.run import Outcome, run_sequence, weights_hash
from clbench.training.snapshots import SnapshotFile

T = TypeVar("T")
SMALL: dict[str, dict[str, int]] = {"cnn": {"channels": 4, "width": 32}, "resnet18": {"channels": 8}}
TRAINING = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9, weight_decay=1e-3)
SLOW = ("resnet18",)  # is checked in one scenario, unless others are named, and with fewer steps
SHORT = replace(TRAINING, epochs=1, batch_size=12)
BACKWARD = torch.autograd.backward
SEED = (
    "two runs with the same seed differ: does it draw from a global generator, such as np.random or random, or keep "
    "something in its class or file? Draw from self.run.stream(...), and reset everything in `begin`"
)


def tiny_tasks(
    tasks: int = 2,
    classes: int = 2,
    images: int = 24,
    shape: Sequence[int] = (1, 8, 8),
    seed: int = 0,
    as_bytes: bool = False,
) -> list[Task]:
    """Make small tasks of random images, each class around a mean of its own: floats, or bytes to be scaled."""
    generator = torch.Generator().manual_seed(seed)

    def split(means: Tensor, n: int) -> Split:
        y = torch.arange(n) % classes
        x = means[y] + 0.5 * torch.randn(n, *shape, generator=generator)
        if not as_bytes:
            return Split(x, torch.arange(n), y)
        stored = ((x / 8 + 0.5) * 16).round().clamp(0, 16).to(torch.uint8)
        return Split(stored, torch.arange(n), y, mean=(0.5,), std=(0.125,), divisor=16.0)

    made = []
    for index in range(tasks):
        means = torch.randn(classes, *shape, generator=generator)
        ids = tuple(range(index * classes, (index + 1) * classes))
        made.append(Task(index, ids, split(means, images), split(means, images // 2)))
    return made


def check_method(
    method: type[Learner] | Learner,
    *,
    models: Sequence[str] = ("mlp", "cnn", "resnet18"),
    scenarios: Sequence[Scenario] | None = None,
    training: Training | None = None,
    tasks: int = 2,
    quiet: bool = False,
) -> None:
    """Run a method on tiny tasks with every backbone and scenario; raise AssertionError where it breaks the contract.

    A method must declare its scenarios and be configurable by name; have no mistyped hook; leave the training to the
    loop; give the same run twice, also from a used instance; leave the network alone before a task and when it is
    asked; answer about an image without regard to the questions before, and to the images beside it; train its first
    task as fine-tuning does if it says so; take steps that can be captured if it says so; go on from a checkpoint as if
    nothing had happened; and, unless it declares `memory`, not change when the images of earlier tasks are filled with
    NaN (copies that it keeps are not found).

    The slow `resnet18` meets the first of its scenarios alone, unless `scenarios` names them. Lines on standard error
    say how far it is, and in the end whether every run equalled fine-tuning's; none are written if `quiet`.
    """
    cls = method if inspect.isclass(method) else type(method)
    assert isinstance(cls, type), f"{cls} is no class"
    assert issubclass(cls, Learner), f"{cls} does not derive from clbench.method.Method"
    try:
        registry.check_class("method", cls)
    except UsageError as error:
        raise AssertionError(str(error)) from None
    settings = {} if inspect.isclass(method) else {name: getattr(method, name) for name in registry.defaults(cls)}
    changes_nothing = cls is not registry.builtin("method").get(BASELINE)
    for model in models:
        backbone = registry.configure(model, registry.find("model", model), SMALL.get(model, {}))
        terms = training or (SHORT if model in SLOW else TRAINING)
        there = [scenario for scenario in SCENARIOS if scenario in cls.scenarios]
        for scenario in scenarios or (there[:1] if model in SLOW else there):
            began, what = time.perf_counter(), f"{cls.__name__}, {model}, scenario {scenario}"
            check = _Check(cls, settings, backbone, scenario, terms, tasks)
            with using_threads(1), _named(what, cls):  # more wait for each other over so little
                first = check.run()
                changes_nothing = changes_nothing and check.equals_finetuning(first)
            if not quiet:
                print(f"{what}: holds ({time.perf_counter() - began:.1f} s)", file=sys.stderr, flush=True)
    if changes_nothing and not quiet:
        what = "equals fine-tuning to the last bit in every run: no hook of it has changed anything"
        print(f"{cls.__name__} {what}", file=sys.stderr, flush=True)


def check_sequence(
    sequence: type[TaskSequence] | TaskSequence, *, data_root: Path | str | None = None, seed: int = 0
) -> None:
    """Load a task sequence as runs do and print its tasks; raise AssertionError that says what is wrong with them.

    Its default model and training settings must be there. Its tasks must be such as can be trained on, for this seed
    and the next. The same seed must give the same class order, the same fingerprint and the same images and labels
    again, whatever was drawn from the global generators.
    """
    try:
        if isinstance(sequence, type) and issubclass(sequence, TaskSequence):
            sequence = sequence()
        if isinstance(sequence, TaskSequence):
            points.check_defaults(type(sequence))
    except UsageError as error:
        raise AssertionError(str(error)) from error
    checking.check_sequence(sequence, data_root=data_root, seed=seed)


@contextlib.contextmanager
def _named(what: str, cls: type[Learner]) -> Iterator[None]:
    """Let what goes wrong be an AssertionError that names the run, and the line where it was raised."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{what}: {error}") from None
    except Exception as error:
        where = own_code.raised_at(error, {cls.__module__.split(".")[0]})
        reason = ("" if isinstance(error, ClbenchError) else "it raises ") + own_code.what(error)
        raise AssertionError(f"{what}: {reason}" + (f", in {where}" if where else "")) from error


@dataclass
class _Check:
    """The checks of a method with one backbone in one scenario."""

    cls: type[Learner]
    settings: dict[str, Any]
    backbone: Backbone
    scenario: Scenario
    training: Training
    tasks: int

    def run(self) -> Outcome:
        watched = self.new(_watched(self.cls)) if issubclass(self.cls, Method) else self.new()
        first = self.go(watched)
        _same(first, self.go(self.new()), SEED)
        _same(first, self.go(watched), "a second run of the same instance differs: reset everything in `begin`")
        for matrix in (first.task_aware, first.task_agnostic):
            cells = [cell for row in matrix for cell in row if cell is not None]
            assert all(0 <= cell <= 1 for cell in cells), "an accuracy lies outside [0, 1]"
        last = first.task_aware[-1] + first.task_agnostic[-1]
        assert any(cell is not None for cell in last), "nothing was measured after the last task"
        self.check_questions()
        if not self.cls.memory:
            memories = [name for name, value in vars(watched).items() if isinstance(value, Memory)]
            assert not memories, f"it keeps a Memory, `{memories[0]}`, without declaring `memory = True`"
            self.check_earlier_data(first)
        self.check_resume(first)
        if isinstance(watched, Method):
            message = "a run with curves differs: `scores` must leave the method as it found it"
            _same(first, self.go(self.new(), eval_every=2), message)
            message = "steps in buffers of their own differ: it must not declare `captured = True`"
            _same(first, self.go(self.new(), capture=True), message)
        if shares_first_task(self.cls):
            self.check_first_task()
        return first

    def equals_finetuning(self, first: Outcome) -> bool:
        """Whether a run is fine-tuning's to the last bit."""
        return all(getattr(first, name) == getattr(self.go(Method()), name) for name in MEASURED)

    def new(self, cls: type[Learner] | None = None) -> Any:
        instance = registry.configure(self.cls.__name__, cls or self.cls, self.settings)
        instance.check(self.scenario, self.training)
        return instance

    def go(self, learner: Learner, data: Sequence[Task] | None = None, **options: Any) -> Outcome:
        torch.rand(1)  # whatever was drawn before must not matter
        terms = options.pop("training", self.training)
        data = data or tiny_tasks(self.tasks, as_bytes=self.cls.memory)  # a memory has to know how they are scaled
        return run_sequence(data, learner, self.backbone, terms, self.scenario, seed=1, **options)

    def check_questions(self) -> None:
        """Nothing that was asked before may matter: neither the order, nor being told the task at another time."""
        found: tuple[list[Tensor | None], list[Tensor | None]] = ([], [])
        classes = _never_told(self.cls, found[0]), _told(self.cls, found[1])
        data, mixed = tiny_tasks(self.tasks, seed=1), []
        x = torch.cat([task.test.batch(torch.arange(len(task.test))) for task in data])
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))

        def ask(learner: Learner, task: Task) -> None:
            if task.index == self.tasks - 1:
                with torch.no_grad():
                    mixed.append(self.cls.scores(copy.deepcopy(learner), x[order], None))

        never = self.go(self.new(classes[0]), tiny_tasks(self.tasks, seed=1))
        told = self.go(self.new(classes[1]), data, after_task=ask)
        assert never.weights_hash == told.weights_hash, "being asked for scores changes what is learnt"
        for one, other in zip(*found, strict=True):
            assert one is other is None or (one is not None and other is not None and torch.equal(one, other)), (
                "its answers depend on what it was asked before: `scores` must not remember test images or their tasks"
            )
        last = [scores for scores in found[1][-self.tasks :] if scores is not None]
        if mixed and mixed[0] is not None and len(last) == self.tasks:
            assert torch.allclose(mixed[0], torch.cat(last)[order], rtol=1e-3, atol=1e-4), (
                "its answer about an image is another one among images of all tasks: `scores` must look at each alone"
            )

    def check_earlier_data(self, first: Outcome) -> None:
        """Without `memory`, images of earlier tasks must not be looked at."""
        message = "it looks at the data of earlier tasks without declaring `memory = True`"
        data = tiny_tasks(self.tasks)

        def spoil(_: Learner, task: Task) -> None:
            for earlier in data[: task.index + 1]:
                earlier.train.images.fill_(torch.nan)

        try:
            _same(first, self.go(self.new(), data, after_task=spoil), message)
        except DivergedError:
            raise AssertionError(message) from None

    def check_resume(self, first: Outcome) -> None:
        """A run that goes on from a checkpoint ends as one that was never stopped."""

        def stop(_: Learner, task: Task) -> None:
            if task.index == self.tasks - 1:
                raise _Stopped

        with tempfile.TemporaryDirectory() as folder:
            checkpoint = SnapshotFile(Path(folder) / "run.pt")
            with contextlib.suppress(_Stopped):
                self.go(self.new(), after_task=stop, checkpoint=checkpoint)
            again = self.go(self.new(), checkpoint=checkpoint)
        _same(first, again, "a run that goes on from its checkpoint differs: `state` must return all that it keeps")

    def check_first_task(self) -> None:
        """A first task that is said to be fine-tuning's is."""
        message = "its first task is not that of fine-tuning: it must not declare `first_task_is_finetuning = True`"
        for terms in (self.training, replace(self.training, epochs=3, iterations=None, validation=0.25, patience=1)):
            own, plain = (self.go(m, tiny_tasks(1), training=terms) for m in (self.new(), Method()))
            assert own.updates == [0] or (own.weights_hash, own.history) == (plain.weights_hash, plain.history), message


class _Stopped(Exception):
    pass


MEASURED = ("weights_hash", "task_aware", "task_agnostic", "updates", "images")


def _same(one: Outcome, other: Outcome, message: str) -> None:
    for name in MEASURED:
        assert getattr(one, name) == getattr(other, name), message


def _never_told(cls: type[Learner], answers: list[Tensor | None]) -> type[Learner]:
    """Derive a class that is never told a task, and answers by a copy, which has been asked something else before."""

    class NeverTold(cls):  # type: ignore[misc, valid-type]
        def scores(self, x: Tensor, task: int | None) -> Tensor | None:
            if task is not None:
                return None
            cls.scores(copy.deepcopy(self), x.flip(0), None)
            answers.append(cls.scores(copy.deepcopy(self), x, None))
            return answers[-1]

    return _called_as(cls, NeverTold)


def _told(cls: type[Learner], answers: list[Tensor | None]) -> type[Learner]:
    """Derive a class that notes what it answers when it is not told the task."""

    class Told(cls):  # type: ignore[misc, valid-type]
        def scores(self, x: Tensor, task: int | None) -> Tensor | None:
            scores: Tensor | None = super().scores(x, task)
            if task is None:
                answers.append(scores)
            return scores

    return _called_as(cls, Told)


def _watched(cls: type[Method]) -> type[Method]:
    """Derive a class whose hooks assert that they leave the training to the loop, and the network as they found it."""

    class Watched(cls):  # type: ignore[misc, valid-type]
        def begin(self, run: Run) -> None:
            super().begin(run)
            assert getattr(self, "run", None) is run, "`begin` must call super().begin(run)"

        def state(self) -> dict[str, Any]:
            state = super().state()
            saved = io.BytesIO()
            try:
                torch.save(state, saved)
                torch.load(io.BytesIO(saved.getvalue()), weights_only=True)
            except Exception:
                raise AssertionError("state holds something else than tensors and plain values") from None
            return state

        def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
            def allowed(loss: Tensor) -> Gradients:
                with mock.patch.object(torch.autograd, "backward", BACKWARD):
                    return gradient_of(loss)

            if cls.gradients is Method.gradients:
                return super().gradients(step, gradient_of)
            with _no_training(cls, "gradients"):
                return super().gradients(step, allowed)

    for name in ("start_from", "start_task", "phases", "loss", "after_step", "finish_phase", "finish_task", "scores"):
        hook = _guarded(cls, name)
        setattr(Watched, name, _unchanging(name, hook) if name in ("start_task", "loss", "scores") else hook)
    return _called_as(cls, Watched)


def _called_as(cls: type[T], derived: type[T]) -> type[T]:
    """Give a derived class the name of the user's, which messages have then."""
    derived.__name__, derived.__qualname__, derived.__module__ = cls.__name__, cls.__qualname__, cls.__module__
    return derived


def _guarded(cls: type[Method], name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(cls, name))
    def guarded(self: Method, *arguments: Any) -> Any:
        with _no_training(cls, name):
            return getattr(cls, name)(self, *arguments)

    return guarded


@contextlib.contextmanager
def _no_training(cls: type[Method], hook: str) -> Iterator[None]:
    """Refuse what the loop alone does, while a hook is called."""

    def refuse(what: str) -> Callable[..., None]:
        def refusing(*_: Any, **__: Any) -> None:
            where = own_code.place_of(getattr(cls, hook))
            advice = "the loop does; torch.autograd.grad gives a gradient that leaves no trace"
            raise AssertionError(f"`{hook}` ({where}) {what}: {advice}")

        return refusing

    handle = register_optimizer_step_pre_hook(refuse("steps an optimiser"))
    try:
        with mock.patch.object(torch.autograd, "backward", refuse("calls .backward()")):
            yield
    finally:
        handle.remove()


def _unchanging(name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(hook)
    def watched(self: Method, *arguments: Any) -> Any:
        network = self.network
        # in a loss, batch norm counts the images
        kept = (lambda: dict(network.named_parameters())) if name == "loss" else network.state_dict
        before, modes = weights_hash(kept()), [module.training for module in network.modules()]
        result = hook(self, *arguments)
        assert weights_hash(kept()) == before, f"{name} changes the network's weights or buffers"
        assert [module.training for module in network.modules()] == modes, f"{name} changes a module's train/eval mode"
        return result

    return watched


__all__ = ["TRAINING", "check_method", "check_sequence", "tiny_tasks"]

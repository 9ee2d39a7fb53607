"""The contract of a method as an executable check, for built-in methods and for those from outside."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clbench.errors import ClbenchError, DivergedError, UsageError
from clbench.execution.run import using_threads
from clbench.experiment import own_code, points, registry
from clbench.method import (
    SCENARIOS,
    Learner,
    Memory,
    Method,
    Scenario,
    Training,
    shares_first_task,
)
from clbench.models.backbones import Backbone
from clbench.results.references import BASELINE
from clbench.sequences import checking
from clbench.sequences.tasks import Task, TaskSequence
from clbench.testing.derived import never_told, noting, watched
from clbench.testing.tiny import tiny_tasks
from clbench.training.beside import Place, SideBySide, fits
from clbench.training.loop import one_by_one
from clbench.training.run import Outcome, run_sequence
from clbench.training.snapshots import SnapshotFile

SMALL: dict[str, dict[str, int]] = {"cnn": {"channels": 4, "width": 32}, "resnet18": {"channels": 8}}
TRAINING = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9, weight_decay=1e-3)
SLOW = ("resnet18",)  # is checked in one scenario, unless others are named, and with fewer steps
SHORT = replace(TRAINING, epochs=1, batch_size=12)
SEED = (
    "two runs with the same seed differ: does it draw from a global generator, such as np.random or random, or keep "
    "something in its class or file? Draw from self.run.stream(...), and reset everything in `begin`"
)


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
        learner = self.new(watched(self.cls)) if issubclass(self.cls, Method) else self.new()
        first = self.go(learner)
        _same(first, self.go(self.new()), SEED)
        _same(first, self.go(learner), "a second run of the same instance differs: reset everything in `begin`")
        for matrix in (first.task_aware, first.task_agnostic):
            cells = [cell for row in matrix for cell in row if cell is not None]
            assert all(0 <= cell <= 1 for cell in cells), "an accuracy lies outside [0, 1]"
        last = first.task_aware[-1] + first.task_agnostic[-1]
        assert any(cell is not None for cell in last), "nothing was measured after the last task"
        self.check_questions()
        if not self.cls.memory:
            memories = [name for name, value in vars(learner).items() if isinstance(value, Memory)]
            assert not memories, f"it keeps a Memory, `{memories[0]}`, without declaring `memory = True`"
            self.check_earlier_data(first)
        self.check_resume(first)
        if isinstance(learner, Method):
            message = "a run with curves differs: `scores` must leave the method as it found it"
            _same(first, self.go(self.new(), eval_every=2), message)
            message = "steps in buffers of their own differ: it must not declare `captured = True`"
            _same(first, self.go(self.new(), capture=True), message)
            if fits(self.new(), self.backbone):
                self.check_beside()
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
        classes = never_told(self.cls, found[0]), noting(self.cls, found[1])
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

    def check_beside(self) -> None:
        """Two seeds side by side end as each does alone, but for rounding."""

        def run(seed: int, place: Place | None = None) -> Mapping[str, Tensor]:
            learner, data = self.new(), tiny_tasks(self.tasks, as_bytes=self.cls.memory)
            take_all = one_by_one if place is None else place.take
            run_sequence(data, learner, self.backbone, self.training, self.scenario, seed, take_all=take_all)
            return {name: value.clone() for name, value in learner.weights().items()}

        found = SideBySide("cpu").results([functools.partial(run, seed) for seed in (1, 2)])
        for seed, weights in zip((1, 2), found, strict=True):
            for name, value in run(seed).items():
                assert torch.allclose(weights[name], value, rtol=1e-3, atol=1e-4), (
                    "runs of two seeds side by side differ from each alone: it must not declare `beside = True`"
                )

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

"""A run: a learner meets one task after another, and is asked about all of them after each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from clbench.errors import DivergedError
from clbench.method import Costs, Learner, Method, Run, Scenario, Training, check_mixing
from clbench.models.backbones import Backbone
from clbench.seeding import seed_default
from clbench.sequences.tasks import Task
from clbench.training.batches import hold_out
from clbench.training.evaluation import CurveRecorder, Evaluator, Row, Stopwatch
from clbench.training.loop import TakeAll, one_by_one
from clbench.training.probe import probe as probe_features
from clbench.training.snapshots import SnapshotFile
from clbench.training.trainer import Setting, Trainer

Evaluate = Literal["all", "seen", "end"]
AfterTask = Callable[[Learner, Task], None]
HIGHEST_LOSS = 1e6  # of the last epoch of a task; guessing among k classes costs ln k


@dataclass
class Outcome:
    """What a run measured; see RunRecord for shapes and units."""

    task_aware: list[Row] = field(default_factory=list)
    task_agnostic: list[Row] = field(default_factory=list)
    validation: dict[str, list[Row]] = field(default_factory=dict)  # the same of validation images; empty without
    train_seconds: list[float] = field(default_factory=list)
    evaluate_seconds: list[float] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    forward_passes: list[int] = field(default_factory=list)
    backward_passes: list[int] = field(default_factory=list)
    test_images: list[int] = field(default_factory=list)
    confusion: dict[str, list[Any]] | None = None  # after the last task
    probe: list[float] | None = None
    history: list[dict[str, list[float]]] = field(default_factory=list)
    curves: list[dict[str, list[Any]]] = field(default_factory=list)  # empty without `eval_every`
    parameters: int = 0
    stored_bytes: int = 0
    stored_images: int = 0
    weights_hash: str = ""
    replayed_steps: int = 0  # how many came from captured graphs
    shared_first_task: bool = False  # whether another run trained it; its cost is in the lists above all the same

    def add(self, costs: Costs) -> None:
        """Add what a task has cost."""
        self.updates.append(costs.updates)
        self.images.append(costs.images)
        self.forward_passes.append(costs.forward_passes)
        self.backward_passes.append(costs.backward_passes)
        self.train_seconds.append(costs.seconds)
        self.history.append(costs.history)
        self.stored_bytes = max(self.stored_bytes, costs.stored_bytes)
        self.stored_images = max(self.stored_images, costs.stored_images)


def run_sequence(
    tasks: Sequence[Task],
    learner: Learner,
    backbone: Backbone,
    training: Training,
    scenario: Scenario,
    seed: int,
    device: torch.device | str = "cpu",
    *,
    before_task: Callable[[Task], None] | None = None,
    after_task: AfterTask | None = None,
    first_task: SnapshotFile | None = None,
    checkpoint: SnapshotFile | None = None,
    eval_every: int | None = None,
    evaluate: Evaluate = "all",
    tell: Callable[[Outcome], None] | None = None,
    probe: bool = False,
    capture: bool = False,
    take_all: TakeAll = one_by_one,
) -> Outcome:
    """Let a learner learn one task after another, and evaluate all tasks before the first and after each.

    With `evaluate` "seen" only the tasks seen so far are evaluated, with "end" all of them once, after the last one.

    `tasks` lie on `device`. `first_task` is where the first is taken from, if another run has trained it, or else left
    for others; `checkpoint` is where the run is kept after each task, and goes on from. With `eval_every`, the tasks
    seen so far are evaluated after every so many updates too: the network as it is at that moment, before
    `finish_task`; the last point of a task is its row of the accuracy matrix. `tell` is told what has been measured
    after each task. With `capture`, steps are taken from CUDA graphs where the method allows it. With `probe`, the
    features of the final network are probed, if the learner is a Method and so has one. None of them changes a number.
    `take_all` takes the steps of an epoch, one by one or together with those of other runs.
    Raises DivergedError when a loss, weight or score is not finite, or a loss ends above HIGHEST_LOSS. The global
    random state is left as found.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        train_tasks, held_out = hold_out([task.without_test() for task in tasks], training.validation, seed)
        evaluator = Evaluator(tasks, scenario, training, backbone.chunk)
        curves = None if eval_every is None else CurveRecorder(eval_every, evaluator, tasks, device)
        setting = Setting(train_tasks, held_out, backbone, training, scenario, seed, device)
        trainer = Trainer(setting, evaluator, curves, first_task, capture, take_all)
        run = _Run(learner, trainer, evaluator, tasks, evaluate, tell or (lambda outcome: None))
        try:
            outcome = run.go(before_task, after_task, checkpoint)
            if probe:
                run.probe()
            return outcome
        except DivergedError:  # it says where
            raise
        except BaseException as error:
            done = len(run.outcome.updates)
            error.add_note(f"at task {done + 1} of {len(tasks)}" if done < len(tasks) else "after the last task")
            raise
        finally:
            trainer.release()


class _Run:
    """One run over a sequence, and what has been measured so far."""

    def __init__(
        self,
        learner: Learner,
        trainer: Trainer,
        evaluator: Evaluator,
        tasks: Sequence[Task],
        evaluate: Evaluate,
        tell: Callable[[Outcome], None],
    ):
        self.evaluate, self.tell = evaluate, tell
        self.learner, self.trainer, self.evaluator, self.tasks = learner, trainer, evaluator, tasks
        self.curves, self.outcome = trainer.curves, Outcome()
        held_out = trainer.setting.held_out
        self.for_validation = [replace(task, test=split) for task, split in zip(tasks, held_out, strict=False)]
        if held_out:
            self.outcome.validation = {"task_aware": [], "task_agnostic": []}

    def go(
        self,
        before_task: Callable[[Task], None] | None,
        after_task: AfterTask | None,
        checkpoint: SnapshotFile | None,
    ) -> Outcome:
        """Learn and evaluate all tasks, or those that a checkpoint has not seen."""
        setting, outcome = self.trainer.setting, self.outcome
        self.begin()
        kept = None if checkpoint is None else checkpoint.load()
        if kept is not None:
            self._restore(kept)
        else:
            self._evaluate(0)
        for task in setting.tasks[len(outcome.updates) :]:
            if before_task is not None:
                before_task(task)
            if self.curves is not None and not isinstance(self.learner, Method):
                self.curves.start_task()  # a loop of its own has no points within tasks
            costs = self.learner.learn(task)
            _check_loss(costs, task.index)
            outcome.add(costs)
            watch = Stopwatch(setting.device)
            if costs.trained:
                self._evaluate(task.index + 1)
            else:
                outcome.evaluate_seconds.append(0.0)
                for matrix in (outcome.task_aware, outcome.task_agnostic, *outcome.validation.values()):
                    matrix.append([None] * len(self.tasks))
            if self.curves is not None:
                if costs.trained:
                    rows = outcome.task_aware[-1], outcome.task_agnostic[-1]
                    self.curves.add(task.index, costs.updates, rows)
                outcome.curves = self.curves.curves
            if after_task is not None:
                after_task(self.learner, task)
            outcome.evaluate_seconds[-1] = watch.seconds() + (self.curves.seconds if self.curves is not None else 0.0)
            if checkpoint is not None and (snapshot := self._snapshot()) is not None:
                checkpoint.keep(snapshot)
            self.tell(outcome)
        outcome.test_images = [len(task.test) for task in self.tasks]
        outcome.shared_first_task = self.trainer.shared_first_task
        outcome.replayed_steps = self.trainer.replayed_steps
        weights = self.learner.weights()
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise DivergedError("a weight is not finite at the end of the run: it diverged; try a smaller lr")
        outcome.parameters, outcome.weights_hash = self._count_parameters(weights), weights_hash(weights)
        return outcome

    def probe(self) -> None:
        """Probe the final network's features, for which the last evaluation takes longer."""
        setting = self.trainer.setting
        if isinstance(self.learner, Method):
            watch, tests = Stopwatch(setting.device), [task.test for task in self.tasks]
            self.outcome.probe = probe_features(self.learner.network, setting.tasks, tests, setting.scenario)
            self.outcome.evaluate_seconds[-1] += watch.seconds()

    def begin(self) -> None:
        """Let the learner begin."""
        setting = self.trainer.setting
        seed_default(setting.seed, "begin", device=setting.device)
        if isinstance(self.learner, Method):
            self.trainer.method = self.learner
        check_mixing(type(self.learner), setting.tasks[0].train.augment)
        self.learner.begin(
            Run(
                setting.scenario,
                len(self.tasks),
                setting.seed,
                setting.device,
                setting.training,
                self.trainer.new_network,
                self.trainer.learn,
            )
        )

    def _evaluate(self, seen: int) -> None:
        """Append a row to the accuracy matrices, of test and of validation images."""
        watch = Stopwatch(self.trainer.setting.device)
        count = {"all": len(self.tasks), "seen": seen, "end": seen if seen == len(self.tasks) else 0}[self.evaluate]
        of_both = [(self.tasks, (self.outcome.task_aware, self.outcome.task_agnostic))]
        if self.outcome.validation:
            matrices = self.outcome.validation
            of_both.append((self.for_validation, (matrices["task_aware"], matrices["task_agnostic"])))
        for tasks, pair in of_both:
            answers = self.evaluator.ask(self.learner, tasks[:count], seen)
            rows = self.evaluator.rows(tasks[:count], answers)
            if tasks is self.tasks and seen == len(tasks):
                self.outcome.confusion = self.evaluator.confusion(answers)
            for matrix, row in zip(pair, rows, strict=True):
                matrix.append([*row, *[None] * (len(self.tasks) - count)])
        self.outcome.evaluate_seconds.append(watch.seconds())

    def _count_parameters(self, weights: Mapping[str, Tensor]) -> int:
        if isinstance(self.learner, Method):
            network = self.learner.network
            parameters = (*network.parameters(), *self.learner.parameters().values())
            return network.frozen_parameters + sum(parameter.numel() for parameter in parameters)
        return sum(tensor.numel() for tensor in weights.values())

    def _snapshot(self) -> dict[str, Any] | None:
        """Return all that the tasks so far have left behind, as tensors and plain values; None if it can't be kept."""
        state = self.learner.state()
        if state is None:
            return None
        trainer = self.trainer.state() if isinstance(self.learner, Method) else None
        self.outcome.shared_first_task = self.trainer.shared_first_task
        return {"outcome": vars(self.outcome), "trainer": trainer, "learner": state}

    def _restore(self, snapshot: dict[str, Any]) -> None:
        """Go on from what `_snapshot` returned."""
        vars(self.outcome).update(snapshot["outcome"])
        self.trainer.shared_first_task = self.outcome.shared_first_task
        if isinstance(self.learner, Method):
            self.trainer.load_state(snapshot["trainer"], len(self.outcome.updates))
        self.learner.load_state(snapshot["learner"])


def restored(
    learner: Learner,
    tasks: Sequence[Task],
    backbone: Backbone,
    training: Training,
    scenario: Scenario,
    seed: int,
    weights: Mapping[str, Tensor],
    state: dict[str, Any],
    seen: int,
) -> Learner:
    """Return a learner as it was after `seen` tasks, on the CPU, from its `weights()` and `state()`, to ask for scores.

    Of `tasks` only classes and the shape of images are needed.
    """
    with torch.random.fork_rng(devices=[]):
        evaluator = Evaluator(tasks, scenario, training, backbone.chunk)
        trainer = Trainer(Setting(tasks, [], backbone, training, scenario, seed, torch.device("cpu")), evaluator)
        _Run(learner, trainer, evaluator, tasks, "all", lambda outcome: None).begin()
        if isinstance(learner, Method):
            learner.network = trainer.new_network(seen)
            of_network = {name: value for name, value in weights.items() if not name.startswith("method.")}
            learner.network.load_state_dict(of_network)
            with torch.no_grad():
                for name, parameter in learner.parameters().items():  # others come with its state
                    parameter.copy_(weights[f"method.{name}"])
        learner.load_state(state)
        trainer.release()
    return learner


def _check_loss(costs: Costs, task: int) -> None:
    """Raise DivergedError if the last epoch of a task has a loss that no training ends at."""
    loss = (costs.history.get("loss") or [0.0])[-1]
    if not abs(loss) <= HIGHEST_LOSS:
        what = f"the loss ends at {loss:.3g} at task {task + 1}, above {HIGHEST_LOSS:,.0f}"
        raise DivergedError(f"{what}: it diverged; try a smaller lr or a smaller weight of the method's own term")


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors by name: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

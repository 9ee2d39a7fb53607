"""Trains a method on one task after another: its network, the order of its hooks, and snapshots of its state."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from clbench.errors import ClbenchError, did_you_mean, shown
from clbench.method import Costs, Criterion, Method, Phase, Scenario, Training, hook_name
from clbench.models.backbones import Backbone
from clbench.models.head import ExpandingHeadModel, Passes
from clbench.seeding import seed_default
from clbench.sequences.tasks import Split, Task
from clbench.training.evaluation import CurveRecorder, Evaluator, Stopwatch
from clbench.training.loop import TakeAll, TaskTraining, one_by_one
from clbench.training.optimizer import Optimizer, State
from clbench.training.snapshots import SnapshotFile

STARTS = ("previous", "initial", "fresh")  # the weights that a task may start from


@dataclass(frozen=True)
class Setting:
    """What a run trains with."""

    tasks: Sequence[Task]
    held_out: Sequence[Split]  # each task's images for validation, where there are any
    backbone: Backbone
    training: Training
    scenario: Scenario
    seed: int
    device: torch.device


class Trainer:
    """Trains a method on one task after another."""

    def __init__(
        self,
        setting: Setting,
        evaluator: Evaluator,
        curves: CurveRecorder | None = None,
        first_task: SnapshotFile | None = None,
        capture: bool = False,
        take_all: TakeAll = one_by_one,
    ):
        self.take_all = take_all  # takes the steps of an epoch
        self.watch = Stopwatch(setting.device)  # of the task under way
        self.capture, self.replayed_steps = capture, 0  # whether steps are captured, and how many came from a graph
        self.setting, self.evaluator, self.curves = setting, evaluator, curves
        self.first_task = first_task  # where the first task is taken from, or left for other runs
        self.shared_first_task = False
        training = setting.training
        self.criterion = Criterion(setting.scenario, training.loss_over, training.label_smoothing)
        self.passes = Passes()
        self.purpose: tuple[str | int, ...] = ("weights",)  # of the stream that the network's weights come from
        self.kept_optimizer: State = {}
        self.reached: set[str] = set()  # names of the parameters that a loss has reached
        self.method: Method  # set by the run

    # The network

    def new_network(self, seen: int = 0) -> ExpandingHeadModel:
        """Draw a network with the blocks of `seen` tasks, or of all of them if the head doesn't grow."""
        setting, tasks = self.setting, self.setting.tasks
        network = ExpandingHeadModel(setting.backbone, tasks[0].train.shape, setting.seed, *self.purpose)
        network.to(setting.device)
        if setting.backbone.channels_last and setting.device.type == "cpu":
            network.to(memory_format=torch.channels_last)
        if setting.scenario == "domain":
            network.expand(len(tasks[0].classes))
        else:
            widths = [len(task.classes) for task in (tasks if setting.training.full_head else tasks[:seen])]
            if setting.training.full_head:
                network.expand_to(widths)
            else:
                for width in widths:
                    network.expand(width)
        network.seen = 1 if setting.scenario == "domain" else seen
        network.passes = self.passes
        return network.eval()

    def _make_ready(self, task: Task) -> None:
        """Give the method its weights to start from, let it look at them, and let the head grow."""
        setting, method = self.setting, self.method
        seed_default(setting.seed, "start", task.index, device=setting.device)
        start = method.start_from(task)
        if start not in STARTS:
            what = f"{type(method).__name__}.start_from returns {start!r}"
            raise ClbenchError(f"{what}: choose from {', '.join(STARTS)}{did_you_mean(str(start), STARTS)}")
        if start != "previous" and task.index > 0:
            self.purpose = ("weights",) if start == "initial" else ("scratch", task.index + 1)
            method.network = self.new_network(task.index)
            self.kept_optimizer, self.reached = {}, set()
        method.network.eval()
        method.start_task(task)
        if setting.scenario != "domain":
            if task.index == len(method.network.head):
                method.network.expand(len(task.classes))
            method.network.seen = task.index + 1

    def release(self) -> None:
        """Let go of the method, which holds this trainer: else all their tensors stay until garbage is collected."""
        vars(self).pop("method", None)

    # A task

    def learn(self, task: Task) -> Costs:
        """Train the method on a task and return what it cost."""
        method, self.watch = self.method, Stopwatch(self.setting.device)
        self.passes.reset()
        if self.curves is not None:
            self.curves.start_task()
        self._make_ready(task)
        phases = method.phases(task, self.setting.tasks[: task.index] if method.memory else [])
        if not isinstance(phases, Sequence) or not all(isinstance(phase, Phase) for phase in phases):
            what = f"{hook_name(type(method).phases)} returns {shown(phases)}"
            raise ClbenchError(f"{what}: a list of Phase is needed, an empty one where the task is not learnt now")
        costs = Costs(trained=bool(phases))
        if self.first_task is not None and task.index == 0 and phases:
            self._share_first_task(task, phases, costs)
        elif phases:
            self._train(task, phases, costs)
        method.network.eval()
        method.finish_task(task)
        costs.forward_passes, costs.backward_passes = self.passes.forward, self.passes.backward
        own = {id(one.train.images) for one in self.setting.tasks}  # a memory's copies are in its state
        old = {
            one.index: one.train
            for phase in phases
            for one in phase.tasks
            if one.index != task.index and id(one.train.images) in own
        }
        costs.stored_bytes = sum(split.nbytes for split in old.values()) + nbytes(method.state())
        costs.stored_images = sum(len(split.rows.unique()) for split in old.values()) + method.stored_images()
        costs.seconds = self.watch.seconds() - self._curve_seconds
        return costs

    @property
    def _curve_seconds(self) -> float:
        return 0.0 if self.curves is None else self.curves.seconds

    def _share_first_task(self, task: Task, phases: Sequence[Phase], costs: Costs) -> None:
        """Train the first task, or take it over from another run that has trained the same.

        Neither waiting for the other run nor reading and writing files is a cost of the method.
        """
        assert self.first_task is not None
        with contextlib.ExitStack() as stack:
            with self.watch.paused():
                found = stack.enter_context(self.first_task.claim())
            if found is None:
                self._train(task, phases, costs)
                costs.seconds = self.watch.seconds() - self._curve_seconds
                costs.forward_passes, costs.backward_passes = self.passes.forward, self.passes.backward
                with self.watch.paused():
                    self.first_task.keep({"trainer": self.state(), "costs": asdict(costs)})
                return
            with self.watch.paused():
                self.load_state(found["trainer"], 1)
        vars(costs).update(found["costs"])
        self.passes.forward, self.passes.backward = costs.forward_passes, costs.backward_passes
        self.watch.add(costs.seconds + self._curve_seconds)
        self.shared_first_task = True

    def _train(self, task: Task, phases: Sequence[Phase], costs: Costs) -> None:
        """Train in one phase after another."""
        training, network = self.setting.training, self.method.network
        lr = training.lr * (training.later_lr_factor if task.index > 0 else 1)
        own = {f"method.{name}": parameter for name, parameter in self.method.parameters().items()}
        parameters = {**dict(network.named_parameters()), **own}
        optimizer = Optimizer(training, parameters, lr)
        optimizer.load_state(self.kept_optimizer)
        if training.warmup_epochs and task.index > 0:
            newest = list(network.newest.parameters())
            epochs, extra = training.warmup_epochs, training.warmup_extra
            warm_up = Phase(name="warm-up", tasks=[task], trainable=newest, epochs=epochs, extra=extra, loss_over="own")
            phases = [warm_up, *phases]
        work = TaskTraining(self, task, optimizer, costs)
        for phase in phases:
            work.train(phase)
            network.eval()
            self.method.finish_phase(phase)
        work.finish()
        self.kept_optimizer = optimizer.state() if training.keep_optimizer else {}

    # Snapshots

    def state(self) -> dict[str, Any]:
        """Return all that training has left behind, as tensors and plain values."""
        return {
            "purpose": list(self.purpose),
            "network": self.method.network.state_dict(),
            "parameters": {name: parameter.detach() for name, parameter in self.method.parameters().items()},
            "optimizer": self.kept_optimizer,
            "reached": sorted(self.reached),
            "curves": [] if self.curves is None else self.curves.curves,
            "curve_seconds": self._curve_seconds,
        }

    def load_state(self, state: dict[str, Any], seen: int) -> None:
        """Go on from what `state` returned after `seen` tasks."""
        self.purpose = tuple(state["purpose"])
        network = self.new_network(seen)
        network.load_state_dict(state["network"])
        self.method.network = network
        with torch.no_grad():
            for name, parameter in self.method.parameters().items():
                parameter.copy_(state["parameters"][name])
        self.kept_optimizer, self.reached = state["optimizer"], set(state["reached"])
        if self.curves is not None:
            self.curves.curves, self.curves.seconds = state["curves"], state["curve_seconds"]


def nbytes(state: object) -> int:
    """Count the bytes of the tensors in nested containers."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(nbytes, state.values()))
    if isinstance(state, (list, tuple)):
        return sum(map(nbytes, state))
    return 0

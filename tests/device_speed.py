"""How many training steps a second there are on a device, for device.py: one by one, captured, and side by side."""

from __future__ import annotations

import functools
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks import bare
from device_cases import FIVE_STEPS, LWF_OF_VAN_DE_VEN, OF_VAN_DE_VEN, new

from clbench.execution.memory import keep_freed_memory
from clbench.method import Learner, Scenario, Training
from clbench.models import Backbone
from clbench.models.backbones import MLP, ResNet18, ResNet32
from clbench.sequences.splits import MNIST_BUDGET, SplitMNIST
from clbench.sequences.tasks import Task, to_device
from clbench.testing import tiny_tasks
from clbench.training.beside import Place, SideBySide
from clbench.training.evaluation import Stopwatch
from clbench.training.precision import Precision, computing
from clbench.training.run import Outcome, run_sequence

WAYS = ("one by one", "captured", "10 side by side", "10 side by side, captured")  # how steps are taken


@dataclass(frozen=True)
class Timed:
    """A run whose training is timed."""

    label: str
    learner: Callable[[], Learner]
    backbone: Backbone
    tasks: Sequence[Task]
    training: Training
    scenario: Scenario = "task"
    data: str = "made-up images"
    ways: Sequence[str] = WAYS[:1]  # on the device; on the CPU it is the first
    precision: Precision = "fp32"
    by_hand: Callable[[Sequence[Task], int], None] | None = None  # the same steps in a plain loop

    def runs(self, tasks: Sequence[Task], where: str, way: str, training: Training) -> tuple[int, float]:
        """Return how many steps a way has taken, and in how many seconds."""

        def run(seed: int, place: Place | None = None) -> Outcome:
            together: dict[str, Any] = {} if place is None else {"take_all": place.take}
            capture = way.endswith("captured")
            with computing(self.precision, where):
                return run_sequence(
                    *(tasks, self.learner(), self.backbone, training, self.scenario, seed, where),
                    **(together | {"capture": capture, "evaluate": "end"}),
                )

        beside = way.startswith("10")
        found = SideBySide(where).results([functools.partial(run, seed) for seed in range(10)]) if beside else [run(0)]
        return sum(sum(each.updates) for each in found), sum(sum(each.train_seconds) for each in found)

    def hand_written(self, tasks: Sequence[Task], where: str, steps: int) -> tuple[int, float]:
        """Return the same of a plain loop."""
        assert self.by_hand is not None
        with torch.device(where), computing(self.precision, where):
            self.by_hand(tasks, 2)
            watch = Stopwatch(torch.device(where))
            self.by_hand(tasks, steps)
            return steps, watch.seconds()


def to_be_timed(where: str, small: bool) -> Iterator[Timed]:
    """Yield the runs; on the CPU residual networks take fewer steps."""
    root = os.environ.get("CLBENCH_DATA_ROOT")
    if root and not small:
        plain, raw = (s.load(Path(root), 0, None) for s in (SplitMNIST(), SplitMNIST(mean=0.0, std=1.0)))
        data = "split-mnist"
    else:
        plain = raw = tiny_tasks(2 if small else 5, images=256 if small else 5000, shape=(1, 28, 28))
        data = Timed.data
    budget = replace(Training(**MNIST_BUDGET), **({"epochs": None, "iterations": 3} if small else {}))  # type: ignore[arg-type]
    scenarios: dict[str, Scenario] = {"finetune": "task", "lwf": "task", "ewc": "task", "replay": "class"}
    for name, scenario in scenarios.items():
        ways = WAYS if name == "lwf" else WAYS[:1]
        yield Timed(
            f"MLP 256, {name}", functools.partial(new, name), MLP(width=256), plain, budget, scenario, data, ways
        )
    theirs = replace(OF_VAN_DE_VEN, batch_size=128, drop_last=True, iterations=1 if small else 300)
    lwf = functools.partial(new, "lwf", **LWF_OF_VAN_DE_VEN)
    yield Timed("MLP 2 × 400, lwf of van de Ven", lwf, MLP(width=400, depth=2), raw[:2], theirs, "class", data, WAYS)
    steps = 1 if small else 10 if where == "cpu" else 200
    photographs = tiny_tasks(1, classes=10, images=640, shape=(3, 32, 32))
    for batch in (10,) if small else (10, 64):
        training = replace(FIVE_STEPS, iterations=steps, batch_size=batch)
        label, learner = f"resnet18, batch {batch}, finetune", functools.partial(new, "finetune")
        yield Timed(label, learner, ResNet18(), photographs, training, ways=WAYS[:2])
    training = Training(epochs=None, iterations=steps, batch_size=10, lr=0.03)
    learner = functools.partial(new, "er", images=200)
    yield Timed("resnet18, batch 10 + 10, er", learner, ResNet18(), photographs, training, "class", by_hand=er_by_hand)
    if where != "cpu" or small:
        training = replace(FIVE_STEPS, iterations=steps, batch_size=8 if small else 128)
        learner, what = functools.partial(new, "finetune"), "resnet32, batch 128, finetune, bf16"
        options: dict[str, Any] = {"precision": "bf16", "ways": WAYS[:2], "by_hand": finetune_by_hand}
        yield Timed(what, learner, ResNet32(), photographs, training, "class", **options)


def er_by_hand(tasks: Sequence[Task], steps: int) -> None:
    """Take steps of rehearsal with a full memory of 200 images, batch 10 + 10, in a plain loop."""
    images, y = tasks[0].train.images, tasks[0].train.y
    backbone = ResNet18().build((3, 32, 32))
    head = torch.nn.Linear(backbone(images[:2]).shape[1], 10)
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.03)
    rows = torch.arange(10 * steps) % len(y)
    bare.er(backbone, [head], images[rows], y[rows], optimizer, 10, images[:200].clone(), y[:200].clone(), 640)


def finetune_by_hand(tasks: Sequence[Task], steps: int) -> None:
    """Take steps on batches of 128 in a plain loop, channels last."""
    images, y = tasks[0].train.images, tasks[0].train.y
    backbone = ResNet32().build((3, 32, 32)).to(memory_format=torch.channels_last)
    head = torch.nn.Linear(backbone(images[:2]).shape[1], 10)
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.05, momentum=0.9, weight_decay=1e-3)
    rows = torch.arange(128 * steps) % len(y)
    bare.finetune(
        *(backbone, head, images, y[rows], optimizer, 128),
        prepare=lambda x: x.contiguous(memory_format=torch.channels_last),
    )


def speed(where: str, small: bool) -> Iterator[dict[str, Any]]:
    """Time training, and what a method does after a task, on a device or on one core of the CPU; yield the results."""
    keep_freed_memory()  # as a sweep's workers do
    torch.use_deterministic_algorithms(where != "cpu", warn_only=True)  # as runs do
    for timed in to_be_timed(where, small):
        tasks = to_device(timed.tasks, torch.device(where))
        ways = list(timed.ways if where != "cpu" or small else WAYS[:1]) + ["by hand"] * (timed.by_hand is not None)
        for way in ways:
            found = [time_of(timed, tasks, where, way) for _ in range(1 if small else 3)]
            rates = [steps / seconds for steps, seconds in found]
            middle, low, high = (round(f(rates), 1) for f in (statistics.median, min, max))
            label = timed.label if way == WAYS[0] else f"{timed.label}, {way}"
            where_to = {"label": label, "where": where, "data": timed.data, "steps": found[0][0]}
            yield where_to | {"steps_per_second": middle, "lowest": low, "highest": high}


def time_of(timed: Timed, tasks: Sequence[Task], where: str, way: str) -> tuple[int, float]:
    """Return steps and seconds, after the first steps of a process, which load libraries."""
    if way == "by hand":
        return timed.hand_written(tasks, where, timed.training.iterations or 1)
    timed.runs(tasks, where, way, replace(timed.training, epochs=None, iterations=2))
    return timed.runs(tasks, where, way, timed.training)

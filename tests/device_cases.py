"""Runs that are made on the CPU and on a device, for device.py: their weights should be the same."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from designs import AGEM, DER, Calibrated, Prototypes
from torch import Tensor

from clbench.experiment import registry
from clbench.method import SCENARIOS, Learner, Method, Scenario, Training, can_be_captured, shares_first_task
from clbench.models import Backbone
from clbench.models.backbones import CNN, MLP, ResNet18
from clbench.sequences.tasks import Split, Task, to_device
from clbench.testing import tiny_tasks
from clbench.training.beside import Place, SideBySide, fits
from clbench.training.precision import computing
from clbench.training.run import Outcome, run_sequence
from clbench.training.snapshots import SnapshotFile

SMALL: dict[str, Backbone] = {"mlp": MLP(width=16), "cnn": CNN(channels=4, width=16), "resnet18": ResNet18(channels=8)}
FIVE_STEPS = Training(epochs=None, iterations=5, batch_size=8, lr=0.05, momentum=0.9, weight_decay=1e-3)
ADAM = replace(FIVE_STEPS, optimizer="adam", lr=0.001, momentum=0.0, weight_decay=0.0, keep_optimizer=True)
OF_VAN_DE_VEN = replace(ADAM, full_head=True, untouched="zero")  # beside a batch of 128 and 2,000 steps
LWF_OF_VAN_DE_VEN = {"mixing": "share", "scale_t2": True, "reduction": "mean", "scope": "padded"}
GENTLE = {name: {"strength": 1.0} for name in ("ewc", "online-ewc")}  # their defaults diverge on tiny tasks
Weights = dict[str, Tensor]


def new(name: str, **settings: Any) -> Any:
    return registry.configure(name, registry.find("method", name), settings)


@dataclass(frozen=True)
class Case:
    """A run that is made on the CPU and on the device."""

    label: str
    learner: Callable[[], Learner]
    scenario: Scenario
    backbone: Backbone = SMALL["mlp"]
    training: Training = FIVE_STEPS
    tasks: Callable[[int], list[Task]] = tiny_tasks
    same_draws: bool = True  # whether the CPU draws the same numbers in float64: not those of dropout
    snapshots: bool = False  # whether it is stopped and goes on, and takes over a first task, too


def cases_of_methods(names: Sequence[str], small: bool) -> list[Case]:
    """Return a case for each method, scenario and backbone; if it is to be quick, few of the residual network."""
    return [
        Case(f"{name}, {scenario}, {model}", functools.partial(new, name, **GENTLE.get(name, {})), scenario, backbone)
        for model, backbone in SMALL.items()
        for name in names
        for scenario in SCENARIOS
        if scenario in new(name).scenarios and not (small and model == "resnet18" and scenario != "task")
    ]


def augmented(count: int) -> list[Task]:
    return [replace(task, train=replace(task.train, augment=True)) for task in tiny_tasks(count)]


def stored_as_bytes(count: int) -> list[Task]:
    def as_bytes(split: Split) -> Split:
        images = (128 + 40 * split.images).clamp(0, 255).to(torch.uint8)
        return replace(split, images=images, mean=(0.13,), std=(0.31,), padding=2)

    return [replace(task, train=as_bytes(task.train), test=as_bytes(task.test)) for task in tiny_tasks(count)]


def further_cases() -> list[Case]:
    """Return cases of other optimisers, settings, data and designs."""

    def case(name: str, scenario: Scenario, settings: dict[str, Any] | None = None, **more: Any) -> Case:
        also = [f"{field}={value}" for field, value in (settings or {}).items()]
        also += [more["training"].optimizer] if "training" in more else []
        return Case(
            ", ".join([name, scenario, *also]), functools.partial(new, name, **(settings or {})), scenario, **more
        )

    cnn, dropout = SMALL["cnn"], CNN(channels=4, width=16, dropout=0.25)
    others = [replace(ADAM, optimizer=o) for o in ("adamw", "nadam", "radam", "rmsprop", "adagrad", "adafactor")]
    epochs = replace(FIVE_STEPS, epochs=4, iterations=None)
    designs = {AGEM: SCENARIOS, DER: SCENARIOS, Calibrated: SCENARIOS[1:2], Prototypes: SCENARIOS[:2]}
    reached = replace(FIVE_STEPS, keep_optimizer=True, untouched="zero-once-reached")
    return [
        case("finetune", "class", training=ADAM, snapshots=True),
        case("lwf", "class", LWF_OF_VAN_DE_VEN, training=OF_VAN_DE_VEN, snapshots=True),
        case("ewc", "class", GENTLE["ewc"], training=ADAM, snapshots=True),
        *[case("finetune", "task", training=training, snapshots=True) for training in others],
        case("si", "task", {"path": "total"}, training=reached),
        case("si", "domain", snapshots=True),
        case("lfl", "task", snapshots=True),
        case("scratch", "task", snapshots=True),
        case("scratch", "task", {"networks": "latest"}),
        case("finetune", "task", training=replace(epochs, validation=0.25, patience=1)),
        case("lwf", "task", training=replace(epochs, warmup_epochs=1)),
        case("lwf", "task", {"teacher": "train-mode"}, backbone=cnn),
        case("lwf", "task", backbone=cnn, tasks=augmented),
        case("feature-extraction", "task", backbone=cnn, tasks=augmented),
        case("finetune", "class", backbone=dropout, same_draws=False, snapshots=True),
        case("replay", "class", backbone=cnn, tasks=stored_as_bytes, same_draws=False, snapshots=True),
        case("er", "task", {"images": 20}, snapshots=True),
        case("replay", "class", {"mode": "concatenate", "images": 20, "weighting": "tasks"}),
        case("joint", "task", {"mode": "incremental", "task_share": "equal"}),
        *[case("ewc", "class", {"label": label, **GENTLE["ewc"]}) for label in ("exact", "argmax", "true")],
        case("ewc", "class", {"batch": 4, "samples": 10, **GENTLE["ewc"]}, backbone=cnn),
        case("mas", "task", {"batch": 8}, backbone=cnn),
        *[
            Case(f"{cls.__name__}, {scenario}", cls, scenario, snapshots=True)
            for cls, scenarios in designs.items()
            for scenario in scenarios
        ],
    ]


def go(
    case: Case, device: str, learner: Learner | None = None, seed: int = 0, **options: Any
) -> tuple[Outcome, Weights]:
    """Run a case; return what it measured and the final weights."""
    learner = learner or case.learner()
    tasks = to_device(case.tasks(3), torch.device(device))
    with computing("fp32", device):
        outcome = run_sequence(tasks, learner, case.backbone, case.training, case.scenario, seed, device, **options)
    return outcome, {name: value.detach().cpu().clone() for name, value in learner.weights().items()}


def compare(case: Case, device: str) -> dict[str, Any]:
    """Compare the device with the CPU, and with itself."""
    found: dict[str, Any] = {}
    first, weights = go(case, device)
    if case.same_draws:
        found["float32"] = difference(weights, go(case, "cpu")[1]) / largest(weights)
        with in_float64():
            (theirs, on_cpu), (ours, on_device) = go(case, "cpu"), go(case, device)
        found["float64"] = difference(on_device, on_cpu)
        names = ("task_aware", "task_agnostic", "updates", "images", "forward_passes", "backward_passes")
        found["counts"] = all(getattr(ours, n) == getattr(theirs, n) for n in (*names, "parameters", "stored_bytes"))
    found["repeated"] = same(first, go(case, device)[0])
    learner = case.learner()
    if isinstance(learner, Method) and can_be_captured(learner):
        found["captured"] = same(first, go(case, device, capture=True)[0])
    if isinstance(learner, Method) and fits(learner, case.backbone):
        found["beside"] = beside(case, device)
    return found | (from_snapshots(case, device, first) if case.snapshots else {})


def beside(case: Case, device: str, seeds: int = 3) -> float:
    """Return how far a weight of several seeds, side by side and captured if they can be, is from it alone."""

    def together(seed: int, place: Place) -> Weights:
        return go(case, device, seed=seed, take_all=place.take, capture=True)[1]

    with in_float64():
        runs = [functools.partial(together, seed) for seed in range(seeds)]
        found = SideBySide(device).results(runs)
        return max(difference(weights, go(case, device, seed=seed)[1]) for seed, weights in enumerate(found))


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def difference(one: Weights, other: Weights) -> float:
    """Return the largest absolute difference, infinite if a weight is missing or no number."""
    if one.keys() != other.keys():
        return float("inf")
    worst = [(value - other[name]).abs().max().item() for name, value in one.items() if value.numel()]
    return max(value if value == value else float("inf") for value in worst)


def largest(weights: Weights) -> float:
    return max(value.abs().max().item() for value in weights.values() if value.numel())


def same(one: Outcome, other: Outcome) -> bool:
    return all(getattr(one, n) == getattr(other, n) for n in ("weights_hash", "history", "task_aware", "task_agnostic"))


class Stopped(Exception):
    pass


def stop(_: Learner, task: Task) -> None:
    if task.index == 1:
        raise Stopped


def from_snapshots(case: Case, device: str, whole: Outcome) -> dict[str, bool]:
    """Stop a run and let it go on; let it take over a first task."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, first_task = (SnapshotFile(Path(folder) / name, device) for name in ("run.pt", "first.pt"))
        with contextlib.suppress(Stopped):
            go(case, device, after_task=stop, checkpoint=checkpoint)
        found = {"resumed": same(whole, go(case, device, checkpoint=checkpoint)[0])}
        if shares_first_task(type(case.learner())):
            go(case, device, new("finetune"), first_task=first_task)
            shared = go(case, device, first_task=first_task)[0]
            found["shared"] = shared.shared_first_task and same(whole, shared)
    return found

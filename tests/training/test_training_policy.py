"""Training policies that presets use: untouched parameters, warm-up, images held out, and rates that fall."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from clbench.errors import UsageError
from clbench.method.base import Batch, Criterion, Method, Scenario
from clbench.method.schedule import Plateau, Training, n_held_out
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.methods.lwf import LwF
from clbench.methods.replay import Replay
from clbench.models.networks import MLP, ExpandingHeadModel
from clbench.seeding import stream
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks
from clbench.training.loop import Outcome, run_sequence

SEED = 3
Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Work in float64, so that a step's rate can be read off the weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def go(method: Method, training: Training, scenario: Scenario = "task", tasks: int = 3) -> Outcome:
    return run_sequence(tiny_tasks(tasks), method, MLP(width=8), training, scenario, SEED)


def copy_of(model: ExpandingHeadModel) -> Weights:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


# ---------------------------------------------------------------------------------------------------------------------
# Parameters that a loss does not reach


def trajectory(training: Training, scenario: Scenario = "task") -> tuple[list[Weights], list[dict[str, Tensor | None]]]:
    """The weights before the first step and after each, and each step's gradients as autograd gives them."""
    weights: list[Weights] = []
    gradients: list[dict[str, Tensor | None]] = []

    class Watch(Finetune):
        def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
            if not weights:
                weights.append(copy_of(model))
            loss = super().loss(model, batch, criterion)
            names, parameters = zip(*model.named_parameters(), strict=True)
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            gradients.append(dict(zip(names, found, strict=True)))
            return loss

        def after_step(self, model: ExpandingHeadModel) -> None:
            weights.append(copy_of(model))

    go(Watch(), training, scenario)
    return weights, gradients


def adam_by_hand(start: Tensor, gradients: list[Tensor | None], untouched: str, lr: float) -> list[Tensor]:
    """Kingma & Ba's algorithm 1; a step without a gradient is left out, or has one of zero."""
    weight, m, v, t, reached = start, torch.zeros_like(start), torch.zeros_like(start), 0, False
    path = []
    for g in gradients:
        reached = reached or g is not None
        if g is None and (untouched == "zero" or (untouched == "zero-once-reached" and reached)):
            g = torch.zeros_like(start)
        if g is not None:
            t += 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            weight = weight - lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        path.append(weight)
    return path


@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize("untouched", ["skip", "zero", "zero-once-reached"])
def test_untouched_parameters_against_adam_by_hand(untouched: Any, scenario: Scenario) -> None:
    training = Training(
        epochs=1, batch_size=12, optimizer="adam", lr=0.01, keep_optimizer=True, full_head=True, untouched=untouched
    )
    weights, gradients = trajectory(training, scenario)
    assert len(gradients) == 6  # two per task
    for name, start in weights[0].items():
        expected = adam_by_hand(start, [each[name] for each in gradients], untouched, 0.01)
        for step, value in enumerate(expected, 1):
            torch.testing.assert_close(weights[step][name], value, rtol=1e-9, atol=1e-10, msg=f"{name}, step {step}")


def test_what_the_three_ways_do_to_a_head_of_another_task() -> None:
    def moves(untouched: Any) -> tuple[bool, bool, bool, float]:
        training = Training(
            epochs=1, batch_size=12, optimizer="adam", lr=0.01, keep_optimizer=True, full_head=True, untouched=untouched
        )
        weights, _ = trajectory(training)
        old, future = "head.0.weight", "head.2.weight"
        first_step = (weights[3]["head.1.weight"] - weights[2]["head.1.weight"]).abs().max().item()
        return (
            not torch.equal(weights[2][old], weights[3][old]),  # the first block, when the second task trains
            not torch.equal(weights[0][future], weights[4][future]),  # a block that no loss has reached yet
            not torch.equal(weights[4][future], weights[6][future]),  # and at last
            first_step,
        )

    assert moves("skip")[:3] == (False, False, True)
    assert moves("zero")[:3] == (True, False, True)
    assert moves("zero-once-reached")[:3] == (True, False, True)
    # a fresh Adam's first step is lr; after two steps of zero its moments are corrected for three
    assert moves("zero-once-reached")[3] == pytest.approx(0.01, rel=1e-4)
    assert moves("zero")[3] == pytest.approx(0.01 * 0.1 / (1 - 0.9**3) / math.sqrt(0.001 / (1 - 0.999**3)), rel=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Warm-up


def changed_by_epoch(
    method: type[Method], training: Training, scenario: Scenario, **fields: Any
) -> list[list[set[str]]]:
    """Which parameters each epoch of each task changed, the last epoch being the only one after the warm-up."""
    found: list[list[set[str]]] = []

    class Watch(method):  # type: ignore[misc, valid-type]
        def start_task(self, model: ExpandingHeadModel, task: Task) -> None:
            super().start_task(model, task)
            found.append([])

        def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
            self.before = copy_of(model)
            return super().loss(model, batch, criterion)

        def after_step(self, model: ExpandingHeadModel) -> None:
            super().after_step(model)
            now = copy_of(model)
            found[-1].append({name for name in now if not torch.equal(now[name], self.before[name])})

    go(Watch(**fields), training, scenario)
    size, epochs = 24 // training.batch_size, training.epochs or 1  # all but the last epoch see the newest task alone
    cuts = [slice(size * e, size * (e + 1) if e + 1 < epochs else None) for e in range(epochs)]
    return [[set().union(*steps[cut]) for cut in cuts] for steps in found]


@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize("method", [Finetune, Joint, LwF, Replay], ids=["finetune", "joint", "lwf", "replay"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.9, "weight_decay": 0.1, "keep_optimizer": True},
        {"optimizer": "adam", "keep_optimizer": True, "full_head": True, "untouched": "zero"},
    ],
    ids=["sgd", "momentum kept", "adam kept"],
)
def test_in_the_warm_up_only_the_newest_block_changes(
    method: type[Method], scenario: Scenario, options: dict[str, Any]
) -> None:
    training = Training(epochs=3, batch_size=8, lr=0.05, warmup_epochs=2, **options)
    for task, epochs in enumerate(changed_by_epoch(method, training, scenario)):
        assert len(epochs) == 3
        newest = {f"head.{task}.weight", f"head.{task}.bias"}
        body = {"backbone.1.weight", "backbone.1.bias"}
        if task == 0:  # the first task has nothing to warm up
            assert all(newest | body <= epoch for epoch in epochs)
        else:
            assert epochs[0] == epochs[1] == newest
            assert newest | body <= epochs[2]


@pytest.mark.parametrize("method", [Joint, Replay], ids=["joint", "replay"])
def test_small_batches_in_the_warm_up_when_several_tasks_are_trained_on(method: type[Method]) -> None:
    """A batch without an image of the newest task would have no gradient in the task scenario."""
    fields = {"mode": "concatenate", "images": 24} if method is Replay else {}
    training = Training(epochs=2, batch_size=2, lr=0.05, warmup_epochs=1)
    changes = changed_by_epoch(method, training, "task", **fields)
    assert [epochs[0] for epochs in changes[1:]] == [{f"head.{t}.weight", f"head.{t}.bias"} for t in (1, 2)]


def test_warm_up_needs_a_budget_that_it_fits_in() -> None:
    with pytest.raises(UsageError, match="leaves nothing of the budget"):
        Training(epochs=2, warmup_epochs=2)
    with pytest.raises(UsageError, match="count epochs"):
        Training(epochs=None, iterations=5, warmup_epochs=1)


# ---------------------------------------------------------------------------------------------------------------------
# Images held out, and what their accuracy decides


@pytest.mark.parametrize(
    "method",
    [Finetune(), Joint(), LwF(), Replay(images=12), Replay(images=12, mode="concatenate")],
    ids=["finetune", "joint", "lwf", "replay", "rehearsal"],
)
@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_images_held_out_are_never_trained_on(method: Method, scenario: Scenario) -> None:
    tasks = tiny_tasks(3)
    place = {
        image.numpy().tobytes(): (task.index, row) for task in tasks for row, image in enumerate(task.train.images)
    }
    trained: list[set[tuple[int, int]]] = []
    shown: list[int] = []  # images of a task that the hooks are given

    class Watch(type(method)):  # type: ignore[misc]
        def start_task(self, model: ExpandingHeadModel, task: Task) -> None:
            shown.append(len(task.train))
            trained.append(set())
            super().start_task(model, task)

        def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
            trained[-1].update(place[image.numpy().tobytes()] for image in batch.x)
            return super().loss(model, batch, criterion)

    watched = Watch(**{name: value for name, value in vars(method).items() if name != "run"})
    training = Training(epochs=8, batch_size=8, lr=0.01, held_out=0.25, patience=8)
    run_sequence(tasks, watched, MLP(width=8), training, scenario, SEED)
    assert shown == [18] * 3
    held = {
        (t, row) for t in range(3) for row in torch.randperm(24, generator=stream(SEED, "held-out", t))[:6].tolist()
    }
    assert len(held) == 18
    for t, seen in enumerate(trained):
        assert not seen & held
        own = {(t, row) for row in range(24)} - held
        assert own <= seen
        if isinstance(method, (Finetune, LwF)):
            assert seen == own


def test_how_many_are_held_out() -> None:
    assert n_held_out(24, 0.0) == 0
    assert n_held_out(24, 0.25) == 6
    for share in (0.001, 0.999):
        with pytest.raises(UsageError, match="none is left on one side"):
            n_held_out(24, share)
    for options in ({"patience": 3}, {"held_out": 0.1}):
        with pytest.raises(UsageError, match="stopping needs"):
            Training(epochs=5, **options)


def test_plateau_by_hand() -> None:
    plateau = Plateau(2, warming=True)
    script = [
        (0.5, "go on", True),
        (0.5, "go on", True),  # one epoch without a better one
        (0.6, "go on", True),
        (0.6, "go on", True),
        (0.1, "go on", False),  # two: the warm-up ends, and the count begins anew
        (0.2, "go on", False),
        (0.2, "go on", False),
        (0.3, "go on", False),
        (0.3, "go on", False),
        (0.3, "lower", False),
        (0.1, "go on", False),
        (0.1, "go on", False),
        (0.2, "go on", False),
        (0.1, "go on", False),
        (0.2, "stop", False),
    ]
    for accuracy, action, warming in script:
        assert (plateau.after(accuracy), plateau.warming) == (action, warming)


def test_plateau_without_warm_up_or_patience() -> None:
    plateau = Plateau(1, warming=False)
    assert [plateau.after(0.5) for _ in range(4)] == ["go on", "lower", "go on", "stop"]
    endless = Plateau(None, warming=True)
    assert {endless.after(0.5) for _ in range(50)} == {"go on"}
    rising = Plateau(1, warming=False)
    assert {rising.after(step / 50) for step in range(50)} == {"go on"}


class Flat(Finetune):
    """Always answers the first class, and keeps each step's rate, read off what plain SGD did."""

    def predict(self, model: ExpandingHeadModel, x: Tensor, task: Task) -> Tensor:
        return torch.zeros_like(model(x))

    def start_task(self, model: ExpandingHeadModel, task: Task) -> None:
        self.rates: list[list[float]] = getattr(self, "rates", [])
        self.bodies: list[list[bool]] = getattr(self, "bodies", [])
        self.rates.append([])
        self.bodies.append([])

    def after_backward(self, model: ExpandingHeadModel) -> None:
        self.before = copy_of(model)
        self.gradient = model.newest.bias.grad.clone()

    def after_step(self, model: ExpandingHeadModel) -> None:
        step = self.before[f"head.{model.seen - 1}.bias"] - model.newest.bias.detach()
        self.rates[-1].append(round((step.norm() / self.gradient.norm()).item(), 9))
        body = "backbone.1.weight"
        self.bodies[-1].append(not torch.equal(self.before[body], dict(model.named_parameters())[body].detach()))


@pytest.mark.parametrize("keep", [False, True])
def test_flat_accuracy_lowers_the_rate_once_and_stops(keep: bool) -> None:
    method = Flat()
    training = Training(
        epochs=50, batch_size=6, lr=0.1, held_out=0.25, patience=2, later_lr_factor=0.5, keep_optimizer=keep
    )
    outcome = go(method, training)
    # 18 images: three steps an epoch. A first epoch, two that are no better; the same at a tenth of the rate
    assert outcome.updates == [18] * 3
    assert outcome.images == [6 * 18] * 3
    assert outcome.backward_passes == [6 * 18] * 3
    for history in outcome.history:
        assert [len(history[name]) for name in ("loss", "accuracy", "held_out")] == [6] * 3
        assert len(set(history["held_out"])) == 1
    assert method.rates[0] == [0.1] * 9 + [0.01] * 9
    assert method.rates[1] == method.rates[2] == [0.05] * 9 + [0.005] * 9


def test_the_warm_up_ends_when_accuracy_is_flat() -> None:
    method = Flat()
    training = Training(epochs=50, batch_size=6, lr=0.1, held_out=0.25, patience=1, warmup_epochs=20)
    outcome = go(method, training, tasks=2)
    # an epoch and one that is no better, each time: there is no warm-up in the first task
    assert outcome.updates == [3 * 4, 3 * 6]
    assert method.bodies == [[True] * 12, [False] * 6 + [True] * 12]
    assert method.rates == [[0.1] * 6 + [0.01] * 6, [0.1] * 12 + [0.01] * 6]


def test_the_warm_up_ends_at_its_own_length_too() -> None:
    method = Flat()
    training = Training(epochs=6, batch_size=6, lr=0.1, held_out=0.25, patience=6, warmup_epochs=2)
    outcome = go(method, training, tasks=2)
    assert outcome.updates == [18, 18]  # the epochs are the most there can be
    assert method.bodies == [[True] * 18, [False] * 6 + [True] * 12]
    assert set(method.rates[1]) == {0.1}


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_held_out_accuracy_is_of_the_current_tasks_images_in_the_scenarios_view(scenario: Scenario) -> None:
    tasks = tiny_tasks(3)
    last: list[float] = []

    def count(model: ExpandingHeadModel, task: Task) -> None:
        rows = torch.randperm(24, generator=stream(SEED, "held-out", task.index))[:6]
        source = tasks[task.index].train
        scores = model(source.images[rows]).detach()
        y = source.y[rows]
        if scenario == "task":
            scores = scores[:, 2 * task.index : 2 * task.index + 2]
        elif scenario == "class":
            y = y + 2 * task.index
        last.append((scores.argmax(1) == y).double().mean().item())

    training = Training(epochs=3, batch_size=6, lr=0.05, held_out=0.25, patience=3)
    outcome = run_sequence(tasks, Finetune(), MLP(width=8), training, scenario, SEED, after_task=count)
    assert [history["held_out"][-1] for history in outcome.history] == pytest.approx(last)


def test_without_patience_there_is_no_such_history() -> None:
    outcome = go(Finetune(), Training(epochs=2, batch_size=8))
    assert all(set(history) == {"loss", "accuracy"} for history in outcome.history)


def test_later_tasks_have_a_rate_of_their_own() -> None:
    method = Flat()
    go(method, Training(epochs=2, batch_size=8, lr=0.1, later_lr_factor=0.25))
    assert method.rates == [[0.1] * 6, [0.025] * 6, [0.025] * 6]

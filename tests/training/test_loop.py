"""The loop's policies: untouched parameters, warm-up, images held out, rates that fall, and phases."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import tiny
import torch
from tiny import Weights
from torch import Tensor, nn

from clbench.errors import UsageError
from clbench.method import GradientOf, Gradients, Learner, Method, Phase, Run, Scenario, Step, Training
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.methods.lwf import LwF
from clbench.methods.replay import Replay
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.seeding import stream
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks
from clbench.training.run import Outcome

SEED = 3
pytestmark = pytest.mark.usefixtures("double")  # so that a step's rate can be read off the weights


def go(method: Method, training: Training, scenario: Scenario = "task", **keywords: Any) -> Outcome:
    return tiny.go(method, scenario, training=training, **({"backbone": MLP(width=8)} | keywords))


def copy_of(model: ExpandingHeadModel) -> Weights:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


# ---------------------------------------------------------------------------------------------------------------------
# Parameters that a loss does not reach


def trajectory(training: Training, scenario: Scenario = "task") -> tuple[list[Weights], list[dict[str, Tensor | None]]]:
    """The weights before the first step and after each, and each step's gradients as autograd gives them."""
    weights: list[Weights] = []
    gradients: list[dict[str, Tensor | None]] = []

    class Watch(Finetune):
        def loss(self, step: Step) -> Tensor:
            if not weights:
                weights.append(copy_of(step.network))
            loss = super().loss(step)
            names, parameters = zip(*step.network.named_parameters(), strict=True)
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            gradients.append(dict(zip(names, found, strict=True)))
            return loss

        def after_step(self, step: Step) -> None:
            weights.append(copy_of(step.network))

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
        def start_task(self, task: Task) -> None:
            super().start_task(task)
            found.append([])

        def loss(self, step: Step) -> Tensor:
            self.before = copy_of(step.network)
            return super().loss(step)

        def after_step(self, step: Step) -> None:
            super().after_step(step)
            now = copy_of(step.network)
            found[-1].append({name for name in now if not torch.equal(now[name], self.before[name])})

    go(Watch(**fields), training, scenario)
    size, epochs = 24 // training.batch_size, training.epochs or 1  # all but the last epoch see the newest task alone
    cuts = [slice(size * e, size * (e + 1) if e + 1 < epochs else None) for e in range(epochs)]
    return [[set().union(*steps[cut]) for cut in cuts] for steps in found]


MOMENTUM_KEPT = {"momentum": 0.9, "weight_decay": 0.1, "keep_optimizer": True}
ADAM_KEPT = {"optimizer": "adam", "keep_optimizer": True, "full_head": True, "untouched": "zero"}


@pytest.mark.parametrize(
    ("method", "scenario", "options"),
    [
        (Finetune, "task", MOMENTUM_KEPT),
        (Finetune, "class", ADAM_KEPT),
        (Joint, "task", ADAM_KEPT),
        (Joint, "class", {}),
        (LwF, "task", {}),
        (LwF, "class", MOMENTUM_KEPT),
        (Replay, "task", ADAM_KEPT),
        (Replay, "class", {}),
    ],
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
    ("method", "scenario"),
    [
        (Finetune(), "task"),
        (Joint(), "class"),
        (LwF(), "domain"),
        (Replay(images=12), "class"),
        (Replay(images=12, mode="concatenate"), "task"),
    ],
    ids=repr,
)
def test_images_held_out_are_never_trained_on(method: Method, scenario: Scenario) -> None:
    tasks = tiny_tasks(3)
    place = {
        image.numpy().tobytes(): (task.index, row) for task in tasks for row, image in enumerate(task.train.images)
    }
    trained: list[set[tuple[int, int]]] = []
    shown: list[int] = []  # images of a task that the hooks are given

    class Watch(type(method)):  # type: ignore[misc]
        def start_task(self, task: Task) -> None:
            shown.append(len(task.train))
            trained.append(set())
            super().start_task(task)

        def loss(self, step: Step) -> Tensor:
            trained[-1].update(place[image.numpy().tobytes()] for image in step.batch.x)
            return super().loss(step)

    watched = Watch(**{name: value for name, value in vars(method).items() if name != "run"})
    training = Training(epochs=8, batch_size=8, lr=0.01, validation=0.25, patience=8)
    go(watched, training, scenario, tasks=tasks)
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


class Flat(Finetune):
    """Always answers the first class, and keeps each step's rate, read off what plain SGD did."""

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        return torch.zeros_like(self.network(x))

    def start_task(self, task: Task) -> None:
        self.rates: list[list[float]] = getattr(self, "rates", [])
        self.bodies: list[list[bool]] = getattr(self, "bodies", [])
        self.rates.append([])
        self.bodies.append([])

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        gradients = super().gradients(step, gradient_of)
        self.before = copy_of(step.network)
        self.gradient = gradients[f"head.{step.network.seen - 1}.bias"].clone()
        return gradients

    def after_step(self, step: Step) -> None:
        now, bias = copy_of(step.network), f"head.{step.network.seen - 1}.bias"
        moved = self.before[bias] - now[bias]
        self.rates[-1].append(round((moved.norm() / self.gradient.norm()).item(), 9))
        assert step.lr == pytest.approx(self.rates[-1][-1])
        self.bodies[-1].append(not torch.equal(self.before["backbone.1.weight"], now["backbone.1.weight"]))


@pytest.mark.parametrize("keep", [False, True])
def test_flat_accuracy_lowers_the_rate_once_and_stops(keep: bool) -> None:
    method = Flat()
    training = Training(
        epochs=50, batch_size=6, lr=0.1, validation=0.25, patience=2, later_lr_factor=0.5, keep_optimizer=keep
    )
    outcome = go(method, training)
    # 18 images: three steps an epoch. A first epoch, two that are no better; the same at a tenth of the rate
    assert outcome.updates == [18] * 3
    assert outcome.images == [6 * 18] * 3
    assert outcome.backward_passes == [6 * 18] * 3
    for history in outcome.history:
        assert [len(history[name]) for name in ("loss", "accuracy", "validation")] == [6] * 3
        assert len(set(history["validation"])) == 1
    assert method.rates[0] == [0.1] * 9 + [0.01] * 9
    assert method.rates[1] == method.rates[2] == [0.05] * 9 + [0.005] * 9


def test_the_warm_up_ends_when_accuracy_is_flat() -> None:
    method = Flat()
    training = Training(epochs=50, batch_size=6, lr=0.1, validation=0.25, patience=1, warmup_epochs=20)
    outcome = go(method, training, tasks=2)
    # an epoch and one that is no better, each time: there is no warm-up in the first task
    assert outcome.updates == [3 * 4, 3 * 6]
    assert method.bodies == [[True] * 12, [False] * 6 + [True] * 12]
    assert method.rates == [[0.1] * 6 + [0.01] * 6, [0.1] * 12 + [0.01] * 6]


def test_the_warm_up_ends_at_its_own_length_too() -> None:
    method = Flat()
    training = Training(epochs=6, batch_size=6, lr=0.1, validation=0.25, patience=6, warmup_epochs=2)
    outcome = go(method, training, tasks=2)
    assert outcome.updates == [18, 18]  # the epochs are the most there can be
    assert method.bodies == [[True] * 18, [False] * 6 + [True] * 12]
    assert set(method.rates[1]) == {0.1}


@pytest.mark.parametrize(
    ("scenario", "head"),
    [
        ("task", {}),
        ("class", {}),
        ("class", {"full_head": True}),
        ("class", {"full_head": True, "predict_over": "all"}),
        ("domain", {}),
    ],
    ids=str,
)
def test_held_out_accuracy_is_of_the_current_tasks_images_in_the_scenarios_view(
    scenario: Scenario, head: dict[str, Any]
) -> None:
    tasks = tiny_tasks(3)
    last: list[float] = []

    def count(learner: Learner, task: Task) -> None:
        rows = torch.randperm(24, generator=stream(SEED, "held-out", task.index))[:6]
        source = tasks[task.index].train
        scores = learner.network(source.images[rows]).detach()  # type: ignore[attr-defined]
        y = source.y[rows]
        if scenario == "task":
            scores = scores[:, 2 * task.index : 2 * task.index + 2]
        elif scenario == "class":
            y = y + 2 * task.index
            scores = scores if "predict_over" in head else scores[:, : 2 * (task.index + 1)]
        last.append((scores.argmax(1) == y).double().mean().item())

    training = Training(epochs=3, batch_size=6, lr=0.05, validation=0.25, patience=3, **head)
    outcome = go(Finetune(), training, scenario, tasks=tasks, after_task=count)
    assert [history["validation"][-1] for history in outcome.history] == pytest.approx(last)


def test_without_patience_there_is_no_such_history() -> None:
    outcome = go(Finetune(), Training(epochs=2, batch_size=8))
    assert all(set(history) == {"loss", "accuracy"} for history in outcome.history)


def test_later_tasks_have_a_rate_of_their_own() -> None:
    method = Flat()
    go(method, Training(epochs=2, batch_size=8, lr=0.1, later_lr_factor=0.25))
    assert method.rates == [[0.1] * 6, [0.025] * 6, [0.025] * 6]


# ---------------------------------------------------------------------------------------------------------------------
# Phases


@dataclass
class Seen:
    """What a method saw in a step."""

    phase: str
    lr: float
    progress: float
    images: int
    moved: set[str]


class InPhases(Method):
    """Learns a task in phases, and keeps what it sees."""

    def __init__(self, *plan: tuple[str, dict[str, Any]]):
        self.plan = plan  # what trains, and the other fields of each phase

    def parameters(self) -> dict[str, nn.Parameter]:
        return self.own

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.own = {"scale": nn.Parameter(torch.ones(2)), "shift": nn.Parameter(torch.zeros(2))}
        self.seen: list[Seen] = []

    def phases(self, task: Task, earlier: Sequence[Task]) -> list[Phase]:
        choice = {"own": self.own.values(), "head": self.network.newest.parameters(), "all": None}
        return [Phase(tasks=[task], **{"trainable": choice[part], **fields}) for part, fields in self.plan]

    def everything(self) -> Weights:
        own = {f"method.{name}": parameter.detach().clone() for name, parameter in self.own.items()}
        return copy_of(self.network) | own

    def loss(self, step: Step) -> Tensor:
        self.before = self.everything()
        z, y = step.criterion.competing(step)
        return torch.nn.functional.cross_entropy(self.own["scale"] * z[:, :2] + self.own["shift"], y % 2)

    def after_step(self, step: Step) -> None:
        now = self.everything()
        moved = {name for name, value in now.items() if not torch.equal(value, self.before[name])}
        self.seen.append(Seen(step.phase.name, step.lr, step.progress, len(step.batch), moved))


OWN = {"method.scale", "method.shift"}
HEAD, BODY = {"head.0.weight", "head.0.bias"}, {"backbone.1.weight", "backbone.1.bias"}


def test_phases_share_the_budget_and_train_what_they_choose() -> None:
    method = InPhases(
        ("head", {"name": "head", "epochs": 1, "lr_factor": 0.5}),
        ("all", {"name": "all"}),
        ("own", {"name": "own", "epochs": 2, "extra": True}),
        ("all", {"name": "never"}),  # nothing is left of the budget
    )
    training = Training(epochs=3, batch_size=10, lr=0.1)
    outcome = go(method, training, tasks=1)
    assert outcome.updates == [3 + 6 + 6]
    assert [step.phase for step in method.seen] == ["head"] * 3 + ["all"] * 6 + ["own"] * 6
    assert [step.lr for step in method.seen] == [0.05] * 3 + [0.1] * 12
    assert [step.progress for step in method.seen[:9]] == pytest.approx([0, 1 / 3, 2 / 3, *(n / 6 for n in range(6))])
    assert [step.images for step in method.seen] == [10, 10, 4] * 5
    for step in method.seen:
        assert step.moved == {"head": HEAD, "all": HEAD | BODY | OWN, "own": OWN}[step.phase]
    assert len(outcome.history[0]["loss"]) == 5
    assert outcome.forward_passes == [24 + 48 + 24]  # in the first and the last one the features are recorded
    assert outcome.backward_passes == outcome.images == [24 * 5]
    assert outcome.parameters == 64 * 8 + 8 + 8 * 2 + 2 + 4


def test_phases_share_the_iterations() -> None:
    method = InPhases(("all", {"name": "one", "epochs": 1}), ("all", {"name": "two"}))
    go(method, Training(epochs=None, iterations=7, batch_size=10), tasks=1)
    assert [step.phase for step in method.seen] == ["one"] * 3 + ["two"] * 4


def test_no_image_comes_twice_in_the_same_order() -> None:
    orders: list[list[int]] = []

    class Watch(InPhases):
        def loss(self, step: Step) -> Tensor:
            orders.append(step.batch.index.tolist())
            return super().loss(step)

    go(Watch(("all", {"epochs": 1}), ("all", {})), Training(epochs=2, batch_size=24), tasks=1)
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_a_methods_own_parameters_are_kept_and_hashed() -> None:
    def final(lr_factor: float) -> Outcome:
        own = {"epochs": 1, "extra": True, "lr_factor": lr_factor}
        return go(InPhases(("all", {}), ("own", own)), Training(epochs=1, batch_size=10, lr=0.1), tasks=1)

    one, other = final(1.0), final(2.0)
    assert one.weights_hash != other.weights_hash
    assert one.history[0]["loss"][0] == other.history[0]["loss"][0]

"""A whole run: what is trained, on what, and what is measured."""

import gc
import math
import time
import weakref
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny import Weights, batch_of, step_on
from torch import Tensor, nn

from clbench.errors import DivergedError, UsageError
from clbench.method import Costs, GradientOf, Gradients, Learner, Method, Run, Scenario, Step, Training
from clbench.methods.feature_extraction import FeatureExtraction
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.methods.lwf import LwF
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP, ResNet18
from clbench.seeding import stream
from clbench.sequences.tasks import Split, Task
from clbench.testing import tiny_tasks
from clbench.training.run import Outcome, run_sequence, weights_hash

TRAINING = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9, weight_decay=0.1)
TERMS: dict[str, Any] = {"backbone": MLP(width=16), "training": TRAINING}


def go(method: Method | None = None, scenario: Scenario = "task", **keywords: Any) -> Outcome:
    return tiny.go(method or Finetune(), scenario, **(TERMS | keywords))


def states(method: Method | None = None, scenario: Scenario = "task", **keywords: Any) -> list[Weights]:
    return tiny.states(method or Finetune(), scenario, **(TERMS | keywords))


def test_one_task_equals_a_plain_pytorch_loop() -> None:
    """The reference is written out here: same initial weights, same order of images, PyTorch's own optimiser."""
    task = tiny_tasks(1)[0]
    model = ExpandingHeadModel(MLP(width=16), (1, 8, 8), 3, "weights")
    model.expand(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    losses = []
    for epoch in range(2):
        order = torch.randperm(24, generator=stream(3, "batches", 0, epoch))
        total = 0.0
        for rows in order.split(8):
            loss = nn.functional.cross_entropy(model(task.train.images[rows]), task.train.y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / 24)
    ours = states(tasks=1)[0]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-7)
    assert go(tasks=1).history[0]["loss"] == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_accuracy_matrices_against_a_count_by_hand(scenario: Scenario) -> None:
    tasks = tiny_tasks(3)
    aware: list[list[float]] = []
    agnostic: list[list[float]] = []

    def count(learner: Learner, task: Task) -> None:
        model = learner.network  # type: ignore[attr-defined]
        rows: tuple[list[float], list[float]] = ([], [])
        for j, other in enumerate(tasks):
            start = 0 if scenario == "domain" else 2 * j
            scores = model(other.test.images).detach().numpy()
            y = other.test.y.numpy()
            if scores.shape[1] > start:
                rows[0].append(float(np.mean(scores[:, start : start + 2].argmax(1) == y)))
                rows[1].append(float(np.mean(scores.argmax(1) == y + start)))
        aware.append(rows[0])
        agnostic.append(rows[1])

    outcome = go(scenario=scenario, tasks=tasks, after_task=count)

    def measured(matrix: list[list[float | None]]) -> list[list[float]]:
        return [[cell for cell in row if cell is not None] for row in matrix[1:]]

    assert measured(outcome.task_aware) == aware
    assert measured(outcome.task_agnostic) == agnostic
    shape = [[cell is None for cell in row] for row in outcome.task_aware]
    if scenario == "domain":
        assert not np.any(shape)
        assert outcome.task_aware == outcome.task_agnostic
    else:
        assert shape == [[True] * 3, [False, True, True], [False, False, True], [False] * 3]


def test_full_head_answers_for_tasks_to_come() -> None:
    full = Training(epochs=2, batch_size=8, full_head=True)
    outcome = go(training=full)
    assert not any(cell is None for row in outcome.task_aware for cell in row)
    assert [cell is None for cell in outcome.task_agnostic[1]] == [False, True, True]
    everything = go(scenario="class", training=Training(epochs=2, batch_size=8, full_head=True, predict_over="all"))
    assert not any(cell is None for row in everything.task_agnostic for cell in row)


def test_full_head_starts_from_the_same_weights() -> None:
    growing, full = (go(training=Training(batch_size=8, full_head=value)) for value in (False, True))
    assert growing.task_aware[-1] == full.task_aware[-1]
    assert growing.weights_hash == full.weights_hash  # in the task scenario unreached blocks are left alone


def test_old_blocks_are_not_touched_in_the_task_scenario() -> None:
    first, second, third = states()
    assert torch.equal(first["head.0.weight"], third["head.0.weight"])
    assert torch.equal(second["head.1.bias"], third["head.1.bias"])
    assert not torch.equal(first["backbone.1.weight"], third["backbone.1.weight"])
    moved = states(scenario="class")
    assert not torch.equal(moved[0]["head.0.weight"], moved[2]["head.0.weight"])


def test_untouched_zero_lets_decay_and_momentum_act() -> None:
    options = {"epochs": 1, "batch_size": 24, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.5, "full_head": True}
    skip = states(training=Training(**options))
    zero = states(training=Training(**options, untouched="zero"))
    # one step per task; a block that the loss does not reach shrinks by the factor 1 − lr · weight decay
    torch.testing.assert_close(zero[1]["head.0.weight"], zero[0]["head.0.weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(skip[1]["head.0.weight"], skip[0]["head.0.weight"])


def test_keeping_the_optimizer_carries_its_momentum_on() -> None:
    """The first step of task 2 by hand: v ← m·v + g, with the kept v, against v = g."""
    options = {"epochs": 1, "batch_size": 24, "lr": 0.1, "momentum": 0.9}
    velocity: list[Tensor] = []
    before: list[Tensor] = []

    class Watch(Finetune):
        def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
            gradients = super().gradients(step, gradient_of)
            velocity.append(gradients["backbone.1.weight"].clone())
            before.append(self.network.backbone[1].weight.detach().clone())
            return gradients

    after = [
        state["backbone.1.weight"]
        for state in states(Watch(), tasks=2, training=Training(**options, keep_optimizer=True))
    ]
    torch.testing.assert_close(after[1], before[1] - 0.1 * (velocity[1] + 0.9 * velocity[0]))
    after = [state["backbone.1.weight"] for state in states(Watch(), tasks=2, training=Training(**options))]
    torch.testing.assert_close(after[1], before[3] - 0.1 * velocity[3])


def test_later_tasks_train_at_the_lowered_rate() -> None:
    options = {"epochs": 1, "batch_size": 24, "lr": 0.1}
    full, lowered = (states(tasks=2, training=Training(**options, later_lr_factor=f)) for f in (1.0, 0.25))
    assert torch.equal(full[0]["backbone.1.weight"], lowered[0]["backbone.1.weight"])
    step = full[1]["backbone.1.weight"] - full[0]["backbone.1.weight"]
    lowered_step = lowered[1]["backbone.1.weight"] - lowered[0]["backbone.1.weight"]
    torch.testing.assert_close(lowered_step, step / 4, rtol=1e-3, atol=1e-7)


def test_frozen_means_eval_for_batch_norm() -> None:
    modes: list[bool] = []

    class Watch(FeatureExtraction):
        def after_step(self, step: Step) -> None:
            modes.append(step.network.backbone[1].training)

    go(Watch(), backbone=ResNet18(channels=4), tasks=2)
    assert modes == [True] * 6 + [False] * 6


@pytest.mark.parametrize(
    ("options", "updates", "images"),
    [
        ({"epochs": 2}, 6, 48),  # 24 images in batches of 10: 10, 10, 4
        ({"epochs": 2, "drop_last": True}, 4, 40),
        ({"epochs": None, "iterations": 7}, 7, 24 + 24 + 10),
        ({"epochs": None, "iterations": 1}, 1, 10),
        ({"epochs": None, "iterations": 5, "drop_last": True}, 5, 50),
    ],
)
def test_budgets(options: dict[str, Any], updates: int, images: int) -> None:
    outcome = go(training=Training(batch_size=10, **options))
    assert outcome.updates == [updates] * 3
    assert outcome.images == outcome.backward_passes == outcome.forward_passes == [images] * 3


def test_divergence_is_an_error_that_says_where() -> None:
    with pytest.raises(DivergedError, match=r"task 1, epoch \d"):
        go(training=Training(epochs=20, batch_size=4, lr=1e20))


def test_batches_are_the_same_for_all_methods_whatever_came_before() -> None:
    def rows(cls: type[Method], **options: Any) -> list[list[int]]:
        kept: list[list[int]] = []

        class Watch(cls):  # type: ignore[misc, valid-type]
            def loss(self, step: Step) -> Tensor:
                kept.append(step.batch.index.tolist())
                return super().loss(step)

        go(Watch(), training=Training(batch_size=8, **options))
        return kept

    reference = rows(Finetune)
    assert rows(FeatureExtraction) == reference
    assert rows(Joint)[:3] == reference[:3]
    assert rows(Finetune, optimizer="adam") == reference
    assert len({tuple(map(tuple, reference[3 * t : 3 * t + 3])) for t in range(3)}) == 3


def test_dropout_masks_do_not_depend_on_the_method() -> None:
    def masks(method: type[Method]) -> list[Tensor]:
        kept: list[Tensor] = []

        class Watch(method):  # type: ignore[misc, valid-type]
            def loss(self, step: Step) -> Tensor:
                kept.append(step.features == 0)
                return super().loss(step)

        go(Watch(), tasks=2, backbone=MLP(width=64, dropout=0.5), training=Training(batch_size=24, lr=1e-9))
        return kept

    one, other = masks(Finetune), masks(LwF)
    assert torch.equal(one[1], other[1])
    assert not torch.equal(one[0], one[1])


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    go()
    assert torch.equal(torch.rand(3), expected)


def test_mixed_batches_in_the_task_scenario_use_each_samples_own_outputs() -> None:
    model = ExpandingHeadModel(MLP(width=8), (1, 4, 4), 0).double()
    for classes in (2, 3, 2):
        model.expand(classes)
    model.seen = 3
    split = Split(torch.randn(6, 1, 4, 4, dtype=torch.double), torch.arange(6), torch.zeros(6, dtype=torch.long))
    task_ids = torch.tensor([0, 1, 1, 0, 1, 0])
    y = torch.tensor([1, 2, 4, 0, 3, 1])
    loss = step_on(model, batch_of(split, torch.arange(6), y, task_ids), "task").cross_entropy()
    expected = 0.0
    for i in range(6):
        columns = model.columns(int(task_ids[i]))
        logits = model(split.images[i : i + 1])[0, columns].tolist()
        z = logits[int(y[i]) - columns.start]
        expected += (math.log(sum(map(math.exp, logits))) - z) / 6
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert model.head[2].weight.grad is None
    assert model.head[0].weight.grad is not None


def test_seconds_are_disjoint_and_complete() -> None:
    start = time.perf_counter()
    outcome = go()
    wall = time.perf_counter() - start
    spent = sum(outcome.train_seconds) + sum(outcome.evaluate_seconds)
    assert len(outcome.train_seconds) == 3
    assert len(outcome.evaluate_seconds) == 4
    assert all(value > 0 for value in outcome.train_seconds + outcome.evaluate_seconds)
    assert 0 < spent <= wall


def test_weights_hash_sees_every_parameter_and_buffer() -> None:
    model = ResNet18(channels=4).build((1, 8, 8))
    seen = {weights_hash(model.state_dict())}
    for tensor in model.state_dict().values():
        with torch.no_grad():
            tensor.view(-1)[0] += 1
        seen.add(weights_hash(model.state_dict()))
    assert len(seen) == 1 + len(model.state_dict())


def test_weights_that_blow_up_after_the_last_loss_are_a_failure_too() -> None:
    with pytest.raises(DivergedError, match="not finite"):
        go(tasks=1, training=Training(epochs=None, iterations=1, batch_size=8, lr=1e39))


class Raised(Method):
    """Fine-tuning with a constant in the loss, which changes no weight, in the last epoch of the second task."""

    def __init__(self, constant: float):
        self.constant, self.calls = constant, 0

    def loss(self, step: Step) -> Tensor:
        self.calls += 1
        return step.cross_entropy() + self.constant * (self.calls > 3 * 2 + 3)  # 2 epochs of 3 steps


@pytest.mark.parametrize(("constant", "ok"), [(9.9e5, True), (1.1e6, False), (6e30, False), (-6e30, False)])
def test_a_loss_that_ends_far_above_that_of_guessing_is_a_failure(constant: float, ok: bool) -> None:
    if ok:
        assert go(Raised(constant), tasks=2).weights_hash == go(tasks=2).weights_hash
    else:
        with pytest.raises(DivergedError, match=r"the loss ends at -?[16][.\d]*e\+\d+ at task 2, above 1,000,000"):
            go(Raised(constant), tasks=2)


def test_a_loss_that_was_high_and_came_down_is_none() -> None:
    class High(Raised):
        def loss(self, step: Step) -> Tensor:
            return super().loss(step) + 2e6 * (self.calls <= 3)  # in the first epoch

    assert go(High(0.0), tasks=2).weights_hash == go(tasks=2).weights_hash


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
@pytest.mark.parametrize("column", [0, 3])
def test_a_score_that_is_nan_is_a_failure_where_it_takes_part(scenario: Scenario, column: int) -> None:
    class Undefined(Finetune):
        def scores(self, x: Tensor, task: int | None) -> Tensor | None:
            scores = self.network(x)
            if scores.shape[1] > column:
                scores[-1, column] = torch.nan
            return scores

    if scenario == "domain" and column == 3:  # there are two outputs
        go(Undefined(), scenario, tasks=2)
        return
    with pytest.raises(DivergedError, match="a score of task 1's images is NaN"):
        go(Undefined(), scenario, tasks=2)


def test_scores_of_minus_infinity_leave_an_output_out() -> None:
    class Masked(Finetune):
        def scores(self, x: Tensor, task: int | None) -> Tensor | None:
            scores = self.network(x)
            scores[:, 0] = -torch.inf
            return scores

    assert go(Masked(), "domain", tasks=1).task_agnostic[-1] == [0.5]  # all are said to be of the other class


def test_a_test_image_that_is_nan_is_no_image_that_was_answered_right_or_wrong() -> None:
    tasks = tiny_tasks(2)
    tasks[1].test.images[5, 0, 0, 0] = torch.nan
    with pytest.raises(DivergedError, match="a score of task 2's images is NaN"):
        go(tasks=tasks)


def test_weights_of_a_learner_of_its_own_are_looked_at_too() -> None:
    class Own(Learner):
        def begin(self, run: Run) -> None:
            pass

        def learn(self, task: Task) -> Costs:
            return Costs(updates=1, images=1)

        def scores(self, x: Tensor, task: int | None) -> Tensor | None:
            return torch.zeros(len(x), 2)

        def weights(self) -> dict[str, Tensor]:
            return {"w": torch.tensor([0.0, torch.inf])}

    with pytest.raises(DivergedError, match="a weight is not finite at the end"):
        run_sequence(tiny_tasks(2), Own(), MLP(width=8), TRAINING, "domain", 0)


def test_predicting_over_outputs_that_are_not_there() -> None:
    with pytest.raises(UsageError, match="needs full_head=true"):
        Training(predict_over="all")


def test_resnet_takes_a_batch_of_one_small_image() -> None:
    outcome = go(tasks=tiny_tasks(1, images=17), backbone=ResNet18(channels=2), training=Training(batch_size=16))
    assert outcome.updates == [2]


def test_a_finished_run_keeps_nothing_that_only_garbage_collection_would_free() -> None:
    method = Finetune()
    gc.disable()
    try:
        run_sequence(tiny_tasks(2), method, MLP(width=8), Training(batch_size=8), "task", 0)
        network = weakref.ref(method.network)
        del method
        assert network() is None
    finally:
        gc.enable()

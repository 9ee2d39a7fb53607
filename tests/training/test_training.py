"""The training core: what is trained, on what, and what is measured."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clbench.errors import DivergedError, UsageError
from clbench.method.base import Batch, Criterion, Method, Scenario
from clbench.method.schedule import Plan, Training
from clbench.methods.feature_extraction import FeatureExtraction
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.models.networks import MLP, ExpandingHeadModel, ResNet18
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks
from clbench.training.loop import Outcome, make_optimizer, run_sequence, weights_hash

TRAINING = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9, weight_decay=0.1)


def go(method: Method | None = None, scenario: Scenario = "task", tasks: int = 3, **keywords: Any) -> Outcome:
    options = {"backbone": MLP(width=16), "training": TRAINING, "seed": 3} | keywords
    return run_sequence(tiny_tasks(tasks), method or Finetune(), scenario=scenario, **options)


def states(method: Method | None = None, scenario: Scenario = "task", **keywords: Any) -> list[dict[str, Tensor]]:
    kept: list[dict[str, Tensor]] = []
    go(
        method,
        scenario,
        after_task=lambda model, task: kept.append({n: v.clone() for n, v in model.state_dict().items()}),
        **keywords,
    )
    return kept


def test_one_task_equals_a_plain_pytorch_loop() -> None:
    """The reference is written out here: same initial weights, same order of images, PyTorch's own optimiser."""
    from clbench.seeding import stream

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


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"optimizer": "adam"},
        {"optimizer": "adam", "weight_decay": 0.1},
        {"optimizer": "adagrad"},
    ],
    ids=str,
)
def test_the_optimisers_equal_pytorchs_bit_for_bit(settings: dict[str, Any]) -> None:
    """Where gradients are missing too, now and then, with a rate that changes, and a parameter that comes later."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.ones(*size)) for size in ((7, 5), (7,), (3, 7))] for _ in range(2))
    optimizer = make_optimizer(Training(lr=0.1, **settings), ours[:2])
    class_ = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adagrad": torch.optim.Adagrad}
    options = {name: value for name, value in settings.items() if name != "optimizer"}
    options |= {"lr": 0.1} if settings.get("optimizer") == "adagrad" else {"lr": 0.1, "fused": True}
    others = [class_[settings.get("optimizer", "sgd")]([parameter], **options) for parameter in theirs]
    for step in range(12):
        if step == 4:
            optimizer.add(ours)
        if step == 6:
            optimizer.lr /= 10
            for other in others:
                other.param_groups[0]["lr"] /= 10
        if step == 9:  # goes on from a checkpoint
            kept, optimizer = optimizer, make_optimizer(Training(lr=0.1, **settings), ours)
            optimizer.load_state_dict(kept.state_dict())
            optimizer.lr = kept.lr
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            if (step + index) % 4 and (index < 2 or step >= 4):
                gradient = torch.randn(pair[0].shape, generator=generator)
                for parameter in pair:
                    parameter.grad = gradient.clone()
        optimizer.step()
        for other in others:
            other.step()
            other.zero_grad()
        assert all(parameter.grad is None for parameter in ours)
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_accuracy_matrices_against_a_count_by_hand(scenario: Scenario) -> None:
    tasks = tiny_tasks(3)
    aware: list[list[float]] = []
    agnostic: list[list[float]] = []

    def count(model: ExpandingHeadModel, task: Task) -> None:
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

    outcome = run_sequence(tasks, Finetune(), MLP(width=16), TRAINING, scenario, 3, after_task=count)

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
        def after_backward(self, model: ExpandingHeadModel) -> None:
            weight = model.backbone[1].weight
            velocity.append(weight.grad.clone())
            before.append(weight.detach().clone())

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
        def after_step(self, model: ExpandingHeadModel) -> None:
            modes.append(model.backbone[1].training)

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


def test_an_epoch_takes_every_image_once() -> None:
    plan = Plan([24], Training(batch_size=10), equal_shares=False)
    rows = torch.cat(plan.draw(torch.Generator().manual_seed(0), 99))
    assert sorted(rows.tolist()) == list(range(24))


def test_budgets_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="drop_last leaves no batch"):
        Plan([5], Training(batch_size=8, drop_last=True), equal_shares=False)
    with pytest.raises(UsageError, match="either epochs or iterations"):
        Training(epochs=1, iterations=1)
    with pytest.raises(UsageError, match="option of sgd"):
        Training(optimizer="adam", momentum=0.9)


def test_divergence_is_an_error_that_says_where() -> None:
    with pytest.raises(DivergedError, match=r"task 1, epoch \d"):
        go(training=Training(epochs=20, batch_size=4, lr=1e20))


def test_batches_are_the_same_for_all_methods_whatever_came_before() -> None:
    def rows(cls: type[Method], **options: Any) -> list[list[int]]:
        kept: list[list[int]] = []

        class Watch(cls):  # type: ignore[misc, valid-type]
            def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
                kept.append(batch.index.tolist())
                return super().loss(model, batch, criterion)

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
            def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
                kept.append(batch.features == 0)
                return super().loss(model, batch, criterion)

        go(Watch(), tasks=2, backbone=MLP(width=64, dropout=0.5), training=Training(batch_size=24, lr=1e-9))
        return kept

    from clbench.methods.lwf import LwF

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
    from clbench.sequences.tasks import Split

    split = Split(torch.randn(6, 1, 4, 4, dtype=torch.double), torch.arange(6), torch.zeros(6, dtype=torch.long))
    task_ids = torch.tensor([0, 1, 1, 0, 1, 0])
    y = torch.tensor([1, 2, 4, 0, 3, 1])
    batch = Batch(model, split, torch.arange(6), y, task_ids, [0, 1])
    loss = Criterion("task")(model, batch)
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
    import time

    start = time.perf_counter()
    outcome = go()
    wall = time.perf_counter() - start
    spent = sum(outcome.train_seconds) + sum(outcome.evaluate_seconds)
    assert len(outcome.train_seconds) == 3
    assert len(outcome.evaluate_seconds) == 4
    assert all(value > 0 for value in outcome.train_seconds + outcome.evaluate_seconds)
    assert 0.5 * wall < spent <= wall


def test_weights_hash_sees_every_parameter_and_buffer() -> None:
    model = ResNet18(channels=4).build((1, 8, 8))
    seen = {weights_hash(model)}
    for tensor in model.state_dict().values():
        with torch.no_grad():
            tensor.view(-1)[0] += 1
        seen.add(weights_hash(model))
    assert len(seen) == 1 + len(model.state_dict())


def test_weights_that_blow_up_after_the_last_loss_are_a_failure_too() -> None:
    with pytest.raises(DivergedError, match="not finite"):
        go(tasks=1, training=Training(epochs=None, iterations=1, batch_size=8, lr=1e39))


def test_predicting_over_outputs_that_are_not_there() -> None:
    with pytest.raises(UsageError, match="needs full_head=true"):
        Training(predict_over="all")


def test_resnet_takes_a_batch_of_one_small_image() -> None:
    tasks = tiny_tasks(1, images=17)
    outcome = run_sequence(tasks, Finetune(), ResNet18(channels=4), Training(batch_size=16), "task", 0)
    assert outcome.updates == [2]

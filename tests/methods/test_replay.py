"""Replay: what is in the memory, which images a step takes, how many steps there are, and the loss by hand."""

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import tiny
import torch
from tiny import ADAM, SGD, batch_of, same_as, step_on
from torch import Tensor

from clbench.method import SCENARIOS, Method, Run, Scenario, Step, Training
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.methods.replay import Replay
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.sequences.tasks import Split, Task, concat
from clbench.testing import check_method, tiny_tasks
from clbench.training.run import Outcome

TRAINING = Training(epochs=2, batch_size=8, lr=0.05)
IMAGE = 64 * 4  # bytes of an image of tiny_tasks
LABELS = 16  # bytes of its column of the head, and of its task
NETWORK = ExpandingHeadModel(MLP(width=1), (1, 1, 1), 0)  # the memory does not look at its weights


def go(method: Method, scenario: Scenario = "task", tasks: list[Task] | int = 3, **keywords: Any) -> Outcome:
    return tiny.go(method, scenario, tasks, **({"backbone": MLP(width=8), "training": TRAINING} | keywords))


def sized_task(index: int, labels: Tensor, classes: int = 2) -> Task:
    """Make a task with these labels; each image is its own number."""
    rows = torch.arange(len(labels))
    split = Split(rows.float().view(-1, 1, 1, 1), rows, labels)
    return Task(index, tuple(range(index * classes, (index + 1) * classes)), split, split)


def begun(method: Replay, seed: int = 0, scenario: Scenario = "task") -> Replay:
    while len(NETWORK.head) < 9:
        NETWORK.expand(2)
    return tiny.begun(method, NETWORK, scenario, 9, seed)


def stored(method: Replay, tasks: int) -> list[Tensor]:
    """Return the images that are kept of each of the first tasks."""
    images = method.buffer.images
    assert images is not None or not len(method.buffer)
    return [torch.zeros(0) if images is None else images[method.buffer.places(index)] for index in range(tasks)]


def memories(method: Replay, sizes: list[int], seed: int = 0) -> list[list[list[int]]]:
    """Return the rows stored of each task, after each task."""
    begun(method, seed)
    kept = []
    for index, size in enumerate(sizes):
        method.finish_task(sized_task(index, torch.arange(size) % 2))
        kept.append([images.flatten().long().tolist() for images in stored(method, index + 1)])
    return kept


# ------------------------------------------------------------------------------------------ what is in the memory


def test_the_memory_is_shared_equally_among_the_tasks() -> None:
    kept = memories(Replay(images=10), [30, 20, 25, 4])
    assert [[len(rows) for rows in stored] for stored in kept] == [[10], [5, 5], [4, 3, 3], [3, 3, 2, 2]]
    for before, after in pairwise(kept):
        for old, new in zip(before, after, strict=False):
            assert new == old[: len(new)]  # cut down, not drawn again
    for stored in kept:
        for rows, size in zip(stored, [30, 20, 25, 4], strict=False):
            assert len(set(rows)) == len(rows)
            assert set(rows) <= set(range(size))


def test_a_small_task_fills_no_more_than_it_has() -> None:
    assert [len(rows) for rows in memories(Replay(images=40), [3, 30, 2])[-1]] == [3, 13, 2]


@pytest.mark.parametrize("images", [0, 1, 2, 3, 4, 5, 7, 11])
def test_what_the_tasks_do_not_divide_goes_to_the_earlier_ones(images: int) -> None:
    """The memory is always full: no task has two images more than another, and no later one more than an earlier."""
    for stored in memories(Replay(images=images), [20] * 5):
        counts = [len(rows) for rows in stored]
        assert sum(counts) == images
        assert counts == sorted(counts, reverse=True)
        assert counts[0] - counts[-1] <= 1


def test_hsus_memory_leaves_the_remainder_out() -> None:
    counts = [[len(rows) for rows in stored] for stored in memories(Replay(images=11, remainder="unused"), [20] * 5)]
    assert counts == [[11 // tasks] * tasks for tasks in range(1, 6)]


def test_the_memory_is_random_and_depends_on_the_seed_alone() -> None:
    one, again, other = (memories(Replay(images=10), [30, 30], seed)[-1] for seed in (0, 0, 1))
    assert one == again != other
    assert one[0] != one[1]  # each task has draws of its own
    assert one[0] != sorted(one[0])


def test_every_image_is_as_likely_to_be_kept() -> None:
    """How often each of 12 images is among the 4 kept, over 600 seeds: binomial, within 5 standard deviations."""
    counts, seeds = torch.zeros(2, 12), 600
    for seed in range(seeds):
        for task, rows in enumerate(memories(Replay(images=4), [12, 12], seed)[-1]):
            counts[task, rows] += 1
    p = 2 / 12
    assert counts.sum().item() == seeds * 4
    assert ((counts - seeds * p).abs() < 5 * math.sqrt(seeds * p * (1 - p))).all(), counts


# ------------------------------------------------------------------------------------------ the images of a step


class Steps(Replay):
    """Keeps, for every step, the images and their tasks, and the memory that there was."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []  # images, labels, tasks
        self.held: list[list[Tensor]] = []

    def loss(self, step: Step) -> Tensor:
        self.steps.append((step.batch.x, step.batch.y, step.batch.task_ids))
        self.held.append(stored(self, self.new))
        return super().loss(step)


class NewSteps(Finetune):
    def begin(self, run: Run) -> None:
        super().begin(run)
        self.steps: list[Tensor] = []

    def loss(self, step: Step) -> Tensor:
        self.steps.append(step.batch.x)
        return super().loss(step)


def rows_of(images: Tensor, of: Tensor) -> list[int]:
    """Return which image of `of` each of some images is."""
    same = (images[:, None] == of[None]).flatten(2).all(2)
    assert (same.sum(1) == 1).all()
    return same.long().argmax(1).tolist()


@pytest.mark.parametrize(
    ("scenario", "share", "batch_size", "joining"),
    [  # round(b · s / (1 − s)): 10, round(3.33), round(90), round(0.53); and round(0.08), where one is the least
        ("task", 0.5, 10, 10),
        ("class", 0.25, 10, 3),
        ("domain", 0.9, 10, 90),
        ("task", 0.05, 10, 1),
        ("class", 0.01, 8, 1),
        ("domain", 0.75, 7, 21),
    ],
)
def test_old_images_beside_the_batches_of_finetune(
    scenario: Scenario, share: float, batch_size: int, joining: int
) -> None:
    tasks, training = tiny_tasks(3), replace(TRAINING, batch_size=batch_size)
    method, plain = Steps(images=11, share=share), NewSteps()
    outcome, alone = go(method, scenario, tasks, training=training), go(plain, scenario, tasks, training=training)
    updates = 2 * math.ceil(24 / batch_size)
    assert outcome.updates == alone.updates == [updates] * 3
    for number, ((x, y, owners), expected) in enumerate(zip(method.steps, plain.steps, strict=True)):
        current = number // updates
        assert torch.equal(x[owners == current], expected)
        assert (owners < current).sum() == (joining if current else 0)
        for old in range(current):
            rows = torch.tensor(rows_of(x[owners == old], tasks[old].train.images), dtype=torch.long)
            assert set(rows.tolist()) <= set(rows_of(method.held[number][old], tasks[old].train.images))
            first = 0 if scenario == "domain" else 2 * old
            assert torch.equal(y[owners == old], tasks[old].train.y[rows] + first)
    assert outcome.images == [48, 48 + updates * joining, 48 + updates * joining]


def test_old_images_take_turns_beside_new_ones() -> None:
    """10 in the memory and 30 places an epoch: each comes 3 times, and none again before all have come."""
    tasks = tiny_tasks(3)
    method = Steps(images=10)
    go(method, tasks=tasks, training=replace(TRAINING, batch_size=10, epochs=1))
    for current in (1, 2):
        old = [x[owners < current] for x, _, owners in method.steps[3 * current : 3 * current + 3]]
        numbers = rows_of(torch.cat(old), torch.cat([task.train.images for task in tasks]))
        for turn in range(3):
            assert len(set(numbers[10 * turn : 10 * turn + 10])) == 10
        assert len(set(numbers)) == 10


@pytest.mark.parametrize(
    ("fields", "per_epoch"),
    [
        # 24 new images, batches of 8. The memory has 10, then 5 + 5: twice, so that 44 make 6 steps
        ({"images": 10}, [3, 6, 6]),
        # 7, then 4 + 3, three times: 24 + 21 = 45
        ({"images": 7}, [3, 6, 6]),
        # 1, then 1 + 0, 24 times; without the remainder none of either, 1 // 2
        ({"images": 1}, [3, 6, 6]),
        ({"images": 1, "remainder": "unused"}, [3, 6, 3]),
        # 15 once: 39, then 8 + 7
        ({"images": 15}, [3, 5, 5]),
        # all 24, then 20 + 20, once: 48 and 64
        ({"images": 40}, [3, 6, 8]),
    ],
    ids=str,
)
def test_updates_when_concatenated(fields: dict[str, Any], per_epoch: list[int]) -> None:
    outcome = go(Replay(mode="concatenate", **fields))
    assert outcome.updates == [2 * steps for steps in per_epoch]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_epoch_of_a_concatenation_takes_each_copy_once(scenario: Scenario) -> None:
    tasks, method = tiny_tasks(3), Steps(images=10, mode="concatenate")
    go(method, scenario, tasks, training=replace(TRAINING, epochs=1))
    everything = torch.cat([task.train.images for task in tasks])
    for current, steps in ((1, slice(3, 9)), (2, slice(9, 15))):
        images, labels, owners = (torch.cat(parts) for parts in zip(*method.steps[steps], strict=True))
        rows = torch.tensor(rows_of(images, everything))
        assert torch.equal(rows // 24, owners)
        counts = torch.bincount(rows, minlength=72).view(3, 24)
        expected = torch.zeros(3, 24, dtype=torch.long)
        expected[current] = 1
        for old, held in enumerate(method.held[steps.start]):
            expected[old, rows_of(held, tasks[old].train.images)] = 2
        assert torch.equal(counts, expected)
        first = 0 * owners if scenario == "domain" else 2 * owners
        y = torch.cat([task.train.y for task in tasks])
        assert torch.equal(labels, y[rows] + first)
        mixed = [step_owners.unique().numel() > 1 for _, _, step_owners in method.steps[steps]]
        assert any(mixed)  # they are shuffled


# ------------------------------------------------------------------------------------------ the loss


class LossByHand(Replay):
    """Compares the loss of each step with one written out image by image."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.pairs: list[tuple[float, float, int, int]] = []  # found, by hand, new images, old images

    def loss(self, step: Step) -> Tensor:
        loss, batch = super().loss(step), step.batch
        new, old = [], []
        current = self.new
        logits = step.network(batch.x)
        for z, y, owner in zip(logits, batch.y.tolist(), batch.task_ids.tolist(), strict=True):
            if self.run.scenario == "task":
                z, y = z[2 * owner : 2 * owner + 2], y - 2 * owner
            (new if owner == current else old).append(z.exp().sum().log().item() - z[y].item())
        n = current + 1
        if self.weighting == "images" or n == 1:
            expected = sum(new + old) / len(batch)
        else:
            expected = sum(new) / max(len(new), 1) / n + (1 - 1 / n) * sum(old) / max(len(old), 1)
        self.pairs.append((loss.item(), expected, len(new), len(old)))
        return loss


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("weighting", ["images", "tasks"])
@pytest.mark.parametrize("mode", ["beside", "concatenate"])
def test_loss_by_hand(double: None, scenario: Scenario, weighting: str, mode: str) -> None:
    method = LossByHand(images=11, mode=mode, weighting=weighting, share=0.3)
    go(method, scenario, tiny_tasks(3), training=replace(TRAINING, lr=0.2))
    assert len({pair[2:] for pair in method.pairs}) > 1
    for found, expected, _, _ in method.pairs:
        assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_gradient_of_the_weighted_loss(double: None, scenario: Scenario) -> None:
    """With two old tasks, 2 new images and 3 old ones: ⅓ of the new mean's gradient and ⅔ of the old mean's."""
    tasks = tiny_tasks(3)
    model = ExpandingHeadModel(MLP(width=8), (1, 8, 8), 0)
    for _ in range(1 if scenario == "domain" else 3):
        model.expand(2)
    model.seen = len(model.head)
    method = begun(Replay(weighting="tasks"), scenario=scenario)
    method.phases(tasks[2], [])
    method.keep(tasks[0])
    owners = torch.tensor([2, 0, 1, 2, 1])
    split = concat([task.train for task in tasks])
    index = 24 * owners + torch.tensor([3, 4, 5, 6, 7])
    y = split.y[index] + (0 if scenario == "domain" else 2 * owners)
    method.loss(step_on(model, batch_of(split, index, y, owners), scenario)).backward()
    found = model.backbone[1].weight.grad.clone()
    expected = torch.zeros_like(found)
    for row, owner in enumerate(owners.tolist()):
        model.zero_grad()
        one = slice(row, row + 1)
        step_on(model, batch_of(split, index[one], y[one], owners[one]), scenario).cross_entropy().backward()
        expected += model.backbone[1].weight.grad * (1 / 3 / 2 if owner == 2 else 2 / 3 / 3)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


# ------------------------------------------------------------------------------------------ costs and identities


@pytest.mark.parametrize("mode", ["beside", "concatenate"])
@pytest.mark.parametrize("images", [10, 6, 100])
def test_a_stored_image_counts_once(mode: str, images: int) -> None:
    """However often the memory is repeated, it is there once, and as large as it may become."""
    outcome = go(Replay(mode=mode, images=images))
    assert outcome.stored_bytes == images * (IMAGE + LABELS)
    assert outcome.stored_images == min(images, 3 * 24)


def with_dropout(method: Method, scenario: Scenario, training: Training) -> Outcome:
    return go(method, scenario, backbone=MLP(width=16, dropout=0.2), training=training)


@cache
def finetuned(scenario: Scenario, training: Training) -> Outcome:
    return with_dropout(Finetune(), scenario, training)


@pytest.mark.parametrize(
    ("scenario", "mode", "weighting", "training"),
    [
        ("task", "beside", "images", SGD),
        ("task", "concatenate", "tasks", ADAM),
        ("class", "beside", "tasks", ADAM),
        ("class", "concatenate", "images", SGD),
        ("domain", "beside", "images", ADAM),
        ("domain", "concatenate", "tasks", SGD),
    ],
    ids=lambda value: getattr(value, "optimizer", value),
)
def test_no_memory_is_finetune(scenario: Scenario, mode: str, weighting: str, training: Training) -> None:
    fields: dict[str, Any] = {"mode": mode, "weighting": weighting}
    plain = finetuned(scenario, training)
    none, some = (with_dropout(Replay(images=images, **fields), scenario, training) for images in (0, 6))
    same_as(none, plain)
    assert some.weights_hash != plain.weights_hash
    assert some.history[0] == plain.history[0]


def test_a_memory_of_everything_takes_as_many_steps_as_joint() -> None:
    everything = go(Replay(images=999, mode="concatenate"))
    assert everything.updates == go(Joint()).updates


@pytest.mark.parametrize(
    ("method", "scenario"),
    [
        (Replay(images=7, mode="concatenate", weighting="tasks"), "task"),
        (Replay(images=7, weighting="tasks"), "class"),
        (Replay(images=2, share=0.8), "task"),
    ],
    ids=repr,
)
def test_contract_of_variants(method: Replay, scenario: Scenario) -> None:
    check_method(method, models=["mlp"], scenarios=[scenario], tasks=3)

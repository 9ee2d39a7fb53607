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

from clbench.errors import UsageError
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
ROW = 8  # bytes of a row number
NETWORK = ExpandingHeadModel(MLP(width=1), (1, 1, 1), 0)  # the memory does not look at it


def go(method: Method, scenario: Scenario = "task", tasks: list[Task] | int = 3, **keywords: Any) -> Outcome:
    return tiny.go(method, scenario, tasks, **({"backbone": MLP(width=8), "training": TRAINING} | keywords))


def sized_task(index: int, labels: Tensor, classes: int = 2) -> Task:
    """Make a task with these labels; the memory looks at nothing else."""
    split = Split(torch.zeros(1, 1, 1, 1).expand(len(labels), 1, 1, 1), torch.arange(len(labels)), labels)
    return Task(index, tuple(range(index * classes, (index + 1) * classes)), split, split)


def begun(method: Replay, seed: int = 0, scenario: Scenario = "task") -> Replay:
    return tiny.begun(method, NETWORK, scenario, 9, seed)


def memories(method: Replay, sizes: list[int], seed: int = 0) -> list[list[list[int]]]:
    """Return the rows stored of each task, after each task."""
    begun(method, seed)
    kept = []
    for index, size in enumerate(sizes):
        method.finish_task(sized_task(index, torch.arange(size) % 2))
        kept.append([rows.tolist() for rows in method.stored])
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
    counts = [[len(rows) for rows in stored] for stored in memories(Replay(images=11, choice="random"), [20] * 5)]
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


def test_so_many_of_each_class() -> None:
    method = begun(Replay(images=3, per_class=True))
    labels = [torch.tensor([0, 1, 0, 0, 1, 0, 1, 1, 1]), torch.tensor([1, 1, 0, 2, 1, 2, 2, 2])]
    for index, y in enumerate(labels):
        method.finish_task(sized_task(index, y, classes=3))
    counts = [torch.bincount(y[rows], minlength=3).tolist() for y, rows in zip(labels, method.stored, strict=True)]
    assert counts == [[3, 3, 0], [1, 3, 3]]  # earlier tasks keep theirs; a class gives no more than it has
    assert all(len(rows.unique()) == len(rows) for rows in method.stored)


def test_which_of_a_class_are_kept_is_random() -> None:
    """Each of 6 images of a class is among the 2 kept with probability 1/3: 600 seeds, 5 standard deviations."""
    counts, seeds, y = torch.zeros(12), 600, torch.arange(12) % 2
    for seed in range(seeds):
        method = begun(Replay(images=2, per_class=True), seed)
        method.finish_task(sized_task(0, y))
        counts[method.stored[0]] += 1
    assert ((counts - seeds / 3).abs() < 5 * math.sqrt(seeds * 2 / 9)).all(), counts


def test_a_reservoir_holds_as_many_as_it_can() -> None:
    sizes = [5, 1, 20, 7]
    for images in (0, 3, 6, 8, 40):
        for after, stored in enumerate(memories(Replay(images=images, choice="reservoir"), sizes)):
            assert len(stored) == after + 1
            assert sum(map(len, stored)) == min(images, sum(sizes[: after + 1]))
            for rows, size in zip(stored, sizes, strict=False):
                assert len(set(rows)) == len(rows)
                assert set(rows) <= set(range(size))


def test_an_image_that_has_left_a_reservoir_stays_away() -> None:
    for before, after in pairwise(memories(Replay(images=8, choice="reservoir"), [9] * 6)):
        assert all(set(new) <= set(old) for old, new in zip(before, after, strict=False))


def test_every_image_seen_is_as_likely_to_be_in_a_reservoir() -> None:
    """10 places, 35 images in tasks of 5, 20 and 10: 1000 seeds, each image and each task's share within 5 sigma.

    A task's share of the places is drawn without replacement, so that its variance is below the binomial one.
    """
    sizes, images, seeds = [5, 20, 10], 10, 1000
    counts = [torch.zeros(size) for size in sizes]
    for seed in range(seeds):
        for task, rows in enumerate(memories(Replay(images=images, choice="reservoir"), sizes, seed)[-1]):
            counts[task][rows] += 1
    p = images / sum(sizes)
    for count in counts:
        assert ((count - seeds * p).abs() < 5 * math.sqrt(seeds * p * (1 - p))).all(), count
    for count, size in zip(counts, sizes, strict=True):
        q, places = size / sum(sizes), seeds * images
        assert abs(count.sum().item() - places * q) < 5 * math.sqrt(places * q * (1 - q))


def test_a_reservoir_shares_one_memory_among_all_classes() -> None:
    with pytest.raises(UsageError, match="has no per_class"):
        Replay(per_class=True, choice="reservoir").check("class", TRAINING)
    Replay(per_class=True).check("class", TRAINING)
    Replay(choice="reservoir").check("class", TRAINING)


# ------------------------------------------------------------------------------------------ the images of a step


class Steps(Replay):
    """Keeps, for every step, the images and their tasks, and the memory that there was."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []  # images, labels, tasks
        self.held: list[list[Tensor]] = []

    def loss(self, step: Step) -> Tensor:
        self.steps.append((step.batch.x, step.batch.y, step.batch.task_ids))
        self.held.append(list(self.stored))
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
            assert set(rows.tolist()) <= set(method.held[number][old].tolist())
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
        # 7, then 3 + 3, three times: 24 + 21 = 45 and 24 + 18 = 42
        ({"images": 7}, [3, 6, 6]),
        # 1, then 1 + 0, 24 times; without the remainder none of either, 1 // 2
        ({"images": 1}, [3, 6, 6]),
        ({"images": 1, "choice": "random"}, [3, 6, 3]),
        # 15 once: 39, then 7 + 7: 38
        ({"images": 15}, [3, 5, 5]),
        # all 24, then 20 + 20, once: 48 and 64
        ({"images": 40}, [3, 6, 8]),
        # 2 · 3 four times, then 4 · 3 twice: 48 each
        ({"images": 3, "per_class": True}, [3, 6, 6]),
        # 2 · 4 three times: 48; 16 once: 40
        ({"images": 4, "per_class": True}, [3, 6, 5]),
        # 5 four times: 44, at any time
        ({"images": 5, "choice": "reservoir"}, [3, 6, 6]),
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
            expected[old, held] = 2
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
        current = len(self.stored)
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
    method.stored = [torch.arange(4)] * 2
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
@pytest.mark.parametrize(
    ("fields", "images", "rows"),
    [
        ({"images": 10}, 10, 10),  # at most: as after the second task; after the third there are 3 + 3 + 3 rows
        ({"images": 6}, 6, 6),
        ({"images": 3, "per_class": True}, 12, 18),
        ({"images": 5, "choice": "reservoir"}, 5, 5),
    ],
    ids=str,
)
def test_a_stored_image_counts_once(mode: str, fields: dict[str, Any], images: int, rows: int) -> None:
    """However often the memory is repeated, it is there once."""
    outcome = go(Replay(mode=mode, **fields))
    assert outcome.stored_bytes == images * IMAGE + rows * ROW


def with_dropout(method: Method, scenario: Scenario, training: Training) -> Outcome:
    return go(method, scenario, backbone=MLP(width=16, dropout=0.2), training=training)


@cache
def finetuned(scenario: Scenario, training: Training) -> Outcome:
    return with_dropout(Finetune(), scenario, training)


@pytest.mark.parametrize(
    ("scenario", "mode", "weighting", "choice", "training"),
    [  # every pair of two is there
        ("task", "beside", "images", "random", SGD),
        ("task", "concatenate", "tasks", "reservoir", ADAM),
        ("class", "beside", "tasks", "random", ADAM),
        ("class", "concatenate", "images", "reservoir", SGD),
        ("domain", "beside", "images", "reservoir", ADAM),
        ("domain", "concatenate", "tasks", "random", SGD),
    ],
    ids=lambda value: getattr(value, "optimizer", value),
)
def test_no_memory_is_finetune(scenario: Scenario, mode: str, weighting: str, choice: str, training: Training) -> None:
    fields: dict[str, Any] = {"mode": mode, "weighting": weighting, "choice": choice}
    plain = finetuned(scenario, training)
    none, some = (with_dropout(Replay(images=images, **fields), scenario, training) for images in (0, 6))
    same_as(none, plain)
    assert none.stored_bytes == 0
    assert some.weights_hash != plain.weights_hash
    assert some.history[0] == plain.history[0]


def test_no_memory_per_class_is_finetune() -> None:
    for mode in ("beside", "concatenate"):
        none = go(Replay(images=0, per_class=True, mode=mode))
        assert none.weights_hash == go(Finetune()).weights_hash


def test_a_memory_of_everything_takes_as_many_steps_as_joint() -> None:
    everything = go(Replay(images=24, per_class=True, mode="concatenate"))
    assert everything.updates == go(Joint()).updates


@pytest.mark.parametrize(
    ("method", "scenario"),
    [
        (Replay(images=7, mode="concatenate", weighting="tasks"), "task"),
        (Replay(images=7, choice="reservoir", weighting="tasks"), "class"),
        (Replay(images=2, per_class=True, mode="concatenate"), "domain"),
        (Replay(images=2, share=0.8), "task"),
    ],
    ids=repr,
)
def test_contract_of_variants(method: Replay, scenario: Scenario) -> None:
    check_method(method, models=["mlp"], scenarios=[scenario], tasks=3)

"""mixup and CutMix: images and labels as torchvision mixes them, the law of λ, and who takes mixed labels."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from tiny import batch_of, begun, go, new, step_on
from torch import Tensor
from torchvision.transforms import v2

from clbench.cli.app import main
from clbench.errors import UsageError
from clbench.experiment import registry
from clbench.method import Batch, Criterion, Method, Run, Scenario, Step, check_mixing
from clbench.methods.er import ER
from clbench.methods.joint import Joint
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks
from clbench.training.mixing import box_around, cutmix, mixed, mixup

N = 7
X = torch.rand(N, 3, 10, 8, generator=torch.Generator().manual_seed(0))
NEXT = torch.arange(N).roll(1)  # torchvision's partner of each image
METHODS = sorted(registry.builtin("method"))


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made_up(task_ids: Sequence[int] = (0,) * N) -> Batch:
    """Make a batch whose labels are the rows."""
    rows = torch.arange(N)
    return Batch(X.clone(), rows, torch.tensor(task_ids), sorted(set(task_ids)), rows)


def pairs(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return a mixed batch's second labels, and the shares of the first ones."""
    assert batch.other_y is not None
    assert batch.share is not None
    return batch.other_y, batch.share


def augmenting(tasks: Sequence[Task], how: str) -> list[Task]:
    return [replace(task, train=replace(task.train, augment=how)) for task in tasks]


# --------------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixup_is_torchvisions(share: float) -> None:
    expected = v2.MixUp(num_classes=2).transform(X, {"lam": share, "labels": None, "batch_size": N})
    torch.testing.assert_close(mixup(X, NEXT, share), expected)


@pytest.mark.parametrize("box", [(2, 7, 1, 5), (0, 10, 0, 8), (3, 3, 2, 2)])
def test_cutmix_is_torchvisions(box: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = box
    params = {"box": (left, top, right, bottom), "labels": None, "batch_size": N}
    assert torch.equal(cutmix(X, NEXT, box), v2.CutMix(num_classes=2).transform(X, params))


def test_a_box_has_its_share_and_is_cut_off_at_the_border() -> None:
    assert box_around(10, 20, 0.75, 20, 40) == (5, 15, 10, 30)  # half of each side: a quarter of the image
    assert box_around(0, 39, 0.75, 20, 40) == (0, 5, 29, 40)
    assert box_around(4, 4, 1.0, 20, 40) == (4, 4, 4, 4)
    assert box_around(10, 20, 0.0, 20, 40) == (0, 20, 0, 40)


# -------------------------------------------------------------------------------------------------------------- batches


def test_the_share_is_uniform_and_partners_are_a_permutation() -> None:
    found = [pairs(mixed(made_up(), "mixup", drawn(seed), within_tasks=False)) for seed in range(400)]
    assert all(len(share.unique()) == 1 for _, share in found)
    assert scipy.stats.kstest([share[0].item() for _, share in found], "uniform").pvalue > 0.001
    assert all(sorted(partner.tolist()) == list(range(N)) for partner, _ in found)
    first = [int(partner[0]) for partner, _ in found]
    assert scipy.stats.chisquare([first.count(row) for row in range(N)]).pvalue > 0.001


@pytest.mark.parametrize("how", ["mixup", "cutmix"])
def test_labels_go_with_their_images(how: str) -> None:
    """Each image is 1 in a channel of its own: how much of which image is there can be read off the mixed ones."""
    x = torch.eye(N)[:, :, None, None].repeat(1, 1, 6, 5)
    for seed in range(20):
        batch = mixed(replace(made_up(), x=x), how, drawn(seed), within_tasks=False)
        other, share = pairs(batch)
        expected = share[:, None] * torch.eye(N) + (1 - share[:, None]) * torch.eye(N)[other]
        torch.testing.assert_close(batch.x.mean((2, 3)), expected)
        assert torch.equal(batch.y, torch.arange(N))


def test_pairs_within_tasks() -> None:
    ids = (0, 1, 0, 2, 1, 0, 0)
    partners = [pairs(mixed(made_up(ids), "mixup", drawn(seed), within_tasks=True))[0] for seed in range(300)]
    assert all(sorted(partner.tolist()) == list(range(N)) for partner in partners)
    assert all(torch.equal(torch.tensor(ids)[partner], torch.tensor(ids)) for partner in partners)
    first = [int(partner[0]) for partner in partners]
    assert scipy.stats.chisquare([first.count(row) for row in (0, 2, 5, 6)]).pvalue > 0.001


def test_a_seed_gives_the_same_batch() -> None:
    first, again = (mixed(made_up(), "cutmix", drawn(5), within_tasks=False) for _ in range(2))
    assert torch.equal(first.x, again.x)


# --------------------------------------------------------------------------------------------------------------- losses


def soft(batch: Batch, classes: int) -> Tensor:
    """Return the labels as torchvision mixes them: [n, classes]."""
    other, share = pairs(batch)
    return share[:, None] * F.one_hot(batch.y, classes) + (1 - share[:, None]) * F.one_hot(other, classes)


def two_tasks() -> tuple[ExpandingHeadModel, Batch, Batch]:
    """Return a network, images of the first task, and mixed ones of the second."""
    tasks, rows = tiny_tasks(2), torch.arange(8)
    network = ExpandingHeadModel(MLP(width=6), tasks[0].train.shape, 0)
    network.expand_to([2, 2])
    network.seen = 2
    old = batch_of(tasks[0].train, rows, tasks[0].train.y[:8], torch.zeros(8, dtype=torch.long))
    plain = batch_of(tasks[1].train, rows, tasks[1].train.y[:8] + 2, torch.ones(8, dtype=torch.long))
    return network, old, mixed(plain, "mixup", drawn(), within_tasks=False)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_soft_labels(smoothing: float) -> None:
    """Over both tasks' outputs in `class`; in `task` over its own alone."""
    network, _, batch = two_tasks()
    z, targets = network(batch.x), soft(batch, 4)
    step = replace(step_on(network, batch, "class"), criterion=Criterion("class", smoothing=smoothing))
    torch.testing.assert_close(step.cross_entropy(), F.cross_entropy(z, targets, label_smoothing=smoothing))
    own = replace(step, criterion=Criterion("task", smoothing=smoothing))
    expected = F.cross_entropy(z[:, 2:], targets[:, 2:], label_smoothing=smoothing)
    torch.testing.assert_close(own.cross_entropy(), expected)
    weights = torch.rand(8, generator=drawn())
    losses = F.cross_entropy(z, targets, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(step.cross_entropy(weights), (weights * losses).mean())


def test_old_images_that_join_are_as_they_are() -> None:
    network, first, batch = two_tasks()
    method = begun(ER(images=6), network, "class")
    method.buffer.add(first)
    old = method.buffer.at(method.buffer.places())
    joined = method.joined_step(step_on(network, batch, "class"), 6).batch
    order = [int((old.x == x).flatten(1).all(1).nonzero()[0]) for x in joined.x[8:]]
    z, labels = network(torch.cat([batch.x, old.x[order]])), torch.cat([soft(batch, 4), F.one_hot(old.y[order], 4)])
    torch.testing.assert_close(step_on(network, joined, "class").cross_entropy(), F.cross_entropy(z, labels))


# ----------------------------------------------------------------------------------------------------------------- runs


@dataclass
class Watched(Method):
    """Fine-tuning that keeps what it saw"""

    name: ClassVar[str] = "watched"
    mixed_labels: ClassVar[bool] = True

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.steps: list[Batch] = []
        self.asked: list[Tensor] = []

    def loss(self, step: Step) -> Tensor:
        self.steps.append(step.batch)
        return step.cross_entropy()

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        self.asked.append(x)
        return super().scores(x, task)


def test_batches_are_mixed_in_training_and_nowhere_else() -> None:
    plain, method = Watched(), Watched()
    go(plain)
    go(method, tasks=augmenting(tiny_tasks(3), "mixup"))
    assert all(batch.other_y is None for batch in plain.steps)
    assert len(plain.steps) == len(method.steps)
    for one, other in zip(plain.steps, method.steps, strict=True):  # the same images, in pairs
        assert torch.equal(one.y, other.y)
        assert torch.equal(one.index, other.index)
        assert sorted(pairs(other)[0].tolist()) == sorted(one.y.tolist())
        assert not torch.equal(one.x, other.x)
    assert len(plain.asked) == len(method.asked)
    assert all(torch.equal(one, other) for one, other in zip(plain.asked, method.asked, strict=True))


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_joint_training_pairs_what_competes(scenario: Scenario) -> None:
    """A label of another task's would have no output in `task`, and an infinite loss."""
    outcome = go(Joint(), scenario, augmenting(tiny_tasks(3), "mixup"))
    assert all(loss < 10 for task in outcome.history for loss in task["loss"])


def refuses(name: str) -> bool:
    try:
        check_mixing(registry.find("method", name), "crop+flip+mixup")
    except UsageError:
        return True
    return False


def test_the_guide_names_the_methods_that_refuse() -> None:
    guide = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    named = re.search(r"refuse both.*?:\n(.*?);", guide, re.DOTALL)
    assert named is not None
    assert set(re.findall("`(.*?)`", named[1])) == {name for name in METHODS if refuses(name)}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_on_mixed_images_or_refuses(name: str) -> None:
    method: Any = new(name)
    scenario: Scenario = "task" if "task" in method.scenarios else "class"
    tasks = augmenting(tiny_tasks(2), "cutmix")
    if refuses(name):
        with pytest.raises(UsageError, match="takes no mixed labels, which augment=cutmix makes: leave cutmix out"):
            go(method, scenario, tasks, backbone=MLP(width=16))
    else:
        mixes, plain = (go(new(name), scenario, some, backbone=MLP(width=16)) for some in (tasks, tiny_tasks(2)))
        assert mixes.weights_hash != plain.weights_hash


@dataclass
class OwnLoss(Method):
    """A loss of one's own"""

    name: ClassVar[str] = "own-loss"

    def loss(self, step: Step) -> Tensor:
        return F.cross_entropy(step.outputs, step.batch.y)


class Says(OwnLoss):
    mixed_labels: ClassVar[bool] = True


def test_a_loss_of_ones_own_has_to_say_that_it_takes_them() -> None:
    check_mixing(OwnLoss, "crop+flip")
    with pytest.raises(UsageError, match="own-loss takes no mixed labels"):
        check_mixing(OwnLoss, "mixup")
    check_mixing(Says, "mixup")


def test_it_is_refused_before_anything_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["clbench", "run", "--methods", "icarl", "--sequence", "split-cifar10@augment=mixup", "--scenario", "class"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "icarl takes no mixed labels, which augment=mixup makes: leave mixup out" in said
    assert said.count("\n") == 1

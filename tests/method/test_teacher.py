"""The old network's responses: recorded once, or asked for with each batch."""

from dataclasses import replace

import pytest
import torch
from tiny import batch_of
from torch import Tensor

from clbench.method import Batch, Teacher
from clbench.models import Backbone, ExpandingHeadModel
from clbench.models.backbones import CNN, MLP, ResNet18
from clbench.sequences.tasks import Split
from clbench.testing import tiny_tasks

BACKBONES = [MLP(width=32, dropout=0.5), CNN(channels=4, width=32, dropout=0.5), ResNet18(channels=4)]


def old_network(backbone: Backbone, images: int) -> tuple[ExpandingHeadModel, Split]:
    (task,) = tiny_tasks(1, images=images)
    network = ExpandingHeadModel(backbone, (1, 8, 8), 0)
    network.expand(3)
    network.train()(task.train.images)  # so that batch norm has something to remember
    return network.eval(), task.train


def some(split: Split, *rows: int) -> Batch:
    index = torch.tensor(rows)
    return batch_of(split, index, index * 0, index * 0)


def respond(network: ExpandingHeadModel, x: Tensor) -> Tensor:
    return network(x)


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.name)
def test_recorded_and_live_responses_are_equal_to_rounding(backbone: Backbone) -> None:
    """A batch of another size rounds otherwise: within 32 units in the last place of numbers of about 1."""
    network, split = old_network(backbone, images=backbone.chunk + 9)
    recorded, live = Teacher(network, respond, split), Teacher(network, respond, replace(split, augment=True))
    for rows in ([0], [5, 3, 5], list(range(64)), [backbone.chunk + 8], list(range(backbone.chunk - 3, len(split)))):
        batch = some(split, *rows)
        torch.testing.assert_close(recorded(batch), live(batch), rtol=4e-6, atol=4e-6)
        torch.testing.assert_close(live(batch), network(batch.x), rtol=4e-6, atol=4e-6)


def test_recorded_responses_are_computed_once_and_live_ones_each_time() -> None:
    network, split = old_network(MLP(width=8), images=20)
    network.passes.reset()
    recorded = Teacher(network, respond, split)
    assert network.passes.forward == 20
    recorded(some(split, 1, 2, 3))
    assert network.passes.forward == 20
    live = Teacher(network, respond, replace(split, augment=True))
    live(some(split, 1, 2, 3))
    assert (network.passes.forward, network.passes.pending) == (23, 0)  # and no gradient is to come


@pytest.mark.parametrize("augment", [False, True])
def test_it_stays_as_it_was(augment: bool) -> None:
    network, split = old_network(MLP(width=8), images=20)
    teacher, batch = Teacher(network, respond, replace(split, augment=augment)), some(split, 1, 2)
    before = teacher(batch)
    with torch.no_grad():
        network.head[0].weight.zero_()
    network.train()
    assert torch.equal(teacher(batch), before)
    assert not teacher(batch).requires_grad


def test_augmented_images_are_looked_at_as_they_are() -> None:
    network, split = old_network(MLP(width=8), images=20)
    teacher, batch = Teacher(network, respond, replace(split, augment=True)), some(split, 1, 2)
    batch.x = batch.x + 1
    torch.testing.assert_close(teacher(batch), network(batch.x))


def test_in_training_mode_it_has_masks_of_its_own() -> None:
    network, split = old_network(MLP(width=64, dropout=0.5), images=20)
    teacher, batch = Teacher(network, respond, split, train_mode=True), some(split, *range(8))
    torch.manual_seed(0)
    one = teacher(batch)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))  # the masks of the network that trains come as they would without it
    assert not torch.allclose(one, network(batch.x))
    assert not network.training

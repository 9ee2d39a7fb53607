"""Training with a frozen backbone: only the head moves, and features are computed once."""

from dataclasses import replace

import pytest
import torch
from tiny import go, states
from torch import Tensor, nn

from clbench.errors import ClbenchError
from clbench.method import Training
from clbench.methods.ewc import EWC
from clbench.methods.finetune import Finetune
from clbench.methods.lfl import LFL
from clbench.models.backbones import CNN, MLP, ResNet18
from clbench.testing import tiny_tasks

BACKBONES = [CNN(channels=2, width=8, frozen=True), ResNet18(channels=2, frozen=True)]


@pytest.mark.parametrize("backbone", BACKBONES, ids=["cnn", "resnet18"])
@pytest.mark.parametrize("method", [Finetune(), EWC()], ids=["finetune", "ewc"])
def test_only_the_head_moves(method: Finetune | EWC, backbone: CNN | ResNet18) -> None:
    first, *later = states(method, tasks=3, backbone=backbone)
    for name, value in first.items():
        assert name.startswith("head.") or all(torch.equal(value, after[name]) for after in later), name
    assert not torch.equal(later[-1]["head.2.weight"], torch.zeros_like(later[-1]["head.2.weight"]))


@pytest.mark.parametrize("augment", [False, True])
def test_features_are_computed_once_where_images_are_not_augmented(augment: bool) -> None:
    tasks = [replace(task, train=replace(task.train, augment=augment)) for task in tiny_tasks(2)]
    outcome = go(Finetune(), tasks=tasks, backbone=CNN(channels=2, width=8, frozen=True), training=Training(epochs=3))
    images = [len(task.train) for task in tasks]
    assert outcome.images == [3 * n for n in images]
    assert outcome.forward_passes == ([3 * n for n in images] if augment else images)


def test_it_is_logistic_regression_on_the_features() -> None:
    """A hand-written loop on the same features, batches and weights."""
    backbone, training = CNN(channels=2, width=8, frozen=True), Training(epochs=1, batch_size=1000, lr=0.5)
    (task,) = tiny_tasks(1)
    (after,) = states(Finetune(), tasks=[task], backbone=backbone, training=training, seed=3)
    (start,) = states(Finetune(), tasks=[task], backbone=backbone, training=replace(training, lr=1e-30), seed=3)
    network = CNN(channels=2, width=8).build(task.train.shape)
    network.load_state_dict({n.removeprefix("backbone."): v for n, v in start.items() if n.startswith("backbone.")})
    head = nn.Linear(8, len(task.classes))
    head.load_state_dict({"weight": start["head.0.weight"], "bias": start["head.0.bias"]})
    features: Tensor = network(task.train.batch(torch.arange(len(task.train)))).detach()
    nn.functional.cross_entropy(head(features), task.train.y).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(after[f"head.0.{name}"], parameter.detach() - 0.5 * parameter.grad)


def test_the_frozen_weights_count_as_parameters() -> None:
    frozen, tuned = (go(Finetune(), backbone=MLP(width=8, frozen=frozen)) for frozen in (True, False))
    assert frozen.parameters == tuned.parameters


def test_where_nothing_is_left_to_train() -> None:
    with pytest.raises(ClbenchError, match="a phase has no parameter to train: the backbone is frozen"):
        go(LFL(), "domain", backbone=MLP(width=8, frozen=True))

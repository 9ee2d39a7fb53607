"""PyTorch's optimisers by name, and their state."""

from typing import Any

import pytest
import torch
from torch import nn

from clbench.method import Training
from clbench.training.optimizer import OPTIMIZERS, Optimizer


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd"},
        {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1},
        {"optimizer": "rmsprop", "momentum": 0.9, "weight_decay": 0.1},
        *({"optimizer": name, "weight_decay": 0.1} for name in OPTIMIZERS if name not in ("sgd", "rmsprop")),
    ],
    ids=str,
)
def test_a_parameter_moves_as_if_it_were_alone(settings: dict[str, Any]) -> None:
    """Where gradients are missing now and then, the rate changes, a parameter comes later, and the state goes on."""
    generator = torch.Generator().manual_seed(0)
    names, sizes = ("first", "second", "third"), ((7, 5), (7,), (3, 7))
    ours, theirs = ([nn.Parameter(torch.ones(*size)) for size in sizes] for _ in range(2))
    training = Training(lr=0.1, **settings)
    named = dict(zip(names, ours, strict=True))
    known = dict(list(named.items())[:2])
    optimizer = Optimizer(training, known, 0.1)
    options = {name: value for name, value in settings.items() if name != "optimizer"}
    others = [OPTIMIZERS[training.optimizer]([parameter], lr=0.1, **options) for parameter in theirs]
    for step in range(12):
        if step in (4, 9):  # the head has grown; the run goes on from a checkpoint
            state, known = optimizer.state(), named
            optimizer = Optimizer(training, known, 0.1)
            optimizer.load_state(state)
        if step >= 6:
            optimizer.lr = 0.01
            for other in others:
                other.param_groups[0]["lr"] = 0.01
        for index, pair in enumerate(zip(ours, theirs, strict=True)):
            for parameter in pair:
                parameter.grad = None
            if (step + index) % 4 and (index < 2 or step >= 4):
                gradient = torch.randn(pair[0].shape, generator=generator)
                for parameter in pair:
                    parameter.grad = gradient.clone()
        for other in (optimizer, *others):
            other.step()
        for pair in zip(ours, theirs, strict=True):
            torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-7)
    assert all(not torch.equal(parameter, torch.ones_like(parameter)) for parameter in ours)


def test_the_state_is_there_for_what_has_moved() -> None:
    named = {name: nn.Parameter(torch.ones(3)) for name in "ab"}
    optimizer = Optimizer(Training(optimizer="adam"), named, 0.1)
    named["a"].grad = torch.ones(3)
    optimizer.step()
    assert set(optimizer.state()) == {"a"}

"""PyTorch's optimisers by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clbench.method.settings import Training

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adafactor": torch.optim.Adafactor,
}
FUSED = ("sgd", "adam", "adamw")  # those with one kernel for all parameters, on the CPU too
State = dict[str, dict[str, Any]]  # what an optimiser remembers, by parameter name


def make_optimizer(training: Training, parameters: Mapping[str, nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Make the optimiser that the settings name; it leaves a parameter without a gradient alone."""
    options: dict[str, Any] = {"lr": lr, "weight_decay": training.weight_decay}
    if training.optimizer in ("sgd", "rmsprop"):
        options["momentum"] = training.momentum
    if training.optimizer in FUSED:
        options["fused"] = True
    optimizer = OPTIMIZERS[training.optimizer](list(parameters.values()), **options)
    if training.optimizer == "sgd" and training.momentum:
        # the fused kernel takes no step in which some parameters have a momentum and others none yet
        for parameter in parameters.values():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> State:
    """Return what an optimiser remembers of each parameter that it has moved."""
    return {name: dict(optimizer.state[p]) for name, p in parameters.items() if p in optimizer.state}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: State
) -> None:
    """Take over what another optimiser of the same kind remembered; parameters that it did not have begin afresh."""
    for name, values in state.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            # a count of steps may stay on the CPU
            key: value.to(parameter.device) if isinstance(value, Tensor) and value.ndim else value
            for key, value in values.items()
        }


def load_torch_optim() -> None:
    """Make an optimiser once: the first one of a process loads PyTorch's compiler, which takes over a second."""
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)

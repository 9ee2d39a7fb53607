"""PyTorch's optimisers by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

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
FUNCTIONAL = ("sgd", "adam", "adamw")
State = dict[str, dict[str, Any]]  # what an optimiser remembers, by parameter name


class Optimizer:
    """An optimiser of torch.optim, which leaves a parameter without a gradient alone. `lr` may be changed.

    Those most used go by PyTorch's functional forms and fused kernels, which give the same numbers: the first object of
    torch.optim in a process loads PyTorch's compiler, 1.3 s of the 8 that the default command takes.
    """

    def __init__(self, training: Training, parameters: Mapping[str, nn.Parameter], lr: float):
        self.training, self.parameters, self.lr = training, parameters, lr
        self.own: dict[nn.Parameter, dict[str, Any]] = {}
        self.torch: torch.optim.Optimizer | None = None
        if training.optimizer not in FUNCTIONAL:
            options: dict[str, Any] = {"lr": lr, "weight_decay": training.weight_decay}
            if training.optimizer == "rmsprop":
                options["momentum"] = training.momentum
            self.torch = OPTIMIZERS[training.optimizer](list(parameters.values()), **options)

    @torch.no_grad()
    def step(self) -> None:
        """Move each parameter that has a gradient, and forget the gradients."""
        if self.torch is not None:
            self.torch.param_groups[0]["lr"] = self.lr
            self.torch.step()
        elif moved := [parameter for parameter in self.parameters.values() if parameter.grad is not None]:
            self._move(moved, [parameter.grad for parameter in moved if parameter.grad is not None])
        for parameter in self.parameters.values():
            parameter.grad = None

    def _move(self, parameters: list[Any], gradients: list[Tensor]) -> None:
        training = self.training
        states = [self.own.setdefault(p, {}) or self._begin(p) for p in parameters]
        common: dict[str, Any] = {
            "lr": self.lr,
            "weight_decay": training.weight_decay,
            "maximize": False,
            "fused": True,
        }
        if training.optimizer == "sgd":
            buffers = [state.get("momentum_buffer") for state in states]
            sgd(parameters, gradients, buffers, momentum=training.momentum, dampening=0.0, nesterov=False, **common)
            return
        first, second, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        decoupled = training.optimizer == "adamw"
        common |= {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False, "decoupled_weight_decay": decoupled}
        adam(parameters, gradients, first, second, [], steps, **common)

    def _begin(self, parameter: nn.Parameter) -> dict[str, Any]:
        """Return a parameter's state before its first step."""
        state = self.own[parameter]
        if self.training.optimizer != "sgd":
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        elif self.training.momentum:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state

    def state(self) -> State:
        """Return what is remembered of each parameter that has moved."""
        kept = self.own if self.torch is None else self.torch.state
        return {name: dict(kept[p]) for name, p in self.parameters.items() if p in kept}

    def load_state(self, state: State) -> None:
        """Take over what another one of the same kind remembered; parameters that it did not have begin afresh."""
        kept = self.own if self.torch is None else self.torch.state
        for name, values in state.items():
            parameter = self.parameters[name]
            on_device = self.torch is None  # else a count of steps may stay on the CPU
            kept[parameter] = {
                key: value.to(parameter.device) if isinstance(value, Tensor) and (value.ndim or on_device) else value
                for key, value in values.items()
            }

"""SGD, Adam and Adagrad: PyTorch's, by its own kernels and bit for bit.

A step by `torch.optim` costs a small network a twentieth more, and making the first of its optimisers loads PyTorch's
compiler, a second in every process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import is_not
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]  # what an optimiser remembers of one parameter


class Optimizer:
    """Base of the optimisers: the rate, which may be changed at any time, and the state of each parameter."""

    moments: tuple[str, ...] = ()  # names of the states that are shaped like the parameter, and start at zero
    counts: bool = False  # whether the steps of each parameter are counted, as `step`

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0):
        self.lr, self.weight_decay = lr, weight_decay
        self.state: dict[nn.Parameter, State] = {}
        self.add(parameters)

    def add(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take these parameters in; those that are in it already keep their state."""
        for parameter in parameters:
            if parameter not in self.state:
                state = {name: torch.zeros_like(parameter) for name in self.moments}
                if self.counts:
                    state["step"] = torch.zeros((), device=parameter.device)
                self.state[parameter] = state

    @torch.no_grad()
    def step(self) -> None:
        """Move each parameter that has a gradient, and forget the gradients."""
        trained: list[Any] = []
        gradients, states = [], []
        for parameter, state in self.state.items():
            if parameter.grad is not None:
                trained.append(parameter)
                gradients.append(parameter.grad)
                states.append(state)
                parameter.grad = None
        if trained:
            self.move(trained, gradients, states)

    def move(self, parameters: list[Tensor], gradients: list[Tensor], states: list[State]) -> None:
        """Change parameters and states in place, by one gradient each."""
        raise NotImplementedError(f"{type(self).__name__} does not define move")

    def state_dict(self) -> list[State]:
        """Return the states in the parameters' order."""
        return list(self.state.values())

    def load_state_dict(self, states: Sequence[State]) -> None:
        """Take over the states of an optimiser of the same parameters."""
        for own, other in zip(self.state.values(), states, strict=True):
            for name, tensor in own.items():
                own[name] = other[name].to(tensor.device, copy=True)


class SGD(Optimizer):
    """Stochastic gradient descent with momentum; weight decay is added to the gradient."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0, momentum: float = 0.0):
        self.momentum = momentum
        self.moments = ("momentum_buffer",) if momentum else ()
        super().__init__(parameters, lr, weight_decay)

    def move(self, parameters: list[Tensor], gradients: list[Tensor], states: list[State]) -> None:
        torch._fused_sgd_(
            parameters,
            gradients,
            [state["momentum_buffer"] for state in states] if self.momentum else [],
            lr=self.lr,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015) with β = (0.9, 0.999) and ε = 10⁻⁸."""

    moments = ("exp_avg", "exp_avg_sq")
    counts = True

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.0):
        self._together: list[Tensor] = []  # the parameters of the last step
        self._counters: list[Tensor] = []  # their steps, those with as many by one tensor
        super().__init__(parameters, lr, weight_decay)

    def load_state_dict(self, states: Sequence[State]) -> None:
        super().load_state_dict(states)
        self._together = []

    def move(self, parameters: list[Tensor], gradients: list[Tensor], states: list[State]) -> None:
        if len(parameters) != len(self._together) or any(map(is_not, parameters, self._together)):
            counters: dict[float, Tensor] = {}
            for state in states:
                count = state["step"].item()
                state["step"] = counters.setdefault(count, torch.full_like(state["step"], count))
            self._together, self._counters = parameters, list(counters.values())
        torch._foreach_add_(self._counters, 1)
        first, second, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        torch._fused_adam_(
            parameters,
            gradients,
            first,
            second,
            [],
            steps,
            lr=self.lr,
            weight_decay=self.weight_decay,
            beta1=0.9,
            beta2=0.999,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )


class Adagrad(Optimizer):
    """Adagrad (Duchi et al. 2011) with ε = 10⁻¹⁰."""

    moments = ("sum",)

    def move(self, parameters: list[Tensor], gradients: list[Tensor], states: list[State]) -> None:
        for parameter, gradient, state in zip(parameters, gradients, states, strict=True):
            if self.weight_decay:
                gradient = gradient.add(parameter, alpha=self.weight_decay)
            state["sum"].addcmul_(gradient, gradient)
            parameter.addcdiv_(gradient, state["sum"].sqrt().add_(1e-10), value=-self.lr)

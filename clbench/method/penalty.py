"""The quadratic penalty that pulls weights towards earlier ones.

Gradient descent with momentum μ and rate η follows a parabola of curvature h only if η h < 2 (1 + μ) (Polyak 1964).
The curvature of factor · Ω_i (θ_i − θ*_i)² is 2 factor Ω_i. Under sgd, an Ω_i is therefore cut to
(1 + μ) / (2 η factor), half of what is stable, as the loss has a curvature too: such a weight is held as fast as steps
of this size can hold it. Without that, a large strength makes the weights swing ever further. Adam and its like scale
their steps, and nothing is cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from clbench.method.learner import Run
from clbench.method.method import Method
from clbench.method.step import Step
from clbench.models.head import ExpandingHeadModel
from clbench.search import Search

Weights = dict[str, Tensor]  # by parameter name


@dataclass
class Quadratic:
    """Σ_i Ω_i (θ_i − θ*_i)² + constant, over every parameter that there was when it was made, the head's included."""

    anchor: Weights  # θ*
    importance: Weights | None  # Ω; None: all 1
    constant: Tensor | float = 0.0

    def plus(self, other: Quadratic) -> Quadratic:
        """Return the sum of two quadratics, which is one: Ω = Ω₁ + Ω₂ around the weighted mean of the two anchors."""
        assert self.importance is not None
        assert other.importance is not None
        anchor, total, constant = dict(other.anchor), dict(other.importance), self.constant + other.constant
        for name, old in self.importance.items():
            new = other.importance[name]
            total[name] = old + new
            shift = other.anchor[name] - self.anchor[name]
            share = torch.where(total[name] > 0, old / total[name], 0.0)
            anchor[name] = other.anchor[name] - share * shift
            constant = constant + (share * new * shift.square()).sum()
        return Quadratic(anchor, total, constant)


@dataclass
class QuadraticPenalty(Method):
    """Base of the methods that pull weights towards earlier ones: CE + strength · [½] · Σ_i Ω_i (θ_i − θ*_i)²."""

    family: ClassVar[str] = "penalties"
    mixed_labels: ClassVar[bool] = True
    strength: Annotated[float, Ge(0), Search(0.001, 1e4, log=True)] = 1.0  # λ: how strongly old weights pull
    half: bool = False  # the factor ½ before the sum
    # under sgd, cut importances that its steps could not follow, so that no strength diverges; false: as in the papers
    stable: bool = field(default=True, metadata={"added": True})

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.quadratic: Quadratic | None = None
        self._pull: tuple[Quadratic, float, Quadratic] | None = None  # the last answer of `pull`, and to what

    @property
    def factor(self) -> float:
        return self.strength / 2 if self.half else self.strength

    def loss(self, step: Step) -> Tensor:
        loss, pull = step.cross_entropy(), self.pull(step.lr)
        if pull is None:
            return loss
        parts: list[Tensor] = []
        for name, parameter in step.network.named_parameters():
            if name in pull.anchor:
                omega = None if pull.importance is None else pull.importance[name]
                parts.append(_WeightedSquares.apply(parameter, pull.anchor[name], omega))
        return loss + self.factor * (torch.stack(parts).sum() + pull.constant)

    def pull(self, lr: float) -> Quadratic | None:
        """Return the quadratic that steps of this rate can follow, see above; None where nothing is pulled."""
        if self.quadratic is None or self.factor == 0:
            return None
        if self._pull is None or self._pull[0] is not self.quadratic or self._pull[1] != lr:
            self._pull = self.quadratic, lr, self._followed(self.quadratic, lr)
        return self._pull[2]

    def _followed(self, quadratic: Quadratic, lr: float) -> Quadratic:
        training = self.run.training
        if not self.stable or training.optimizer != "sgd":
            return quadratic
        most = (1 + training.momentum) / (2 * lr * self.factor)
        if quadratic.importance is None and most >= 1:
            return quadratic
        importance = quadratic.importance or {name: torch.ones_like(w) for name, w in quadratic.anchor.items()}
        uncut = torch.stack([(omega <= most).all() for omega in importance.values()]).all()
        cut = {name: omega.clamp(max=most) for name, omega in importance.items()}
        constant = torch.where(uncut, quadratic.constant, 0.0)  # it is that of the whole pull
        return replace(quadratic, importance=cut, constant=constant)

    @torch.no_grad()
    def of_cross_entropy(self, gradients: Weights, lr: float) -> Weights:
        """Take the penalty's part, 2 λ Ω (θ − θ*), off the gradients of the loss, and return what is left, copied."""
        pull, own = self.pull(lr), {}
        for name, parameter in self.network.named_parameters():
            if name in gradients:
                own[name] = gradients[name].clone()
                if pull is not None and name in pull.anchor:
                    assert pull.importance is not None
                    moved = parameter - pull.anchor[name]
                    own[name].addcmul_(pull.importance[name], moved, value=-2 * self.factor)
        return own

    def accumulate(self, anchor: Weights, importance: Weights, decay: float = 1.0) -> None:
        """Add importances to decay · those so far, all of them around a new anchor."""
        old = None if self.quadratic is None else self.quadratic.importance
        self.quadratic = Quadratic(anchor, add(old, importance, decay))

    def state(self) -> dict[str, Any]:
        return {} if self.quadratic is None else dict(vars(self.quadratic))

    def load_state(self, state: dict[str, Any]) -> None:
        self.quadratic = Quadratic(**state) if state else None


class _WeightedSquares(torch.autograd.Function):
    """Σ_i Ω_i (θ_i − θ*_i)², whose gradient is 2 Ω (θ − θ*): three passes over the weights instead of eight."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, anchor: Tensor, omega: Tensor | None) -> Tensor:
        moved = parameter - anchor
        weighted = moved if omega is None else omega * moved
        ctx.save_for_backward(weighted)
        return torch.dot(weighted.flatten(), moved.flatten())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weighted,) = ctx.saved_tensors
        return weighted * (2 * gradient), None, None


def snapshot(model: ExpandingHeadModel) -> Weights:
    """Return a copy of every parameter."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def add(old: Weights | None, new: Weights, decay: float = 1.0) -> Weights:
    """Return decay · old + new, by name; `new` may have parameters that `old` lacks."""
    if old is None:
        return new
    return {name: decay * old[name] + value if name in old else value for name, value in new.items()}

"""What the penalties on weights share: the quadratic term, and importances from the gradients of single samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from clbench.method.base import Batch, Criterion, Method, Run
from clbench.models.networks import ExpandingHeadModel
from clbench.sequences.tasks import Split

Weights = dict[str, Tensor]  # by parameter name
Measure = Callable[[Tensor], Tensor]
Scores = Callable[[Tensor, Tensor], Tensor]  # outputs [n, k] and the samples' rows [n] -> a number per sample [n]


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

    plain_first_task: ClassVar[bool] = True
    strength: Annotated[float, Ge(0)] = 1.0  # λ
    half: bool = False  # the factor ½ before the sum

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.quadratic: Quadratic | None = None

    @property
    def factor(self) -> float:
        return self.strength / 2 if self.half else self.strength

    def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
        loss = criterion(model, batch)
        if self.quadratic is None or self.strength == 0:
            return loss
        parts: list[Tensor] = []
        for name, parameter in model.named_parameters():
            if name in self.quadratic.anchor:
                omega = None if self.quadratic.importance is None else self.quadratic.importance[name]
                parts.append(_WeightedSquares.apply(parameter, self.quadratic.anchor[name], omega))
        return loss + self.factor * (torch.stack(parts).sum() + self.quadratic.constant)

    def accumulate(self, anchor: Weights, importance: Weights, decay: float = 1.0) -> None:
        """Add importances to decay · those so far, all of them around a new anchor."""
        old = None if self.quadratic is None else self.quadratic.importance
        self.quadratic = Quadratic(anchor, add(old, importance, decay))

    def state(self) -> dict[str, Any]:
        return {} if self.quadratic is None else dict(vars(self.quadratic))

    def load_state(self, state: dict[str, Any], model: ExpandingHeadModel) -> None:
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


def importance(
    model: ExpandingHeadModel,
    split: Split,
    outputs: slice,
    scores: Scores,
    measure: Measure,
    batch: int = 1,
    generator: torch.Generator | None = None,
) -> Weights:
    """Return the mean of measure(∂ score / ∂θ) over a split's samples, for every parameter; the network in eval mode.

    `scores` maps the outputs in `outputs` of samples to a number each; `measure` is torch.square or torch.abs. With
    `batch` > 1 it is applied to the gradient of the mean score over that many samples, drawn in an order of the
    generator's, and the mean is over batches, a last smaller one included.
    """
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    rows = torch.arange(len(split))
    if batch > 1:
        one_chunk, size, rows = _of_batch, batch, torch.randperm(len(split), generator=generator)
    elif _is_plain(model.backbone):
        one_chunk, size = _of_linear_layers, 256
    else:
        one_chunk, size = _of_any_layers, 32
    modes = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(True)
    try:
        for chunk in rows.to(split.y.device).split(size):
            for name, value in one_chunk(model, split.batch(chunk), chunk, outputs, scores, measure).items():
                total[name] += value / math.ceil(len(split) / batch)
    finally:
        for parameter, mode in zip(model.parameters(), modes, strict=True):
            parameter.requires_grad_(mode)
    return total


def _of_batch(
    model: ExpandingHeadModel, x: Tensor, rows: Tensor, outputs: slice, scores: Scores, measure: Measure
) -> Weights:
    """Return measure(gradient of the mean score of these samples)."""
    with torch.enable_grad():
        loss = scores(model(x)[:, outputs], rows).mean()
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: measure(g) for n, g in zip(names, gradients, strict=True) if g is not None}


def _is_plain(backbone: nn.Module) -> bool:
    """Return whether all parameters are those of linear layers, none of them shared."""
    inside = [id(p) for module in backbone.modules() if type(module) is nn.Linear for p in module.parameters()]
    return len(set(inside)) == len(inside) and set(inside) == {id(p) for p in backbone.parameters()}


def _of_linear_layers(
    model: ExpandingHeadModel, x: Tensor, rows: Tensor, outputs: slice, scores: Scores, measure: Measure
) -> Weights:
    """Sum measure(per-sample gradient) without forming one: for y = W a + b it is g aᵀ with g = ∂score/∂y.

    measure(g aᵀ) = measure(g) measure(a)ᵀ, whose sum over samples is one matrix product.
    """
    seen: list[tuple[str, Tensor, Tensor]] = []  # name, input, output
    hooks = [
        module.register_forward_hook(lambda _, a, y, name=name: seen.append((name, a[0], y)))
        for name, module in model.named_modules()
        if type(module) is nn.Linear
    ]
    try:
        with torch.enable_grad():
            features = model.features(x)
            z = torch.cat([block(features) for block in model.head], 1)
            total = scores(z[:, outputs], rows).sum()
    finally:
        for hook in hooks:
            hook.remove()
    if any(a.ndim != 2 for _, a, _ in seen) or len({name for name, _, _ in seen}) < len(seen):
        return _of_any_layers(model, x, rows, outputs, scores, measure)  # a layer used twice, or on more than rows
    gradients = torch.autograd.grad(total, [y for *_, y in seen], allow_unused=True)
    sums = {}
    for (name, a, _), g in zip(seen, gradients, strict=True):
        if g is not None:
            g = measure(g)
            sums[f"{name}.weight"], sums[f"{name}.bias"] = g.T @ measure(a.detach()), g.sum(0)
    own = dict(model.named_parameters())
    return {name: value for name, value in sums.items() if name in own}  # a layer may have no bias


def _of_any_layers(
    model: ExpandingHeadModel, x: Tensor, rows: Tensor, outputs: slice, scores: Scores, measure: Measure
) -> Weights:
    """Sum measure(per-sample gradient), the gradients of all samples computed at once by torch.func."""
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def score(weights: Weights, image: Tensor, row: Tensor) -> Tensor:
        z = torch.func.functional_call(model, (weights, buffers), (image[None],))
        return scores(z[:, outputs], row[None])[0]

    gradients = torch.func.vmap(torch.func.grad(score), in_dims=(None, 0, 0))(parameters, x, rows)
    model.images_forwarded += len(x) - 1  # it counted one
    return {name: measure(gradient).sum(0) for name, gradient in gradients.items()}

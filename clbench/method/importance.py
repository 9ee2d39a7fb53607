"""How much each weight matters, by the gradients of single samples."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from clbench.method.penalty import Weights
from clbench.models.head import ExpandingHeadModel
from clbench.sequences.tasks import Split

Measure = Callable[[Tensor], Tensor]
Scores = Callable[[Tensor, Tensor], Tensor]  # outputs [n, k] and the samples' rows [n] -> a number per sample [n]


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
    elif _is_plain(model):
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
    model.passes.count_backward()
    return {n: measure(g) for n, g in zip(names, gradients, strict=True) if g is not None}


def _is_plain(network: nn.Module) -> bool:
    """Return whether all parameters are those of linear layers, none of them shared."""
    inside = [id(p) for module in network.modules() if type(module) is nn.Linear for p in module.parameters()]
    return len(set(inside)) == len(inside) and set(inside) == {id(p) for p in network.parameters()}


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
        if type(module) is nn.Linear and any(True for _ in module.parameters())  # a frozen one has none
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
    model.passes.count_backward()
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
    model.passes.forward += len(x) - 1  # one call stood for all samples
    model.passes.pending = len(x)
    model.passes.count_backward()
    return {name: measure(gradient).sum(0) for name, gradient in gradients.items()}

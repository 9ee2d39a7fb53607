"""Class orders: drawn by the seed, fixed or given, and checked."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clbench.errors import UsageError
from clbench.sequences.tasks import ClassOrder


def full_class_order(name: str, rule: ClassOrder, seed: int, classes: Sequence[int], tasks: int) -> tuple[int, ...]:
    """Work out a class order; raise UsageError if it cannot be shared equally among the tasks.

    The seed's order is that of Avalanche's `nc_benchmark(seed=seed, shuffle=True)`.
    """
    if rule == "fixed":
        order = tuple(classes)
    elif rule == "seed":
        generator = torch.Generator().manual_seed(seed)
        order = tuple(classes[i] for i in torch.randperm(len(classes), generator=generator).tolist())
    else:
        order = tuple(int(c) for c in rule)
        if unknown := sorted(set(order) - set(classes)):
            raise UsageError(f"class order: {name} has no class {unknown[0]}, its classes are {_span(classes)}")
        if len(set(order)) < len(order):
            twice = next(c for c in order if order.count(c) > 1)
            raise UsageError(f"class order: class {twice} is there twice; name each class once")
    if not order or len(order) % tasks:
        divisors = ", ".join(str(d) for d in range(1, len(order) + 1) if len(order) % d == 0)
        raise UsageError(
            f"{name}.tasks={tasks}: {len(order)} classes cannot be shared equally among {tasks} tasks; "
            f"choose tasks from {divisors or 'nothing: the class order is empty'}"
        )
    return order


def _span(classes: Sequence[int]) -> str:
    contiguous = list(classes) == list(range(classes[0], classes[-1] + 1))
    return f"{classes[0]} to {classes[-1]}" if contiguous else ", ".join(map(str, classes))


def refuse_order(name: str, class_order: ClassOrder) -> None:
    if not isinstance(class_order, str):
        raise UsageError(f"{name} has no class order of its own to choose: leave --class-order out")

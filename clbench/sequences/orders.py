"""In which order classes come, and how many of them each task has."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch

from clbench.errors import UsageError
from clbench.sequences.tasks import ClassOrder


def full_class_order(name: str, rule: ClassOrder, seed: int, classes: Sequence[int], tasks: int) -> tuple[int, ...]:
    """Work out a class order, as `order_of` does; raise UsageError if it cannot be shared equally among the tasks."""
    order = order_of(name, rule, seed, classes)
    _equal_sizes(name, len(order), tasks)
    return order


def order_of(name: str, rule: ClassOrder, seed: int, classes: Sequence[int]) -> tuple[int, ...]:
    """Return a class order in full; raise UsageError for classes that there are not, and for one that is there twice.

    "seed" is the order of Avalanche's `nc_benchmark(seed=seed, shuffle=True)`, and "seed:7" the one that seed 7 has, in
    runs of any seed. "numpy:1993" is `np.random.seed(1993); np.random.permutation(n)`, the order of the
    class-incremental papers since iCaRL (Rebuffi et al. 2017).
    """
    if not isinstance(rule, str):
        return _given(name, rule, classes)
    if rule == "fixed":
        return tuple(classes)
    if rule.startswith("numpy:"):
        return tuple(classes[i] for i in np.random.RandomState(int(rule[6:])).permutation(len(classes)).tolist())
    generator = torch.Generator().manual_seed(int(rule[5:]) if rule.startswith("seed:") else seed)
    return tuple(classes[i] for i in torch.randperm(len(classes), generator=generator).tolist())


def _given(name: str, rule: Sequence[int], classes: Sequence[int]) -> tuple[int, ...]:
    order = tuple(int(c) for c in rule)
    if unknown := sorted(set(order) - set(classes)):
        raise UsageError(f"class order: {name} has no class {unknown[0]}, its classes are {_span(classes)}")
    if len(set(order)) < len(order):
        twice = next(c for c in order if order.count(c) > 1)
        raise UsageError(f"class order: class {twice} is there twice; name each class once")
    return order


def _span(classes: Sequence[int]) -> str:
    contiguous = list(classes) == list(range(classes[0], classes[-1] + 1))
    return f"{classes[0]} to {classes[-1]}" if contiguous else ", ".join(map(str, classes))


def task_sizes(name: str, count: int, tasks: int, sizes: str | None = None) -> list[int]:
    """Return how many of `count` classes each task has: equally many, or those of text such as 50+10x5.

    Raises UsageError where that cannot be.
    """
    if sizes is not None:
        found = read_sizes(name, sizes)
        if sum(found) != count:
            raise UsageError(
                f"{name}.classes={sizes} are {sum(found)} classes in {len(found)} tasks: there are {count}"
            )
        return found
    return _equal_sizes(name, count, tasks, _example(count, tasks))


def skipped_classes(name: str, count: int, tasks: int, sizes: str | None, skip: int) -> int:
    """Return how many of `count` classes the first `skip` tasks have; raise UsageError if they leave no task."""
    found = task_sizes(name, count, tasks, sizes) if skip else []
    if skip and skip >= len(found):
        raise UsageError(f"{name}.skip={skip} leaves no task: there are {len(found)}")
    return sum(found[:skip])


def _equal_sizes(name: str, count: int, tasks: int, instead: str = "") -> list[int]:
    if count and count % tasks == 0:
        return [count // tasks] * tasks
    divisors = ", ".join(str(d) for d in range(1, count + 1) if count % d == 0)
    what = f"{name}.tasks={tasks}: {count} class{'es' * (count != 1)} cannot be shared equally among {tasks} tasks"
    raise UsageError(f"{what}; choose tasks from {divisors or 'nothing: the class order is empty'}{instead}")


def _example(count: int, tasks: int) -> str:
    """Return how to ask for unequal tasks: the closest to equal, the larger ones first; '' for too many tasks."""
    size, more = divmod(count, tasks)
    parts = [f"{size + 1}x{more}", f"{size}x{tasks - more}"]
    return (
        f", or name unequal ones, as in classes={'+'.join(part.removesuffix('x1') for part in parts)}" if size else ""
    )


def read_sizes(name: str, sizes: str) -> list[int]:
    """Read numbers of classes by task: 50+10x5 is a task of 50, then 5 of 10. Raises UsageError for other text."""
    found: list[int] = []
    for part in sizes.replace(" ", "").split("+"):
        match = re.fullmatch(r"([1-9]\d{0,5})(?:x([1-9]\d{0,5}))?", part)
        if match is None:
            what = (
                f"{name}.classes={sizes}: cannot read {part!r}" if part else f"{name}.classes={sizes}: a number lacks"
            )
            raise UsageError(f"{what}; write 50+10x5 for a task of 50 classes, then 5 of 10")
        found += [int(match[1])] * int(match[2] or 1)
    return found


def check_sizes(
    name: str, sizes: str | None, tasks: int, default: int, skip: int = 0, order: ClassOrder = "seed"
) -> None:
    """Raise UsageError for sizes that cannot be read or come beside a number of tasks, and for skipping in a list."""
    if skip and not isinstance(order, str):
        raise UsageError(f"{name}.skip={skip} beside a list of classes: leave these classes out of the list instead")
    if sizes is not None:
        read_sizes(name, sizes)
        if tasks != default:
            raise UsageError(f"{name}: tasks={tasks} and classes={sizes} are both given: choose one")

"""Steps in buffers of their own, which a CUDA device takes from a captured graph: one launch in place of many.

A graph repeats the kernels of one step, on the same memory. So a step's batch is copied to where the captured step read
its own, and nothing may be decided in Python meanwhile. A method says by `captured` that its step is such; what differs
between steps otherwise, the number of images, the rate and the tasks present, makes steps of another form, with a graph
of their own. On the CPU the same steps are taken in the same buffers, without a graph, and one that does what a graph
could not repeat is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from clbench.errors import ClbenchError
from clbench.method import Method

WARM_UP = 3  # steps of a form that are taken one by one: what is made at the first ones is then there
Form = tuple[int, float, tuple[int, ...]]  # images, learning rate, tasks present
Forms = tuple[Form, ...]  # one of each run that takes the step


@dataclass(frozen=True)
class Taken:
    """What a step came to, on the device."""

    loss: Tensor  # mean of its images, a scalar
    images: int
    hits: Tensor | None = None  # right answers among those whose outputs were seen
    answered: int = 0


Take = Callable[[Sequence[Tensor]], list[Taken]]  # of the batch, see `StaticSteps.take`


@dataclass
class _Buffers:
    """The memory of one form, and its graph."""

    batch: tuple[Tensor, ...]
    graph: torch.cuda.CUDAGraph | None = None
    taken: list[Taken] = field(default_factory=list)
    passes: list[tuple[int, int]] = field(default_factory=list)  # of a step: images forward and backward, by network


class StaticSteps:
    """The steps of one phase of a method, or of several methods that take their steps together."""

    def __init__(self, methods: Sequence[Method], device: torch.device):
        self.methods, self.device = methods, device
        self.passes = [method.network.passes for method in methods]
        self.seen: dict[Forms, int] = {}
        self.buffers: dict[Forms, _Buffers] = {}
        self.replayed = 0  # steps that did not go through Python

    def take(self, form: Forms, take: Take, batch: Sequence[Tensor]) -> list[Taken]:
        """Take a step of a form, and return what it came to for each method.

        `batch` has, method after method, the rows [n] of the batch, their columns [n] and tasks [n].
        """
        self.seen[form] = self.seen.get(form, 0) + 1
        if self.seen[form] <= WARM_UP:
            return take(batch)
        if form not in self.buffers:
            self.buffers[form] = _Buffers(tuple(part.clone() for part in batch))
        own = self.buffers[form]
        for mine, part in zip(own.batch, batch, strict=True):
            mine.copy_(part)
        return self._replay(own, take) if self.device.type == "cuda" else self._watched(own, take)

    def _watched(self, own: _Buffers, take: Take) -> list[Taken]:
        """Take a step as a graph would; raise ClbenchError if it does what no graph repeats."""
        name, before = type(self.methods[0]).__name__, [_kept(vars(method)) for method in self.methods]
        with _NoLook(name):
            taken = take(own.batch)
        for old, method in zip(before, self.methods, strict=True):
            new = _kept(vars(method))
            if changed := sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
                raise ClbenchError(f"{name} says that its steps can be captured, but a step changes its {changed[0]}")
        return taken

    def _replay(self, own: _Buffers, take: Take) -> list[Taken]:
        if own.graph is None:
            before = [(passes.forward, passes.backward) for passes in self.passes]
            own.graph = torch.cuda.CUDAGraph()
            with torch.cuda.device(self.device), torch.cuda.graph(own.graph):  # nothing is computed yet
                own.taken = take(own.batch)
            own.passes = [
                (passes.forward - forward, passes.backward - backward)
                for passes, (forward, backward) in zip(self.passes, before, strict=True)
            ]
        else:
            for passes, (forward, backward) in zip(self.passes, own.passes, strict=True):
                passes.forward += forward
                passes.backward += backward
        own.graph.replay()
        self.replayed += 1
        return [
            replace(taken, loss=taken.loss.clone(), hits=None if taken.hits is None else taken.hits.clone())
            for taken in own.taken
        ]


def _kept(value: Any, name: str = "") -> dict[str, Any]:
    """Return what Python keeps in nested containers, by place: plain values, and of all else which object it is."""
    if isinstance(value, Mapping):
        pairs = [(f"{name}.{key}".lstrip("."), each) for key, each in value.items() if key not in ("run", "network")]
    elif isinstance(value, (list, tuple)):
        pairs = [(f"{name}[{place}]", each) for place, each in enumerate(value)]
    else:
        return {name: value if isinstance(value, (bool, int, float, str)) else id(value)}
    return {place: each for key, part in pairs for place, each in _kept(part, key).items()}


class _NoLook(TorchFunctionMode):
    """Refuses what waits for a value of the device, has a shape that depends on one, or draws from the CPU."""

    LOOKS = frozenset({"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu", "numpy", "nonzero"})
    SHAPES = frozenset({"masked_select", "unique", "argwhere"})

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        called, kwargs = getattr(func, "__name__", ""), kwargs or {}
        by_mask = called == "__getitem__" and isinstance(args[1], Tensor) and args[1].dtype == torch.bool
        if called in self.LOOKS | self.SHAPES or by_mask or kwargs.get("generator") is not None:
            what = "indexes by a mask" if by_mask else f"calls {called}"
            raise ClbenchError(f"{self.name} says that its steps can be captured, but a step {what}")
        return func(*args, **kwargs)

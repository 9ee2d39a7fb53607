"""Steps in buffers of their own, which a CUDA device takes from a captured graph: one launch in place of many.

A graph repeats the kernels of one step, on the same memory. So a step's batch is copied to where the captured step read
its own, and nothing may be decided in Python meanwhile. A method says by `captured` that its step is such; what differs
between steps otherwise, the number of images, the rate and the tasks present, makes steps of another form, with a graph
of their own. On the CPU the same steps are taken in the same buffers, without a graph, and one that does what a graph
could not repeat is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from clbench.errors import ClbenchError
from clbench.method import Method

WARM_UP = 3  # steps of a form that are taken one by one: what is made at the first ones is then there
Form = tuple[int, float, tuple[int, ...]]  # images, learning rate, tasks present


@dataclass(frozen=True)
class Taken:
    """What a step came to, on the device."""

    loss: Tensor  # mean of its images, a scalar
    images: int
    hits: Tensor | None = None  # right answers among those whose outputs were seen
    answered: int = 0


Take = Callable[[Tensor, Tensor, Tensor], Taken]  # of rows [n], columns [n] and tasks [n] of a batch


@dataclass
class _Buffers:
    """The memory of one form, and its graph."""

    batch: tuple[Tensor, Tensor, Tensor]
    graph: torch.cuda.CUDAGraph | None = None
    taken: Taken | None = None
    forward: int = 0  # images that a step sends through the backbone
    backward: int = 0


class StaticSteps:
    """The steps of one phase of a method."""

    def __init__(self, method: Method, on_cuda: bool):
        self.method, self.passes, self.on_cuda = method, method.network.passes, on_cuda
        self.seen: dict[Form, int] = {}
        self.buffers: dict[Form, _Buffers] = {}
        self.replayed = 0  # steps that did not go through Python

    def take(self, form: Form, take: Take, *batch: Tensor) -> Taken:
        """Take a step of a form."""
        self.seen[form] = self.seen.get(form, 0) + 1
        if self.seen[form] <= WARM_UP:
            return take(*batch)
        if form not in self.buffers:
            self.buffers[form] = _Buffers(tuple(part.clone() for part in batch))  # type: ignore[arg-type]
        own = self.buffers[form]
        for mine, part in zip(own.batch, batch, strict=True):
            mine.copy_(part)
        return self._replay(own, take) if self.on_cuda else self._watched(own, take)

    def _watched(self, own: _Buffers, take: Take) -> Taken:
        """Take a step as a graph would; raise ClbenchError if it does what no graph repeats."""
        name, before = type(self.method).__name__, _kept(vars(self.method))
        with _NoLook(name):
            taken = take(*own.batch)
        after = _kept(vars(self.method))
        if changed := sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key)):
            raise ClbenchError(f"{name} says that its steps can be captured, but a step changes its {changed[0]}")
        return taken

    def _replay(self, own: _Buffers, take: Take) -> Taken:
        if own.graph is None:
            before = self.passes.forward, self.passes.backward
            own.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(own.graph):  # nothing is computed yet
                own.taken = take(*own.batch)
            own.forward, own.backward = self.passes.forward - before[0], self.passes.backward - before[1]
        else:
            self.passes.forward += own.forward
            self.passes.backward += own.backward
        own.graph.replay()
        self.replayed += 1
        assert own.taken is not None
        hits = own.taken.hits
        return replace(own.taken, loss=own.taken.loss.clone(), hits=None if hits is None else hits.clone())


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

"""What a strategy's own loop costs: steps and images are counted where they arise, and what is kept for later tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

# attributes with images of old tasks, where these are tensors: GEM's, iCaRL's, GSS's
MEMORIES = ("memory_x", "x_memory", "ext_mem_list_x")


class Watch(SupervisedPlugin):
    """Counts what a strategy's loop does, and ends it when its steps are used up."""

    def __init__(self, steps: int | None):
        super().__init__()
        self.most, self.steps, self.images = steps, 0, 0
        self.losses: list[Tensor] = []
        self.sizes: list[int] = []
        self.history: list[float] = []

    def after_training_iteration(self, strategy: Any, **_: Any) -> None:
        size = len(strategy.mb_x)
        self.steps, self.images = self.steps + 1, self.images + size
        self.losses.append(strategy.loss.detach().mean())
        self.sizes.append(size)
        if self.steps == self.most:
            strategy.stop_training()

    def after_training_epoch(self, strategy: Any, **_: Any) -> None:
        if self.losses:
            sizes = torch.tensor(self.sizes, dtype=torch.float32)
            losses = torch.stack(self.losses).float().cpu()
            self.history.append(float((losses * sizes).sum() / sizes.sum()))
        self.losses, self.sizes = [], []

    def begin(self) -> None:
        self.steps, self.images, self.losses, self.sizes, self.history = 0, 0, [], [], []


class Steps:
    """Counts the steps of all optimisers."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        handle = register_optimizer_step_post_hook(self._add)
        try:
            yield
        finally:
            handle.remove()

    def _add(self, *_: Any) -> None:
        self.count += 1


def stored(strategy: Any) -> tuple[int, int]:
    """Count the images, and the bytes of all tensors, that a strategy and its plugins keep beside the network."""
    if strategy is None:
        return 0, 0
    network = (strategy.model, strategy.optimizer, strategy.loss, *strategy.model.parameters())
    return _held(vars(strategy), {id(thing) for thing in network})


def _held(thing: Any, seen: set[int]) -> tuple[int, int]:
    """Count images and bytes in nested containers and in Avalanche's objects, each once."""
    if isinstance(thing, (str, bytes, int, float, type(None))) or id(thing) in seen:
        return 0, 0
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        return 0, thing.numel() * thing.element_size()
    if isinstance(thing, AvalancheDataset):
        return len(thing), len(thing) * thing[0][0].numel() * thing[0][0].element_size() if len(thing) else 0
    if isinstance(thing, nn.Module):
        return 0, sum(value.numel() * value.element_size() for value in thing.state_dict().values())
    if isinstance(thing, Mapping):
        memory = next((thing[name] for name in MEMORIES if name in thing), ())
        kept = list(memory.values()) if isinstance(memory, Mapping) else list(memory)
        images = sum(len(x) for x in kept if isinstance(x, Tensor))
        counts = [_held(part, seen) for part in thing.values()]
        return images + sum(count for count, _ in counts), sum(size for _, size in counts)
    if isinstance(thing, (list, tuple, set)):
        parts_of: Sequence[Any] = list(thing)
    elif type(thing).__module__.startswith("avalanche.training"):
        parts_of = [vars(thing)]
    else:
        return 0, 0
    counts = [_held(part, seen) for part in parts_of]
    return sum(images for images, _ in counts), sum(size for _, size in counts)

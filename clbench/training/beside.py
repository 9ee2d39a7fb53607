"""Runs side by side: a small network leaves a GPU idle, so the backbones of several are computed as one.

Each run has a thread and goes its own way; only one of them computes at a time. A thread that has drawn the steps of an
epoch waits until all others have, and then one step of each is taken, together: the features of all in one product, and
one backward pass. What is left of a step, the head, the loss and the optimiser, is each run's own, as it is when a run
is alone. So are the draws: a thread finds the random state as it left it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import functional_call

from clbench.method import Method, Step, can_go_beside
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP, Backbone
from clbench.training.loop import Due, Work, backward
from clbench.training.static import StaticSteps, Taken

T = TypeVar("T")


def fits(method: Method, backbone: Backbone) -> bool:
    """Whether runs of a method with this backbone can go side by side with others that differ in their seed."""
    return can_go_beside(method) and type(backbone) is MLP and not backbone.dropout and not backbone.frozen


class SideBySide:
    """Runs that take their steps together."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.changed = threading.Condition()
        self.places: list[Place] = []  # of the runs that have not ended
        self.turn: Place | None = None  # of the run that computes
        self.static: StaticSteps | None = None
        self.works: list[Work] = []  # the phases that `static` is for
        self.error: BaseException | None = None  # of a step of all, which ends all

    def results(self, runs: Sequence[Callable[[Place], T]]) -> list[T]:
        """Let runs go side by side, and return what each returns; raise what the first raises that fails.

        A run that fails by itself leaves the others alone. Where a step of all fails, all have failed.
        """
        self.places = [Place(self) for _ in runs]
        self.turn = self.places[0]
        with ThreadPoolExecutor(len(runs)) as pool:
            ends = [pool.submit(place.go, run) for place, run in zip(list(self.places), runs, strict=True)]
            try:
                wait(ends)
            except BaseException as error:  # the user wants to stop
                self.error = error
                raise
        return [end.result() for end in ends]

    def pass_on(self) -> None:
        """Let a run compute that has no steps to wait with, or, if all have, the first one."""
        idle = (place for place in self.places if not place.due)
        with self.changed:
            self.turn = next(idle, self.places[0] if self.places else None)
            self.changed.notify_all()

    def steps(self) -> None:
        """Take steps of all runs together until one of them has none left."""
        began = self._now()
        while all(place.due for place in self.places):
            due = [place.due.popleft() for place in self.places]
            try:
                for each, taken in zip(due, self._take(due), strict=True):
                    each.training.took(taken)
            except BaseException as error:
                self.error = error
            if self.error is not None:
                raise self.error
        for place in self.places:
            place.seconds += (self._now() - began) / len(self.places)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _take(self, due: Sequence[Due]) -> list[Taken]:
        works = [each.work for each in due]
        if any(work.static is None for work in works):
            return together(due, [part for each in due for part in each.batch])
        if self.static is None or [id(work) for work in works] != [id(work) for work in self.works]:
            self.static = StaticSteps([each.training.method for each in due], self.device)
            self.works = works
        before = self.static.replayed
        batch, forms = [part for each in due for part in each.batch], tuple(each.form for each in due)
        taken = self.static.take(forms, lambda batch: together(due, batch), batch)
        for each in due:
            each.training.trainer.replayed_steps += self.static.replayed - before
        return taken


class Place:
    """One of the runs that go side by side."""

    def __init__(self, group: SideBySide):
        self.group = group
        self.due: deque[Due] = deque()  # steps that it has to take
        self.seconds = 0.0  # its share of the time that steps have taken
        self.drawn = torch.get_rng_state(), self._on_device()

    def _on_device(self) -> Tensor | None:
        device = self.group.device
        return torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def go(self, run: Callable[[Place], T]) -> T:
        """Do a run, in a thread of its own."""
        try:
            self._wait()
            return run(self)
        finally:
            self.group.places.remove(self)
            self.group.pass_on()

    def take(self, due: Sequence[Due]) -> None:
        """Take the steps of an epoch together with those of the other runs."""
        watch = due[0].training.trainer.watch
        with watch.paused():
            self.due.extend(due)
            while self.due:
                if all(place.due for place in self.group.places):
                    self.group.steps()
                else:
                    self.drawn = torch.get_rng_state(), self._on_device()
                    self.group.pass_on()
                    self._wait()
        watch.add(self.seconds)
        self.seconds = 0.0

    def _wait(self) -> None:
        """Wait for this run's turn, and find the random state as it was left."""
        with self.group.changed:
            self.group.changed.wait_for(lambda: self.group.turn is self)
        if self.group.error is not None:
            raise self.group.error
        on_cpu, on_device = self.drawn
        torch.set_rng_state(on_cpu)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, self.group.device)


def together(due: Sequence[Due], batch: Sequence[Tensor]) -> list[Taken]:
    """Take one step of several runs: rows [n], columns [n] and tasks [n] of each, one run after another."""
    steps = [each.training.begin(each, *batch[3 * k : 3 * k + 3]) for k, each in enumerate(due)]
    share_features([step for step in steps if step.recorded is None])
    losses = [each.training.method.loss(step) for each, step in zip(due, steps, strict=True)]
    backward(torch.stack(losses).sum())
    return [
        each.training.move(step, each.training.computed(loss))
        for each, step, loss in zip(due, steps, losses, strict=True)
    ]


def share_features(steps: Sequence[Step]) -> None:
    """Compute the features of several networks at once, where batches are of one size; a gradient reaches each."""
    sizes: dict[int, list[Step]] = {}
    for step in steps:
        sizes.setdefault(len(step.batch), []).append(step)
    for alike in sizes.values():
        if len(alike) > 1:
            images = torch.stack([step.batch.x for step in alike])
            for step, own in zip(alike, _features([step.network for step in alike], images), strict=True):
                step.network.passes.count_forward(len(step.batch))
                step.features = own


def _features(networks: Sequence[ExpandingHeadModel], images: Tensor) -> Tensor:
    """Return the features [S, n, d] of S networks of one kind for their own images [S, n, *input_shape]."""
    backbones = [dict(network.backbone.named_parameters()) for network in networks]
    stacked = {name: torch.stack([weights[name] for weights in backbones]) for name in backbones[0]}

    def one(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        features: Tensor = functional_call(networks[0].backbone, weights, (x,))
        return features

    features: Tensor = torch.vmap(one)(stacked, images)
    return features.float() if features.dtype == torch.bfloat16 else features

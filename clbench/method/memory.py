"""A memory of samples of earlier tasks, of a fixed size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, get_args

import torch
from torch import Tensor

from clbench.errors import ClbenchError, quoted
from clbench.method.choices import ONLINE, Choice, Contents, shares
from clbench.method.learner import Run
from clbench.method.step import Batch
from clbench.sequences.tasks import Split, Task

_STORED = ("images", "y", "task_ids", "extras")
_PREPARATION = ("mean", "std", "divisor", "augment", "padding")  # of a split: what makes stored images ready


class Memory:
    """At most `size` samples, chosen while training goes on (`add`) or once a task is learnt (`add_task`).

    `choice` says which are kept, see `clbench.method.choices`. All but the reservoir share the memory equally among the
    classes, or in the domain scenario, where all tasks have the same classes, among the tasks.

    Images are kept as the data set stores them, and augmented anew when they are drawn. Other tensors can be stored
    with a sample, such as the outputs at that time. Storage is allocated once, on the device of the data.
    """

    def __init__(self, size: int, run: Run, choice: Choice = "reservoir"):
        if choice not in get_args(Choice):
            raise ClbenchError(f"a memory has no choice {quoted(choice)}: choose from {', '.join(get_args(Choice))}")
        self.size, self.choice = size, choice
        self.by_task = run.scenario == "domain"
        self.contents = Contents(size)
        self.draws = {purpose: run.stream("memory", purpose) for purpose in ("choice", "first", "second")}
        self.images: Tensor | None = None  # [size, *stored_shape]
        self.y = torch.zeros(size, dtype=torch.long)  # columns of the head; on the CPU: choosing needs no device
        self.task_ids = torch.zeros(size, dtype=torch.long)
        self.extras: dict[str, Tensor] = {}  # [size, …]
        self.in_order = torch.arange(0)  # the places that are taken, where they are filled one after another
        self.split: Split | None = None  # how images are scaled and augmented

    def __len__(self) -> int:
        return len(self.contents)

    def add(self, batch: Batch, **extras: Tensor) -> None:
        """Offer the samples of a batch of the loop, and tensors [n, …] to store with them."""
        if batch.split is None:
            raise ClbenchError("a memory takes the batches that the loop draws, not joined ones: add step.batch")
        if self.size == 0:
            return
        contents, choose, taken = self.contents, ONLINE[self.choice], dict[int, int]()
        groups = (batch.task_ids if self.by_task else batch.y).tolist()
        uniform = torch.rand(len(batch), 2, generator=self.draws["choice"], dtype=torch.double).tolist()
        for row, (group, (u, v)) in enumerate(zip(groups, uniform, strict=True)):
            place = choose(contents, group, u, v)
            if place is not None:
                contents.take(place, group)
                taken[place] = row
            contents.seen += 1
            contents.met[group] = contents.met.get(group, 0) + 1
        self._store(batch.split, batch, list(taken), list(taken.values()), extras)

    def add_task(
        self,
        task: Task,
        y: Tensor,
        ranked: Mapping[int, Tensor],
        groups: int | None = None,
        remainder: bool = True,
        most: int | None = None,
    ) -> None:
        """Keep samples of a task that has been learnt, and fewer of those before.

        y: the samples' columns of the head [n]. `ranked` has the rows of each group that is to be kept, the most
        wanted first. Each group gets an equal share of the memory: of the groups so far, or of as many as `groups`.
        Places left over go to the first groups, unless `remainder` is false. No group gets more than `most`.
        """
        contents = self.contents
        known = [*contents.members, *ranked]
        count = max(groups or 0, len(known))
        shared = self.size if remainder else self.size // count * count
        quotas = dict(zip(known, (min(share, most or share) for share in shares(shared, count)), strict=False))
        for group, places in list(contents.members.items()):
            for place in places[quotas[group] :]:
                contents.leave(place)
        free = iter(sorted(set(range(self.size)) - contents.group_of.keys()))
        places, rows = [], []
        for group, wanted in ranked.items():
            contents.members[group] = []
            for row in wanted[: quotas[group]].tolist():
                places.append(next(free))
                rows.append(row)
                contents.take(places[-1], group)
        index = torch.arange(len(task.train), device=task.train.y.device)
        ids = torch.full_like(index, task.index)
        self._store(task.train, Batch(index, y, ids, [task.index], index), places, rows, {})

    def _store(self, split: Split, batch: Batch, places: list[int], rows: list[int], extras: dict[str, Tensor]) -> None:
        """Write some rows of a batch to some places."""
        if not rows:
            return
        chosen = torch.tensor(rows, device=batch.index.device)
        images = split.raw(batch.index[chosen])
        if self.images is None:
            self.images, self.split = images.new_zeros(self.size, *images.shape[1:]), split
        place = torch.tensor(places, device=chosen.device)
        self.images[place] = images
        self.y[place.cpu()] = batch.y[chosen].cpu()
        self.task_ids[place.cpu()] = batch.task_ids[chosen].cpu()
        for name, values in extras.items():
            if name not in self.extras:
                self.extras[name] = values.new_zeros(self.size, *values.shape[1:])
            stored = self.extras[name]
            if values.shape[1:] != stored.shape[1:]:  # outputs of a head that has grown
                self.extras[name] = stored = _widened(stored, values.shape[1])
            stored[place] = values[chosen].detach()

    def sample(self, n: int, purpose: str = "first") -> Batch:
        """Draw up to `n` samples without replacement; a step's second batch has a stream of its own, `second`.

        Images are augmented where the sequence says so. The batch's `extras` have what was stored with the samples.
        """
        draws, places = self.draws[purpose], self.places()
        return self.at(places[torch.randperm(len(places), generator=draws)[:n]], draws)

    def places_before(self, task: int) -> Tensor:
        """Return the places of samples of the tasks before one, int64 on the CPU."""
        places = self.places()
        return places[self.task_ids[places] < task]

    def places(self, task: int | None = None) -> Tensor:
        """Return the places that are taken, int64 on the CPU: of one task, the most wanted first, or all of them."""
        if task is None and self.choice in ONLINE:  # they are filled one after another
            if len(self.in_order) != len(self):
                self.in_order = torch.arange(len(self))
            return self.in_order
        places = [place for members in self.contents.members.values() for place in members]
        found = torch.tensor(sorted(places) if self.choice in ONLINE else places, dtype=torch.long)
        return found if task is None else found[self.task_ids[found] == task]

    def stored_tasks(self) -> list[int]:
        """Return the tasks that samples are kept of."""
        return sorted(set(self.task_ids[self.places()].tolist()))

    def at(self, places: Tensor, augmentation: torch.Generator | None = None) -> Batch:
        """Return the samples in these places, int64 [n] on the CPU, augmented if a generator is given."""
        assert self.images is not None, "the memory is empty: ask len(memory) first"
        assert self.split is not None
        device, y, task_ids = self.images.device, self.y.index_select(0, places), self.task_ids.index_select(0, places)
        there = places.to(device)
        x = self.split.prepare(self.images.index_select(0, there), augmentation)
        extras = {name: values.index_select(0, there) for name, values in self.extras.items()}
        present = sorted(set(task_ids.tolist()))
        index = torch.full((len(places),), -1, device=device)
        return Batch(x, y.to(device), task_ids.to(device), present, index, extras=extras)

    def tasks(self, earlier: Sequence[Task]) -> list[Task]:
        """Return what is kept of some tasks as tasks, for a phase to train on; one of which nothing is kept is not."""
        if not len(self):
            return []
        assert self.images is not None
        found = []
        for task, start in zip(earlier, self._starts(earlier), strict=True):
            places = self.places(task.index)
            if len(places):
                rows, y = places.to(self.images.device), (self.y[places] - start).to(self.images.device)
                train = Split(self.images, rows, y, **self._preparation())
                found.append(Task(task.index, task.classes, train, task.test))
        return found

    def _starts(self, tasks: Sequence[Task]) -> list[int]:
        """Return each task's first column of the head; `tasks` are the first ones of the sequence."""
        widths = [0 if self.by_task else len(task.classes) for task in tasks]
        return [sum(widths[:number]) for number in range(len(tasks))]

    def _preparation(self) -> dict[str, Any]:
        return {name: getattr(self.split, name) for name in _PREPARATION} if self.split is not None else {}

    def state(self) -> dict[str, Any]:
        """Return all that it holds, as tensors and plain values."""
        contents = {**asdict(self.contents), "full": sorted(self.contents.full)}
        draws = {purpose: generator.get_state().tolist() for purpose, generator in self.draws.items()}
        stored = {name: vars(self)[name] for name in _STORED}
        return {**stored, "contents": contents, "preparation": self._preparation(), "draws": draws}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        vars(self).update({name: state[name] for name in _STORED})
        self.contents = Contents(**{**state["contents"], "full": set(state["contents"]["full"])})
        for purpose, generator in self.draws.items():
            generator.set_state(torch.tensor(state["draws"][purpose], dtype=torch.uint8))
        if self.images is not None:
            none = self.y[:0].to(self.images.device)
            self.split = Split(self.images[:0], none, none, **state["preparation"])


def _widened(stored: Tensor, width: int) -> Tensor:
    """Return a tensor [size, old width] with columns of zero added: [size, width]."""
    wider = stored.new_zeros(len(stored), width)
    wider[:, : stored.shape[1]] = stored
    return wider

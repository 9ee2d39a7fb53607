"""Chains of whole data sets, each a task: `mnist+fashion-mnist`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from clbench.data import load_dataset
from clbench.errors import UsageError, did_you_mean
from clbench.seeding import stream
from clbench.sequences.splits import SPLITS, SplitDataSet, train_and_test
from clbench.sequences.tasks import ClassOrder, Task, TaskSequence


@dataclass(frozen=True)
class Chain(TaskSequence):
    """Whole data sets one after another, each of them a task with all its classes.

    The setting of Li & Hoiem (2017), table 1: the first data set is the old task, the second the new one. All are
    scaled by the constants of the first, since a network's preprocessing is fixed when it is first trained.
    """

    scenario: ClassVar[str] = "task"
    parts: ClassVar[tuple[type[SplitDataSet], ...]]  # what is known of each data set
    images: Annotated[int, Ge(1)] | None = None  # at most, of each data set, to train on; none: all

    def check(self, class_order: ClassOrder, scenario: str) -> None:
        if class_order != "seed":
            raise UsageError(f"{self.name} has no class order but that of its name: leave --class-order out")

    def prepare(self, data_root: Path | None, seed: int) -> str:
        fingerprints = [load_dataset(part.source, data_root).fingerprint for part in self.parts]
        return hashlib.sha256("".join(fingerprints).encode()).hexdigest()

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        scaling = (*self.parts[0].constants, self.parts[0].divisor)
        tasks, start = [], 0
        for index, part in enumerate(self.parts):
            train, test = train_and_test(load_dataset(part.source, data_root), *scaling)
            if self.images is not None:
                drawn = torch.randperm(len(train), generator=stream(seed, "images", index))
                train = train.subset(drawn[: self.images].sort().values)
            tasks.append(Task(index, tuple(range(start, start + part.n_classes)), train, test))
            start += part.n_classes
        return tasks


@cache
def chain_sequence(name: str) -> type[TaskSequence]:
    """Make the task sequence `mnist+fashion-mnist`: data sets of clbench.data, each a task, in the order of the name.

    Its default model and budget are those of the first data set, split.
    """
    known: dict[str, type[SplitDataSet]] = {split.source: split for split in SPLITS}
    sources = name.split("+")
    if len(sources) < 2 or not all(sources):
        raise UsageError(f"cannot read {name!r}: join names of data sets with '+', as in mnist+fashion-mnist")
    for source in sources:
        if source not in known:
            raise UsageError(f"unknown data set {source!r} in {name!r}{did_you_mean(source, known)}")
        if sources.count(source) > 1:
            raise UsageError(f"{name!r} names the data set {source} twice")
    parts = tuple(known[source] for source in sources)
    namespace = {
        "__module__": __name__,
        "__doc__": f"Whole data sets, each a task: {', then '.join(sources)}.",
        "name": name,
        "parts": parts,
        "model": parts[0].model,
        "budget": parts[0].budget,
    }
    return type(name, (Chain,), namespace)

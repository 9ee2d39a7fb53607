"""Avalanche's classic benchmarks as task sequences: `avalanche:NAME`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from clbench.data import DataSet, benchmarks, remarks
from clbench.errors import UsageError, did_you_mean
from clbench.sequences.orders import full_class_order
from clbench.sequences.splits import MNIST_BUDGET, split_by_class, train_and_test
from clbench.sequences.tasks import ClassOrder, Split, Task, TaskSequence

# benchmarks of data sets that are known here; Avalanche reads the same files
KNOWN = {
    **dict.fromkeys(("SplitMNIST", "PermutedMNIST", "RotatedMNIST"), "mnist"),
    "SplitFMNIST": "fashion-mnist",
}


@dataclass(frozen=True)
class _Avalanche(TaskSequence):
    """What all of them share."""

    budget: ClassVar[Mapping[str, Any]] = MNIST_BUDGET
    benchmark: ClassVar[benchmarks.AvalancheBenchmark]

    def remarks(self, data_root: Path | None, seed: int) -> list[str]:
        source = KNOWN.get(self.benchmark.name)
        return [] if source is None else remarks(source, data_root)


@dataclass(frozen=True)
class _AvalancheSplit(_Avalanche):
    """A benchmark that shares classes equally: materialised once, split here for each seed."""

    tasks: Annotated[int, Ge(1)] = 5

    def load_data(self, data_root: Path | None) -> DataSet:
        return benchmarks.load_benchmark(self.benchmark, data_root, {"n_experiences": 1, "shuffle": False})

    def prepare(self, data_root: Path | None, seed: int) -> str:
        return self.load_data(data_root).fingerprint

    def class_order(self, rule: ClassOrder, seed: int, data_root: Path | None = None) -> tuple[int, ...]:
        classes = self.load_data(data_root).train_labels.unique().tolist()
        return full_class_order(self.name, rule, seed, classes, self.tasks)

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        found = self.load_data(data_root)
        order = self.class_order("seed" if class_order is None else class_order, seed, data_root)
        return split_by_class(order, self.tasks, *train_and_test(found, *_constants(found)))


@dataclass(frozen=True)
class _AvalancheStreams(_Avalanche):
    """A benchmark with streams of its own making: materialised for each seed, its experiences as they are."""

    by_class: ClassVar[bool]  # whether each experience has classes of its own

    def load_data(self, data_root: Path | None, seed: int) -> DataSet:
        wanted = {"n_experiences": getattr(self, "tasks", 0), "seed": seed, "shuffle": True}
        parameters = self.benchmark.parameters
        if "evaluation_protocol" in parameters:
            del wanted["seed"]  # CLEAR takes one only for the protocol that is not its default
        arguments = {name: value for name, value in wanted.items() if name in parameters}
        return benchmarks.load_benchmark(self.benchmark, data_root, arguments)

    def prepare(self, data_root: Path | None, seed: int) -> str:
        return f"seed:{self.load_data(data_root, seed).fingerprint}"

    def check(self, class_order: ClassOrder, scenario: str) -> None:
        super().check(class_order, scenario)
        if class_order == "fixed" and "shuffle" in self.benchmark.parameters:
            raise UsageError(f"{self.name} shuffles its classes itself: leave --class-order out")

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        found = self.load_data(data_root, seed)
        # scaled copies would serve one seed only
        train, test = train_and_test(found, *_constants(found), beforehand=False)
        train_rows, test_rows = (
            torch.arange(len(split)).split(found.notes[f"{part}_sizes"])
            for part, split in (("train", train), ("test", test))
        )
        if len(test_rows) == 1:
            test_rows *= len(train_rows)
        if len(test_rows) != len(train_rows):
            counts = f"{len(train_rows)} training and {len(test_rows)} test experiences"
            raise UsageError(f"{self.name} has {counts}, which make no pairs")
        everything = tuple(torch.cat([train.y, test.y]).unique().tolist())
        tasks = []
        for index, (own, held_out) in enumerate(zip(train_rows, test_rows, strict=True)):
            classes = tuple(train.y[own].unique().tolist()) if self.by_class else everything
            tasks.append(Task(index, classes, _labelled(train, own, classes), _labelled(test, held_out, classes)))
        return tasks


def _constants(found: DataSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(found.notes["mean"]), tuple(found.notes["std"])


def _labelled(split: Split, index: Tensor, classes: Sequence[int]) -> Split:
    """Return these samples, labelled by their classes' positions (classes are sorted)."""
    return replace(split.subset(index), y=torch.searchsorted(torch.tensor(classes), split.y[index]))


@cache
def avalanche_sequence(name: str) -> type[TaskSequence]:
    """Make the task sequence `avalanche:NAME`; its `tasks` is the benchmark's n_experiences, by default its own or 5.

    A benchmark that shares classes equally is split by our class order. The streams of any other are taken as they are
    for the seed: each with its classes if it is one that splits classes, else every task with all classes that occur.
    Avalanche is imported to make the data, and once for each of its versions: see clbench.data.benchmarks.
    """
    known = benchmarks.avalanche_benchmarks()
    if name not in known:
        raise UsageError(f"unknown Avalanche benchmark {name!r}{did_you_mean(name, sorted(known))}")
    benchmark = known[name]
    parameters = set(benchmark.parameters)
    by_class = "class_ids_from_zero_from_first_exp" in parameters
    equal = {"n_experiences", "fixed_class_order", "shuffle"} <= parameters and "classes_first_batch" not in parameters
    namespace: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": f"Avalanche's {name}.",
        "name": f"avalanche:{name}",
        "benchmark": benchmark,
        "by_class": by_class,
        "every_class_shows": by_class,  # else an experience may have images of some
        "scenario": "task" if by_class else "domain",
        "model": "mlp" if "MNIST" in name else "cnn",
    }
    if by_class and not equal:
        namespace["scenarios"] = frozenset({"task", "class"})  # tasks may differ in their number of classes
    fields: list[tuple[str, Any, Any]] = []
    if "n_experiences" in parameters:
        fields.append(("tasks", Annotated[int, Ge(1)], field(default=benchmark.parameters["n_experiences"] or 5)))
    base = _AvalancheSplit if equal else _AvalancheStreams
    return make_dataclass(name, fields, bases=(base,), namespace=namespace, frozen=True)

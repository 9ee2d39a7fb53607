"""Sequences of built-in data sets: one whose classes are shared equally among the tasks, or several, each a task."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt

from clbench.data import DataSet, load_dataset, remarks
from clbench.data.augmentation import Augment
from clbench.data.transforms import alike, scaled
from clbench.errors import UsageError, did_you_mean
from clbench.seeding import stream
from clbench.sequences.orders import check_sizes, order_of, skipped_classes, task_sizes
from clbench.sequences.tasks import ClassOrder, Split, Task, TaskSequence

Constants = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation, one for all channels or for each

ADDED = {"added": True}  # marks fields that are younger than the first records: see registry.settings
MNIST_BUDGET = {"epochs": 1, "batch_size": 128, "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
DIGITS_BUDGET = {**MNIST_BUDGET, "epochs": 10, "batch_size": 16, "lr": 0.1, "weight_decay": 0.0}
CIFAR_BUDGET = {**MNIST_BUDGET, "epochs": 5, "batch_size": 64}
MNIST_CONSTANTS: Constants = ((0.1307,), (0.3081,))


def own_constants(constants: Constants, mean: float | None, std: float | None) -> Constants:
    """Return a data set's constants with a mean or a standard deviation of one's own in all channels, where given."""
    channels = len(constants[0])
    return (
        constants[0] if mean is None else (mean,) * channels,
        constants[1] if std is None else (std,) * channels,
    )


def check_mean(name: str, mean: object, mean_image: bool) -> None:
    """Raise UsageError if a mean is given, and the mean image too."""
    if mean_image and mean is not None:
        raise UsageError(f"{name}: mean={mean} and mean_image are both subtracted: choose one")


def mean_of(name: str, found: DataSet, divisor: float = 255.0, padding: int = 0) -> tuple[float, ...]:
    """Return the mean of all training images of a data set, whatever part is used: a number for each pixel.

    Raises UsageError where they are floats, which are handed out as they are.
    """
    if found.train_images.dtype != torch.uint8:
        raise UsageError(f"{name}: mean_image is subtracted from bytes, these images are floats: leave it out")
    image = torch.from_numpy(found.train_images.numpy().mean(axis=0, dtype=np.float64)) / divisor
    return tuple(F.pad(image, (padding,) * 4).flatten().tolist())


def train_and_test(
    found: DataSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    divisor: float = 255.0,
    padding: int = 0,
    augment: bool | str = False,
    beforehand: bool = True,
    images: int | None = None,
) -> tuple[Split, Split]:
    """Return all training and all test images of a data set, with its own labels; see Split for the arguments.

    They are scaled `beforehand` if that is not too much. Only training images are augmented, and of these only the
    first `images` are returned, where that is given.
    """
    ready = scaled(found, mean, std, divisor, padding) if beforehand else None

    def whole(part: str, augment: bool | str) -> Split:
        pixels, labels = getattr(found, f"{part}_images"), getattr(found, f"{part}_labels")
        floats = None if ready is None else getattr(ready, f"{part}_images")
        rows = torch.arange(len(labels))
        return Split(pixels, rows, labels, mean, std, divisor, augment=augment, padding=padding, scaled=floats)

    train = whole("train", augment)
    return train.subset(torch.arange(min(len(train), images or len(train)))), whole("test", False)


def of_classes(split: Split, classes: Sequence[int]) -> Split:
    """Return the samples of some classes, class after class; their labels become the classes' positions."""
    found = [(split.y == c).nonzero().flatten() for c in classes]
    y = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor([len(index) for index in found]))
    return replace(split.subset(torch.cat(found)), y=y)


def split_by_class(order: Sequence[int], tasks: int | Sequence[int], train: Split, test: Split) -> list[Task]:
    """Share the classes of an order among tasks: equally among so many, or by each one's number of classes.

    Samples stand class after class, else as in the data set.
    """
    sizes = [len(order) // tasks] * tasks if isinstance(tasks, int) else tasks
    made, start = [], 0
    for index, size in enumerate(sizes):
        classes = tuple(order[start : start + size])
        start += size
        made.append(Task(index, classes, of_classes(train, classes), of_classes(test, classes)))
    return made


@dataclass(frozen=True)
class SplitDataSet(TaskSequence):
    """The classes of a built-in data set, shared among the tasks."""

    scenario: ClassVar[str] = "task"
    budget: ClassVar[Mapping[str, Any]] = MNIST_BUDGET
    source: ClassVar[str]
    n_classes: ClassVar[int] = 10
    constants: ClassVar[Constants] = MNIST_CONSTANTS
    divisor: ClassVar[float] = 255.0
    tasks: Annotated[int, Ge(1)] = 5  # among which the classes are shared equally
    padding: Annotated[int, Ge(0)] = 0  # rows and columns of black around each image
    mean: float | None = None  # subtracted from pixels in [0, 1], in all channels; none: the data set's own constants
    std: Annotated[float, Gt(0)] | None = None  # what the difference is divided by
    # classes of each task in place of `tasks`, as in 50+10x5: a task of 50, then 5 of 10
    classes: str | None = field(default=None, metadata=ADDED)
    # the first so many tasks are left out, whose classes are the data set's first ones: the order is one of the others
    skip: Annotated[int, Ge(0)] = field(default=0, metadata=ADDED)
    # to train on, the first so many of the data set; none: all
    images: Annotated[int, Ge(1)] | None = field(default=None, metadata=ADDED)
    # subtract the mean of all training images, pixel by pixel, in place of `mean`
    mean_image: bool = field(default=False, metadata=ADDED)

    def check(self, class_order: ClassOrder, scenario: str) -> None:
        check_sizes(self.name, self.classes, self.tasks, type(self).tasks, self.skip, class_order)
        check_mean(self.name, self.mean, self.mean_image)
        self.class_order(class_order, 0)

    def prepare(self, data_root: Path | None, seed: int) -> str:
        return load_dataset(self.source, data_root).fingerprint

    def remarks(self, data_root: Path | None, seed: int) -> list[str]:
        return remarks(self.source, data_root)

    def class_order(self, rule: ClassOrder, seed: int, data_root: Path | None = None) -> tuple[int, ...]:
        first = skipped_classes(self.name, self.n_classes, self.tasks, self.classes, self.skip)
        order = order_of(self.name, rule, seed, range(first, self.n_classes))
        task_sizes(self.name, first + len(order), self.tasks, self.classes)
        return order

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        found = load_dataset(self.source, data_root)
        order = self.class_order("seed" if class_order is None else class_order, seed)
        mean, std = own_constants(self.constants, self.mean, self.std)
        if self.mean_image:
            mean = mean_of(self.name, found, self.divisor, self.padding)
        augment = getattr(self, "augment", False)  # a field of those that offer it
        first = skipped_classes(self.name, self.n_classes, self.tasks, self.classes, self.skip)
        sizes = task_sizes(self.name, first + len(order), self.tasks, self.classes)[self.skip :]
        both = train_and_test(found, mean, std, self.divisor, self.padding, augment, images=self.images)
        return split_by_class(order, sizes, *both)


@dataclass(frozen=True)
class SplitDigits(SplitDataSet):
    """Scikit-learn's handwritten digits (8×8), 2 classes a task; comes with the installed packages."""

    name = "split-digits"
    source = "digits"
    budget = DIGITS_BUDGET
    constants = ((0.0,), (1.0,))
    divisor = 16.0


@dataclass(frozen=True)
class SplitMNIST(SplitDataSet):
    """Handwritten digits (28×28), 2 classes a task; Avalanche's SplitMNIST."""

    name = "split-mnist"
    source = "mnist"


@dataclass(frozen=True)
class SplitFashionMNIST(SplitDataSet):
    """Pieces of clothing (28×28), 2 classes a task; Avalanche's SplitFMNIST."""

    name = "split-fashion-mnist"
    source = "fashion-mnist"
    constants = ((0.2860,), (0.3530,))


@dataclass(frozen=True)
class SplitCIFAR(SplitDataSet):
    """What the two CIFAR sequences share."""

    model = "cnn"
    budget = CIFAR_BUDGET
    # what is done to training images at random. crop: of the image in a black border of 4 pixels; flip: half of them,
    # left to right; jitter: of the colours; randaugment: torchvision's RandAugment; mixup and cutmix: images of a batch
    # in pairs, and their labels. true is crop+flip, as Avalanche does by default
    augment: Augment = False


@dataclass(frozen=True)
class SplitCIFAR10(SplitCIFAR):
    """Colour photographs (32×32), 2 classes a task; Avalanche's SplitCIFAR10."""

    name = "split-cifar10"
    source = "cifar10"
    constants = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@dataclass(frozen=True)
class SplitCIFAR100(SplitCIFAR):
    """Colour photographs (32×32), 10 classes a task; Avalanche's SplitCIFAR100."""

    name = "split-cifar100"
    source = "cifar100"
    n_classes = 100
    constants = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    tasks: Annotated[int, Ge(1)] = 10  # among which the classes are shared equally


SPLITS = (SplitDigits, SplitMNIST, SplitFashionMNIST, SplitCIFAR10, SplitCIFAR100)


@dataclass(frozen=True)
class Chain(TaskSequence):
    """Whole data sets one after another, each of them a task with all its classes.

    The setting of Li & Hoiem (2017), table 1: the first data set is the old task, the second the new one. All are
    scaled by the constants of the first, since a network's preprocessing is fixed when it is first trained.
    """

    scenario: ClassVar[str] = "task"
    parts: ClassVar[tuple[type[SplitDataSet], ...]]  # what is known of each data set
    images: Annotated[int, Ge(1)] | None = None  # at most, of each data set, to train on; none: all
    # 3: grey images are repeated in three channels, and smaller ones get a black border; none: all stay as they are
    channels: int | None = field(default=None, metadata=ADDED)

    def check(self, class_order: ClassOrder, scenario: str) -> None:
        if self.channels not in (None, 3):
            raise UsageError(f"{self.name}.channels={self.channels}: choose 3 (grey images in three channels) or none")
        if class_order != "seed":
            raise UsageError(f"{self.name} has no class order but that of its name: leave --class-order out")

    def prepare(self, data_root: Path | None, seed: int) -> str:
        fingerprints = [load_dataset(part.source, data_root).fingerprint for part in self.parts]
        return hashlib.sha256("".join(fingerprints).encode()).hexdigest()

    def remarks(self, data_root: Path | None, seed: int) -> list[str]:
        return [remark for part in self.parts for remark in remarks(part.source, data_root)]

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        found, divisor = self._data_sets(data_root)
        tasks, start = [], 0
        for index, (part, data) in enumerate(zip(self.parts, found, strict=True)):
            train, test = train_and_test(data, *self.parts[0].constants, divisor)
            if self.images is not None:
                drawn = torch.randperm(len(train), generator=stream(seed, "images", index))
                train = train.subset(drawn[: self.images].sort().values)
            tasks.append(Task(index, tuple(range(start, start + part.n_classes)), train, test))
            start += part.n_classes
        return tasks

    def _data_sets(self, data_root: Path | None) -> tuple[list[DataSet], float]:
        """Return the data sets, with images of one shape, and what their bytes are divided by."""
        found = [load_dataset(part.source, data_root) for part in self.parts]
        shapes = [tuple(one.train_images.shape[1:]) for one in found]
        if self.channels is not None:
            size = max(shape[1] for shape in shapes), max(shape[2] for shape in shapes)
            parts = zip(found, self.parts, strict=True)
            return [alike(one, self.channels, size, part.divisor) for one, part in parts], 255.0
        if len(set(shapes)) > 1:
            images = ", ".join(f"{part.source} {list(shape)}" for part, shape in zip(self.parts, shapes, strict=True))
            what = f"{self.name} has images of different shapes ({images})"
            raise UsageError(f"{what}: --set {self.name}.channels=3 makes them alike")
        return found, self.parts[0].divisor


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

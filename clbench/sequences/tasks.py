"""Task sequences: rows of a shared image tensor, labels within the task, and how a batch is made from them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor

from clbench.data import datasets as data
from clbench.errors import UsageError
from clbench.experiment.registry import did_you_mean
from clbench.seeding import stream

ClassOrder = str | tuple[int, ...]  # "seed" | "fixed" | the classes themselves


@dataclass(frozen=True)
class Split:
    """Rows of a shared image tensor with their labels; never a private copy of the images.

    Images are uint8, from which `batch` makes (images / divisor − mean) / std, or float, which are handed out as they
    are.
    """

    images: Tensor  # [N, *shape], shared
    rows: Tensor  # int64 [n]: rows of `images`
    y: Tensor  # int64 [n]: labels within the task, 0…k−1
    mean: tuple[float, ...] = (0.0,)  # one for all channels, or one per channel
    std: tuple[float, ...] = (1.0,)
    divisor: float = 255.0
    pixel_map: Tensor | None = None  # int64 [maps, height·width]: each pixel's source pixel, −1: byte 0
    map_of_row: Tensor | None = None  # int64 [n]: each row's map, where there are several
    augment: bool = False  # random crop (padding 4) and horizontal flip
    padding: int = 0  # rows and columns of byte 0 around each image
    scaled: Tensor | None = None  # float32 [N, *shape], shared: what `batch` makes of `images`, where it is at hand

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one image, as `batch` gives it."""
        shape = self.images.shape[1:]
        return tuple(shape) if not self.padding else (shape[0], *(size + 2 * self.padding for size in shape[1:]))

    @property
    def nbytes(self) -> int:
        """The bytes of the images it covers, as they are stored; each counts once however often it is there."""
        images = len(self.rows.unique()) if self.map_of_row is None else len(self)
        return images * math.prod(self.images.shape[1:]) * self.images.element_size()

    def subset(self, index: Tensor) -> Split:
        """Return these samples, int64 [m], in this order; one may be there several times."""
        chosen = {"rows": self.rows[index], "y": self.y[index]}
        if self.map_of_row is not None:
            chosen["map_of_row"] = self.map_of_row[index]
        return replace(self, **chosen)  # type: ignore[arg-type]

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the images of these samples, [len(index), *shape], float32 if stored as bytes.

        They are augmented only if `augment` is set and a (CPU) generator is given. An image comes out the same to the
        last bit in any batch.
        """
        if self.scaled is not None and self.pixel_map is None and not (self.augment and generator is not None):
            return self.scaled.index_select(0, self.rows.index_select(0, index))
        return self.prepare(self.raw(index), generator)

    def raw(self, index: Tensor) -> Tensor:
        """Return the images of these samples as they are stored, their pixels moved: [len(index), …]."""
        x = self.images.index_select(0, self.rows.index_select(0, index))
        return x if self.pixel_map is None else self._moved(x, index)

    def prepare(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Augment, pad and scale images that `raw` has given: [n, *shape]."""
        if self.augment and generator is not None:
            x = crop_and_flip(x, generator)
        if self.padding:
            x = F.pad(x, (self.padding,) * 4)
        return x if x.dtype != torch.uint8 else data.scale(x, self.mean, self.std, self.divisor)

    def _moved(self, x: Tensor, index: Tensor) -> Tensor:
        """Move the pixels of images [n, channels, height, width] as their maps say."""
        source = self.pixel_map
        assert source is not None
        if self.map_of_row is not None:
            source = source.index_select(0, self.map_of_row.index_select(0, index))
        padded = F.pad(x.flatten(2), (1, 0))  # a pixel of 0 in front, where −1 points to
        source = (source + 1)[:, None].expand(*x.shape[:2], -1)
        return padded.gather(2, source).view(x.shape)

    def unnormalised(self) -> Split:
        """Return the same images with values in [0, 1], never augmented."""
        return replace(self, mean=(0.0,), std=(1.0,), augment=False, scaled=None)

    def to(self, device: torch.device | str) -> Split:
        """Return a copy on a device; use `to_device` for whole sequences, which share their images."""
        return self._with_tensors(lambda tensor: tensor.to(device))

    def _with_tensors(self, move: Callable[[Tensor], Tensor]) -> Split:
        moved = {name: move(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Task:
    """One task of a sequence: its place, its classes (position = label within the task) and its data."""

    index: int
    classes: tuple[int, ...]
    train: Split
    test: Split

    def without_test(self) -> Task:
        """Return the same task without a test image, for handing to methods."""
        none = self.train.rows[:0]
        return replace(self, test=Split(self.train.images[:0], none, none))


def concat(splits: Sequence[Split]) -> Split:
    """Put splits of one sequence after another; labels stay within-task, images that are shared stay so.

    Raises UsageError if their images are not scaled in the same way.
    """
    first = splits[0]
    if len(splits) == 1:
        return first
    if len({(split.mean, split.std, split.divisor, split.padding) for split in splits}) > 1:
        raise UsageError("tasks whose images are scaled or padded in different ways cannot be trained on together")
    images, rows = first.images, [split.rows for split in splits]
    scaled = first.scaled if all(split.scaled is first.scaled for split in splits) else None
    if any(split.images is not images for split in splits):
        starts = np.cumsum([0] + [len(split.images) for split in splits])
        images, scaled = torch.cat([split.images for split in splits]), None
        rows = [own + int(start) for own, start in zip(rows, starts[:-1], strict=True)]
    y = torch.cat([split.y for split in splits])
    joined = replace(first, images=images, scaled=scaled, rows=torch.cat(rows), y=y)
    if all(split.pixel_map is None for split in splits):
        return joined
    identity = torch.arange(math.prod(images.shape[2:]), device=images.device)[None]
    maps, map_of_row, start = [], [], 0
    for split in splits:
        maps.append(identity if split.pixel_map is None else split.pixel_map)
        map_of_row.append(start + (torch.zeros_like(split.rows) if split.map_of_row is None else split.map_of_row))
        start += len(maps[-1])
    return replace(joined, pixel_map=torch.cat(maps), map_of_row=torch.cat(map_of_row))


def to_device(tasks: Sequence[Task], device: torch.device) -> list[Task]:
    """Move a whole sequence, each shared tensor once, images as bytes; on the CPU it stays where it is."""
    if device.type == "cpu":
        return list(tasks)
    moved: dict[int, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        if id(tensor) not in moved:
            moved[id(tensor)] = tensor.to(device)
        return moved[id(tensor)]

    def moved_split(split: Split) -> Split:
        return replace(split, scaled=None)._with_tensors(move)

    return [replace(task, train=moved_split(task.train), test=moved_split(task.test)) for task in tasks]


def crop_and_flip(x: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Crop each image [n, channels, height, width] at random from its zero-padded self and flip half of them."""
    n, _, height, width = x.shape
    top = torch.randint(2 * padding + 1, (n, 1), generator=generator)
    left = torch.randint(2 * padding + 1, (n, 1), generator=generator)
    flip = torch.rand(n, 1, generator=generator) < 0.5
    down = top + torch.arange(height)
    across = left + torch.where(flip, torch.arange(width - 1, -1, -1), torch.arange(width))
    rows, columns, images = (
        i.to(x.device) for i in (down[:, :, None], across[:, None], torch.arange(n)[:, None, None])
    )
    padded = F.pad(x, (padding,) * 4).permute(0, 2, 3, 1)
    return padded[images, rows, columns].permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class TaskSequence:
    """Base of the task sequences: a frozen dataclass whose fields are the sequence's settings."""

    name: ClassVar[str]
    scenario: ClassVar[str]  # the one it is run in by default
    scenarios: ClassVar[frozenset[str]] = frozenset({"task", "class", "domain"})
    model: ClassVar[str] = "mlp"  # its default backbone
    budget: ClassVar[Mapping[str, Any]] = {}  # default training settings, see clbench.training.loop.Training

    def check(self, class_order: ClassOrder, scenario: str) -> None:
        """Raise UsageError if these settings make no sense together; reads no data."""

    def prepare(self, data_root: Path | None, seed: int) -> str:
        """Make sure that the data are there, and return their SHA-256, after `seed:` if each seed has its own."""
        raise NotImplementedError(f"{type(self).__name__} does not define prepare")

    def class_order(self, rule: ClassOrder, seed: int, data_root: Path | None = None) -> tuple[int, ...] | None:
        """Return the class order in full, None where there is no such notion."""
        return None

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        """Return all tasks; images stay memory-mapped and shared."""
        raise NotImplementedError(f"{type(self).__name__} does not define load")


def full_class_order(
    name: str, rule: ClassOrder, seed: int, classes: Sequence[int], tasks: int, some: bool = True
) -> tuple[int, ...]:
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


@dataclass(frozen=True)
class Part:
    """The training or the test images of a data set: what a split is made of."""

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    divisor: float = 255.0
    augment: bool = False
    padding: int = 0
    scaled: Tensor | None = None  # see Split

    def of_classes(self, classes: Sequence[int]) -> Split:
        """Return the rows of some classes; labels are their positions."""
        found = [(self.labels == c).nonzero().flatten() for c in classes]
        y = torch.repeat_interleave(torch.arange(len(classes)), torch.tensor([len(rows) for rows in found]))
        return self.split(torch.cat(found), y)

    def split(self, rows: Tensor, y: Tensor, pixel_map: Tensor | None = None) -> Split:
        options = {"pixel_map": pixel_map, "augment": self.augment, "padding": self.padding}
        options["scaled"] = self.scaled if pixel_map is None else None
        return Split(self.images, rows, y, self.mean, self.std, self.divisor, **options)  # type: ignore[arg-type]


def parts_of(
    found: data.DataSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    divisor: float = 255.0,
    padding: int = 0,
    augment: bool = False,
    beforehand: bool = True,
) -> tuple[Part, Part]:
    """Return a data set's training and test images, scaled `beforehand` if that is not too much; see Part."""
    ready = data.scaled(found, mean, std, divisor, padding) if beforehand else None
    train, test = (None, None) if ready is None else (ready.train_images, ready.test_images)
    return (
        Part(found.train_images, found.train_labels, mean, std, divisor, augment, padding, train),
        Part(found.test_images, found.test_labels, mean, std, divisor, False, padding, test),
    )


def split_by_class(order: Sequence[int], tasks: int, train: Part, test: Part) -> list[Task]:
    """Share the classes of an order equally among tasks; rows stand class after class, else as in the data set."""
    size = len(order) // tasks
    made = []
    for index in range(tasks):
        classes = tuple(order[index * size : (index + 1) * size])
        made.append(Task(index, classes, train.of_classes(classes), test.of_classes(classes)))
    return made


MNIST_BUDGET = {"epochs": 1, "batch_size": 128, "optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
CIFAR_BUDGET = {**MNIST_BUDGET, "epochs": 5, "batch_size": 64}
MNIST_CONSTANTS = ((0.1307,), (0.3081,))


@dataclass(frozen=True)
class _SplitDataSet(TaskSequence):
    """The classes of a built-in data set, shared equally among the tasks."""

    scenario: ClassVar[str] = "task"
    budget: ClassVar[Mapping[str, Any]] = MNIST_BUDGET
    source: ClassVar[str]
    n_classes: ClassVar[int] = 10
    constants: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = MNIST_CONSTANTS  # mean, std
    divisor: ClassVar[float] = 255.0
    tasks: Annotated[int, Ge(1)] = 5
    padding: Annotated[int, Ge(0)] = 0  # rows and columns of black around each image
    mean: float | None = None  # subtracted from pixels in [0, 1], in all channels; none: the data set's own constants
    std: Annotated[float, Gt(0)] | None = None  # what the difference is divided by

    def check(self, class_order: ClassOrder, scenario: str) -> None:
        self.class_order(class_order, 0)

    def prepare(self, data_root: Path | None, seed: int) -> str:
        return data.load_dataset(self.source, data_root).fingerprint

    def class_order(self, rule: ClassOrder, seed: int, data_root: Path | None = None) -> tuple[int, ...]:
        return full_class_order(self.name, rule, seed, range(self.n_classes), self.tasks)

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        found = data.load_dataset(self.source, data_root)
        order = self.class_order("seed" if class_order is None else class_order, seed)
        mean = self.constants[0] if self.mean is None else (self.mean,)
        std = self.constants[1] if self.std is None else (self.std,)
        if len(mean) != len(std):  # one of them is given for all the channels
            mean, std = mean * (len(std) // len(mean)), std * (len(mean) // len(std) or 1)
        augment = bool(getattr(self, "augment", False))
        return split_by_class(order, self.tasks, *parts_of(found, mean, std, self.divisor, self.padding, augment))


@dataclass(frozen=True)
class SplitDigits(_SplitDataSet):
    """Scikit-learn's handwritten digits (8×8), 2 classes a task; comes with the installed packages."""

    name: ClassVar[str] = "split-digits"
    source: ClassVar[str] = "digits"
    constants: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = ((0.0,), (1.0,))
    divisor: ClassVar[float] = 16.0
    budget: ClassVar[Mapping[str, Any]] = {
        "epochs": 10,
        "batch_size": 16,
        "optimizer": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0,
    }


@dataclass(frozen=True)
class SplitMNIST(_SplitDataSet):
    """Handwritten digits (28×28), 2 classes a task; Avalanche's SplitMNIST."""

    name: ClassVar[str] = "split-mnist"
    source: ClassVar[str] = "mnist"


@dataclass(frozen=True)
class SplitFashionMNIST(_SplitDataSet):
    """Pieces of clothing (28×28), 2 classes a task; Avalanche's SplitFMNIST."""

    name: ClassVar[str] = "split-fashion-mnist"
    source: ClassVar[str] = "fashion-mnist"
    constants: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = ((0.2860,), (0.3530,))


@dataclass(frozen=True)
class SplitCIFAR10(_SplitDataSet):
    """Colour photographs (32×32), 2 classes a task; Avalanche's SplitCIFAR10."""

    name: ClassVar[str] = "split-cifar10"
    source: ClassVar[str] = "cifar10"
    model: ClassVar[str] = "cnn"
    budget: ClassVar[Mapping[str, Any]] = CIFAR_BUDGET
    constants: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = (
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    )
    augment: bool = False  # random crop and flip of training images, as Avalanche does by default


@dataclass(frozen=True)
class SplitCIFAR100(_SplitDataSet):
    """Colour photographs (32×32), 10 classes a task; Avalanche's SplitCIFAR100."""

    name: ClassVar[str] = "split-cifar100"
    source: ClassVar[str] = "cifar100"
    model: ClassVar[str] = "cnn"
    budget: ClassVar[Mapping[str, Any]] = CIFAR_BUDGET
    n_classes: ClassVar[int] = 100
    constants: ClassVar[tuple[tuple[float, ...], tuple[float, ...]]] = (
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
    )
    tasks: Annotated[int, Ge(1)] = 10
    augment: bool = False  # random crop and flip of training images, as Avalanche does by default


@dataclass(frozen=True)
class _MovedMNIST(TaskSequence):
    """All of MNIST in every task, its pixels moved in a way of the task's own."""

    scenario: ClassVar[str] = "domain"
    budget: ClassVar[Mapping[str, Any]] = MNIST_BUDGET
    tasks: Annotated[int, Ge(1)] = 10

    def pixel_maps(self, seed: int) -> list[Tensor]:
        """Return each task's map, int64 [784]."""
        raise NotImplementedError(f"{type(self).__name__} does not define pixel_maps")

    def check(self, class_order: ClassOrder, scenario: str) -> None:
        refuse_order(self.name, class_order)

    def prepare(self, data_root: Path | None, seed: int) -> str:
        return data.load_dataset("mnist", data_root).fingerprint

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        found = data.load_dataset("mnist", data_root)
        train = Part(found.train_images, found.train_labels, *MNIST_CONSTANTS)
        test = Part(found.test_images, found.test_labels, *MNIST_CONSTANTS)
        train_rows, test_rows = torch.arange(len(train.labels)), torch.arange(len(test.labels))
        return [
            Task(
                index,
                tuple(range(10)),
                train.split(train_rows, train.labels, pixel_map[None]),
                test.split(test_rows, test.labels, pixel_map[None]),
            )
            for index, pixel_map in enumerate(self.pixel_maps(seed))
        ]


def refuse_order(name: str, class_order: ClassOrder) -> None:
    if not isinstance(class_order, str):
        raise UsageError(f"{name} has no class order of its own to choose: leave --class-order out")


@dataclass(frozen=True)
class PermutedMNIST(_MovedMNIST):
    """Handwritten digits, all 10 classes in every task, the pixels permuted; Avalanche's PermutedMNIST."""

    name: ClassVar[str] = "permuted-mnist"

    def pixel_maps(self, seed: int) -> list[Tensor]:
        draws = np.random.RandomState(seed)  # the generator that Avalanche draws from
        return [torch.from_numpy(draws.permutation(784)) for _ in range(self.tasks)]


@dataclass(frozen=True)
class RotatedMNIST(_MovedMNIST):
    """Handwritten digits, all 10 classes in every task, the images rotated; Avalanche's RotatedMNIST."""

    name: ClassVar[str] = "rotated-mnist"

    def angles(self, seed: int) -> list[int]:
        """Return each task's angle in degrees, anticlockwise."""
        draws = np.random.RandomState(seed)  # the generator that Avalanche draws from
        return [int(draws.randint(-180, 181)) for _ in range(self.tasks)]

    def pixel_maps(self, seed: int) -> list[Tensor]:
        return [rotation_map(angle) for angle in self.angles(seed)]


def rotation_map(angle: float, size: int = 28) -> Tensor:
    """Return the source pixel of each pixel [size²] when a square image turns by `angle` degrees anticlockwise.

    The nearest pixel is taken, −1 where that lies outside: what torchvision's RandomRotation does to tensors.
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    across, down = torch.tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]]) / (size / 2)
    centred = torch.linspace(0.5 - size / 2, size / 2 - 0.5, size)
    y, x = torch.meshgrid(centred, centred, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=2).view(-1, 3) @ torch.stack([across, down]).T
    numbers = torch.arange(1.0, size * size + 1).view(1, 1, size, size)  # exact in float32; 0 comes from outside
    turned = F.grid_sample(numbers, points.view(1, size, size, 2), mode="nearest", align_corners=False)
    return turned.flatten().long() - 1


@dataclass(frozen=True)
class _Chain(TaskSequence):
    """Whole data sets one after another, each of them a task with all its classes.

    The setting of Li & Hoiem (2017), table 1: the first data set is the old task, the second the new one. All are
    scaled by the constants of the first, since a network's preprocessing is fixed when it is first trained.
    """

    scenario: ClassVar[str] = "task"
    parts: ClassVar[tuple[type[_SplitDataSet], ...]]  # what is known of each data set
    images: Annotated[int, Ge(1)] | None = None  # at most, of each data set, to train on; none: all

    def check(self, class_order: ClassOrder, scenario: str) -> None:
        if class_order != "seed":
            raise UsageError(f"{self.name} has no class order but that of its name: leave --class-order out")

    def prepare(self, data_root: Path | None, seed: int) -> str:
        fingerprints = [data.load_dataset(part.source, data_root).fingerprint for part in self.parts]
        return hashlib.sha256("".join(fingerprints).encode()).hexdigest()

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        scaling = (*self.parts[0].constants, self.parts[0].divisor)
        tasks, start = [], 0
        for index, part in enumerate(self.parts):
            found = data.load_dataset(part.source, data_root)
            train, test = parts_of(found, *scaling)
            rows, test_rows = torch.arange(len(train.labels)), torch.arange(len(test.labels))
            if self.images is not None:
                drawn = torch.randperm(len(rows), generator=stream(seed, "images", index))
                rows = drawn[: self.images].sort().values
            classes = tuple(range(start, start + part.n_classes))
            tasks.append(
                Task(index, classes, train.split(rows, train.labels[rows]), test.split(test_rows, test.labels))
            )
            start += part.n_classes
        return tasks


@cache
def chain_sequence(name: str) -> type[TaskSequence]:
    """Make the task sequence `mnist+fashion-mnist`: data sets of clbench.data, each a task, in the order of the name.

    Its default model and budget are those of the first data set, split.
    """
    splits = (SplitDigits, SplitMNIST, SplitFashionMNIST, SplitCIFAR10, SplitCIFAR100)
    known: dict[str, type[_SplitDataSet]] = {split.source: split for split in splits}
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
    return make_dataclass(name, (), bases=(_Chain,), namespace=namespace, frozen=True)

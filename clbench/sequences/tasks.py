"""What a task sequence is: tasks with their training and test images, and the base of the classes that give them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from clbench.data import transforms
from clbench.data.augmentation import augmented
from clbench.errors import UsageError, did_you_mean, line_of

# "seed", "fixed", "seed:7", "numpy:1993" or the classes themselves: see full_class_order
ClassOrder = str | tuple[int, ...]


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
    augment: bool | str = False  # what is done to training images at random, see clbench.data.augmentation
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
        as_stored = not self.augment or generator is None
        if self.scaled is not None and self.pixel_map is None and as_stored:
            return self.scaled.index_select(0, self.rows.index_select(0, index))
        return self.prepare(self.raw(index), generator)

    def raw(self, index: Tensor) -> Tensor:
        """Return the images of these samples as stored, [len(index), *images.shape[1:]], their pixels moved by the map.

        A memory of old images keeps these, and makes a batch of them with `prepare` as often as it needs one.
        """
        x = self.images.index_select(0, self.rows.index_select(0, index))
        if self.pixel_map is None:
            return x
        maps = self.pixel_map
        if self.map_of_row is not None:
            maps = maps.index_select(0, self.map_of_row.index_select(0, index))
        return transforms.move_pixels(x, maps)

    def prepare(self, raw: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Augment, pad and scale images that `raw` returned: `prepare(raw(index), generator)` is `batch`'s answer."""
        x = raw
        if self.augment and generator is not None:
            x = augmented(x, self.augment, self.divisor, generator)
        if self.padding:
            x = F.pad(x, (self.padding,) * 4)
        if raw.dtype != torch.uint8:
            return x
        return transforms.scale(x, self.mean, self.std, self.divisor)


@dataclass(frozen=True)
class Task:
    """One task of a sequence: its place, its classes (position = label within the task) and its data."""

    index: int
    classes: tuple[int, ...]
    train: Split
    test: Split

    def without_test(self) -> Task:
        """Return the same task with an empty test split that holds no test image, for code that must see none."""
        nothing = self.test.subset(self.test.rows.new_empty(0))
        images = self.test.images.new_empty(0, *self.test.images.shape[1:])
        return replace(self, test=replace(nothing, images=images, scaled=None))


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
        images, scaled = torch.cat([split.images.index_select(0, split.rows) for split in splits]), None
        rows = [torch.arange(len(images), device=images.device)]
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

    def move(value: Any) -> Any:
        if isinstance(value, Tensor) and id(value) not in moved:
            moved[id(value)] = value.to(device)
        return moved[id(value)] if isinstance(value, Tensor) else value

    def moved_split(split: Split) -> Split:
        return Split(**{name: move(value) for name, value in vars(replace(split, scaled=None)).items()})

    return [replace(task, train=moved_split(task.train), test=moved_split(task.test)) for task in tasks]


@dataclass(frozen=True)
class TaskSequence:
    """Base of the task sequences: a frozen dataclass whose fields are the sequence's settings."""

    name: ClassVar[str]
    scenario: ClassVar[str]  # the one it is run in by default
    scenarios: ClassVar[frozenset[str]] = frozenset({"task", "class", "domain"})
    model: ClassVar[str] = "mlp"  # its default backbone
    budget: ClassVar[Mapping[str, Any]] = {}  # its default training settings
    every_class_shows: ClassVar[bool] = True  # whether a task has training images of each class that it names

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Raise UsageError for a class that lacks what every one says of itself."""
        if problem := _problem(cls):
            raise UsageError(f"the sequence {cls.__name__} {problem}{line_of(cls)}")
        return super().__new__(cls)

    def check(self, class_order: ClassOrder, scenario: str) -> None:
        """Raise UsageError if these settings make no sense together; reads no data.

        By default a class order is refused where `class_order` gives none.
        """
        if type(self).class_order is TaskSequence.class_order and class_order not in ("seed", "fixed"):
            raise UsageError(f"{self.name} has no class order of its own to choose: leave --class-order out")

    def prepare(self, data_root: Path | None, seed: int) -> str:
        """Make sure that the data are there, and return their SHA-256, after `seed:` if each seed has its own."""
        raise NotImplementedError(f"{type(self).__name__} does not define prepare")

    def remarks(self, data_root: Path | None, seed: int) -> list[str]:
        """Return what the user should hear about the data; it is printed once, and stands in every record."""
        return []

    def class_order(self, rule: ClassOrder, seed: int, data_root: Path | None = None) -> tuple[int, ...] | None:
        """Return the class order in full, None where there is no such notion."""
        return None

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        """Return all tasks; images stay memory-mapped and shared."""
        raise NotImplementedError(f"{type(self).__name__} does not define load")


def _problem(cls: type[TaskSequence]) -> str | None:
    """Return what is wrong with a class of task sequences, as the rest of a sentence."""
    scenarios = cls.scenarios
    if missing := [name for name in ("name", "scenario") if not isinstance(getattr(cls, name, None), str)]:
        example = {"name": cls.__name__.lower(), "scenario": "task"}[missing[0]]
        return f'has no {missing[0]}: write one into the class, as in {missing[0]} = "{example}"'
    if isinstance(scenarios, str) or not set(scenarios) <= TaskSequence.scenarios:
        return (
            f"has the scenarios {scenarios!r}: a set is needed of some of {', '.join(sorted(TaskSequence.scenarios))}"
        )
    if cls.scenario not in scenarios:
        return f"has the scenario {cls.scenario!r}{did_you_mean(cls.scenario, sorted(scenarios))}"
    if not isinstance(cls.budget, Mapping):
        return 'has a budget that is no mapping: write training settings, as in {"epochs": 3, "lr": 0.05}'
    return None

"""The tasks of a sequence, checked once before any training: each fault is one line that says where it is.

What can be changed without loss is: whole numbers become int64, other floating-point images float32.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clbench.data.augmentation import OF_BYTES, steps_of
from clbench.errors import ClbenchError, UsageError, line_of, shown
from clbench.sequences.tasks import Split, Task, TaskSequence

PARTS = {"train": "training set", "test": "test set"}
CHUNK = 1024  # images that are looked at together


def load_checked(
    sequence: TaskSequence,
    label: str,
    data_root: Path | None,
    seed: int,
    class_order: tuple[int, ...] | None,
    chosen: str | None = None,
) -> list[Task]:
    """Load a sequence's tasks and check them; raise UsageError that names the sequence, the task and the fault.

    `chosen` are the tasks to return, as `parse_tasks` gives them: as if the sequence had no others.
    """
    cls = type(sequence)
    try:
        found = sequence.load(data_root, seed, class_order)
        if isinstance(found, Iterator):
            found = list(found)
    except ClbenchError:
        raise
    except Exception as error:
        what = f"the sequence {label} raises {type(error).__name__}: {error}"
        raise UsageError(f"{what}{line_of(cls, error)}") from error
    try:
        tasks = checked(found, cls.every_class_shows)
    except UsageError as error:
        raise UsageError(f"{label}: {error}{line_of(cls.load)}") from None
    return tasks if chosen is None else _some(tasks, chosen, label)


def _some(tasks: list[Task], chosen: str, label: str) -> list[Task]:
    """Return some tasks, numbered anew."""
    first, _, last = chosen.partition("-")
    if max(int(first), int(last or 0)) >= len(tasks):
        there = f"{label} has {len(tasks)} tasks, 0 to {len(tasks) - 1}" if len(tasks) > 1 else f"{label} has one task"
        raise UsageError(f"tasks={chosen}: {there}")
    return [
        replace(task, index=place) for place, task in enumerate(tasks[int(first) : int(last) + 1 if last else None])
    ]


def checked(tasks: Any, every_class_shows: bool = True) -> list[Task]:
    """Return tasks as they can be trained on; raise UsageError, which names the task, for those that cannot.

    `every_class_shows` says whether each task has training images of each class that it names.
    """
    try:
        found = list(tasks)
    except TypeError:
        raise UsageError(f"load returned {_what(tasks)}, not a list of tasks") from None
    if not found:
        raise UsageError("load returned no task")
    check = _Check(every_class_shows)
    checked_tasks = [check.task(place, task) for place, task in enumerate(found)]
    first = checked_tasks[0].train.shape
    for place, task in enumerate(checked_tasks):
        for part, name in PARTS.items():
            shape = getattr(task, part).shape
            if shape != first:
                raise UsageError(
                    f"images of different shapes: {list(shape)} in task {place + 1}, {name}, "
                    f"but {list(first)} in task 1, training set"
                )
    return checked_tasks


def check_sequence(
    sequence: type[TaskSequence] | TaskSequence, *, data_root: Path | str | None = None, seed: int = 0
) -> None:
    """Load a task sequence as runs do and print its tasks; raise AssertionError that says what is wrong with them.

    Its tasks must be such as can be trained on, for this seed and the next. The same seed must give the same class
    order, the same fingerprint and the same images and labels again, whatever was drawn from the global generators.
    """
    cls = sequence if isinstance(sequence, type) else type(sequence)
    root = None if data_root is None else Path(data_root)
    assert issubclass(cls, TaskSequence), f"{cls.__name__} does not derive from clbench.sequences.TaskSequence"
    try:
        instance = sequence() if isinstance(sequence, type) else sequence
        fingerprint, order, tasks = _loaded(instance, root, seed)
        torch.rand(1)
        np.random.rand(1)  # noqa: NPY002 (the generator that all code shares)
        random.random()
        again = _loaded(instance, root, seed)
        _loaded(instance, root, seed + 1)
    except UsageError as error:
        raise AssertionError(str(error)) from error
    name, line = cls.__name__, line_of(cls)
    assert again[0] == fingerprint, f"{name}: prepare returns another fingerprint for the same seed{line}"
    assert again[1] == order, f"{name}: class_order differs for the same seed{line}"
    for one, other in zip(tasks, again[2], strict=False):
        for part, what in PARTS.items():
            same = one.classes == other.classes and _equal(getattr(one, part), getattr(other, part))
            where = f"{name}: task {one.index + 1}, {what}"
            assert same, f"{where} differs when it is loaded again: draw from stream(seed, …) of clbench.seeding{line}"
    assert len(tasks) == len(again[2]), f"{name}: another number of tasks when it is loaded again{line}"
    if cls.scenario == "domain":
        message = f"{name}: tasks of different numbers of classes: domain needs equal ones{line}"
        assert len({len(task.classes) for task in tasks}) == 1, message
    print(f"{name}, seed {seed}: {len(tasks)} tasks, images {list(tasks[0].train.shape)}")
    for task in tasks:
        counts = f"{len(task.train)} images to train on, {len(task.test)} to test on"
        print(f"  task {task.index + 1}: {counts}, classes {', '.join(map(str, task.classes))}")


def _loaded(
    sequence: TaskSequence, data_root: Path | None, seed: int
) -> tuple[str, tuple[int, ...] | None, list[Task]]:
    """Return the fingerprint, the seed's class order and the tasks, as a run gets them."""
    sequence.check("seed", sequence.scenario)
    fingerprint = sequence.prepare(data_root, seed)
    assert isinstance(fingerprint, str), f"{type(sequence).__name__}: prepare returns {_what(fingerprint)}, not text"
    order = sequence.class_order("seed", seed, data_root)
    return fingerprint, order, load_checked(sequence, type(sequence).__name__, data_root, seed, order)


def _equal(one: Split, other: Split) -> bool:
    """Whether two splits have the same images and labels in the same order."""
    parts = torch.arange(len(one)).split(CHUNK)
    return torch.equal(one.y, other.y) and all(torch.equal(one.batch(rows), other.batch(rows)) for rows in parts)


class _Check:
    """The check of one task after another; tensors that they share are looked at once."""

    def __init__(self, every_class_shows: bool):
        self.every_class_shows = every_class_shows
        self.images: dict[int, tuple[Tensor, Tensor, bool]] = {}  # by id: as given, as float32, whether all are finite

    def task(self, place: int, task: Any) -> Task:
        if not isinstance(task, Task):
            raise UsageError(f"load returned {_what(task)} in place of task {place + 1}, not a Task")
        where = f"task {place + 1}"
        if task.index != place:
            raise UsageError(f"{where} has the index {task.index}: tasks are numbered 0, 1, 2, … in their order")
        try:
            classes = tuple(task.classes)
        except TypeError:
            raise UsageError(f"{where} has {_what(task.classes)} as its classes, not a tuple of them") from None
        if not classes or len(set(classes)) < len(classes):
            raise UsageError(f"{where} names {'a class twice' if classes else 'no class'}: its classes are {classes}")
        splits = {part: self.split(f"{where}, {PARTS[part]}", getattr(task, part), classes) for part in PARTS}
        counts = splits["train"].y.bincount(minlength=len(classes))
        if self.every_class_shows and not counts.all():
            absent = classes[int(counts.argmin())]
            raise UsageError(f"{where}, training set: no image of class {absent}, which the task names")
        if len(splits["train"]) == len(splits["test"]) and _equal(splits["train"], splits["test"]):
            raise UsageError(f"{where}: its test set is its training set: test on images that it does not train on")
        return Task(task.index, classes, **splits)

    def split(self, where: str, split: Any, classes: Sequence[int]) -> Split:
        if not isinstance(split, Split):
            raise UsageError(f"{where}: {_what(split)} in place of a Split")
        for name in ("images", "rows", "y"):
            if not isinstance(getattr(split, name), Tensor):
                what = _what(getattr(split, name))
                raise UsageError(f"{where}: {name} is {what}, not a tensor; torch.from_numpy makes one of an array")
        rows, y = _whole(f"{where}: rows", split.rows), _whole(f"{where}: labels (y)", split.y)
        if split.rows.dtype == torch.bool:
            raise UsageError(f"{where}: rows are true or false, not numbers of images; mask.nonzero()[:, 0] makes them")
        if len(rows) == 0:
            raise UsageError(f"{where}: it is empty, there is no image")
        if len(rows) != len(y):
            raise UsageError(f"{where}: {len(y)} labels (y) for {len(rows)} images (rows)")
        low, high = (int(value) for value in rows.aminmax())
        if low < 0 or high >= len(split.images):
            wrong = low if low < 0 else high
            raise UsageError(f"{where}: row {wrong} is out of range, there are {len(split.images)} images")
        _check_labels(where, y, classes)
        split = replace(split, rows=rows, y=y, images=self._usable(where, split.images))
        _check_scaling(where, split)
        _check_augment(where, split)
        self._check_finite(where, split)
        return split

    def _usable(self, where: str, images: Tensor) -> Tensor:
        """Return images as bytes or float32."""
        if images.ndim < 2:
            raise UsageError(f"{where}: images of shape {list(images.shape)}; [N, channels, height, width] is needed")
        if images.dtype == torch.uint8:
            return images
        if not images.is_floating_point():
            kind = _kind(images)
            raise UsageError(f"{where}: images are {kind}; give bytes (uint8), which are scaled, or float32 as it is")
        if id(images) not in self.images:
            usable = images.float()
            finite = not images.numel() or all(bool(value.isfinite()) for value in usable.aminmax())
            self.images[id(images)] = images, usable, finite
            self.images[id(usable)] = usable, usable, finite
        return self.images[id(images)][1]

    def _check_finite(self, where: str, split: Split) -> None:
        """Raise UsageError for a pixel of the split that is NaN or infinite."""
        if split.images.dtype == torch.uint8 or self.images[id(split.images)][2]:
            return
        for start, rows in zip(range(0, len(split), CHUNK), split.rows.split(CHUNK), strict=True):
            images = split.images.index_select(0, rows)
            bad = (~images.isfinite()).nonzero()
            if len(bad):
                image, *pixel = bad[0].tolist()
                value, number = images[tuple(bad[0])].item(), start + image
                what = f"image {number} (row {int(rows[image])} of the images) is {value} at pixel {pixel}"
                raise UsageError(f"{where}: {what}, counted from 0; replace it or leave the image out")


def _check_labels(where: str, y: Tensor, classes: Sequence[int]) -> None:
    low, high = (int(value) for value in y.aminmax())
    if low >= 0 and high < len(classes):
        return
    wrong = low if low < 0 else high
    image = int((y == wrong).nonzero()[0, 0])
    hint = f"y holds the place of a class in the task's classes, 0 to {len(classes) - 1}"
    if set(y.unique().tolist()) <= set(classes):
        hint += "; these are the classes themselves, global labels (split_by_class makes places of them)"
    raise UsageError(f"{where}: label {wrong} of image {image} is out of range: {hint}")


def _check_augment(where: str, split: Split) -> None:
    """Raise UsageError for a step of augmentation that there is not, or that does not go with the images."""
    steps = steps_of(split.augment)
    of_bytes = [step for step in steps if step in OF_BYTES]
    if of_bytes and split.images.dtype != torch.uint8:
        raise UsageError(f"{where}: augment={split.augment}: {of_bytes[0]} needs images that are bytes (uint8)")
    if "randaugment" in steps and split.divisor != 255:
        raise UsageError(f"{where}: augment={split.augment}: randaugment needs bytes up to 255, not {split.divisor:g}")
    if steps and split.images.ndim != 4:
        raise UsageError(f"{where}: augment={split.augment} needs images of shape [N, channels, height, width]")


def _check_scaling(where: str, split: Split) -> None:
    """Raise UsageError for constants that make no numbers of bytes, and for pixel maps that lead outside."""
    if split.pixel_map is not None:
        pixels = split.images[0, 0].numel()
        low, high = (int(value) for value in split.pixel_map.aminmax())
        if low < -1 or high >= pixels:
            wrong = low if low < -1 else high
            raise UsageError(f"{where}: pixel_map has {wrong}, but an image has the pixels 0 to {pixels - 1}")
    if split.images.dtype != torch.uint8:
        return
    extremes = torch.tensor([0, 255], dtype=torch.uint8).view(2, *[1] * (split.images.ndim - 1))
    constants = f"mean {shown(split.mean)}, std {split.std}, divisor {split.divisor}"
    try:
        values = split.prepare(extremes.expand(2, *split.images.shape[1:]).contiguous())
    except Exception as error:
        what = f"images of shape {list(split.images.shape[1:])} cannot be scaled by {constants}"
        raise UsageError(f"{where}: {what} ({type(error).__name__}: {error})") from None
    if not values.isfinite().all():
        raise UsageError(f"{where}: {constants} make NaN or infinity of bytes")


def _whole(what: str, numbers: Tensor) -> Tensor:
    """Return a list of whole numbers as int64; raise UsageError for what is none."""
    if numbers.ndim != 1:
        raise UsageError(f"{what} have the shape {list(numbers.shape)}, not [n]")
    whole = numbers.to(torch.int64)
    if numbers.is_complex() or (numbers.is_floating_point() and not torch.equal(whole.to(numbers.dtype), numbers)):
        raise UsageError(f"{what} are {_kind(numbers)} and no whole numbers; int64 is needed")
    return whole


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _what(thing: Any) -> str:
    kind = type(thing).__name__
    return "None" if thing is None else f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"

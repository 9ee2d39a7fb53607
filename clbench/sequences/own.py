"""Data of one's own as task sequences: `npz:FILE`, `folder:PATH`, and torchvision's data sets, `torchvision:NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le

from clbench.data import DataSet
from clbench.data.augmentation import Augment
from clbench.data.folders import load_folder
from clbench.data.npz import load_npz
from clbench.data.streaming import Form, described
from clbench.data.torchvision_sets import load_torchvision
from clbench.errors import UsageError, did_you_mean
from clbench.sequences.orders import check_sizes, order_of, skipped_classes, task_sizes
from clbench.sequences.splits import ADDED, CIFAR_BUDGET, check_mean, mean_of, split_by_class, train_and_test
from clbench.sequences.tasks import ClassOrder, Task, TaskSequence


@dataclass(frozen=True)
class OwnData(TaskSequence):
    """The classes of a data set of one's own, shared among the tasks."""

    scenario: ClassVar[str] = "task"
    model: ClassVar[str] = "cnn"
    budget: ClassVar[Mapping[str, Any]] = CIFAR_BUDGET
    place: ClassVar[str]  # what stands behind the colon
    tasks: Annotated[int, Ge(1)] = 5  # among which the classes are shared equally
    classes: str | None = None  # of each task, in place of `tasks`, as in 50+10x5: a task of 50, then 5 of 10
    # height and width that images are brought to: the middle square of each; needed where they differ in size
    resize: Annotated[int, Ge(1), Le(4096)] | None = None
    channels: int | None = None  # 3: all become colour; 1: all become grey; none: as they are
    # subtracted from pixels in [0, 1] (floats: as they are), one for all channels or one for each, as in
    # 0.49/0.48/0.45; none: those of the training images
    mean: str | None = None
    std: str | None = None  # what the difference is divided by, written like mean; none: that of the training images
    # of training images: crop, flip, jitter, randaugment, mixup, cutmix, joined by +; true is crop+flip
    augment: Augment = False
    padding: Annotated[int, Ge(0)] = 0  # rows and columns of black around each image
    # the first so many tasks are left out, whose classes are the data set's first ones: the order is one of the others
    skip: Annotated[int, Ge(0)] = field(default=0, metadata=ADDED)
    # to train on, the first so many of the data set; none: all
    images: Annotated[int, Ge(1)] | None = field(default=None, metadata=ADDED)
    # subtract the mean of all training images, pixel by pixel, in place of `mean`; of images that are bytes
    mean_image: bool = field(default=False, metadata=ADDED)

    @property
    def form(self) -> Form:
        return Form(self.resize, self.channels)

    def data(self, data_root: Path | None) -> DataSet:
        """Return the data set, materialised."""
        raise NotImplementedError(f"{type(self).__name__} does not define data")

    def check(self, class_order: ClassOrder, scenario: str) -> None:
        check_sizes(self.name, self.classes, self.tasks, type(self).tasks, self.skip, class_order)
        check_mean(self.name, self.mean, self.mean_image)
        if self.channels not in (None, 1, 3):
            raise UsageError(f"{self.name}.channels={self.channels}: choose 3 (colour), 1 (grey) or none (as they are)")
        for which in ("mean", "std"):
            self.constants(which)

    def constants(self, field: str) -> tuple[float, ...] | None:
        """Return `mean` or `std` as numbers, None where none was given; raise UsageError for what is no number."""
        text = getattr(self, field)
        if text is None:
            return None
        try:
            found = tuple(float(part) for part in text.split("/"))
        except ValueError:
            found = ()
        if not found or not all(abs(value) < 1e9 and (field == "mean" or value > 0) for value in found):
            bound = "" if field == "mean" else " above 0"
            what = f"{self.name}.{field}={text}: a number{bound} is needed, or one for each channel"
            raise UsageError(f"{what}, as in 0.49/0.48/0.45")
        return found

    def prepare(self, data_root: Path | None, seed: int) -> str:
        return self.data(data_root).fingerprint

    def remarks(self, data_root: Path | None, seed: int) -> list[str]:
        found = self.data(data_root)
        shape = list(found.train_images.shape)
        what = described(found.notes, shape, len(found.test_images)) + found.notes.get("order", "")
        return [f"{self.name}: {line}" for line in (what, *found.notes["remarks"])]

    def class_order(self, rule: ClassOrder, seed: int, data_root: Path | None = None) -> tuple[int, ...]:
        count = len(self.data(data_root).notes["classes"])
        first = skipped_classes(self.name, count, self.tasks, self.classes, self.skip)
        order = order_of(self.name, rule, seed, range(first, count))
        task_sizes(self.name, first + len(order), self.tasks, self.classes)
        return order

    def load(self, data_root: Path | None, seed: int, class_order: tuple[int, ...] | None) -> list[Task]:
        found = self.data(data_root)
        order = self.class_order("seed" if class_order is None else class_order, seed, data_root)
        channels = found.train_images.shape[1]
        constants = []
        for which in ("mean", "std"):
            values = self.constants(which) or tuple(found.notes[which])
            if len(values) not in (1, channels):
                what = f"{self.name}.{which} has {len(values)} numbers, the images have {channels} channel"
                raise UsageError(f"{what}{'s' * (channels > 1)}")
            constants.append(values * (channels // len(values)))
        mean, std = constants
        if self.mean_image:
            mean = mean_of(self.name, found, padding=self.padding)
        first = skipped_classes(self.name, len(found.notes["classes"]), self.tasks, self.classes, self.skip)
        sizes = task_sizes(self.name, first + len(order), self.tasks, self.classes)[self.skip :]
        both = train_and_test(found, mean, std, padding=self.padding, augment=self.augment, images=self.images)
        return split_by_class(order, sizes, *both)


@dataclass(frozen=True)
class NpzFile(OwnData):
    """Images in a file of NumPy's, with arrays x_train, y_train, x_test and y_test."""

    @property
    def form(self) -> Form:
        return Form(self.resize, self.channels, self.constants("mean"), self.constants("std"))

    def data(self, data_root: Path | None) -> DataSet:
        return load_npz(self.name, Path(self.place).expanduser(), self.form)


@dataclass(frozen=True)
class ImageFolder(OwnData):
    """Image files in a folder for each class, below train and test (or val), or without these."""

    def data(self, data_root: Path | None) -> DataSet:
        return load_folder(self.name, Path(self.place).expanduser(), self.form)


@dataclass(frozen=True)
class TorchvisionSet(OwnData):
    """One of torchvision's classification data sets, downloaded into the data root if it is not there."""

    offered: ClassVar[tuple[str, ...]] = (
        *("CIFAR10", "CIFAR100", "Caltech101", "Caltech256", "Country211", "DTD", "EMNIST", "EuroSAT", "FER2013"),
        *("FGVCAircraft", "FashionMNIST", "Flowers102", "Food101", "GTSRB", "Imagenette", "KMNIST", "LFWPeople"),
        *("MNIST", "OxfordIIITPet", "PCAM", "QMNIST", "RenderedSST2", "SEMEION", "STL10", "SUN397", "SVHN"),
        *("StanfordCars", "USPS"),
    )
    split: str | None = (
        None  # which of several it is, as EMNIST has them: balanced, byclass, bymerge, digits, letters, mnist
    )

    def data(self, data_root: Path | None) -> DataSet:
        return load_torchvision(self.name, self.place, self.split, data_root, self.form)


KINDS: dict[str, type[OwnData]] = {"npz": NpzFile, "folder": ImageFolder, "torchvision": TorchvisionSet}


@cache
def own_sequence(kind: str, place: str) -> type[TaskSequence]:
    """Make the task sequence `npz:FILE`, `folder:PATH` or `torchvision:NAME`; the data are read when they are used."""
    base = KINDS[kind]
    if base is TorchvisionSet and place not in TorchvisionSet.offered:
        raise UsageError(f"unknown data set {place!r} of torchvision's{did_you_mean(place, TorchvisionSet.offered)}")
    doc = f"{base.__doc__} ({place})"
    namespace = {"__module__": __name__, "__doc__": doc, "name": f"{kind}:{place}", "place": place}
    return type(base.__name__, (base,), namespace)

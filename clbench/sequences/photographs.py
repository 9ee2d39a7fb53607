"""Photographs that papers split, Tiny ImageNet and the birds of CUB-200; and their chain of five data sets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from clbench.data import DataSet
from clbench.data.listed import load_listed
from clbench.data.streaming import Form
from clbench.sequences.own import OwnData
from clbench.sequences.splits import (
    CIFAR_BUDGET,
    Chain,
    Constants,
    SplitCIFAR10,
    SplitDataSet,
    SplitFashionMNIST,
    SplitMNIST,
)


@dataclass(frozen=True)
class Photographs(OwnData):
    """What the two share: all images become colour, and are scaled by the papers' constants."""

    model: ClassVar[str] = "resnet18"
    source: ClassVar[str]
    usual: ClassVar[Constants]
    tasks: Annotated[int, Ge(1)] = 10  # among which the classes are shared equally
    channels: int | None = 3

    @property
    def form(self) -> Form:
        return Form(self.resize, self.channels)

    def data(self, data_root: Path | None) -> DataSet:
        return load_listed(self.source, data_root, self.form)

    def constants(self, field: str) -> tuple[float, ...] | None:
        own = super().constants(field)
        return own if own is not None or self.channels != 3 else self.usual[field == "std"]


@dataclass(frozen=True)
class SplitTinyImageNet(Photographs):
    """Photographs of Tiny ImageNet (64×64), 20 classes a task; tested on its validation images."""

    name = "split-tiny-imagenet"
    source = "tiny-imagenet"
    usual = ((0.4802, 0.4480, 0.3975), (0.2770, 0.2691, 0.2821))  # as Buzzega et al. 2020 (DER) have them


@dataclass(frozen=True)
class SplitCUB200(Photographs):
    """Photographs of birds, CUB-200-2011 (brought to 224×224), 20 classes a task."""

    name = "split-cub200"
    source = "cub200"
    usual = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # those of ImageNet, on which the networks are pretrained
    resize: Annotated[int, Ge(1), Le(4096)] | None = 224  # height and width: the middle square of each image


@dataclass(frozen=True)
class _SVHN(SplitDataSet):
    """House numbers (32×32 in colour)."""

    source = "svhn"
    constants = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # the chain's: pixels in [0, 1], as Wang et al. 2022 (L2P) have them


@dataclass(frozen=True)
class _NotMNIST(SplitDataSet):
    """Letters A to J of many typefaces (28×28)."""

    source = "notmnist"


@dataclass(frozen=True)
class FiveDatasets(Chain):
    """SVHN, MNIST, CIFAR-10, notMNIST, Fashion-MNIST, each a task, all 32×32 in colour; '5-Datasets'."""

    name = "five-datasets"
    model = "resnet18"
    budget = CIFAR_BUDGET
    parts = (_SVHN, SplitMNIST, SplitCIFAR10, _NotMNIST, SplitFashionMNIST)
    channels: int | None = 3

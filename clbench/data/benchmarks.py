"""Avalanche's classic benchmarks as a source of data sets.

Importing Avalanche takes 4 s of CPU time. It is imported to make data, and once for each of its versions to learn what
benchmarks there are; that is kept in the cache.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import inspect
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clbench.data.cache import (
    INSTEAD,
    DataSet,
    cache_folder,
    cached,
    data_root_folder,
    files_below,
    folders_in_order,
    save_arrays,
    stamp,
)
from clbench.errors import DataError

CLASSIC = "avalanche.benchmarks.classic"


@dataclass(frozen=True)
class AvalancheBenchmark:
    """A function that makes an Avalanche benchmark."""

    name: str
    parameters: Mapping[str, Any]  # names and defaults; None where the default is no number or text
    module: str = CLASSIC


@cache
def avalanche_benchmarks() -> dict[str, AvalancheBenchmark]:
    """Return Avalanche's classic benchmarks by name, from the cache if this version of Avalanche has been asked."""
    file = cache_folder() / f"avalanche-{importlib.metadata.version('avalanche-lib')}.json"
    try:
        parameters = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or not written to the end
        parameters = _classic_parameters()
        with contextlib.suppress(OSError):  # a cache that may only be read: the next process imports Avalanche again
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(parameters), encoding="utf-8")
    return {name: AvalancheBenchmark(name, own) for name, own in parameters.items()}


def _classic_parameters() -> dict[str, dict[str, Any]]:
    """Return the names and defaults of the parameters of each function that makes a classic benchmark."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functions = inspect.getmembers(importlib.import_module(CLASSIC), inspect.isfunction)
    found = {}
    for name, function in functions:
        parameters = inspect.signature(function).parameters
        if {"eval_transform", "dataset_root"} <= set(parameters):
            defaults = {key: parameter.default for key, parameter in parameters.items()}
            found[name] = {key: v if isinstance(v, (bool, int, str)) else None for key, v in defaults.items()}
    return found


def load_benchmark(
    benchmark: AvalancheBenchmark, data_root: Path | None, arguments: Mapping[str, int | bool]
) -> DataSet:
    """Return what an Avalanche benchmark gives for these arguments, one experience after another.

    Images are those of its evaluation transform but for the normalisation; `notes` has its `mean` and `std`, and
    `train_sizes` and `test_sizes`, the numbers of images of its experiences.
    """
    root = data_root_folder(data_root)

    def source() -> Any:
        # every file of the data root, as which of them it reads is not known: 0.5 s for 100 000 images
        files = stamp(files_below(root))
        return [str(root), files, dict(arguments), importlib.metadata.version("avalanche-lib")]

    def write(folder: Path) -> Mapping[str, Any]:
        try:
            with (
                contextlib.redirect_stdout(sys.stderr),
                warnings.catch_warnings(),
                torch.random.fork_rng(devices=[]),
                folders_in_order(),
            ):
                warnings.simplefilter("ignore")
                return _write_benchmark(benchmark, root, arguments, folder)
        except Exception as error:
            reason = str(error).strip().splitlines() or [""]
            what = f"Avalanche cannot make {benchmark.name} from the data root {root}"
            raise DataError(f"{what} ({type(error).__name__}: {reason[-1]}): {INSTEAD}") from None

    return cached(f"avalanche:{benchmark.name}", source, write)


def _write_benchmark(
    benchmark: AvalancheBenchmark, root: Path, arguments: Mapping[str, int | bool], folder: Path
) -> Mapping[str, Any]:
    from torchvision.transforms import Compose  # here, like Avalanche

    function = getattr(importlib.import_module(benchmark.module), benchmark.name)
    geometry, mean, std = _without_normalisation(inspect.signature(function).parameters["eval_transform"].default)
    transform = Compose([*geometry, _pixels])
    made = function(**arguments, dataset_root=str(root), train_transform=transform, eval_transform=transform)
    notes: dict[str, Any] = {"mean": mean, "std": std}
    for part in ("train", "test"):
        datasets = [experience.dataset for experience in getattr(made, f"{part}_stream")]
        notes[f"{part}_sizes"] = [len(dataset) for dataset in datasets]
        _write_images(folder, part, (item for dataset in datasets for item in dataset), sum(notes[f"{part}_sizes"]))
    return notes


def _write_images(folder: Path, part: str, items: Iterator[Any], count: int) -> None:
    """Write images one by one, so that they need not fit into memory."""
    labels = np.empty(count, np.int64)
    images: np.ndarray | None = None
    for row, (image, label, *_) in enumerate(items):
        if images is None:
            images = np.lib.format.open_memmap(folder / f"{part}_images.npy", "w+", np.uint8, (count, *image.shape))
        if image.shape != images.shape[1:]:
            sizes = f"{tuple(image.shape)} after {images.shape[1:]}"
            raise ValueError(f"its images differ in size ({sizes}), and its own transform does not make them equal")
        images[row], labels[row] = image, int(label)
    if images is None:
        raise ValueError("it has no images")
    save_arrays(folder, **{f"{part}_labels": labels})


def _without_normalisation(transform: Any) -> tuple[list[Any], list[float], list[float]]:
    """Take a transform apart: its geometric steps, and the mean and standard deviation that it normalises with."""
    from torchvision.transforms import Compose, Normalize, ToTensor  # here, like Avalanche

    if isinstance(transform, Compose):
        steps, mean, std = [], [0.0], [1.0]
        for step in transform.transforms:
            inner, inner_mean, inner_std = _without_normalisation(step)
            steps += inner
            if isinstance(step, (Compose, Normalize)):
                mean, std = inner_mean, inner_std
        return steps, mean, std
    if isinstance(transform, Normalize):
        return [], [float(m) for m in transform.mean], [float(s) for s in transform.std]
    return [] if transform is None or isinstance(transform, ToTensor) else [transform], [0.0], [1.0]


def _pixels(image: Any) -> np.ndarray:
    """Turn a PIL image, or a tensor with values in [0, 1], into uint8 [channels, height, width]."""
    if not isinstance(image, Tensor):
        pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if image.ndim != 3 or image.min() < 0 or image.max() > 1:
        raise ValueError(f"it gives tensors of shape {list(image.shape)} which are no images with values in [0, 1]")
    return (image * 255).round().to(torch.uint8).numpy()

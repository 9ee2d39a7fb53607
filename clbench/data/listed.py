"""Published data sets of image files, listed in ways of their own: Tiny ImageNet, CUB-200 and notMNIST."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clbench.data.cache import DataSet, cached, data_root_folder, files_below, stamp
from clbench.data.folders import held_out, write_files
from clbench.data.streaming import Form
from clbench.errors import DataError
from clbench.version import NUMBERS

Files = list[tuple[Path, str]]  # image files with their classes


@dataclass(frozen=True)
class Listed:
    """Where a data set lies below the data root, how it is listed, and where it comes from."""

    folder: str
    read: Callable[[Path], tuple[Files, Files]]  # its folder → training and test images
    origin: str


def load_listed(name: str, data_root: Path | None, form: Form) -> DataSet:
    """Return one of LISTED, materialised; raise DataError where it is missing, incomplete or damaged."""
    source, root = LISTED[name], data_root_folder(data_root)
    place = root / source.folder
    if not place.is_dir():
        raise DataError(
            f"there is no {place}: get {source.origin}, and unpack it into {root} (--data-root names another)"
        )

    def write(folder: Path) -> Mapping[str, Any]:
        try:
            return write_files(place, *source.read(place), folder, form)
        except FileNotFoundError as error:
            raise DataError(f"{place} is not complete, there is no {error.filename}: unpack it again") from None
        except (ValueError, KeyError, UnicodeDecodeError) as error:
            raise DataError(f"{place} is damaged ({type(error).__name__}: {error}): unpack it again") from None
        except DataError as error:
            raise DataError(f"{place}: {error}") from None

    return cached(name, lambda: [NUMBERS, stamp(files_below(place)), vars(form)], write)


def _tiny_imagenet(place: Path) -> tuple[Files, Files]:
    """Read train/CLASS/images and val/val_annotations.txt; its test set has no labels, and val stands for it."""
    classes = sorted((place / "wnids.txt").read_text(encoding="utf-8").split())
    train = [(path, name) for name in classes for path in sorted((place / "train" / name / "images").iterdir())]
    lines = [line.split() for line in _lines(place / "val/val_annotations.txt")]
    return train, [(place / "val/images" / file, name) for file, name, *_ in lines]


def _cub200(place: Path) -> tuple[Files, Files]:
    """Read images.txt, image_class_labels.txt, classes.txt and train_test_split.txt, by the images' numbers."""
    names = _numbered(place / "classes.txt")
    labels, trained = _numbered(place / "image_class_labels.txt"), _numbered(place / "train_test_split.txt")
    parts: tuple[Files, Files] = ([], [])
    for number, file in _numbered(place / "images.txt").items():
        parts[trained[number] == "0"].append((place / "images" / file, names[labels[number]]))
    return parts


def _notmnist(place: Path) -> tuple[Files, Files]:
    """Read the folders A to J; a tenth of each is for test. Two of its files are empty, and left out."""
    folders = sorted(one for one in place.iterdir() if one.is_dir())
    files = [(path, folder.name) for folder in folders for path in sorted(folder.glob("*.png"))]
    return held_out([(path, name) for path, name in files if path.stat().st_size], share=0.1)


def _numbered(path: Path) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in _lines(path))


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


LISTED = {
    "tiny-imagenet": Listed("tiny-imagenet-200", _tiny_imagenet, "http://cs231n.stanford.edu/tiny-imagenet-200.zip"),
    "cub200": Listed(
        "CUB_200_2011", _cub200, "CUB_200_2011.tgz of https://www.vision.caltech.edu/datasets/cub_200_2011"
    ),
    "notmnist": Listed("notMNIST_small", _notmnist, "notMNIST_small.tar.gz, of Yaroslav Bulatov's notMNIST"),
}

"""Folders of images against torchvision's ImageFolder, and what is said of folders that cannot be used."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from clbench.data.folders import load_folder
from clbench.data.streaming import Form
from clbench.errors import DataError

DRAWS = np.random.default_rng(0)
CLASSES = ("bär mit hut", "cat", "鳥")


def image(height: int = 6, width: int = 5) -> Image.Image:
    return Image.fromarray(DRAWS.integers(0, 256, (height, width, 3), dtype=np.uint8))


def fill(folder: Path, images: int = 3) -> None:
    for name in CLASSES:
        (folder / name / "deeper").mkdir(parents=True)
        for number in range(images):
            image().save(folder / name / ("deeper" if number == 1 else ".") / f"an image {number}.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    fill(tmp_path / "photos/train")
    fill(tmp_path / "photos/test", 2)
    return tmp_path / "photos"


@pytest.mark.parametrize("name", ["test", "val", "Test"])
def test_it_is_what_torchvision_reads(photos: Path, name: str) -> None:
    (photos / "test").rename(photos / "moved")
    (photos / "moved").rename(photos / name)
    found = load_folder("photos", photos, Form())
    assert found.notes["classes"] == list(CLASSES)
    assert found.notes["remarks"] == []
    for part, folder in (("train", "train"), ("test", name)):
        expected = ImageFolder(str(photos / folder))
        labels = getattr(found, f"{part}_labels").tolist()
        images = [one.numpy().tobytes() for one in getattr(found, f"{part}_images")]
        theirs = [(label, np.asarray(pixels).transpose(2, 0, 1).tobytes()) for pixels, label in expected]
        assert sorted(zip(labels, images, strict=True)) == sorted(theirs)
        assert labels == sorted(labels)


def test_without_test_images_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    fill(tmp_path / "photos", 10)
    found = load_folder("photos", tmp_path / "photos", Form())
    assert found.train_labels.bincount().tolist() == [8, 8, 8]
    assert found.test_labels.bincount().tolist() == [2, 2, 2]
    whole = [one.tobytes() for one in np.concatenate([found.train_images.numpy(), found.test_images.numpy()])]
    expected = [np.asarray(pixels).transpose(2, 0, 1).tobytes() for pixels, _ in ImageFolder(str(tmp_path / "photos"))]
    assert sorted(whole) == sorted(expected)
    assert "20% of each class are held out, always the same ones" in found.notes["remarks"][0]
    moved = shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere")
    assert load_folder("elsewhere", moved, Form()).fingerprint == found.fingerprint


def test_only_train(photos: Path) -> None:
    shutil.rmtree(photos / "test")
    found = load_folder("photos", photos, Form())
    assert (len(found.train_labels), len(found.test_labels)) == (6, 3)


def test_sizes_and_channels(photos: Path) -> None:
    image(9, 20).save(photos / "train/cat/wide.jpg")
    image().convert("L").save(photos / "train/cat/grey.png")
    image().convert("CMYK").save(photos / "test/cat/print.jpg")
    found = load_folder("photos", photos, Form(resize=4, channels=3))
    assert found.train_images.shape == (11, 3, 4, 4)
    assert load_folder("photos", photos, Form(resize=4, channels=1)).test_images.shape == (7, 1, 4, 4)


def wide(photos: Path) -> None:
    image(9, 20).save(photos / "train/cat/wide.png")


def grey(photos: Path) -> None:
    image().convert("L").save(photos / "train/cat/grey.png")


def printed(photos: Path) -> None:
    image().convert("CMYK").save(photos / "train/cat/print.jpg")


def deep(photos: Path) -> None:
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(photos / "train/cat/deep.png")


def moving(photos: Path) -> None:
    image().save(photos / "train/cat/moving.gif", save_all=True, append_images=[image()])


def broken(photos: Path) -> None:
    (photos / "train/cat/a.jpg").write_bytes(b"")
    (photos / "train/cat/b.jpg").write_text("text")


def no_class(photos: Path) -> None:
    (photos / "train/dog").mkdir()


def other_files(photos: Path) -> None:
    (photos / "train/dog").mkdir()
    (photos / "train/dog/list.txt").write_text("")


def only_tested(photos: Path) -> None:
    (photos / "test/dog").mkdir()
    image().save(photos / "test/dog/a.png")


def no_folders(photos: Path) -> None:
    shutil.rmtree(photos / "train")
    (photos / "train").mkdir()
    image().save(photos / "train/a.png")


def nothing_to_train_on(photos: Path) -> None:
    shutil.rmtree(photos / "train")


def one_image(photos: Path) -> None:
    shutil.rmtree(photos / "test")
    (photos / "train/dog").mkdir()
    image().save(photos / "train/dog/a.png")


def packed_twice(photos: Path) -> None:
    shutil.copytree(photos / "train", photos / "train2/inner")
    shutil.rmtree(photos / "train")
    (photos / "train2").rename(photos / "train")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wide, r"train/cat/wide.png has 9×20 pixels .*, the first image has 6×5: resize=64 makes all of them 64×64"),
        (grey, "train/cat/grey.png has 1 channel, the first image has 3: channels=3 makes all of them colour"),
        (printed, "train/cat/print.jpg: its pixels are CMYK, neither grey nor RGB: channels=3"),
        (deep, "train/cat/deep.png: it has more than 8 bits a pixel"),
        (moving, "train/cat/moving.gif: it has 2 frames"),
        (
            broken,
            "train/cat/a.jpg: it cannot be read: the file is empty; train/cat/b.jpg: it cannot be read: cannot id",
        ),
        (no_class, "train/dog has no image"),
        (other_files, "train/dog has no image"),
        (only_tested, r"class dog has test images \(test/dog/a.png\), but no training image"),
        (no_folders, "train has no folders: put the images of each class into a folder of their own"),
        (nothing_to_train_on, "it has test, but no folder train beside it"),
        (one_image, "class dog has one image: two are needed"),
        (packed_twice, "train has one folder, inner, which has others: did you mean folder:"),
    ],
)
def test_what_cannot_be_used_is_one_line(photos: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(photos)
    with pytest.raises(DataError, match=message) as raised:
        load_folder("folder:photos", photos, Form())
    assert str(raised.value).startswith("folder:photos: ")
    assert "\n" not in str(raised.value)


def test_what_is_left_out_is_said(photos: Path) -> None:
    (photos / "train/cat/notes.txt").write_text("")
    (photos / "train/cat/.DS_Store").write_text("")
    shutil.rmtree(photos / "test/cat")
    found = load_folder("photos", photos, Form())
    assert found.notes["remarks"] == ["left out, no image by the name: train/cat/notes.txt (1)", "no test image of cat"]


def test_a_changed_folder_is_read_again(photos: Path) -> None:
    before = load_folder("photos", photos, Form())
    image().save(photos / "train/cat/another.png")
    assert len(load_folder("photos", photos, Form()).train_labels) == len(before.train_labels) + 1

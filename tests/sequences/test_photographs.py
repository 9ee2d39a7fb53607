"""Tiny ImageNet, CUB-200 and the five data sets from small files in their formats."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from made_up_data import everything, make_cifar, make_mnist
from PIL import Image
from torchvision.transforms.functional import center_crop, resize

from clbench.errors import DataError
from clbench.sequences.checking import check_sequence
from clbench.sequences.photographs import FiveDatasets, SplitCUB200, SplitTinyImageNet

DRAWS = np.random.default_rng(0)


def image(path: Path, height: int = 64, width: int = 64, mode: str = "RGB") -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.fromarray(DRAWS.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    made.save(path)
    return np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)


def make_tiny_imagenet(root: Path) -> dict[str, np.ndarray]:
    place, names = root / "tiny-imagenet-200", ["n03", "n01", "n02", "n04"]
    found = {}
    for name in names:
        for number in range(3):
            mode = "L" if number == 1 else "RGB"  # some are grey there
            path = place / "train" / name / "images" / f"{name}_{number}.JPEG"
            found[path.name] = image(path, mode=mode)
    lines = []
    for number in range(8):
        found[f"val_{number}.JPEG"] = image(place / "val/images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{names[number % 4]}\t0\t32\t44\t62\n")
    (place / "val/val_annotations.txt").write_text("".join(lines))
    (place / "wnids.txt").write_text("\n".join(names) + "\n")
    return found


def make_cub(root: Path) -> dict[int, np.ndarray]:
    place, found = root / "CUB_200_2011", {}
    files, labels, split = [], [], []
    for number in range(1, 13):
        label = (number - 1) // 3 + 1
        file = f"{label:03}.Bird_{label}/Bird_{number}.jpg"
        image(place / "images" / file, 30 + number, 50)
        found[number] = np.asarray(Image.open(place / "images" / file))
        files.append(f"{number} {file}\n")
        labels.append(f"{number} {label}\n")
        split.append(f"{number} {int(number % 3 != 0)}\n")
    for name, lines in (("images", files), ("image_class_labels", labels), ("train_test_split", split)):
        (place / f"{name}.txt").write_text("".join(lines))
    (place / "classes.txt").write_text("".join(f"{k} {k:03}.Bird_{k}\n" for k in range(1, 5)))
    return found


def scaled(pixels: np.ndarray, sequence: type) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in sequence.usual)  # type: ignore[attr-defined]
    return (torch.from_numpy(pixels.copy()).float() / 255 - mean) / std


def test_tiny_imagenet(tmp_path: Path) -> None:
    found = make_tiny_imagenet(tmp_path)
    sequence = SplitTinyImageNet(tasks=2)
    tasks = sequence.load(tmp_path, 0, sequence.class_order("fixed", 0, tmp_path))
    assert [task.classes for task in tasks] == [(0, 1), (2, 3)]
    expected = torch.stack(
        [scaled(found[f"{name}_{n}.JPEG"], SplitTinyImageNet) for name in ("n01", "n02") for n in range(3)]
    )
    torch.testing.assert_close(everything(tasks[0].train), expected, rtol=1e-4, atol=1e-5)
    tested = torch.stack([scaled(found[f"val_{n}.JPEG"], SplitTinyImageNet) for n in (0, 4, 3, 7)])  # n03, n04
    torch.testing.assert_close(everything(tasks[1].test), tested, rtol=1e-4, atol=1e-5)


def test_cub(tmp_path: Path) -> None:
    found = make_cub(tmp_path)
    sequence = SplitCUB200(tasks=2, resize=20)
    tasks = sequence.load(tmp_path, 0, sequence.class_order("fixed", 0, tmp_path))
    assert [len(task.train) for task in tasks] == [4, 4]
    middle = []
    for number in (3, 6):
        whole = Image.fromarray(found[number])
        short = min(whole.size)
        middle.append(
            scaled(np.asarray(resize(center_crop(whole, [short] * 2), [20, 20])).transpose(2, 0, 1), SplitCUB200)
        )
    torch.testing.assert_close(everything(tasks[0].test), torch.stack(middle), rtol=1e-4, atol=1e-5)
    assert SplitCUB200().form.resize == 224


def test_the_contract(tmp_path: Path) -> None:
    make_tiny_imagenet(tmp_path)
    make_cub(tmp_path)
    check_sequence(SplitTinyImageNet(classes="2+1+1"), data_root=tmp_path)
    check_sequence(SplitCUB200(tasks=4, resize=8, channels=1), data_root=tmp_path)


def test_what_is_missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no .*tiny-imagenet-200: get http"):
        SplitTinyImageNet().prepare(tmp_path, 0)
    make_tiny_imagenet(tmp_path)
    make_cub(tmp_path)
    (tmp_path / "tiny-imagenet-200/val/images/val_3.JPEG").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"tiny-imagenet-200: val/images/val_3.JPEG: it cannot be read: the file is empty"
    ):
        SplitTinyImageNet().prepare(tmp_path, 0)
    (tmp_path / "CUB_200_2011/classes.txt").unlink()
    with pytest.raises(DataError, match=r"CUB_200_2011 is not complete, there is no .*classes.txt"):
        SplitCUB200().prepare(tmp_path, 0)
    (tmp_path / "CUB_200_2011/classes.txt").write_text("1 a\n")
    with pytest.raises(DataError, match=r"CUB_200_2011 is damaged \(KeyError: '2'\)"):
        SplitCUB200().prepare(tmp_path, 0)


def make_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write MATLAB files, where the digit 0 has the label 10, and let torchvision expect their checksums."""
    listed = dict(torchvision.datasets.SVHN.split_list)
    for part, count in (("train", 30), ("test", 20)):
        url, name, _ = listed[part]
        y = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        x = DRAWS.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        scipy.io.savemat(root / name, {"X": x, "y": y})
        listed[part] = [url, name, hashlib.md5((root / name).read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)


def test_five_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_mnist(tmp_path)
    make_mnist(tmp_path, "FashionMNIST", seed=1)
    make_cifar(tmp_path, monkeypatch, 10)
    make_svhn(tmp_path, monkeypatch)
    for letter in "ABCDEFGHIJ":
        for number in range(10):
            image(tmp_path / "notMNIST_small" / letter / f"{number}.png", 28, 28, "L")
    (tmp_path / "notMNIST_small/A/empty.png").write_bytes(b"")
    tasks = FiveDatasets().load(tmp_path, 0, None)
    assert [len(task.train) for task in tasks] == [30, 40, 100, 90, 40]
    assert len(tasks[3].test) == 10
    assert [task.classes[0] for task in tasks] == [0, 10, 20, 30, 40]
    assert {task.train.shape for task in tasks} == {(3, 32, 32)}
    svhn = torchvision.datasets.SVHN(str(tmp_path), split="train")
    torch.testing.assert_close(everything(tasks[0].train), torch.from_numpy(svhn.data).float() / 255)
    assert tasks[0].train.y.tolist() == svhn.labels.tolist()
    mnist = torchvision.datasets.MNIST(str(tmp_path), train=False)
    expected = torch.nn.functional.pad(mnist.data[:, None].float() / 255, (2,) * 4).expand(-1, 3, -1, -1)
    torch.testing.assert_close(everything(tasks[1].test), expected)
    check_sequence(FiveDatasets, data_root=tmp_path)

"""Arrays, tensors and data sets of Python's as task sequences."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset
from torchvision.datasets import FakeData

import clbench
from clbench.errors import UsageError

DRAWS = np.random.default_rng(0)
X, Y = DRAWS.integers(0, 256, (12, 8, 6, 3), dtype=np.uint8), np.arange(12) % 3 + 1


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def kept(name: str = "mine.npz") -> dict[str, np.ndarray]:
    with np.load(name) as file:
        return dict(file)


@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize("as_data_set", [False, True])
def test_what_numpy_reads_back(as_tensors: bool, as_data_set: bool) -> None:
    x: Any = torch.from_numpy(X) if as_tensors or as_data_set else X
    y: Any = torch.from_numpy(Y) if as_tensors or as_data_set else Y
    train: Any = TensorDataset(x, y) if as_data_set else (x, y)
    assert clbench.sequence_from_arrays(train, (X[:6], Y[:6].tolist()), file="mine.npz") == "npz:mine.npz"
    found = kept()
    assert np.array_equal(found["x_train"], X)
    assert found["x_train"].dtype == np.uint8
    assert np.array_equal(found["y_train"], Y)
    assert np.array_equal(found["x_test"], X[:6])


def test_floats_words_and_pil() -> None:
    words = [f"word {label}" for label in Y]
    clbench.sequence_from_arrays((torch.from_numpy(X).float() / 255, words), (X / 255, words), file="mine.npz")
    assert kept()["x_train"].dtype == np.float32
    assert kept()["y_train"].tolist() == words
    pictures = FakeData(6, (3, 9, 7), 2)
    clbench.sequence_from_arrays(pictures, pictures, file="mine.npz")
    assert np.array_equal(kept()["x_train"][4], np.asarray(pictures[4][0]))
    grey = [(Image.new("L", (4, 3), 7), 0)] * 3
    clbench.sequence_from_arrays(grey, grey, file="mine.npz")
    assert kept()["x_train"].shape == (3, 3, 4)


def test_it_runs_with_its_fields() -> None:
    test = X[:6] // 2, Y[:6]
    name = clbench.sequence_from_arrays((X, Y), test, file="mine.npz", classes="2+1")
    assert name == "npz:mine.npz@classes=2+1"
    results = clbench.run("finetune", sequence=name, seeds=1, epochs=1, jobs=1, quiet=True)
    assert results.accuracy("finetune").shape == (1, 3, 2)
    record = results.records[0]
    assert record.test_images == [4, 2]
    assert record.spec["sequence_params"]["classes"] == "2+1"


def test_a_file_that_says_the_same_counts_as_unchanged(here: Path) -> None:
    clbench.sequence_from_arrays((X, Y), (X, Y), file="mine.npz")
    before = (here / "mine.npz").stat()
    clbench.sequence_from_arrays((X, Y), (X, Y), file="mine.npz")
    after = (here / "mine.npz").stat()
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
        before.st_ctime_ns,
    )
    clbench.sequence_from_arrays((X + 1, Y), (X, Y), file="mine.npz")
    assert np.array_equal(kept()["x_train"], X + 1)
    assert [path.name for path in here.iterdir() if path.is_file()] == ["mine.npz"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((X, Y[:5]), "train: 5 labels for 12 images"),
        (3, r"train=3: a pair \(images, labels\) is needed"),
        ((X, Y / 2), "train: the labels are .* of float64: whole numbers or text are needed"),
        (([X[0], X[1][:3]], [1, 2]), r"train: image 1 is \[3, 6, 3\] uint8, the first is \[8, 6, 3\] uint8"),
        (([], []), "train: 0 images came"),
    ],
)
def test_what_cannot_be_kept_leaves_the_file_alone(here: Path, train: Any, message: str) -> None:
    clbench.sequence_from_arrays((X, Y), (X, Y), file="mine.npz")
    with pytest.raises(UsageError, match=message):
        clbench.sequence_from_arrays(train, (X, Y), file="mine.npz")
    assert np.array_equal(kept()["x_train"], X)
    assert [path.name for path in here.iterdir() if path.is_file()] == ["mine.npz"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": "mine.np"}, "a path that ends in .npz is needed"),
        ({"file": "a,b.npz"}, "without @ and commas"),
        ({"file": "mine.npz", "task": 3}, "has no field 'task', did you mean tasks"),
        ({"file": "mine.npz", "tasks": "x"}, "tasks=x: the value should be a valid integer"),
    ],
)
def test_fields_are_checked_before_anything_is_written(here: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        clbench.sequence_from_arrays((X, Y), (X, Y), **options)
    assert not list(here.glob("*.np*"))


def test_a_data_set_larger_than_memory_streams_through() -> None:
    class Many(Dataset):
        def __len__(self) -> int:
            return 1000

        def __getitem__(self, row: int) -> tuple[np.ndarray, int]:
            return np.full((64, 64, 3), row % 256, np.uint8), row % 4

    tracemalloc.start()
    clbench.sequence_from_arrays(Many(), Many(), file="mine.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1000 * 64 * 64 * 3 / 4
    assert kept()["x_train"][77, 0, 0].tolist() == [77] * 3

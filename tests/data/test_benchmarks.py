"""Avalanche as a source: what it makes is stored as it is, and it is asked once what benchmarks there are."""

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clbench.data.benchmarks import AvalancheBenchmark, avalanche_benchmarks, load_benchmark
from clbench.errors import DataError

BENCHMARK = """
from pathlib import Path
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor
from avalanche.benchmarks import nc_benchmark

TRANSFORM = Compose([Resize(12), Compose([CenterCrop(10)]), ToTensor(), Normalize((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))])

class Photographs(torch.utils.data.Dataset):
    def __init__(self, count, sizes, transform=None):
        draws = np.random.default_rng(count)
        shapes = [(*sizes[i % len(sizes)], 3) for i in range(count)]
        self.images = [Image.fromarray(draws.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]
        self.targets = [int(c) for c in draws.permutation(np.arange(count) % 6)]
        self.transform = transform
    def __len__(self):
        return len(self.images)
    def __getitem__(self, row):
        image = self.images[row]
        return (image if self.transform is None else self.transform(image)), self.targets[row]

def _make(sizes, n_experiences, seed, shuffle, train_transform, eval_transform):
    train, test = Photographs(18, sizes), Photographs(12, sizes)
    return nc_benchmark(train, test, n_experiences, False, seed=seed, shuffle=shuffle,
                        train_transform=train_transform, eval_transform=eval_transform)

def Good(n_experiences, *, seed=None, shuffle=True, train_transform=None, eval_transform=TRANSFORM, dataset_root=None):
    print("chatter")
    return _make([(16, 20), (24, 13)], n_experiences, seed, shuffle, train_transform, eval_transform)

class Folder(torch.utils.data.Dataset):
    def __init__(self, root, part, transform=None):
        classes = sorted((Path(root) / "deep" / "down").iterdir())
        self.files = [(file, label) for label, one in enumerate(classes) for file in (one / "images" / part).iterdir()]
        self.targets, self.transform = [label for _, label in self.files], transform
    def __len__(self):
        return len(self.files)
    def __getitem__(self, row):
        image = Image.open(self.files[row][0])
        return (image if self.transform is None else self.transform(image)), self.targets[row]

def Folders(n_experiences, *, seed=None, shuffle=True, train_transform=None, eval_transform=None, dataset_root=None):
    train, test = Folder(dataset_root, "train"), Folder(dataset_root, "test")
    return nc_benchmark(train, test, n_experiences, False, seed=seed, shuffle=shuffle,
                        train_transform=train_transform, eval_transform=eval_transform)

def Ragged(n_experiences, *, seed=None, shuffle=True, train_transform=None, eval_transform=None, dataset_root=None):
    return _make([(16, 20), (24, 13)], n_experiences, seed, shuffle, train_transform, eval_transform)

def Failing(n_experiences, *, seed=None, shuffle=True, train_transform=None, eval_transform=None, dataset_root=None):
    raise ConnectionError("first line\\nno such host")
"""


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with benchmarks made by Avalanche on colour photographs of different sizes."""
    (tmp_path / "photographs.py").write_text(BENCHMARK)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "photographs", raising=False)
    return "photographs"


def test_a_benchmark_is_stored_as_its_own_transform_makes_it(
    photographs: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = torch.random.get_rng_state()
    benchmark = AvalancheBenchmark("Good", {}, photographs)
    found = load_benchmark(benchmark, root, {"n_experiences": 2, "seed": 3})
    assert torch.equal(torch.random.get_rng_state(), random)
    assert capsys.readouterr().out == ""
    module = sys.modules[photographs]
    truth = module.Photographs(18, [(16, 20), (24, 13)], module.TRANSFORM)
    classes = np.array(truth.targets)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3)).tolist()  # Avalanche's order for seed 3
    rows = [row for task in (order[:3], order[3:]) for c in set(task) for row in np.flatnonzero(classes == c)]
    mean, std = (torch.tensor(found.notes[name]).view(3, 1, 1) for name in ("mean", "std"))
    assert torch.allclose((found.train_images / 255 - mean) / std, torch.stack([truth[r][0] for r in rows]), atol=1e-6)
    assert found.train_labels.tolist() == classes[rows].tolist()
    assert found.notes["train_sizes"] == [9, 9]
    assert found.notes["test_sizes"] == [6, 6]


@pytest.mark.parametrize(("name", "reason"), [("Ragged", "images differ in size"), ("Failing", "no such host")])
def test_a_benchmark_that_cannot_be_made(
    name: str, reason: str, photographs: str, root: Path, cache_folder: Path
) -> None:
    with pytest.raises(DataError, match=reason) as error:
        load_benchmark(AvalancheBenchmark(name, {}, photographs), root, {"n_experiences": 2, "seed": 0})
    message = str(error.value)
    assert name in message
    assert str(root) in message
    assert "\n" not in message
    assert not any(cache_folder.iterdir())


def picture(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), grey, np.uint8)).save(path)


def test_a_folder_of_images_is_read_in_order_and_anew_once_there_are_more(
    photographs: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label, part, number in itertools.product((1, 0), ("train", "test"), (2, 0, 1)):
        picture(root / "deep" / "down" / f"class-{label}" / "images" / part / f"{number}.png", 10 * label + number)
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda *folder: sorted(listdir(*folder), reverse=True))
    benchmark, arguments = AvalancheBenchmark("Folders", {}, photographs), {"n_experiences": 1, "shuffle": False}
    first = load_benchmark(benchmark, root, arguments)
    assert first.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert first.test_images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    picture(root / "deep" / "down" / "class-1" / "images" / "train" / "00.png", 99)
    assert load_benchmark(benchmark, root, arguments).train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 99, 11, 12]
    picture(root / "deep" / "down" / "class-1" / "images" / "train" / "00.png", 77)  # in place
    assert load_benchmark(benchmark, root, arguments).train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 77, 11, 12]


@pytest.fixture
def asked_anew() -> Iterator[None]:
    avalanche_benchmarks.cache_clear()
    yield
    avalanche_benchmarks.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_what_avalanche_says_of_its_benchmarks_is_kept(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = avalanche_benchmarks()
    assert {"SplitMNIST", "PermutedMNIST", "CORe50", "SplitTinyImageNet", "CLEAR"} <= set(first)
    assert first["SplitTinyImageNet"].parameters["n_experiences"] == 10
    assert first["SplitMNIST"].parameters["n_experiences"] is None
    monkeypatch.setitem(sys.modules, "avalanche.benchmarks.classic", None)  # now it cannot be imported
    avalanche_benchmarks.cache_clear()
    assert avalanche_benchmarks() == first
    (kept,) = cache_folder.iterdir()
    kept.write_text(kept.read_text()[:100])
    monkeypatch.undo()
    monkeypatch.setenv("CLBENCH_CACHE", str(cache_folder))
    avalanche_benchmarks.cache_clear()
    assert avalanche_benchmarks() == first


@pytest.mark.usefixtures("asked_anew")
def test_avalanche_is_asked_though_nothing_can_be_kept(cache_folder: Path) -> None:
    cache_folder.write_text("a file")
    assert "SplitMNIST" in avalanche_benchmarks()

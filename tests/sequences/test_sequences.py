"""Task sequences: tasks equal those of Avalanche's own benchmarks, batches what is worked out image by image."""

import importlib
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from test_data import make_cifar, make_mnist
from torch import Tensor
from torchvision.transforms import RandomRotation

import clbench
from clbench.data import datasets as data
from clbench.errors import DataError, UsageError
from clbench.experiment import registry
from clbench.sequences import tasks as sequences
from clbench.sequences.avalanche import avalanche_sequence
from clbench.sequences.tasks import (
    PermutedMNIST,
    RotatedMNIST,
    Split,
    SplitCIFAR10,
    SplitCIFAR100,
    SplitDigits,
    SplitFashionMNIST,
    SplitMNIST,
    Task,
    TaskSequence,
    chain_sequence,
    concat,
    crop_and_flip,
    parts_of,
    rotation_map,
    to_device,
)

SEEDS = (0, 1, 7)


@pytest.fixture(scope="module")
def classic() -> ModuleType:
    """Avalanche's classic benchmarks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # third-party code on its way to be imported
        return importlib.import_module("avalanche.benchmarks.classic")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with small files of random images in the formats of MNIST, Fashion-MNIST and CIFAR."""
    monkeypatch.setenv("CLBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CLBENCH_DATA_ROOT", raising=False)
    folder = tmp_path / "root"
    make_mnist(folder, seed=1)
    make_mnist(folder, "FashionMNIST", seed=2)
    make_cifar(folder, monkeypatch, 10)
    make_cifar(folder, monkeypatch, 100)
    return folder


def load(sequence: TaskSequence, root: Path | None, seed: int, rule: Any = "seed") -> list[Task]:
    return sequence.load(root, seed, sequence.class_order(rule, seed, root))


def everything(split: Split) -> Tensor:
    return split.batch(torch.arange(len(split)))


def assert_same_tasks(tasks: Sequence[Task], benchmark: Any, limit: int | None = None) -> None:
    """Compare classes, labels and images with an Avalanche benchmark's; the first `limit` images of each class only.

    Avalanche lists the classes of a task in the order of a set, we in the task's: both are sorted by label here.
    """
    assert len(tasks) == len(benchmark.train_stream) == len(benchmark.test_stream)
    for task, train, test in zip(tasks, benchmark.train_stream, benchmark.test_stream, strict=True):
        for split, experience in ((task.train, train), (task.test, test)):
            assert set(task.classes) == set(experience.classes_in_this_experience)
            labels = [task.classes.index(c) for c in experience.dataset.targets]
            theirs = sorted(range(len(labels)), key=labels.__getitem__)
            ours = torch.argsort(split.y, stable=True)
            assert split.y[ours].tolist() == [labels[row] for row in theirs]
            if limit is not None:
                ours, theirs = ours[:limit], theirs[:limit]
            images = torch.stack([experience.dataset[row][0] for row in theirs])
            assert torch.allclose(split.batch(ours), images, rtol=0, atol=1e-6)


CASES: list[tuple[TaskSequence, str]] = [
    (SplitMNIST(), "SplitMNIST"),
    (SplitMNIST(tasks=2), "SplitMNIST"),
    (SplitFashionMNIST(), "SplitFMNIST"),
    (SplitCIFAR10(), "SplitCIFAR10"),
    (SplitCIFAR100(), "SplitCIFAR100"),
    (PermutedMNIST(tasks=3), "PermutedMNIST"),
    (RotatedMNIST(tasks=3), "RotatedMNIST"),
]


def benchmark_of(classic: ModuleType, name: str, tasks: int, root: Path, **options: Any) -> Any:
    """Make an Avalanche benchmark whose training images are not augmented."""
    function = getattr(classic, name)
    transform = function.__kwdefaults__["eval_transform"]
    return function(tasks, dataset_root=str(root), train_transform=transform, **options)


@pytest.mark.parametrize(("sequence", "name"), CASES, ids=[f"{s.name}-{s.tasks}" for s, _ in CASES])  # type: ignore[attr-defined]
@pytest.mark.parametrize("seed", [0, 3])
def test_tasks_are_those_of_avalanche(sequence: Any, name: str, seed: int, root: Path, classic: ModuleType) -> None:
    assert_same_tasks(load(sequence, root, seed), benchmark_of(classic, name, sequence.tasks, root, seed=seed))


@pytest.mark.parametrize("sequence", [SplitMNIST(), SplitCIFAR100()], ids=lambda s: s.name)
def test_the_class_order_is_that_of_avalanche(sequence: Any, root: Path, classic: ModuleType) -> None:
    name = type(sequence).__name__
    for seed in [*range(5), 2**32 - 1]:
        benchmark = benchmark_of(classic, name, sequence.tasks, root, seed=seed)
        before = torch.random.get_rng_state()
        assert sequence.class_order("seed", seed) == tuple(benchmark.classes_order_original_ids)
        assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("order", [(9, 8, 7, 6, 5, 4, 3, 2, 1, 0), (8, 1, 6, 3)])
def test_a_class_order_may_be_given_and_be_a_part_of_the_classes(
    order: tuple[int, ...], root: Path, classic: ModuleType
) -> None:
    sequence = SplitMNIST(tasks=2)
    tasks = load(sequence, root, 0, order)
    assert tuple(c for task in tasks for c in task.classes) == order
    assert_same_tasks(tasks, benchmark_of(classic, "SplitMNIST", 2, root, fixed_class_order=order))


def test_the_fixed_class_order(root: Path) -> None:
    assert [task.classes for task in load(SplitMNIST(), root, 5, "fixed")] == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9)]


@pytest.mark.data
@pytest.mark.parametrize("name", ["SplitMNIST", "PermutedMNIST", "RotatedMNIST", "SplitFMNIST"])
def test_tasks_of_real_data_are_those_of_avalanche(name: str, data_root: Path, classic: ModuleType) -> None:
    sequence = {**vars(sequences), "SplitFMNIST": SplitFashionMNIST}[name](tasks=2)
    assert_same_tasks(load(sequence, data_root, 4), benchmark_of(classic, name, 2, data_root, seed=4), limit=300)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("SplitMNIST", SplitMNIST(tasks=2)),
        ("SplitFMNIST", SplitFashionMNIST(tasks=2)),
        ("SplitCIFAR10", SplitCIFAR10(tasks=2)),
        ("PermutedMNIST", PermutedMNIST(tasks=2)),
        ("RotatedMNIST", RotatedMNIST(tasks=2)),
    ],
)
def test_benchmarks_by_their_avalanche_name_equal_the_built_in_ones(name: str, own: TaskSequence, root: Path) -> None:
    sequence = registry.configure(name, registry.find("sequence", f"avalanche:{name}"), {"tasks": "2"})
    assert sequence.name == f"avalanche:{name}"
    assert sequence.scenario == own.scenario
    assert sequence.prepare(root, 6) == sequence.prepare(root, 6)
    assert sequence.class_order("seed", 6, root) == own.class_order("seed", 6)
    for theirs, ours in zip(load(sequence, root, 6), load(own, root, 6), strict=True):
        assert theirs.classes == ours.classes
        for one, other in ((theirs.train, ours.train), (theirs.test, ours.test)):
            first, second = torch.argsort(one.y, stable=True), torch.argsort(other.y, stable=True)
            assert torch.equal(one.y[first], other.y[second])
            assert torch.equal(one.batch(first), other.batch(second))


STREAMS = """
import numpy as np
import torch
from avalanche.benchmarks import dataset_benchmark, nc_benchmark
from avalanche.benchmarks.utils import _make_taskaware_classification_dataset
from torch.utils.data import TensorDataset
from torchvision.transforms import Normalize

NORMALIZE = Normalize((0.5,), (0.25,))

class Images(torch.utils.data.Dataset):
    def __init__(self, labels, transform=None):
        self.targets, self.transform = list(labels), transform
    def __len__(self):
        return len(self.targets)
    def __getitem__(self, row):
        image = torch.full((1, 4, 4), row / 255)
        return (image if self.transform is None else self.transform(image)), self.targets[row]

def Unequal(n_experiences=2, *, classes_first_batch=3, seed=0, fixed_class_order=None, shuffle=False,
            class_ids_from_zero_from_first_exp=False, train_transform=None, eval_transform=NORMALIZE,
            dataset_root=None):
    train, test = Images(np.arange(10) % 5), Images(np.arange(5))
    return nc_benchmark(train, test, n_experiences, False, shuffle=shuffle, seed=seed, per_exp_classes={0: 3},
                        train_transform=train_transform, eval_transform=eval_transform)

def Instances(*, train_transform=None, eval_transform=NORMALIZE, dataset_root=None):
    def wrapped(labels, transform):
        return _make_taskaware_classification_dataset(Images(labels, transform))
    return dataset_benchmark([wrapped([4, 2, 4], train_transform), wrapped([8, 2], train_transform)],
                             [wrapped([8, 4, 2, 2], eval_transform)])
"""


@pytest.fixture
def streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two benchmarks among Avalanche's: tasks with different numbers of classes, and tasks that share one test set."""
    (tmp_path / "streams_of_ours.py").write_text(STREAMS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "streams_of_ours", raising=False)
    common: dict[str, Any] = {"train_transform": None, "eval_transform": None, "dataset_root": None}
    by_class = ("seed", "fixed_class_order", "shuffle", "class_ids_from_zero_from_first_exp", "classes_first_batch")
    known: dict[str, dict[str, Any]] = {
        "Unequal": {"n_experiences": 2, **dict.fromkeys(by_class), **common},
        "Instances": common,
    }
    made = {name: data.AvalancheBenchmark(name, "streams_of_ours", known[name]) for name in known}
    monkeypatch.setattr(data, "avalanche_benchmarks", lambda: made)
    avalanche_sequence.cache_clear()
    yield
    avalanche_sequence.cache_clear()


@pytest.mark.usefixtures("streams")
def test_streams_that_split_classes_unequally_are_taken_as_they_are(root: Path) -> None:
    sequence = avalanche_sequence("Unequal")()
    assert sequence.scenarios == {"task", "class"}
    assert sequence.class_order("seed", 3, root) is None
    tasks = load(sequence, root, 3)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(3)).tolist()
    assert [task.classes for task in tasks] == [tuple(sorted(order[:3])), tuple(sorted(order[3:]))]
    for task in tasks:
        rows = (everything(task.train)[:, 0, 0, 0] * 0.25 + 0.5).mul(255).round().long()  # pixels name their row
        assert (rows % 5).tolist() == [task.classes[label] for label in task.train.y.tolist()]


@pytest.mark.usefixtures("streams")
def test_streams_of_instances_have_all_classes_in_every_task(root: Path) -> None:
    sequence = avalanche_sequence("Instances")()
    assert sequence.scenario == "domain"
    assert registry.defaults(type(sequence)) == {}
    tasks = load(sequence, root, 0)
    assert [task.classes for task in tasks] == [(2, 4, 8), (2, 4, 8)]
    assert [task.train.y.tolist() for task in tasks] == [[1, 0, 1], [2, 0]]
    assert [task.test.y.tolist() for task in tasks] == [[2, 1, 0, 0]] * 2
    assert torch.allclose(everything(tasks[1].train)[:, 0, 0, 0], (torch.arange(2) / 255 - 0.5) / 0.25, atol=1e-6)
    with pytest.raises(UsageError, match="no class order"):
        sequence.check((2, 4, 8), "task")


def test_an_avalanche_benchmark_has_its_own_number_of_tasks() -> None:
    assert registry.defaults(avalanche_sequence("SplitTinyImageNet")) == {"tasks": 10}
    assert registry.defaults(avalanche_sequence("SplitMNIST")) == {"tasks": 5}
    assert registry.defaults(avalanche_sequence("CORe50")) == {}


def test_an_unknown_avalanche_benchmark() -> None:
    with pytest.raises(UsageError, match="did you mean SplitTinyImageNet"):
        avalanche_sequence("SplitTinyImagenet")


def test_a_failing_download_of_avalanche_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLBENCH_CACHE", str(tmp_path / "cache"))

    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", fail)
    (tmp_path / "root").mkdir()
    with pytest.raises(DataError, match="Avalanche cannot make SplitMNIST") as error:
        avalanche_sequence("SplitMNIST")().prepare(tmp_path / "root", 0)
    assert "\n" not in str(error.value)
    assert str(tmp_path / "root") in str(error.value)


def test_split_digits() -> None:
    tasks = load(SplitDigits(), None, 2)
    assert [len(task.classes) for task in tasks] == [2] * 5
    assert sum(len(task.train) for task in tasks) == 1437
    assert sum(len(task.test) for task in tasks) == 360
    x = everything(tasks[0].train)
    assert x.unique().tolist() == [level / 16 for level in range(17)]
    same_for_every_seed = {seed: load(SplitDigits(), None, seed, "fixed")[3].test.rows.tolist() for seed in SEEDS}
    assert same_for_every_seed[0] == same_for_every_seed[1] == same_for_every_seed[7]


def test_importing_sequences_imports_nothing_heavy() -> None:
    code = (
        "import sys, clbench.sequences.tasks; from clbench import registry; registry.describe('sequence');"
        "registry.find('sequence', 'avalanche:SplitTinyImageNet');"
        "print([m for m in ('torchvision', 'sklearn', 'avalanche') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_tasks_share_their_images(root: Path) -> None:
    for sequence in (SplitMNIST(), PermutedMNIST(tasks=3)):
        tasks = load(sequence, root, 0)
        assert len({task.train.images.data_ptr() for task in tasks}) == 1
        assert len({task.test.images.data_ptr() for task in tasks}) == 1


@pytest.mark.parametrize(
    ("sequence", "order", "message"),
    [
        (SplitMNIST(tasks=3), "seed", r"split-mnist.tasks=3: 10 classes.*choose tasks from 1, 2, 5, 10$"),
        (SplitMNIST(tasks=20), "fixed", "tasks=20"),
        (SplitMNIST(tasks=2), (1, 2, 3), "3 classes cannot be shared equally among 2 tasks"),
        (SplitMNIST(tasks=2), (1, 2, 1, 3), "class 1 is there twice"),
        (SplitMNIST(tasks=2), (1, 10), "no class 10, its classes are 0 to 9"),
        (SplitMNIST(tasks=2), (1, -1), "no class -1"),
        (SplitMNIST(tasks=2), (), "the class order is empty"),
        (PermutedMNIST(), (1, 2), "no class order"),
        (RotatedMNIST(), (1, 2), "no class order"),
    ],
)
def test_settings_that_make_no_sense(sequence: TaskSequence, order: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        sequence.check(order, sequence.scenario)
    assert "\n" not in str(error.value)


def test_settings_that_make_sense() -> None:
    SplitMNIST(tasks=2).check((4, 2), "domain")
    SplitCIFAR100(tasks=20).check("seed", "class")
    for order in ("fixed", "seed"):
        PermutedMNIST().check(order, "domain")
    assert PermutedMNIST().class_order("fixed", 3) is None


@pytest.mark.parametrize("size", [28, 5])
def test_rotations_are_those_of_torchvision(size: int) -> None:
    numbers = torch.arange(1.0, size * size + 1).view(1, size, size)
    for angle in range(-180, 181):
        turned = RandomRotation((angle, angle))(numbers).flatten().long() - 1
        assert torch.equal(rotation_map(angle, size), turned), angle


def test_a_quarter_turn_is_anticlockwise() -> None:
    corner = rotation_map(90, 4).view(4, 4)[0]  # the top row now is the right column, from top to bottom
    assert corner.tolist() == [3, 7, 11, 15]


def random_split(n: int = 12, channels: int = 3, size: int = 6, images: Tensor | None = None, **options: Any) -> Split:
    generator = torch.Generator().manual_seed(n)
    if images is None:
        images = torch.randint(0, 256, (n + 5, channels, size, size), generator=generator, dtype=torch.uint8)
    rows = torch.randperm(len(images), generator=generator)[:n]
    y = torch.randint(0, 3, (n,), generator=generator)
    return Split(images, rows, y, **{"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3), **options})


def maps(*kinds: Callable[[Tensor], Tensor]) -> Tensor:
    """Stack pixel maps made from the numbers 0…35 of a 6×6 image."""
    return torch.stack([kind(torch.arange(36).view(6, 6)).flatten() for kind in kinds])


def test_a_batch_is_normalised_per_channel() -> None:
    split = random_split()
    index = torch.tensor([3, 0, 3, 11])
    batch = split.batch(index)
    assert batch.dtype == torch.float32
    for place, sample in enumerate(index.tolist()):
        pixels = split.images[split.rows[sample]].double() / 255
        for channel, (mean, std) in enumerate([(0.5, 0.2), (0.4, 0.25), (0.3, 0.3)]):
            assert torch.allclose(batch[place, channel].double(), (pixels[channel] - mean) / std, atol=1e-6)
    divided = random_split(mean=(0.0,), std=(1.0,), divisor=16.0)
    assert torch.equal(divided.batch(index), divided.images[divided.rows[index]] / 16)
    assert torch.allclose(split.unnormalised().batch(index), split.images[split.rows[index]] / 255, atol=1e-7)


@pytest.mark.parametrize("pixel_map", [None, maps(torch.t)])
def test_an_image_is_the_same_to_the_last_bit_in_any_batch(pixel_map: Tensor | None) -> None:
    split = random_split(pixel_map=pixel_map)
    whole = everything(split)
    for size in (1, 5, 7):
        parts = torch.arange(12).split(size)
        assert torch.equal(torch.cat([split.batch(part) for part in parts]), whole)


@pytest.mark.parametrize(
    "sequence",
    [
        SplitDigits(),
        SplitMNIST(),
        SplitMNIST(padding=2, mean=0.5, std=0.25),
        SplitCIFAR10(augment=True),
        PermutedMNIST(tasks=2),
        chain_sequence("mnist+fashion-mnist")(),
    ],
    ids=repr,
)
def test_images_scaled_beforehand_are_those_of_the_bytes(sequence: TaskSequence, root: Path) -> None:
    tasks = sequence.load(root, 0, None)
    for split in [split for task in tasks for split in (task.train, task.test)]:
        bytes_only = replace(split, scaled=None)
        assert (split.scaled is None) == (split.pixel_map is not None)
        assert split.shape == bytes_only.shape
        assert torch.equal(everything(split), everything(bytes_only))
        index = torch.randperm(len(split))[:5]
        draws = [torch.Generator().manual_seed(0) for _ in range(2)]
        assert torch.equal(split.batch(index, draws[0]), bytes_only.batch(index, draws[1]))
        assert torch.equal(everything(split.unnormalised()), everything(bytes_only.unnormalised()))
        assert torch.equal(everything(split.subset(index)), everything(split)[index])
    joined = concat([task.train for task in tasks])
    assert torch.equal(everything(joined), torch.cat([everything(task.train) for task in tasks]))


def test_concat_of_images_as_they_are_and_moved(root: Path) -> None:
    found = data.load_dataset("mnist", root)
    part, _ = parts_of(found, (0.1307,), (0.3081,))
    rows, turned = torch.arange(10), torch.arange(784).flip(0)[None]
    plain, moved = part.split(rows, part.labels[rows]), part.split(rows, part.labels[rows], turned)
    assert plain.scaled is not None
    for splits in ([plain, moved], [moved, plain]):
        assert torch.equal(everything(concat(splits)), torch.cat([everything(split) for split in splits]))
    assert torch.equal(everything(moved), everything(plain).flatten(1).flip(1).view(10, 1, 28, 28))
    assert torch.equal(everything(replace(plain, pixel_map=turned)), everything(moved))


def test_images_travel_as_bytes(root: Path) -> None:
    (moved, *_) = to_device(SplitMNIST().load(root, 0, None), torch.device("meta"))
    assert moved.train.scaled is None
    assert (moved.train.images.device.type, moved.train.images.dtype) == ("meta", torch.uint8)


def test_float_images_are_handed_out_as_they_are() -> None:
    images = torch.randn(6, 4, dtype=torch.double)
    split = Split(images, torch.tensor([5, 1, 2]), torch.zeros(3, dtype=torch.long))
    assert torch.equal(split.batch(torch.tensor([2, 0])), images[[2, 5]])
    assert (split.shape, len(split), split.nbytes) == ((4,), 3, 3 * 4 * 8)


def test_bytes_are_counted_as_stored() -> None:
    assert random_split().nbytes == 12 * 3 * 6 * 6


def test_pixels_come_from_where_the_map_says() -> None:
    def outside(numbers: Tensor) -> Tensor:
        return numbers.clone().index_fill_(0, torch.tensor([0]), -1)  # the first row is filled with byte 0

    split = random_split(pixel_map=maps(outside, torch.t), map_of_row=torch.arange(12) % 2)
    plain = random_split()
    expected = everything(plain)
    expected[1::2] = expected[1::2].transpose(2, 3).clone()
    zero = torch.tensor([-0.5 / 0.2, -0.4 / 0.25, -0.3 / 0.3])
    expected[::2, :, 0] = zero[:, None]
    assert torch.allclose(everything(split), expected, atol=1e-6)


def test_concat_shares_images_and_keeps_labels_within_the_task() -> None:
    one = random_split(5)
    other = random_split(7, images=one.images)
    joined = concat([one, other])
    assert joined.images is one.images
    assert joined.y.tolist() == [*one.y.tolist(), *other.y.tolist()]
    assert torch.equal(everything(joined), torch.cat([everything(one), everything(other)]))
    assert concat([one]) is one


def test_concat_of_different_images_and_maps() -> None:
    several = random_split(4, pixel_map=maps(torch.t, lambda n: n.flip(0)), map_of_row=torch.tensor([1, 0, 1, 1]))
    splits = [several, random_split(5), random_split(6, pixel_map=maps(lambda n: n.flip(1)))]
    joined = concat([*splits, concat(splits)])
    once = torch.cat([everything(split) for split in splits])
    assert torch.equal(everything(joined), torch.cat([once, once]))


def test_augmented_images_are_crops_of_their_padded_selves() -> None:
    x = torch.randint(1, 256, (400, 2, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = crop_and_flip(x, torch.Generator().manual_seed(1))
    assert made.shape == x.shape
    padded = torch.nn.functional.pad(x, (4,) * 4)
    seen = set()
    for before, after in zip(padded, made, strict=True):
        places = [
            (top, left, flipped)
            for top in range(9)
            for left in range(9)
            for flipped in (False, True)
            if torch.equal((after.flip(2) if flipped else after), before[:, top : top + 5, left : left + 7])
        ]
        assert places
        seen.update(places[:1])
    assert {top for top, _, _ in seen} == set(range(9))
    assert {left for _, left, _ in seen} == set(range(9))
    assert 0.4 < sum(flipped for _, _, flipped in seen) / len(seen) < 0.6


def test_only_training_images_are_augmented_and_only_with_a_generator(root: Path) -> None:
    task = load(SplitCIFAR10(augment=True), root, 0)[0]
    plain = load(SplitCIFAR10(), root, 0)[0]
    index = torch.arange(4)

    def drawn(split: Split, seed: int) -> Tensor:
        return split.batch(index, torch.Generator().manual_seed(seed))

    assert torch.equal(task.train.batch(index), plain.train.batch(index))
    assert torch.equal(drawn(plain.train, 0), plain.train.batch(index))
    assert torch.equal(drawn(task.train, 0), drawn(task.train, 0))
    assert not torch.equal(drawn(task.train, 0), drawn(task.train, 1))
    assert torch.equal(drawn(task.test, 0), plain.test.batch(index))


def test_a_sequence_moves_to_a_device_with_each_shared_tensor_once(root: Path) -> None:
    tasks = load(PermutedMNIST(tasks=3), root, 0)
    assert to_device(tasks, torch.device("cpu")) == tasks
    moved = to_device(tasks, torch.device("meta"))
    assert len({id(task.train.images) for task in moved}) == 1
    assert len({id(task.test.rows) for task in moved}) == 1
    for task in moved:
        tensors = [value for value in vars(task.train).values() if isinstance(value, Tensor)]
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert tensors[0].shape == (40, 1, 28, 28)
    assert tasks[0].train.to("meta").y.device.type == "meta"


def test_permutations_differ_between_tasks_and_seeds() -> None:
    drawn = [pixel_map for seed in SEEDS for pixel_map in PermutedMNIST(tasks=2).pixel_maps(seed)]
    assert all(np.array_equal(np.sort(pixel_map), np.arange(784)) for pixel_map in drawn)
    assert len({tuple(pixel_map.tolist()) for pixel_map in drawn}) == len(drawn)


def test_seeds_with_data_of_their_own_are_one_group(tmp_path: Path, root: Path) -> None:
    """Two seeds of a benchmark that Avalanche makes anew for each seed are averaged, in spite of different data."""
    results = clbench.run(
        "finetune",
        sequence="avalanche:PermutedMNIST",
        settings={"avalanche:PermutedMNIST.tasks": 1},
        seeds=2,
        iterations=1,
        jobs=1,
        data_root=root,
        out=tmp_path,
        quiet=True,
    )
    assert results.warnings == []
    assert results.summary().query("metric == 'average_accuracy'")["n"].tolist() == [2]
    assert results.runs["weights_hash"].nunique() == 2

"""Splits by class: tasks equal those of Avalanche's own benchmarks, images are the data set's."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from compared import assert_same_tasks, benchmark_of, load
from made_up_data import everything
from torch import Tensor

from clbench.data import load_dataset
from clbench.errors import UsageError
from clbench.experiment import registry
from clbench.sequences import Split, TaskSequence, train_and_test
from clbench.sequences.permuted_rotated import PermutedMNIST, RotatedMNIST
from clbench.sequences.splits import (
    SplitCIFAR10,
    SplitCIFAR100,
    SplitDigits,
    SplitFashionMNIST,
    SplitMNIST,
    chain_sequence,
)
from clbench.sequences.tasks import concat


@pytest.mark.parametrize(
    ("sequence", "name"),
    [
        (SplitMNIST(), "SplitMNIST"),
        (SplitMNIST(tasks=2), "SplitMNIST"),
        (SplitFashionMNIST(), "SplitFMNIST"),
        (SplitCIFAR10(), "SplitCIFAR10"),
        (SplitCIFAR100(), "SplitCIFAR100"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.name}-{value.tasks}",
)
def test_tasks_are_those_of_avalanche(sequence: Any, name: str, root: Path, classic: ModuleType) -> None:
    assert_same_tasks(load(sequence, root, 3), benchmark_of(classic, name, sequence.tasks, root, seed=3))


@pytest.mark.data
def test_tasks_of_real_data_are_those_of_avalanche(data_root: Path, classic: ModuleType) -> None:
    benchmark = benchmark_of(classic, "SplitMNIST", 5, data_root, seed=4)
    assert_same_tasks(load(SplitMNIST(), data_root, 4), benchmark, limit=100)


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


def test_split_digits() -> None:
    tasks = load(SplitDigits(), None, 2)
    assert [len(task.classes) for task in tasks] == [2] * 5
    assert sum(len(task.train) for task in tasks) == 1437
    assert sum(len(task.test) for task in tasks) == 360
    x = everything(tasks[0].train)
    assert x.unique().tolist() == [level / 16 for level in range(17)]
    same_for_every_seed = {seed: load(SplitDigits(), None, seed, "fixed")[3].test.rows.tolist() for seed in (0, 1, 7)}
    assert same_for_every_seed[0] == same_for_every_seed[1] == same_for_every_seed[7]


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
        assert torch.equal(everything(split.subset(index)), everything(split)[index])
    joined = concat([task.train for task in tasks])
    assert torch.equal(everything(joined), torch.cat([everything(task.train) for task in tasks]))


def test_concat_of_images_as_they_are_and_moved(root: Path) -> None:
    plain, _ = train_and_test(load_dataset("mnist", root), (0.1307,), (0.3081,))
    moved = replace(plain, pixel_map=torch.arange(784).flip(0)[None])
    assert plain.scaled is not None
    for splits in ([plain, moved], [moved, plain]):
        assert torch.equal(everything(concat(splits)), torch.cat([everything(split) for split in splits]))
    assert torch.equal(everything(moved), everything(plain).flatten(1).flip(1).view(-1, 1, 28, 28))


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


def test_augmentation_by_name_keeps_the_keys_of_older_records(root: Path) -> None:
    old, new = (
        registry.configure("split-cifar10", SplitCIFAR10, {"augment": how}) for how in ("true", "crop+flip+jitter")
    )
    assert [registry.settings(one)["augment"] for one in (SplitCIFAR10(), old, new)] == [
        False,
        True,
        "crop+flip+jitter",
    ]
    index, train = torch.arange(4), load(new, root, 0)[0].train
    made = train.batch(index, torch.Generator().manual_seed(0))
    assert made.dtype == torch.float32
    assert made.amin() >= -0.4914 / 0.2023 - 1e-5  # black, in the channel where it is the lowest
    assert made.amax() <= (1 - 0.4465) / 0.2010 + 1e-5  # white, where it is the highest
    with pytest.raises(UsageError, match=r"augment=crop\+flop: the value should be 'crop', 'flip', .*'crop\+flip"):
        registry.configure("split-cifar10", SplitCIFAR10, {"augment": "crop+flop"})


@pytest.mark.parametrize(
    ("sequence", "order", "message"),
    [
        (SplitMNIST(tasks=3), "seed", r"split-mnist.tasks=3: 10 classes.*choose tasks from 1, 2, 5, 10, or .*4\+3x2$"),
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


def test_tasks_share_their_images(root: Path) -> None:
    for sequence in (SplitMNIST(), PermutedMNIST(tasks=3)):
        tasks = load(sequence, root, 0)
        assert len({task.train.images.data_ptr() for task in tasks}) == 1
        assert len({task.test.images.data_ptr() for task in tasks}) == 1


# ---------------------------------------------------------------------------------------------------------------------
# A part of the data: tasks left out, the first images; and the mean image


def test_tasks_that_are_skipped_leave_their_classes_out_of_every_order(root: Path) -> None:
    """As in A-GEM's code: three tasks of five classes are for choosing settings, the other 85 are shuffled."""
    sequence = SplitCIFAR100(tasks=20, skip=3)
    for seed, rule in ((0, "seed"), (1, "seed"), (0, "numpy:1993")):
        tasks = load(sequence, root, seed, rule)
        assert [len(task.classes) for task in tasks] == [5] * 17
        assert sorted(c for task in tasks for c in task.classes) == list(range(15, 100))
    assert [task.classes for task in load(sequence, root, 0, "fixed")[:2]] == [
        (15, 16, 17, 18, 19),
        (20, 21, 22, 23, 24),
    ]
    assert sequence.class_order("seed", 0) != sequence.class_order("seed", 1)
    expected = [15 + c for c in np.random.RandomState(1993).permutation(85)]
    assert list(sequence.class_order("numpy:1993", 0)) == expected
    unequal = load(SplitMNIST(classes="4+3x2", skip=1), root, 0, "fixed")
    assert [task.classes for task in unequal] == [(4, 5, 6), (7, 8, 9)]


def test_the_first_images_of_the_data_set(root: Path) -> None:
    found = load_dataset("cifar10", root)
    tasks = load(SplitCIFAR10(images=30), root, 0, "fixed")
    assert sorted(torch.cat([task.train.rows for task in tasks]).tolist()) == list(range(30))
    assert sum(len(task.test) for task in tasks) == len(found.test_labels)


@pytest.mark.parametrize("padding", [0, 1])
def test_the_mean_image_is_that_of_all_training_images(padding: int, root: Path) -> None:
    found = load_dataset("cifar100", root)
    border = ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2)
    train, test = (np.pad(x.double().numpy() / 255, border) for x in (found.train_images, found.test_images))
    sequence = SplitCIFAR100(tasks=20, skip=3, images=100, mean_image=True, std=0.5, padding=padding)
    for task in load(sequence, root, 0):
        for split, pixels in ((task.train, train), (task.test, test)):
            expected = (pixels[split.rows] - train.mean(axis=0)) / 0.5
            np.testing.assert_allclose(everything(split).numpy(), expected, rtol=0, atol=1e-6)
            assert torch.allclose(everything(replace(split, scaled=None)), everything(split), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("sequence", "order", "message"),
    [
        (SplitCIFAR100(tasks=20, skip=20), "seed", "split-cifar100.skip=20 leaves no task: there are 20"),
        (SplitCIFAR100(tasks=20, skip=3), tuple(range(85)), "skip=3 beside a list of classes: leave these classes out"),
        (SplitMNIST(mean=0.5, mean_image=True), "seed", "mean=0.5 and mean_image are both subtracted: choose one"),
    ],
)
def test_parts_that_make_no_sense(sequence: TaskSequence, order: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sequence.check(order, sequence.scenario)


def test_new_fields_keep_the_keys_of_older_records() -> None:
    assert registry.settings(SplitCIFAR100()).keys() == {"tasks", "padding", "mean", "std", "augment"}

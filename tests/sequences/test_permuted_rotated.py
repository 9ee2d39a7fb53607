"""Permuted and rotated MNIST: tasks equal those of Avalanche's own benchmarks, turns those of torchvision."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from compared import assert_same_tasks, benchmark_of, load
from torchvision.transforms import RandomRotation

from clbench.data import load_dataset
from clbench.errors import UsageError
from clbench.experiment import registry
from clbench.sequences.permuted_rotated import PermutedMNIST, RotatedMNIST, rotation_map


@pytest.mark.parametrize("sequence", [PermutedMNIST(tasks=2), RotatedMNIST(tasks=2)], ids=lambda s: s.name)
def test_tasks_are_those_of_avalanche(sequence: Any, root: Path, classic: ModuleType) -> None:
    benchmark = benchmark_of(classic, type(sequence).__name__, 2, root, seed=3)
    assert_same_tasks(load(sequence, root, 3), benchmark, limit=15)


@pytest.mark.parametrize("cls", [PermutedMNIST, RotatedMNIST])
def test_own_constants_and_a_border_that_moves_too(cls: Any, root: Path) -> None:
    digits = load_dataset("mnist", root).test_images[:3].float() / 255
    (task,) = load(cls(tasks=1, padding=2, mean=0.1, std=0.5), root, 3)
    padded = np.pad(digits.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    draws = np.random.RandomState(3)
    if cls is PermutedMNIST:
        moved = torch.from_numpy(padded.reshape(3, 1024)[:, draws.permutation(1024)].reshape(3, 1, 32, 32))
    else:
        angle = int(draws.randint(-180, 181))
        moved = RandomRotation((angle, angle))(torch.from_numpy(padded))
    found = task.test.batch(torch.arange(3))
    assert found.shape == (3, 1, 32, 32)
    torch.testing.assert_close(found, (moved - 0.1) / 0.5)


def test_a_record_holds_younger_settings_only_where_they_differ(root: Path) -> None:
    assert registry.settings(PermutedMNIST()) == {"tasks": 10}
    assert registry.settings(PermutedMNIST(std=1.0)) == {"tasks": 10, "std": 1.0}
    assert registry.label("permuted-mnist", PermutedMNIST(std=1.0)) == "permuted-mnist@std=1"


def test_angles_differ_between_tasks_and_seeds() -> None:
    drawn = [angle for seed in (0, 1, 7) for angle in RotatedMNIST(tasks=3).angles(seed)]
    assert len(set(drawn)) == len(drawn)
    assert all(-180 <= angle <= 180 for angle in drawn)


@pytest.mark.parametrize(
    ("size", "angles"), [(28, range(-180, 181, 15)), (28, (-179, -31, 7, 44, 46, 89)), (5, range(91))]
)
def test_rotations_are_those_of_torchvision(size: int, angles: Any) -> None:
    numbers = torch.arange(1.0, size * size + 1).view(1, size, size)
    for angle in angles:
        turned = RandomRotation((angle, angle))(numbers).flatten().long() - 1
        assert torch.equal(rotation_map(angle, size), turned), angle


def test_a_quarter_turn_is_anticlockwise() -> None:
    corner = rotation_map(90, 4).view(4, 4)[0]  # the top row now is the right column, from top to bottom
    assert corner.tolist() == [3, 7, 11, 15]


def test_permutations_differ_between_tasks_and_seeds() -> None:
    drawn = [pixel_map for seed in (0, 1, 7) for pixel_map in PermutedMNIST(tasks=2).pixel_maps(seed)]
    assert all(np.array_equal(np.sort(pixel_map), np.arange(784)) for pixel_map in drawn)
    assert len({tuple(pixel_map.tolist()) for pixel_map in drawn}) == len(drawn)


def test_angles_between_two_are_drawn_uniformly(root: Path) -> None:
    angles = [angle for seed in range(50) for angle in RotatedMNIST(tasks=20, lowest=0.0, highest=180.0).angles(seed)]
    assert scipy.stats.kstest(angles, scipy.stats.uniform(0, 180).cdf).pvalue > 0.001
    with pytest.raises(UsageError, match="no range of angles"):
        RotatedMNIST(lowest=3.0).check("seed", "domain")


def test_the_first_images_of_a_data_set_are_trained_on(root: Path) -> None:
    whole, part = (PermutedMNIST(tasks=2, images=images).load(root, 0, None) for images in (None, 7))
    assert [len(task.train) for task in part] == [7, 7]
    for one, other in zip(whole, part, strict=True):
        rows = torch.arange(7)
        assert torch.equal(one.train.batch(rows), other.train.batch(rows))
        assert len(one.test) == len(other.test)

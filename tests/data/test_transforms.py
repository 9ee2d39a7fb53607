"""Transforms: images scaled beforehand are by the formula."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clbench.data import DataSet, transforms
from clbench.data.cache import cached, save_arrays
from clbench.data.transforms import scaled


def made_up(train: int = 40) -> DataSet:
    """Return a data set of random images of 2 channels and 5×6 pixels, 20 of them for testing."""
    images = np.random.default_rng(0).integers(0, 256, (train + 20, 2, 5, 6), dtype=np.uint8)

    def write(folder: Path) -> Mapping[str, Any]:
        for part, own in (("train", images[:train]), ("test", images[train:])):
            save_arrays(folder, **{f"{part}_images": own, f"{part}_labels": np.arange(len(own))})
        return {}

    return cached("made-up", lambda: train, write)


@pytest.mark.parametrize(
    ("mean", "std", "padding"), [((0.1307,), (0.3081,), 2), ((0.0,), (1.0,), 0), ((0.5, 0.4), (0.2, 0.25), 1)]
)
def test_images_scaled_beforehand_are_by_the_formula(
    mean: tuple[float, ...], std: tuple[float, ...], padding: int, cache_folder: Path
) -> None:
    found = made_up(1100)  # more than are scaled at once
    ready = scaled(found, mean, std, 255.0, padding)
    assert ready is not None
    pixels = np.pad(found.train_images.double().numpy(), ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    expected = (pixels / 255 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    assert ready.train_images.dtype == torch.float32
    np.testing.assert_allclose(ready.train_images.numpy(), expected, rtol=0, atol=1e-6)
    assert torch.equal(ready.test_labels, found.test_labels)
    for count, other in ((2, mean), (3, tuple(m + 0.25 for m in mean))):
        assert scaled(found, other, std, 255.0, padding) is not None
        assert len(list(cache_folder.iterdir())) == count  # one for each way to scale, beside the bytes


def test_large_data_sets_are_not_scaled_beforehand(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made_up()
    monkeypatch.setattr(transforms, "SCALED_LIMIT", 60 * 2 * 5 * 6 * 4 - 1)
    assert scaled(found, (0.5,), (0.5,), 255.0) is None
    assert len(list(cache_folder.iterdir())) == 1


def test_nothing_is_scaled_beforehand_in_a_cache_that_may_only_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = made_up()

    def refuse(*_: object, **__: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    assert scaled(found, (0.5,), (0.5,), 255.0) is None

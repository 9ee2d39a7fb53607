"""Tasks and splits: batches are what is worked out image by image."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from made_up_data import everything
from torch import Tensor

from clbench.errors import UsageError
from clbench.sequences import Split, Task
from clbench.sequences.tasks import concat, to_device


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


@pytest.mark.parametrize("pixel_map", [None, maps(torch.t)])
def test_an_image_is_the_same_to_the_last_bit_in_any_batch(pixel_map: Tensor | None) -> None:
    split = random_split(pixel_map=pixel_map)
    whole = everything(split)
    for size in (1, 5, 7):
        parts = torch.arange(12).split(size)
        assert torch.equal(torch.cat([split.batch(part) for part in parts]), whole)


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


@pytest.mark.parametrize("pixel_map", [None, maps(torch.t)])
@pytest.mark.parametrize("options", [{}, {"augment": True, "padding": 1}])
def test_raw_images_prepared_are_a_batch(pixel_map: Tensor | None, options: dict[str, Any]) -> None:
    split = random_split(pixel_map=pixel_map, **options)
    index = torch.tensor([7, 0, 7])
    raw = split.raw(index)
    assert (raw.dtype, raw.shape) == (torch.uint8, (3, 3, 6, 6))
    stored = split.images[split.rows[index]]
    assert torch.equal(raw, stored if pixel_map is None else stored.transpose(2, 3))
    kept = raw.clone()
    for draws in ((None, None), [torch.Generator().manual_seed(5) for _ in range(2)]):
        assert torch.equal(split.prepare(raw, draws[0]), split.batch(index, draws[1]))
    assert torch.equal(raw, kept)


def test_images_of_one_task_can_be_prepared_by_another() -> None:
    """As in a memory of old tasks: raw images of several are one batch."""
    one, other = random_split(5, padding=2), random_split(7, padding=2, pixel_map=maps(torch.t))
    raw = torch.cat([one.raw(torch.arange(5)), other.raw(torch.arange(7))])
    assert torch.equal(one.prepare(raw), torch.cat([everything(one), everything(other)]))


@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"pixel_map": maps(torch.t, torch.t), "map_of_row": torch.arange(12) % 2}]
)
def test_a_task_without_test_images(options: dict[str, Any]) -> None:
    split = random_split(**options)
    split = replace(split, scaled=split.images.float())
    task = Task(3, (4, 5), split, split)
    blind = task.without_test()
    assert (blind.index, blind.classes, blind.train) == (3, (4, 5), split)
    assert len(blind.test) == len(blind.test.rows) == len(blind.test.y) == 0
    assert blind.test.shape == split.shape
    assert blind.test.scaled is None
    assert blind.test.images.untyped_storage().nbytes() == 0
    nothing = blind.test.batch(torch.empty(0, dtype=torch.int64))
    assert (nothing.dtype, nothing.shape) == (torch.float32, (0, *split.shape))


def test_splits_that_are_scaled_in_different_ways_cannot_be_put_together() -> None:
    for options in ({"divisor": 16.0}, {"padding": 1}, {"mean": (0.5,)}):
        with pytest.raises(UsageError, match="scaled or padded in different ways"):
            concat([random_split(), random_split(**options)])


def test_a_sequence_moves_to_a_device_with_each_shared_tensor_once() -> None:
    one = random_split(5, pixel_map=maps(torch.t))
    one = replace(one, scaled=one.images.float())
    tasks = [Task(index, (index,), one, random_split(7, images=one.images)) for index in range(2)]
    assert to_device(tasks, torch.device("cpu")) == tasks
    moved = to_device(tasks, torch.device("meta"))
    assert len({id(split.images) for task in moved for split in (task.train, task.test)}) == 1
    assert moved[0].train.rows is moved[1].train.rows
    for task in moved:
        tensors = [value for value in vars(task.train).values() if isinstance(value, Tensor)]
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert (tensors[0].dtype, tensors[0].shape) == (torch.uint8, one.images.shape)  # they travel as bytes
        assert (task.train.scaled, task.test.pixel_map) == (None, None)
        assert (task.train.mean, task.train.shape) == (one.mean, one.shape)

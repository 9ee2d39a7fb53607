"""The reservoir that methods share: which samples it holds, what is stored with them, and its state."""

import io
from typing import Any

import pytest
import scipy.stats
import torch
from tiny import made_up_run
from torch import Tensor

from clbench.method import Batch, Memory
from clbench.sequences.tasks import Split


def numbered(n: int, **options: Any) -> Split:
    """Make a split of byte images [1, 4, 4] that say their own number, and have it as their label."""
    numbers = torch.arange(n)
    images = numbers.to(torch.uint8)[:, None, None, None].expand(n, 1, 4, 4).contiguous()
    return Split(images, numbers, numbers, (0.5,), (0.25,), **options)


def batches(split: Split, size: int = 7, task: int = 0) -> list[Batch]:
    rows = torch.arange(len(split)).split(size)
    return [Batch(split.batch(some), split.y[some], torch.full_like(some, task), [task], some, split) for some in rows]


def filled(size: int, split: Split, seed: int = 0) -> Memory:
    memory = Memory(size, made_up_run(seed))
    for batch in batches(split):
        memory.add(batch)
    return memory


@pytest.mark.parametrize(("size", "offered"), [(10, 35), (5, 12)])
def test_every_sample_is_as_likely_to_be_there(size: int, offered: int) -> None:
    """Over many streams. Places are taken without replacement, so that counts vary a little less than they might."""
    streams, counts, split = 600, torch.zeros(offered), numbered(offered)
    for seed in range(streams):
        memory = filled(size, split, seed)
        held = memory.sample(size).y
        assert len(held.unique()) == len(held) == size
        counts[held] += 1
    expected = streams * size / offered
    # each sample is in or out: the variance of a count is that of a binomial, which chi-squared does not know
    statistic = ((counts - expected).square().sum() / (expected * (1 - size / offered))).item()
    assert scipy.stats.chi2.sf(statistic * (offered - 1) / offered, offered - 1) > 0.001
    halves = counts[: offered // 2].mean() / counts[offered // 2 :].mean()
    assert halves.item() == pytest.approx(1, abs=0.1)


def test_it_holds_all_until_it_is_full_and_never_more() -> None:
    memory, sizes = Memory(10, made_up_run(0)), []
    for batch in batches(numbered(40), size=4):
        memory.add(batch)
        sizes.append(len(memory))
        assert len(memory.sample(99)) == len(memory)
    assert sizes == [4, 8] + [10] * 8
    assert sorted(filled(40, numbered(40)).sample(40).y.tolist()) == list(range(40))


def test_it_does_not_grow_with_tasks() -> None:
    memory, sizes = Memory(6, made_up_run(0)), []
    for task in range(5):
        for batch in batches(numbered(20), task=task):
            memory.add(batch, logits=torch.zeros(len(batch), 2))
        assert len(memory) == 6
        sizes.append(sum(_bytes(value) for value in memory.state().values()))
    assert len(set(sizes)) == 1
    assert len(memory.sample(6).tasks) > 1


def _bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def test_a_memory_of_size_zero_stays_empty() -> None:
    memory = filled(0, numbered(20))
    assert len(memory) == 0
    other = Memory(0, made_up_run(0))
    other.load_state(memory.state())
    assert len(other) == 0


def test_samples_are_drawn_without_replacement_and_by_the_stream() -> None:
    memory, again = filled(20, numbered(50)), filled(20, numbered(50))
    one, two = memory.sample(8), memory.sample(8)
    assert len(one.y.unique()) == 8
    assert not torch.equal(one.y, two.y)
    assert torch.equal(one.y, again.sample(8).y)
    assert set(one.y.tolist()) <= set(memory.sample(20).y.tolist())
    assert one.index.tolist() == [-1] * 8  # they are rows of no split


def test_images_labels_tasks_and_extras_stay_together() -> None:
    memory, split = Memory(12, made_up_run(0)), numbered(60)
    for batch in batches(split):
        memory.add(batch, logits=torch.stack([batch.y * 2.0, batch.y * 3.0], 1), task_again=batch.task_ids)
    drawn = memory.sample(12)
    assert torch.equal(drawn.x, split.batch(drawn.y))
    assert torch.equal(drawn.extras["logits"], torch.stack([drawn.y * 2.0, drawn.y * 3.0], 1))
    assert torch.equal(drawn.extras["task_again"], drawn.task_ids)
    assert drawn.tasks == [0]


def test_extras_are_those_of_the_moment_they_were_stored() -> None:
    memory, split, network = Memory(8, made_up_run(0)), numbered(30), torch.nn.Linear(16, 3)
    then = network(split.batch(torch.arange(30)).flatten(1)).detach()
    for batch in batches(split):
        memory.add(batch, logits=network(batch.x.flatten(1)))
    with torch.no_grad():
        network.weight.zero_()
    drawn = memory.sample(8)
    torch.testing.assert_close(drawn.extras["logits"], then[drawn.y])
    assert not drawn.extras["logits"].requires_grad


def test_outputs_of_a_head_that_has_grown_are_stored_beside_narrower_ones() -> None:
    memory = Memory(12, made_up_run(0))
    for task in range(2):
        for batch in batches(numbered(20), task=task):
            memory.add(batch, logits=torch.full((len(batch), 2 + 2 * task), task + 1.0))
    drawn = memory.sample(12)
    assert drawn.tasks == [0, 1]
    for logits, task in zip(drawn.extras["logits"].tolist(), drawn.task_ids.tolist(), strict=True):
        assert logits == ([1.0, 1.0, 0.0, 0.0] if task == 0 else [2.0] * 4)


def test_images_are_kept_as_bytes_and_augmented_anew() -> None:
    split = numbered(30, augment=True, padding=1)
    memory = filled(10, split)
    assert memory.images is not None
    assert memory.images.dtype == torch.uint8
    assert memory.images.shape == (10, 1, 4, 4)  # as stored: neither padded nor scaled
    plain = memory.at(memory.places())
    assert torch.equal(plain.x, split.batch(plain.y))
    assert plain.x.shape == (10, 1, 6, 6)
    views = [memory.sample(10) for _ in range(2)]
    assert all(view.x.shape == plain.x.shape for view in views)
    sorted_views = [view.x[view.y.argsort()] for view in views]
    assert not torch.equal(*sorted_views)  # moved otherwise each time


def test_pixels_are_stored_as_their_task_moves_them() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 1, 4, 4), generator=generator, dtype=torch.uint8)
    moved = Split(images, torch.arange(20), torch.arange(20), pixel_map=torch.randperm(16, generator=generator)[None])
    memory = filled(9, moved)
    drawn = memory.sample(9)
    assert torch.equal(drawn.x, moved.batch(drawn.y))
    assert not torch.equal(drawn.x, images[drawn.y] / 255)


def test_it_goes_on_from_its_state() -> None:
    memory = filled(8, numbered(30, padding=1))
    memory.add(batches(numbered(5))[0], logits=torch.ones(5, 2))
    memory.sample(3)
    other = Memory(8, made_up_run(99))
    other.load_state(torch.load(_saved(memory.state()), weights_only=True))
    for _ in range(2):
        one, two = memory.sample(5), other.sample(5)
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.y, two.y)
        assert torch.equal(one.task_ids, two.task_ids)
        assert all(torch.equal(one.extras[name], two.extras[name]) for name in one.extras | two.extras)
        for batch in batches(numbered(9, padding=1), task=1):
            memory.add(batch)
            other.add(batch)


def _saved(state: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file

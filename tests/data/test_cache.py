"""The cache: an entry is made once, is shared, and can be trusted."""

import contextlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clbench.data import DataSet, cache, load_dataset
from clbench.errors import DataError

IMAGES = np.arange(48, dtype=np.uint8).reshape(3, 1, 4, 4)


def write(folder: Path) -> Mapping[str, Any]:
    cache.save_arrays(folder, train_images=IMAGES, train_labels=np.arange(3))
    cache.save_arrays(folder, test_images=IMAGES[:2], test_labels=np.arange(2))
    return {"mean": [0.5]}


def load(writer: Any = write, source: Any = "somewhere") -> DataSet:
    return cache.cached("made-up", lambda: source, writer)


def refuse(*_: object, **__: object) -> Any:
    raise OSError(30, "Read-only file system")


def assert_right(found: DataSet) -> None:
    assert np.array_equal(found.train_images.numpy(), IMAGES)
    assert np.array_equal(found.test_images.numpy(), IMAGES[:2])
    assert (found.train_labels.tolist(), found.test_labels.tolist()) == ([0, 1, 2], [0, 1])
    assert found.notes == {"mean": [0.5]}


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_an_entry_is_made_once_for_a_source(cache_folder: Path) -> None:
    first = load()
    assert_right(first)
    again = load(refuse)
    assert_right(again)
    assert again.fingerprint == first.fingerprint
    assert_right(load(source="elsewhere"))
    assert len(entries(cache_folder)) == 2


def test_what_making_an_entry_changes_at_the_source_does_not_count_as_a_change(cache_folder: Path) -> None:
    files: list[str] = []

    def download(folder: Path) -> Mapping[str, Any]:
        files.append("a file")
        return write(folder)

    for writer in (download, refuse):
        assert_right(cache.cached("made-up", lambda: files, writer))
    assert len(entries(cache_folder)) == 1


def test_writing_to_the_images_leaves_the_cache_alone() -> None:
    load().train_images.fill_(7)
    assert_right(load(refuse))


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "meta", "other shape"])
def test_a_damaged_entry_is_made_anew(damage: str, cache_folder: Path) -> None:
    load()
    (entry,) = entries(cache_folder)
    path = entry / "train_images.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "meta":
        (entry / "meta.json").write_text(json.dumps([]))
    else:
        np.save(path, np.zeros((3, 1, 5, 5), np.uint8))
    assert_right(load())
    assert entries(cache_folder) == [entry]


@pytest.mark.parametrize("damaged", [False, True])
def test_two_hosts_that_make_the_same_entry(damaged: bool, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "locked", contextlib.nullcontext)  # locks hold on one host only
    if damaged:
        load()
        (entries(cache_folder)[0] / "meta.json").unlink()
    winners = []

    def slow(folder: Path) -> Mapping[str, Any]:
        winners.append(load())  # another host starts later and is done first
        return write(folder)

    assert_right(load(slow))
    assert_right(winners[0])
    assert len(entries(cache_folder)) == 1


def test_others_of_the_host_wait_for_the_one_that_makes_an_entry() -> None:
    writing, written, found = threading.Event(), [], []

    def slow(folder: Path) -> Mapping[str, Any]:
        written.append(folder)
        writing.set()
        second.join(0.1)  # it cannot end before this one does
        assert second.is_alive()
        return write(folder)

    first = threading.Thread(target=lambda: found.append(load(slow)))
    second = threading.Thread(target=lambda: writing.wait() and found.append(load(slow)))
    for thread in (second, first):
        thread.start()
    for thread in (first, second):
        thread.join()
    assert len(written) == 1
    assert len(found) == 2
    for one in found:
        assert_right(one)


def test_where_there_can_be_no_lock_the_data_are_made_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "FileLock", refuse)
    assert_right(load())


def test_a_cache_that_may_only_be_read_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    assert_right(load())
    with pytest.raises(DataError, match=r"Read-only file system.*CLBENCH_CACHE"):
        load(source="elsewhere")


def test_what_cannot_be_made_leaves_nothing_behind(cache_folder: Path) -> None:
    def full(folder: Path) -> Mapping[str, Any]:
        write(folder)
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="No space left on device"):
        load(full)
    assert entries(cache_folder) == []


def test_an_unusable_cache_folder(cache_folder: Path) -> None:
    cache_folder.write_text("a file")
    with pytest.raises(DataError, match="CLBENCH_CACHE") as error:
        load_dataset("digits")
    assert str(cache_folder) in str(error.value)
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_of_arrays_and_notes() -> None:
    def other(folder: Path) -> Mapping[str, Any]:
        return {**write(folder), "std": [1.0]}

    assert load(other, "elsewhere").fingerprint != load().fingerprint == load(source="a copy").fingerprint
    assert torch.equal(load(other, "elsewhere").train_images, load().train_images)

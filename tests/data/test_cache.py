"""The cache: an entry is made once, is shared, and can be trusted."""

import contextlib
import glob
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clbench.data import DataSet, cache, load_dataset
from clbench.errors import DataError
from clbench.sequences import Split

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


KILLED = """
import sys
from pathlib import Path
from clbench.data.cache import temporary_folder
with temporary_folder(Path(sys.argv[1])) as folder:
    (folder / "images.npy").write_bytes(bytes(1000))
    print("there", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_leaves_is_removed_and_what_one_at_work_has_is_not(cache_folder: Path) -> None:
    cache_folder.mkdir()
    command = [sys.executable, "-c", KILLED, str(cache_folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"there\n"
        (under_way,) = entries(cache_folder)
        load()
        assert (under_way / "images.npy").exists()
        other.kill()
    assert (under_way / "images.npy").exists()
    load(source="elsewhere")
    assert not under_way.exists()
    assert len(entries(cache_folder)) == 2


def test_what_other_hosts_have_under_way_is_left_alone(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "another")
    with cache.temporary_folder(cache_folder.parent) as theirs:
        monkeypatch.setattr("platform.node", lambda: "this")
        monkeypatch.setattr(cache, "FileLock", lambda *_, **__: contextlib.nullcontext())  # a lock that is not seen
        with cache.temporary_folder(cache_folder.parent):
            assert theirs.exists()


def test_all_files_below_a_folder_in_order(tmp_path: Path) -> None:
    for name in ("b/1/2/3/4/x", "a/y", "b/1/2/a", "z"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(name)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "w").write_text("w")
    (tmp_path / "root" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "b" / "back").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "nowhere").symlink_to(tmp_path / "nothing")
    names = ["nowhere", "z", "a/y", "b/1/2/a", "b/1/2/3/4/x", "c/w"]
    files = cache.files_below(tmp_path / "root")
    assert files == [str(tmp_path / "root" / name) for name in names]
    stamped = cache.stamp(files)
    assert [size for _, size, *_ in stamped] == [1, 3, 7, 11, 1]
    (tmp_path / "root" / "b/1/2/3/4/x").write_text("another")
    assert cache.stamp(files) != stamped


def test_folders_are_listed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["b", "c", "a", "d"]
    for name in names:
        (tmp_path / name / "inside").mkdir(parents=True)
        (tmp_path / f"{name}.txt").write_text(name)
    scandir = os.scandir

    class Backwards:
        """Entries in the order of a file system that goes backwards."""

        def __init__(self, folder: Any = "."):
            self.entries = iter(sorted(scandir(folder), key=lambda entry: entry.name, reverse=True))

        def __iter__(self) -> Any:
            return self.entries

        def __next__(self) -> Any:
            return next(self.entries)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Backwards)
    monkeypatch.setattr(os, "listdir", lambda folder=".": [entry.name for entry in Backwards(folder)])
    listings: list[Callable[[], list[str]]] = [
        lambda: os.listdir(tmp_path),
        lambda: [path.name for path in tmp_path.iterdir()],
        lambda: [Path(path).name for path in glob.glob(f"{tmp_path}/*")],
        lambda: [path.name for path in tmp_path.glob("*")],
        lambda: [entry.name for entry in os.scandir(tmp_path)],
        lambda: [name for _, folders, files in os.walk(tmp_path) for name in (*folders, *files) if name != "inside"],
    ]
    for listing in listings:
        found = listing()
        with cache.folders_in_order():
            ordered = listing()
        assert set(ordered) == set(found)
        assert [name for name in ordered if len(name) == 1] == sorted(names)
        assert found != ordered


def test_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(*_: object) -> Any:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("pathlib.Path.expanduser", no_home)
    with pytest.raises(DataError, match=r"no home folder.*CLBENCH_CACHE"):
        load_dataset("digits")
    monkeypatch.delenv("CLBENCH_CACHE")
    monkeypatch.setattr("platformdirs.user_cache_dir", no_home)
    with pytest.raises(DataError, match=r"no home folder.*CLBENCH_CACHE"):
        load_dataset("digits")


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


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="the memory of this machine is not known")
def test_a_data_set_larger_than_memory_is_mapped(tmp_path: Path) -> None:
    """A file with a hole, twice as large as the memory, opens, and gives images from its start and its end."""
    rows = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
    layout: dict[str, list[Any]] = {}
    for part, count in (("train", rows), ("test", 2)):
        layout[f"{part}_images"], layout[f"{part}_labels"] = ["|u1", count, 1, 1024, 1024], ["<i8", count]
        np.save(tmp_path / f"{part}_labels.npy", np.zeros(count, np.int64))
        about = {"descr": "|u1", "fortran_order": False, "shape": (count, 1, 1024, 1024)}
        with open(tmp_path / f"{part}_images.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, about)
            try:
                file.truncate(file.tell() + count * 2**20)
            except OSError as error:
                pytest.skip(f"this file system holds no such file: {error}")
    (tmp_path / "meta.json").write_text(json.dumps({"fingerprint": "", "layout": layout, "notes": {}}))
    found = cache._read("large", tmp_path)
    assert found is not None
    assert found.train_images.shape == (rows, 1, 1024, 1024)
    split = Split(found.train_images, torch.arange(rows), found.train_labels)
    assert split.batch(torch.tensor([0, rows - 1])).shape == (2, 1, 1024, 1024)

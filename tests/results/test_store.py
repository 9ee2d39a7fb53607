"""Where records are kept: whole or not at all, in files of their own or many in one."""

import dataclasses
import gzip
import os
import time
from pathlib import Path

import pytest
from made_up import record, three_methods

from clbench.errors import ClbenchError, UsageError
from clbench.results.frames import Results
from clbench.results.record import RunRecord, record_text
from clbench.results.store import SET, Store, merge, pack, read_records, record_folders, write_set, write_whole

GOOD = record("lwf")
FAILED = RunRecord(GOOD.key, GOOD.spec, "failed", "out of memory")
RECORDS = {one.key: one for one in three_methods()}


def folder_of(folder: Path, *records: RunRecord) -> Path:
    folder.mkdir(parents=True)
    for one in records:
        Store(folder).write(one)
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.write(GOOD)
    assert path == tmp_path / f"{GOOD.key}.json"
    assert store.read() == ({GOOD.key: GOOD}, [])
    assert list(tmp_path.iterdir()) == [path]
    assert store.has_finished(GOOD.key)
    store.write(FAILED)
    assert not store.has_finished(GOOD.key)


def test_a_missing_folder_has_no_records(tmp_path: Path) -> None:
    assert Store(tmp_path / "none").read() == ({}, [])


def test_a_write_that_fails_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError("no space left")

    store = Store(tmp_path)
    store.write(GOOD)
    with pytest.raises(ValueError, match="Out of range float"):
        store.write(dataclasses.replace(GOOD, parameters=float("nan")))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        store.write(FAILED)
    assert store.read() == ({GOOD.key: GOOD}, [])
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_files_are_named_and_the_others_read(tmp_path: Path) -> None:
    store = Store(folder_of(tmp_path / "runs", GOOD))
    (tmp_path / "runs/bad.json").write_text("{")
    (tmp_path / "runs/other.json").write_text(record_text(GOOD))
    (tmp_path / "runs/folder.json").mkdir()
    (tmp_path / "runs/.half-written.tmp").write_text("{")
    (tmp_path / "runs/.hidden.json").write_text("{")
    records, problems = store.read()
    assert list(records) == [GOOD.key]
    bad, folder, other = problems
    assert bad.startswith("bad.json: not JSON")
    assert folder.startswith("folder.json: ")
    assert other == f"other.json: it is the record of another run, {GOOD.key}"


def test_old_half_written_files_are_removed(tmp_path: Path) -> None:
    for name, age in (("old", 4000), ("young", 10)):
        path = tmp_path / f".abc123-{name}.tmp"
        path.write_bytes(b"{")
        os.utime(path, (time.time() - age,) * 2)
    Store(tmp_path).tidy()
    assert [path.name for path in tmp_path.iterdir()] == [".abc123-young.tmp"]


def test_a_set_is_read_as_its_folder_is_and_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "runs", *RECORDS.values())
    pack(folder)
    assert [path.name for path in folder.iterdir()] == [SET]
    assert Store(folder).read() == Store(folder / SET).read() == (RECORDS, [])
    write_set(tmp_path / "again.jsonl.gz", reversed(RECORDS.values()))
    assert (tmp_path / "again.jsonl.gz").read_bytes() == (folder / SET).read_bytes()
    assert Results.load(tmp_path / "again.jsonl.gz").labels == ["finetune", "joint", "lwf"]


def test_a_record_of_its_own_goes_before_the_sets(tmp_path: Path) -> None:
    write_set(tmp_path / SET, [GOOD])
    store = Store(tmp_path)
    assert store.has_finished(GOOD.key)
    newer = dataclasses.replace(GOOD, environment={"torch": "99"})
    store.write(newer)
    assert store.read() == ({GOOD.key: newer}, [])
    pack(tmp_path)
    assert Store(tmp_path / SET).read() == ({GOOD.key: newer}, [])


def test_damage_in_a_set_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / SET
    lines = [record_text(one) for one in RECORDS.values()]
    path.write_bytes(gzip.compress("".join([lines[0], "{}\n", *lines[1:]]).encode()))
    records, (problem,) = Store(tmp_path).read()
    assert records == RECORDS
    assert problem.startswith(f"{SET}, line 2: missing entries")
    with pytest.raises(ClbenchError, match="was not packed"):
        pack(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    assert len(Store(path).read()[1]) == 2  # the file ends early
    path.write_bytes(b"no gzip")
    assert Store(path).read()[0] == {}
    with pytest.raises(UsageError, match="none of the 1 records"):
        read_records(path)


def test_a_place_without_records_is_one_clear_line(tmp_path: Path) -> None:
    folder_of(tmp_path / "runs", GOOD)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=rf"no records in {tmp_path / 'empty'}: 'clbench run' makes them"):
        read_records(tmp_path / "empty")
    with pytest.raises(UsageError, match="no folder of records"):
        read_records(tmp_path / "nowhere.jsonl.gz")
    with pytest.raises(UsageError, match="no folder of records"):
        read_records(tmp_path / "runs" / f"{GOOD.key}.json")


def test_records_of_all_folders_below_are_read_each_once(tmp_path: Path) -> None:
    first, second, third, *_ = RECORDS.values()
    failed = RunRecord(third.key, third.spec, "failed", "out of memory")
    folder_of(tmp_path / "a", first, failed)
    folder_of(tmp_path / "b/deeper", first, third)
    folder_of(tmp_path / "b/.hidden", second)
    (tmp_path / "c").mkdir()
    write_set(tmp_path / "c" / SET, [second])
    (tmp_path / "package.json").write_text("{}")
    records, problems = read_records(tmp_path)
    assert {one.key: one for one in records} == {one.key: one for one in (first, second, third)}
    assert problems == []
    assert record_folders(tmp_path) == [tmp_path / "a", tmp_path / "b/deeper", tmp_path / "c"]
    (tmp_path / "b/deeper" / f"{first.key}.json").write_text("{")
    (problem,) = read_records(tmp_path)[1]
    assert problem.startswith(str(tmp_path / "b/deeper" / f"{first.key}.json"))


def test_folders_that_disagree_on_a_run_are_refused(tmp_path: Path) -> None:
    other = dataclasses.replace(GOOD, weights_hash="other")
    folder_of(tmp_path / "a", GOOD)
    folder_of(tmp_path / "b", other)
    with pytest.raises(UsageError, match=rf"1 record disagrees, name one of the folders: {GOOD.key} .*weights_hash"):
        read_records(tmp_path)


def test_folders_and_sets_are_joined_in_either(tmp_path: Path) -> None:
    first, *others = RECORDS.values()
    failed = RunRecord(first.key, first.spec, "failed", "out of memory")
    one = folder_of(tmp_path / "one", failed, *others[:2])
    (one / "cut.json").write_text("{")
    write_set(tmp_path / "two.jsonl.gz", [first, *others[1:]])
    for out in (tmp_path / "all", tmp_path / "all.jsonl.gz"):
        count, (problem,) = merge([one, tmp_path / "two.jsonl.gz"], out)
        assert count == len(RECORDS)
        assert problem.startswith(f"{one / 'cut.json'}: not JSON")
        assert Store(out).read()[0] == RECORDS
        assert merge([tmp_path / "two.jsonl.gz"], out)[0] == 0  # all there already


def test_records_that_disagree_are_not_joined(tmp_path: Path) -> None:
    one = folder_of(tmp_path / "one", GOOD)
    two = folder_of(tmp_path / "two", dataclasses.replace(GOOD, weights_hash="0" * 64))
    for out in (tmp_path / "all", tmp_path / "all.jsonl.gz"):
        with pytest.raises(UsageError, match=rf"1 record disagrees.*{GOOD.key} \(lwf on .*\).*: weights_hash"):
            merge([one, two], out)
        assert not out.exists()


def test_a_damaged_set_is_not_written_over(tmp_path: Path) -> None:
    out = tmp_path / "all.jsonl.gz"
    out.write_bytes(gzip.compress(b"{}\n"))
    before = out.read_bytes()
    with pytest.raises(UsageError, match=r"is damaged: all\.jsonl\.gz, line 1"):
        merge([folder_of(tmp_path / "one", GOOD)], out)
    assert out.read_bytes() == before


def test_a_full_disk_is_said_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*summary.csv'"):
        write_whole(tmp_path / "summary.csv", b"text")
    assert list(tmp_path.iterdir()) == []

"""Folders of records are joined, unless records of the same run disagree."""

import dataclasses
from pathlib import Path

import pytest
from made_up import three_methods
from typer.testing import CliRunner

from clbench.cli.app import app
from clbench.errors import UsageError
from clbench.results.store import RunRecord, Store, merge


def folder_of(tmp_path: Path, name: str, *records: RunRecord) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    for record in records:
        Store(folder).write(record)
    return folder


def test_folders_are_joined(tmp_path: Path) -> None:
    records = three_methods()
    failed = RunRecord(records[0].key, records[0].spec, "failed", "out of memory")
    one = folder_of(tmp_path, "one", failed, *records[1:5])
    two = folder_of(tmp_path, "two", *records[:1], *records[4:])
    (one / "cut.json").write_text("{")
    result = CliRunner().invoke(app, ["merge", str(one), str(two), "--out", str(tmp_path / "all")])
    assert result.exit_code == 0
    assert result.stderr.splitlines()[-1] == f"clbench: 6 records were added to {tmp_path / 'all'}"
    assert f"clbench: skipped {one / 'cut.json'}: not JSON" in result.stderr
    assert Store(tmp_path / "all").read() == (
        {record.key: record for record in sorted(records, key=lambda one: one.key)},
        [],
    )
    assert merge([one, two], tmp_path / "all")[0] == 0  # all there already


def test_records_that_disagree_are_not_joined(tmp_path: Path) -> None:
    record, *others = three_methods()
    one = folder_of(tmp_path, "one", record)
    two = folder_of(tmp_path, "two", dataclasses.replace(record, weights_hash="0" * 64), *others)
    run = f"{record.spec['label']} on split-digits, task, seed 0"
    with pytest.raises(UsageError, match=rf"1 record disagrees.*{record.key} \({run}\).*: weights_hash"):
        merge([one, two], tmp_path / "all")
    assert not (tmp_path / "all").exists()
    result = CliRunner().invoke(app, ["merge", str(one), str(tmp_path / "nowhere"), "--out", str(tmp_path / "all")])
    assert isinstance(result.exception, UsageError)

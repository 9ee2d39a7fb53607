"""Runs on some tasks of a sequence: as if it had no others."""

from pathlib import Path

import pytest
import torch
from asking import prepared

import clbench
from clbench.errors import UsageError
from clbench.experiment.seeds import parse_tasks


@pytest.mark.parametrize(
    ("text", "tasks"), [("0-2", "0-2"), ("3-", "3-"), ("2", "2-2"), (2, "2-2"), (" 1 - 3 ", "1-3"), ("0-", None)]
)
def test_a_range_of_tasks(text: str | int, tasks: str | None) -> None:
    assert parse_tasks(text) == tasks


@pytest.mark.parametrize("text", ["", "x", "-2", "2-1", "1-2-3", "0,1", "1.5", True, None, "9999999"])
def test_what_is_no_range_is_one_line(text: object) -> None:
    with pytest.raises(UsageError, match="tasks="):
        parse_tasks(text)  # type: ignore[arg-type]


def test_the_tasks_are_those_of_the_sequence_numbered_anew(tmp_path: Path) -> None:
    whole, some = (prepared("finetune", seeds=1, out=tmp_path, tasks=tasks).jobs[0] for tasks in (None, "1-2"))
    every, two = whole.load_tasks(), some.load_tasks()
    assert [task.index for task in two] == [0, 1]
    for one, other in zip(every[1:3], two, strict=True):
        assert one.classes == other.classes
        index = torch.arange(len(one.train))
        torch.testing.assert_close(one.train.batch(index), other.train.batch(index))
        assert torch.equal(one.test.y, other.test.y)


def test_all_tasks_are_the_same_run_whether_said_or_not(tmp_path: Path) -> None:
    keys = [
        prepared("lwf", seeds=1, out=tmp_path, tasks=tasks).jobs[0].spec.key for tasks in (None, "0-", "0-4", "0-1")
    ]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert "tasks" not in prepared("lwf", seeds=1, out=tmp_path).jobs[0].spec.as_json()


@pytest.mark.parametrize("tasks", ["5", "3-5", "7-"])
def test_tasks_that_there_are_not(tasks: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="split-digits has 5 tasks, 0 to 4"):
        prepared("lwf", seeds=1, out=tmp_path, tasks=tasks)


def test_a_run_learns_these_tasks_alone(tmp_path: Path) -> None:
    results = clbench.run("finetune,joint", tasks="3-", seeds=1, iterations=2, jobs=1, quiet=True, out=tmp_path)
    assert all(len(record.updates or ()) == 2 for record in results.records)
    assert [record.spec["tasks"] for record in results.records] == ["3-", "3-"]
    first = clbench.run("finetune", tasks="0-0", seeds=1, iterations=2, jobs=1, quiet=True, out=tmp_path)
    whole = clbench.run("finetune", seeds=1, iterations=2, jobs=1, quiet=True, out=tmp_path)
    ends = [results.records[0].matrix()[1, 0] for results in (first, whole)]
    assert ends[0] == ends[1]  # the first task is learnt as it is in the whole sequence


def test_a_preset_names_its_tasks_and_the_user_goes_before_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('title = "x"\nscenarios = ["task"]\ntasks = "2-"\n[[rows]]\nlabel = "LwF"\nmethod = "lwf"\n')
    for asked, tasks in ((None, "2-"), ("0-1", "0-1"), ("0-", None)):
        sweep = prepared(preset=file, seeds=1, out=tmp_path, tasks=asked)
        spec = sweep.jobs[0].spec
        assert spec.tasks == tasks
        assert (spec.preset or {})["overridden"] == ({} if asked is None else {"tasks": asked})
    file.write_text(file.read_text().replace("2-", "two"))
    with pytest.raises(UsageError, match=r"mine.toml is wrong: tasks='two': write 0-2"):
        prepared(preset=file, seeds=1, out=tmp_path)

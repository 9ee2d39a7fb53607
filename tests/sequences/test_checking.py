"""A sequence's tasks are checked before any training: each fault is one line that names the sequence and the task."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import prepared as plan
from torch import Tensor

from clbench.errors import UsageError
from clbench.execution.run import run_one
from clbench.experiment import registry
from clbench.method import Method, Training
from clbench.models.backbones import MLP
from clbench.sequences.checking import checked
from clbench.sequences.splits import SplitDigits
from clbench.sequences.tasks import Split, Task
from clbench.testing import check_sequence, tiny_tasks
from clbench.training.run import run_sequence

SEQUENCE = """
from dataclasses import dataclass
import random, torch, numpy as np
from clbench.sequences import Split, Task, TaskSequence
from clbench.testing import tiny_tasks

@dataclass(frozen=True)
class Own(TaskSequence):
    name = "own"
    scenario = "task"
    budget = {"epochs": 1, "batch_size": 8, "lr": 0.1}

    def prepare(self, data_root, seed):
        return "ab" * 32

    def load(self, data_root, seed, class_order):
        tasks = tiny_tasks(2)
        # the fault
        return tasks
"""
FAULT_LINE = 18


def damaged(part: str, change: Callable[[Split], dict[str, Any]], **fields: Any) -> list[Task]:
    """Make three tasks, the second with another training or test set."""
    tasks = tiny_tasks(3)
    split = getattr(tasks[1], part)
    tasks[1] = replace(tasks[1], **{part: replace(split, **change(split)), **fields})
    return tasks


def at(tensor: Tensor, place: tuple[int, ...], value: float) -> Tensor:
    changed = tensor.clone()
    changed[place] = value
    return changed


BYTES = torch.zeros(24, 1, 8, 8, dtype=torch.uint8)
FAULTS: dict[str, tuple[Any, str]] = {
    "global labels": (
        damaged("train", lambda s: {"y": s.y + 2}),
        r"^task 2, training set: label 3 of image 1 .*0 to 1; these are the classes themselves, global labels",
    ),
    "a label of -1": (
        damaged("train", lambda s: {"y": at(s.y, (7,), -1)}),
        "task 2, training set: label -1 of image 7 is out of range",
    ),
    "a label that losses skip": (
        damaged("test", lambda s: {"y": at(s.y, (5,), -100)}),
        "task 2, test set: label -100 of image 5 is out of range",
    ),
    "labels that are no whole numbers": (damaged("train", lambda s: {"y": s.y + 0.5}), "task 2.*labels.*float32"),
    "labels of every output": (damaged("train", lambda s: {"y": s.y[:, None]}), r"task 2.*labels.*shape \[24, 1\]"),
    "whole numbers as images": (
        damaged("train", lambda s: {"images": (9 * s.images).to(torch.int16)}),
        "task 2, training set: images are int16; give bytes",
    ),
    "an array": (damaged("test", lambda s: {"images": s.images.numpy()}), "task 2, test set: images is a ndarray"),
    "every index 0": ([replace(task, index=0) for task in tiny_tasks(2)], "^task 2 has the index 0"),
    "no test image": (damaged("test", lambda s: vars(s.subset(torch.arange(0)))), "task 2, test set: it is empty"),
    "no training image": (damaged("train", lambda s: vars(s.subset(torch.arange(0)))), "task 2, training set: .*empty"),
    "a class that never shows": (
        damaged("train", lambda s: {}, classes=(2, 3, 44)),
        "task 2, training set: no image of class 44, which the task names",
    ),
    "a class named twice": (damaged("train", lambda s: {}, classes=(2, 2)), "task 2 names a class twice"),
    "no class": (damaged("train", lambda s: {}, classes=()), "task 2 names no class"),
    "a NaN to test on": (
        damaged("test", lambda s: {"images": at(s.images, (9, 0, 3, 4), torch.nan)}),
        r"task 2, test set: image 9 \(row 9 of the images\) is nan at pixel \[0, 3, 4\]",
    ),
    "an infinity to train on": (
        damaged("train", lambda s: {"images": at(s.images, (9, 0, 0, 1), -torch.inf), "rows": s.rows.flip(0)}),
        r"task 2, training set: image 14 \(row 9 of the images\) is -inf at pixel \[0, 0, 1\]",
    ),
    "other shapes": (
        damaged("test", lambda s: {"images": torch.zeros(12, 3, 8, 8)}),
        r"images of different shapes: \[3, 8, 8\] in task 2, test set, but \[1, 8, 8\] in task 1",
    ),
    "a row too many": (damaged("train", lambda s: {"rows": s.rows + 1}), "task 2, training set: row 24 is out of"),
    "a mask": (damaged("train", lambda s: {"rows": s.rows >= 0}), "task 2, training set: rows are true or false"),
    "fewer labels": (damaged("train", lambda s: {"y": s.y[:20]}), r"task 2.* 20 labels \(y\) for 24 images"),
    "a deviation of 0": (damaged("train", lambda s: {"images": BYTES, "std": (0.0,)}), r"task 2.*std \(0.0,\)"),
    "a deviation near 0": (damaged("train", lambda s: {"images": BYTES, "std": (1e-45,)}), "make NaN or infinity"),
    "constants of three channels": (
        damaged("train", lambda s: {"images": BYTES, "mean": (0.0,) * 3, "std": (1.0,) * 3}),
        r"task 2.*images of shape \[1, 8, 8\] cannot be scaled by mean \(0.0, 0.0, 0.0\)",
    ),
    "a map that leads outside": (
        damaged("train", lambda s: {"pixel_map": torch.arange(1, 65)[None]}),
        "task 2, training set: pixel_map has 64, but an image has the pixels 0 to 63",
    ),
    "an unknown augmentation": (
        damaged("train", lambda s: {"augment": "crop+flp"}),
        r"augment=crop\+flp: unknown step 'flp', did you mean flip",
    ),
    "colours of floats": (
        damaged("train", lambda s: {"augment": "jitter"}),
        "task 2, training set: augment=jitter: jitter needs images that are bytes",
    ),
    "bytes up to 16": (
        damaged("train", lambda s: {"images": BYTES, "augment": "randaugment", "divisor": 16.0}),
        "randaugment needs bytes up to 255, not 16",
    ),
    "nothing": (None, "load returned None, not a list of tasks"),
    "an empty list": ([], "load returned no task"),
    "arrays": ([tiny_tasks(1)[0], BYTES], "load returned a Tensor in place of task 2, not a Task"),
    "tensors as splits": ([replace(tiny_tasks(1)[0], test=BYTES)], "task 1, test set: a Tensor in place of a Split"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_that_says_where(name: str) -> None:
    tasks, message = FAULTS[name]
    with pytest.raises(UsageError, match=message) as error:
        checked(tasks)
    assert "\n" not in str(error.value)


def test_good_tasks_stay_as_they_are() -> None:
    tasks = tiny_tasks(2)
    for given, found in zip(tasks, checked(tasks), strict=True):
        assert (found.index, found.classes) == (given.index, given.classes)
        for part in ("train", "test"):
            for name in ("images", "rows", "y"):
                assert getattr(getattr(found, part), name) is getattr(getattr(given, part), name)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint16, torch.float32, torch.bool], ids=str)
def test_whole_numbers_become_labels(dtype: torch.dtype) -> None:
    tasks = checked(damaged("train", lambda s: {"y": s.y.to(dtype)}))
    assert tasks[1].train.y.dtype == torch.int64
    assert torch.equal(tasks[1].train.y, tiny_tasks(3)[1].train.y)


def test_labels_as_bytes_do_not_wrap_where_there_are_many_outputs() -> None:
    def go(dtype: torch.dtype) -> list[list[float | None]]:
        tasks = tiny_tasks(3, classes=120, images=240)
        tasks = [replace(task, train=replace(task.train, y=task.train.y.to(dtype))) for task in tasks]
        tasks = [replace(task, test=replace(task.test, y=task.test.y.to(dtype))) for task in tasks]
        return run_sequence(checked(tasks), Method(), MLP(width=8), Training(lr=0.1), "class", 0).task_agnostic

    assert go(torch.uint8) == go(torch.int64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_other_floating_point_images_become_float32_and_stay_shared(dtype: torch.dtype) -> None:
    images = torch.rand(24, 1, 8, 8, dtype=torch.float32).to(dtype)
    tasks = [
        replace(t, train=replace(t.train, images=images), test=replace(t.test, images=images)) for t in tiny_tasks()
    ]
    found = checked(tasks)
    assert found[0].train.images is found[1].train.images is found[1].test.images
    assert torch.equal(found[0].train.images, images.to(torch.float32))
    assert found[0].train.images.dtype == torch.float32


def test_a_nan_in_an_image_that_no_task_has_does_not_matter() -> None:
    assert checked(
        damaged("train", lambda s: vars(s.subset(s.rows[1:])) | {"images": at(s.images, (0, 0, 0, 0), torch.nan)})
    )


def test_classes_that_do_not_show_where_a_sequence_says_so() -> None:
    assert checked(damaged("train", lambda s: {}, classes=(2, 3, 44)), every_class_shows=False)


def own(folder: Path, fault: str, file: str = SEQUENCE) -> str:
    (folder / "own.py").write_text(file.replace("# the fault", fault))
    return f"{folder}/own.py:Own"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("tasks[1].train.y.add_(2)", r"own.py:Own: task 2, .*label 3 .* \(.*own.py, line 16\)$"),
        ("return None", r"own.py:Own: load returned None, not a list of tasks \(.*own.py, line 16\)$"),
        ("tasks.no_such_thing", rf"own.py:Own raises AttributeError: .* \(.*own.py, line {FAULT_LINE}\)$"),
        ("return (tasks[n] for n in range(9))", rf"own.py:Own raises IndexError: .* \(.*own.py, line {FAULT_LINE}\)$"),
        ("tasks[1].train.y.add_(2 * (seed == 1))", "own.py:Own: task 2, .*label 3"),  # a fault of one seed only
    ],
)
def test_a_sequence_of_ones_own_is_refused_before_any_training(fault: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as error:
        plan("finetune", sequence=own(tmp_path, fault), seeds=2, out=tmp_path / "runs")
    assert "\n" not in str(error.value)


def test_a_run_checks_the_tasks_that_it_trains_on(tmp_path: Path) -> None:
    reference = own(tmp_path, "tasks[1].test.images.fill_(__import__('os').environ.get('BAD', 0) and torch.nan)")
    (job,) = plan("finetune", sequence=reference, seeds=1, out=tmp_path / "runs").jobs
    assert run_one(job).ok
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAD", "1")
        record = run_one(job)
    assert record.status == "failed"
    assert "own.py:Own: task 2, test set: image 0 (row 0 of the images) is nan" in (record.reason or "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('scenario = "task"', "", r"has no scenario: write .* scenario = \"task\" \(.*own.py, line 7\)$"),
        ('scenario = "task"', 'scenario = "tsk"', r"has the scenario 'tsk', did you mean task.*line 7\)$"),
        ('scenario = "task"', 'scenario = "task"; scenarios = "task"', "has the scenarios 'task': a set is needed"),
        ('name = "own"', "", r"has no name: .*name = \"own\" \(.*own.py, line 7\)$"),
        ("budget = {", "budget = 3 # {", r"has a budget that is no mapping.*line 7\)$"),
        ("(frozen=True)", "", "cannot inherit non-frozen dataclass"),
        ('return "ab" * 32', "return None", "own.py:Own: prepare returned None, not a SHA-256 as text"),
        ('return "ab" * 32', "return 1 / 0", "own.py:Own raises ZeroDivisionError: "),
    ],
)
def test_a_class_that_is_no_sequence_yet(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as error:
        plan("finetune", sequence=own(tmp_path, "", SEQUENCE.replace(old, new)), seeds=1, out=tmp_path / "runs")
    assert "\n" not in str(error.value)


def from_file(folder: Path, fault: str = "", old: str = "", new: str = "") -> Any:
    return registry.find("sequence", own(folder, fault, SEQUENCE.replace(old, new) if old else SEQUENCE))


def test_check_sequence_prints_the_tasks_of_a_sequence_that_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_sequence(from_file(tmp_path))
    assert capsys.readouterr().out.splitlines() == [
        "Own, seed 0: 2 tasks, images [1, 8, 8]",
        "  task 1: 24 images to train on, 12 to test on, classes 0, 1",
        "  task 2: 24 images to train on, 12 to test on, classes 2, 3",
    ]


@pytest.mark.parametrize(
    ("fault", "old", "new", "message"),
    [
        ("tasks[0].train.images[3] += torch.rand(1)", "", "", "task 1, training set differs when it is loaded again"),
        ("tasks[1].test.images[3] += np.random.rand()", "", "", "task 2, test set differs when it is loaded again"),
        ("tasks[1].train.y.add_(2)", "", "", r"task 2, training set: label 3.*\(.*own.py, line 16\)"),
        ("tasks[1].train.y.add_(2 * seed)", "", "", r"task 2, training set: label 3.*\(.*own.py, line 16\)"),
        ("", 'return "ab" * 32', "return str(random.random())", "prepare returns another fingerprint"),
        ("", 'return "ab" * 32', "return None", "prepare returns None, not text"),
    ],
)
def test_check_sequence_says_what_is_wrong(fault: str, old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=message):
        check_sequence(from_file(tmp_path, fault, old, new))


def test_check_sequence_takes_an_instance_too() -> None:
    check_sequence(SplitDigits(tasks=2))


DEFAULTS = [
    ('"epochs": 1', '"epoch": 1', r"own.py, line 7: Own: training has no field 'epoch', did you mean epochs"),
    ('"lr": 0.1', '"lr": -1', r"own.py, line 7: Own: training.lr=-1: the value should be greater"),
    ('name = "own"', 'name = "own"; model = "mpl"', r"own.py, line 7: Own: unknown model 'mpl', did you mean mlp"),
]


@pytest.mark.parametrize(("old", "new", "message"), DEFAULTS)
def test_defaults_that_there_are_not_are_found_by_the_check_and_by_a_run(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=message):
        check_sequence(from_file(tmp_path, "", old, new))
    with pytest.raises(UsageError, match=message):
        plan("finetune", sequence=f"{tmp_path}/own.py:Own", seeds=1, out=tmp_path / "runs")


def test_a_test_set_that_is_the_training_set_is_refused() -> None:
    message = "^task 2: its test set is its training set"
    (first, second), copied = tiny_tasks(2), tiny_tasks(2)[1].train
    for test in (second.train, copied):
        with pytest.raises(UsageError, match=message):
            checked([first, replace(second, test=test)])

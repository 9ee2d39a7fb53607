"""Saved networks: what is loaded answers as the run did, in every method and scenario."""

import json
from pathlib import Path

import pytest
import safetensors
import torch

import clbench
from clbench.errors import ClbenchError, UsageError
from clbench.execution.saved import LoadedModel, load_model
from clbench.experiment import registry
from clbench.results.record import RunRecord
from clbench.sequences.checking import load_checked
from clbench.sequences.tasks import Task

SMALL = {"seeds": 1, "iterations": 3, "jobs": 1, "quiet": True, "settings": {"mlp.width": 8}, "save_models": True}


def tasks_of(record: RunRecord) -> list[Task]:
    spec = record.spec
    sequence = registry.from_record(registry.find("sequence", spec["sequence"]), spec["sequence_params"])
    return load_checked(sequence, "it", None, spec["seed"], tuple(spec["class_order"]))


def accuracies(loaded: LoadedModel, tasks: list[Task], told: bool) -> list[float | None]:
    """The share of right answers on each task's test images, as `predict` has them."""
    row: list[float | None] = []
    for task in tasks:
        x = task.test.batch(torch.arange(len(task.test)))
        classes = torch.tensor(range(len(task.classes)) if loaded.spec.scenario == "domain" else task.classes)
        try:
            found = loaded.predict(x, task.index if told else None)
        except ClbenchError:
            row.append(None)
        else:
            row.append(int((found == classes[task.test.y]).sum()) / len(task.test))
    return row


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_it_answers_as_in_the_run(scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    results = clbench.run(methods="all", sequence="split-digits@tasks=2", scenario=scenario, **SMALL)
    assert not results.failed
    assert len(results.records) > 20
    for record in results.records:
        tasks = tasks_of(record)
        assert record.accuracy is not None
        for after in (1, 2):
            loaded = load_model(record, after)
            for view, told in (("task_aware", scenario != "domain"), ("task_agnostic", False)):
                found = accuracies(loaded, tasks[:after], told)
                assert found == record.accuracy[view][after][:after], (record.title, view, after)


def test_predict_asks_as_evaluation_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all outputs competing from the start, a young network's answers are among all classes."""
    monkeypatch.chdir(tmp_path)
    settings = {"mlp.width": 8, "training.predict_over": "all", "training.full_head": True}
    options = SMALL | {"settings": settings, "iterations": 1, "lr": 1e-4, "scenario": "class"}
    (record,) = clbench.run(methods="finetune", **options).records
    assert record.accuracy is not None
    assert accuracies(load_model(record, 1), tasks_of(record)[:1], False) == record.accuracy["task_agnostic"][1][:1]


def test_nothing_of_a_guest_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (record,) = clbench.run(methods="avalanche:Naive", **SMALL).records
    with pytest.raises(UsageError, match="no file holds its state"):
        load_model(record)


def test_the_card_says_what_the_network_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (record,) = clbench.run(methods="er@images=20", scenario="class", **SMALL).records
    path = tmp_path / "results/runs/models" / record.key / "task-3.safetensors"
    with safetensors.safe_open(path, "pt") as file:
        card = json.loads(file.metadata()["clbench"])
    assert card["spec"] == record.spec
    assert card["seen"] == 3
    assert [each for task in card["tasks"] for each in task["classes"]] == record.spec["class_order"]
    images = card["tasks"][0]["images"]
    assert (images["shape"], images["dtype"], images["divisor"]) == ([1, 8, 8], "uint8", 16.0)
    loaded = clbench.load_model(path)
    assert loaded.learner.stored_images() == 20  # the memory is there
    task = tasks_of(record)[0]
    rows = torch.arange(5)
    assert torch.equal(loaded.prepare(task.test.raw(rows)), task.test.batch(rows))
    assert loaded.predict(task.test.batch(rows)).shape == (5,)
    by_path = clbench.load_model(f"results/runs/{record.key}.json", 3)
    x = task.test.batch(rows)
    assert torch.equal(by_path.scores(x), loaded.scores(x))  # type: ignore[arg-type]


@pytest.mark.parametrize("sequence", ["permuted-digits.py:Permuted"])
def test_permutations_are_kept(sequence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task's own pixels are moved by `prepare`."""
    monkeypatch.chdir(tmp_path)
    Path("permuted-digits.py").write_text(PERMUTED)
    (record,) = clbench.run(methods="finetune", sequence=f"./{sequence}", scenario="domain", **SMALL).records
    loaded = load_model(record)
    raw = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    plain, moved = loaded.prepare(raw, 0), loaded.prepare(raw, 1)
    torch.testing.assert_close(plain.flatten(), torch.arange(64.0) / 255)
    torch.testing.assert_close(moved.flatten(), torch.arange(64.0).flip(0) / 255)


PERMUTED = '''
from dataclasses import dataclass
from typing import ClassVar

import torch

from clbench.sequences import Split, Task, TaskSequence


@dataclass(frozen=True)
class Permuted(TaskSequence):
    """Two tasks of noise, the second with its pixels in reverse"""

    name: ClassVar[str] = "permuted"
    scenario: ClassVar[str] = "domain"

    def prepare(self, data_root, seed):
        return "none"

    def load(self, data_root, seed, class_order):
        images = torch.randint(0, 255, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        rows, y = torch.arange(40), torch.arange(40) % 2
        maps = [None, torch.arange(63, -1, -1)[None]]
        splits = [[Split(images, some, y[some], pixel_map=each) for some in rows.split(20)] for each in maps]
        return [Task(index, (0, 1), *pair) for index, pair in enumerate(splits)]
'''


def test_what_cannot_be_loaded_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (record,) = clbench.run(methods="finetune", **SMALL).records
    with pytest.raises(UsageError, match="no network after task 6, but after 1, 2, 3, 4, 5"):
        load_model(record, 6)
    with pytest.raises(UsageError, match="--save-models"):
        load_model(record, folder=tmp_path / "elsewhere")
    path = tmp_path / "results/runs/models" / record.key / "task-1.safetensors"
    with pytest.raises(UsageError, match="leave task out"):
        load_model(path, 1)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="cannot be read"):
        load_model(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(UsageError, match="has no card"):
        load_model(path)


def test_a_method_from_outside_is_loaded_if_its_code_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "from clbench.method import Method\nclass Mine(Method):\n    '''Mine'''\n    name = 'mine'\n"
    Path("mine.py").write_text(code)
    (record,) = clbench.run(methods="./mine.py:Mine", **SMALL).records
    assert type(load_model(record).learner).__name__ == "Mine"
    Path("mine.py").write_text(code + "    x = 1\n")
    with pytest.raises(UsageError, match="is not what it was when its network was saved"):
        load_model(record)


def test_a_state_that_cannot_be_written_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "from clbench.method import Method\nclass Odd(Method):\n    '''Odd'''\n    name = 'odd'\n"
    Path("odd.py").write_text(code + "    def state(self):\n        return {'a': object()}\n")
    (record,) = clbench.run(methods="./odd.py:Odd", **SMALL).failed
    assert "the state of Odd holds a object: tensors and plain values can be saved" in (record.error or "")

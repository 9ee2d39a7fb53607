"""Those who follow a run: what they are told is what stands in its record, and they change nothing."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import clbench
from clbench.errors import UsageError

OPTIONS = {"methods": "lwf", "seeds": 1, "scenario": "class", "epochs": 2, "jobs": 1, "settings": {"mlp.width": 8}}
LINES = """
import json
from clbench.execution.tracking import Tracker

class Lines(Tracker):
    def write(self, *what):
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "events.txt", "a") as file:
            file.write(json.dumps(what) + "\\n")

    def after_epoch(self, task, epoch, values):
        self.write("epoch", task, epoch, values)

    def after_task(self, task, accuracy):
        self.write("task", task, accuracy)

    def finish(self, record):
        self.write("end", record.status)

class Raises(Lines):
    def after_task(self, task, accuracy):
        super().after_task(task, accuracy)
        raise OSError("no room")
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(LINES)
    return "./mine.py"


def events(place: str) -> list[list]:
    (path,) = Path(place).rglob("events.txt")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_are_those_of_the_record(file: str) -> None:
    (record,) = clbench.run(**OPTIONS, track=f"{file}:Lines", quiet=True).records
    expected: list[list] = []
    assert record.history is not None
    assert record.accuracy is not None
    for task, history in enumerate(record.history):
        pairs = zip(history["loss"], history["accuracy"], strict=True)
        expected += [["epoch", task, e, {"loss": loss, "accuracy": share}] for e, (loss, share) in enumerate(pairs)]
        expected.append(["task", task, {view: matrix[task + 1] for view, matrix in record.accuracy.items()}])
    assert events("results/runs/tracked/Lines") == [*expected, ["end", "ok"]]
    clbench.run(**OPTIONS, track=f"{file}:Lines", quiet=True, force=True)
    assert len(events("results/runs/tracked/Lines")) == len(expected) + 1  # those of the new run alone


def test_tensorboard_shows_the_numbers_of_the_record(file: str) -> None:
    (record,) = clbench.run(**OPTIONS, track="tensorboard", quiet=True).records
    (path,) = Path("results/runs/tracked/tensorboard").rglob("events.out.*")
    assert path.parent.relative_to("results/runs/tracked/tensorboard").as_posix().startswith("split-digits/class/mlp@")
    written = EventAccumulator(str(path.parent))
    written.Reload()

    def scalars(name: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in written.Scalars(name)]

    assert record.history is not None
    for task, history in enumerate(record.history):
        losses = scalars(f"loss by epoch/task {task + 1}")
        assert [step for step, _ in losses] == [1, 2]
        assert [loss for _, loss in losses] == pytest.approx(history["loss"], rel=1e-6)
    first = scalars("accuracy, not told the task/on task 1")
    assert [step for step, _ in first] == [1, 2, 3, 4, 5]
    assert [value for _, value in first] == pytest.approx(record.matrix()[1:, 0], rel=1e-6)
    ((_, average),) = scalars("whole run/average accuracy")
    assert average == pytest.approx(record.matrix()[-1].mean(), rel=1e-6)


def test_a_tracker_that_raises_ends_and_the_run_goes_on(file: str, capfd: pytest.CaptureFixture[str]) -> None:
    (alone,) = clbench.run(**OPTIONS, out="alone", quiet=True).records
    (record,) = clbench.run(**OPTIONS, track=f"{file}:Raises,{file}:Lines", quiet=True).records
    assert record.ok
    assert (record.key, record.weights_hash, record.accuracy) == (alone.key, alone.weights_hash, alone.accuracy)
    assert len([event for event in events("results/runs/tracked/Raises") if event[0] == "task"]) == 1
    assert len([event for event in events("results/runs/tracked/Lines") if event[0] == "task"]) == 5
    assert "Raises ends, the run goes on: OSError: no room, in" in capfd.readouterr().err


def test_a_failed_run_is_told_of(file: str) -> None:
    results = clbench.run(**OPTIONS, lr=1e20, track=f"{file}:Lines", quiet=True)
    assert len(results.failed) == 1
    assert events("results/runs/tracked/Lines") == [["end", "failed"]]


def test_two_of_one_name_are_refused_and_done_runs_are_said(file: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("other").mkdir()
    Path("other/more.py").write_text(LINES)
    with pytest.raises(UsageError, match="two trackers are called Lines"):
        clbench.run(**OPTIONS, track=f"{file}:Lines,./other/more.py:Lines", quiet=True)
    clbench.run(**OPTIONS, quiet=True)
    clbench.run(**OPTIONS, track=f"{file}:Lines")
    assert "1 run there already: trackers are told of new ones only" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "did you mean tensorboard?"),
        ("./mine.py:Line", "did you mean Lines?"),
        ("./none.py:Line", "there is no file ./none.py"),
        ("json:JSONDecoder", "does not derive from clbench.execution.tracking.Tracker"),
    ],
)
def test_names_are_checked_before_anything_is_trained(file: str, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        clbench.run(**OPTIONS, track=name, quiet=True)
    assert not Path("results").exists()

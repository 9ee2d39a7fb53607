"""A search finds the best setting, by every protocol, with no test image; it goes on where it stopped."""

from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from filelock import FileLock

import clbench
from clbench.errors import ClbenchError, UsageError
from clbench.execution import sweep
from clbench.experiment import presets
from clbench.results.store import Store
from clbench.tuning.findings import Findings
from clbench.tuning.study import BATCH, STARTUP

SMALL: dict[str, Any] = {"sequence": "./made_up.py:Shown", "seeds": "1000-1001", "jobs": 1, "quiet": True}
pytestmark = pytest.mark.usefixtures("made_up")


def tune(methods: str = "./made_up.py:Peak", **options: Any) -> Findings:
    return clbench.tune(methods=methods, **SMALL | options)


def row_of(found: Findings) -> Any:
    (row,) = presets.load(found.preset_path).rows
    return row


@pytest.mark.parametrize("protocol", ["first-tasks", "stream-validation"])
@pytest.mark.parametrize(("by", "trials"), [("tpe", 30), ("random", 40), ("grid", 15)])
def test_each_protocol_finds_the_best_setting(protocol: str, by: str, trials: int) -> None:
    found = tune(protocol=protocol, search_by=by, trials=trials)
    row = row_of(found)
    assert 10 / 3 < row.fields["at"] < 30  # half a step of ten from 10, within 0.001 to 10,000
    # of even values from 0 to 1 a share of 1 − |log10(at) − 1| / 5 is right; 20 of a task's 200 images were looked at
    assert row.tuning.score > 85
    assert row.tuning.trials == len(found.frame) == trials
    assert row.tuning.updates == row.tuning.settings * 2 * 3 * (2 if protocol == "first-tasks" else 5)
    assert found.frame["score"].max() == pytest.approx(row.tuning.score, abs=0.01)


def test_the_protocol_none_chooses_nothing() -> None:
    found = tune(protocol="none")
    assert row_of(found).fields == {}
    assert not list(found.plan.folder.iterdir())
    results = clbench.run(preset=found.preset_path, seeds="5-6", jobs=1, quiet=True)
    assert results.records[0].spec["preset"]["tuning"] == {"protocol": "none"}


def test_the_preset_leaves_the_first_tasks_out_and_tells_how_it_was_tuned() -> None:
    found = tune(trials=3)
    results = clbench.run(preset=found.preset_path, seeds="5-6", jobs=1, quiet=True)
    for record in results.records:
        assert record.spec["tasks"] == "2-"
        assert len(record.updates or ()) == 3
        assert record.validation is None
        told = record.spec["preset"]["tuning"]
        assert (told["protocol"], told["tasks"], told["seeds"], told["trials"]) == (
            "first-tasks",
            "0-1",
            [1000, 1001],
            3,
        )
    assert [comparison.model for comparison in results.comparisons] == ["mlp@width=4 [tasks=2-]"]


def test_poisoned_test_sets_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = tune(trials=12, out="clean")
    monkeypatch.setenv("POISON", "test")
    poisoned = tune(trials=12, out="poisoned")
    same_but_for_time(clean, poisoned)


def test_poisoned_future_tasks_change_nothing_under_first_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, seen = tune(trials=12, out="clean"), tune(trials=12, out="seen", protocol="stream-validation")
    monkeypatch.setenv("POISON", "future")
    same_but_for_time(clean, tune(trials=12, out="poisoned"))
    with pytest.raises(AssertionError):  # the test can tell
        same_but_for_time(seen, tune(trials=12, out="seen poisoned", protocol="stream-validation"))


def same_but_for_time(one: Findings, other: Findings) -> None:
    pd.testing.assert_frame_equal(one.frame.drop(columns="seconds"), other.frame.drop(columns="seconds"))
    texts = [found.preset_path.read_text().splitlines() for found in (one, other)]
    kept = [[line for line in text if not line.startswith("seconds")] for text in texts]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("writes", [1, 9, 24])
def test_going_on_after_a_stop_repeats_no_run(writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tune(trials=15, out="whole")
    written: list[str] = []
    write = Store.write

    def counted(self: Store, record: Any) -> Path:
        if len(written) == writes and stop:
            raise KeyboardInterrupt
        written.append(record.key)
        return write(self, record)

    monkeypatch.setattr(Store, "write", counted)
    stop = True
    with pytest.raises(KeyboardInterrupt):
        tune(trials=15, out="stopped")
    stop = False
    same_but_for_time(whole, tune(trials=15, out="stopped"))
    assert len(written) == len(set(written)) == 15 * 2
    count = len(written)
    same_but_for_time(whole, tune(trials=15, out="stopped"))
    assert len(written) == count


@pytest.mark.parametrize("damage", [b"", b"garbage\n{}\n", b"torn"])
def test_a_damaged_study_is_made_anew_of_the_records(
    damage: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tune(trials=STARTUP + 2)
    file = whole.plan.folder / "study.journal"
    file.write_bytes(file.read_bytes()[:-20] if damage == b"torn" else damage)
    monkeypatch.setattr(Store, "write", lambda self, record: pytest.fail("a run was repeated"))
    same_but_for_time(whole, tune(trials=STARTUP + 2, quiet=False))
    said = "is damaged and kept as study.damaged-1.journal" in " ".join(capsys.readouterr().err.split())
    assert said == bool(damage)


def test_two_searches_at_once_into_one_folder(made_up: Path) -> None:
    (made_up / "results/tuned/Shown-task").mkdir(parents=True)
    with (
        FileLock("results/tuned/Shown-task/.lock"),
        pytest.raises(UsageError, match=r"another clbench tune into .* is"),
    ):
        tune(trials=2)


def test_more_trials_go_on_from_those_there_are() -> None:
    first, more = tune(trials=STARTUP), tune(trials=STARTUP + BATCH)
    pd.testing.assert_frame_equal(first.frame, more.frame[:STARTUP])
    assert len(more.frame) == STARTUP + BATCH


def test_another_question_is_another_study() -> None:
    first, other = tune(trials=3), tune(trials=3, search={"./made_up.py:Peak.at": "1..100:log"})
    assert first.frame["at"].tolist() != other.frame["at"].tolist()
    assert other.frame["at"].between(1, 100).all()


@pytest.mark.parametrize("by", ["grid", "random", "tpe"])
def test_two_workers_find_what_one_finds(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out = sweep.Sweep.run
    monkeypatch.setattr(sweep.Sweep, "run", lambda self, fork=False: carry_out(self, True))  # as the command line does
    trials = STARTUP + 1 if by == "tpe" else 4
    one, two = (tune(trials=trials, search_by=by, out=f"out{jobs}", jobs=jobs) for jobs in (1, 2))
    same_but_for_time(one, two)


def test_optuna_reads_the_study() -> None:
    found = tune(trials=3)
    file = str(found.plan.folder / "study.journal")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(file))
    (name,) = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    assert 100 * study.best_value == pytest.approx(found.frame["score"].max())
    assert study.best_trial.user_attrs["setting"] == row_of(found).fields


def test_the_default_is_tried_first_and_kept_where_nothing_is_better() -> None:
    found = tune(methods="./made_up.py:Peak", search={"./made_up.py:Peak.at": "0.01,0.1"}, trials=5)
    assert row_of(found).fields == {"at": 0.1} or row_of(found).fields == {}
    found = tune("./made_up.py:Peak@tasks=7", trials=2, out="other")
    assert found.frame["at"][0] == 0.1
    assert row_of(found).fields["tasks"] == 7


def test_a_setting_whose_run_fails_is_never_chosen() -> None:
    search = {"./made_up.py:Peak.kind": "raises,bad,good"}
    found = tune(trials=6, search={**search, "./made_up.py:Peak.at": "10"})
    assert row_of(found).fields == {"at": 10.0, "kind": "good"}
    assert (row_of(found).tuning.trials, row_of(found).tuning.failed) == (3, 1)
    assert any("1 trial of 3 failed: RuntimeError: it was told to" in line for line in found.warnings)
    with pytest.raises(ClbenchError, match=r"every trial of every method failed: .*it was told to"):
        tune("./made_up.py:Peak@kind=raises", trials=2, out="failing")


def test_a_method_with_nothing_to_search_is_run_once() -> None:
    found = tune("./made_up.py:Plain,./made_up.py:Peak", trials=4)
    assert found.frame["method"].tolist() == ["./made_up.py:Plain", *["./made_up.py:Peak"] * 4]
    assert presets.load(found.preset_path).rows[0].tuning.space == {}


def test_the_learning_rate_is_searched_where_it_is_asked_for() -> None:
    found = tune("finetune", sequence="split-digits", search={"training.lr": "1e-6,0.1"}, epochs=1, seeds="7-7")
    row = row_of(found)
    assert (row.fields, row.training) == ({}, {"lr": 0.1})
    results = clbench.run(preset=found.preset_path, seeds=1, jobs=1, quiet=True)
    assert results.records[0].spec["training"]["lr"] == 0.1
    assert results.records[0].spec["training"]["epochs"] == 1


def test_reporting_on_what_was_tuned_on_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    found = tune(trials=2)
    clbench.run(preset=found.preset_path, seeds="1001-1002", jobs=1, tasks="0-")
    said = " ".join(capsys.readouterr().err.split())
    assert "were chosen by runs of seed 1001 too: report others" in said
    assert "were chosen on tasks 0-1: they are not left out" in said


def test_another_value_of_a_searched_field_is_untuned() -> None:
    found = tune("lwf", sequence="split-digits", epochs=1, trials=1, seeds="7-7")
    shared: dict[str, Any] = {"preset": found.preset_path, "seeds": "5-5", "jobs": 1, "quiet": True}
    for settings, tuned in (({"lwf.weight": 5}, False), ({"lwf.scope": "joined"}, True)):
        results = clbench.run(settings=settings, **shared)
        assert ("trials" in results.records[0].spec["preset"]["tuning"]) == tuned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "first-task"}, "unknown protocol 'first-task', did you mean first-tasks"),
        ({"protocol": "none@tasks=3"}, "first-tasks alone has a setting"),
        ({"protocol": "first-tasks@tasks=5"}, "Shown has 5 tasks, and some must be left to report on"),
        ({"validation": 0}, "--validation 0 leaves nothing to choose settings by"),
        ({"protocol": "none", "search": {"./made_up.py:Peak.at": "1..2"}}, "--protocol none searches nothing"),
        ({"search": {"./made_up.py:Peak.att": "1..2"}}, "has no field 'att', did you mean at"),
        ({"search": {"./made_up.py:Peak.at": "0..2"}}, "Peak.at=0.0: the value should be greater than 0"),
        ({"search": {"./made_up.py:Peak.at": "2..1"}}, "the range 2..1 runs backwards"),
        ({"search": {"./made_up.py:Peak.kind": "1..2"}}, "Peak.kind=1.0: the value should be a valid string"),
        ({"search": {"lwf.weight": "1..2"}}, "--search lwf.… names nothing that is tuned here"),
        ({"search": {"weight": "1..2"}}, "cannot read --search 'weight': write NAME.FIELD=SPACE"),
        ({"search": "ewc.strength=1..2"}, "spaces are written as"),
        ({"methods": "./made_up.py:Peak@at=3", "search": {"./made_up.py:Peak.at": "1..2"}}, "leave one out"),
        ({"lr": 0.1, "search": {"training.lr": "1..2"}}, "training.lr has a value, and is to be searched too"),
        ({"search": {"training.validation": "0.1,0.2"}}, "give it as --validation"),
        (
            {"methods": "hat", "sequence": "split-digits", "scenario": "class"},
            "hat is not defined for the scenario class",
        ),
        ({"settings": {"lwf.weight": 1}}, "--set lwf.… names nothing in this sweep"),
        ({"settings": {"./made_up.py:Peak.at": [1, 2]}}, "is a grid: write --search"),
        ({"sequence": "split-digits,split-mnist"}, "--sequence names several: tune one at a time"),
        ({"search_by": "bayes"}, "search_by=bayes: the value should be 'tpe', 'random' or 'grid'"),
        ({"search_by": "grid", "trials": 1}, "a grid over at has 2 points at least"),
        ({"preset": "note"}, "tune has no option 'preset'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_done_is_one_line(options: dict[str, Any], message: str, made_up: Path) -> None:
    with pytest.raises(UsageError) as error:
        tune(**options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not (made_up / "results").exists()

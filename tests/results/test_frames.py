"""Records → results: what is read, what the numbers are, and what is averaged."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import FINETUNE, JOINT, LWF, record, three_methods

from clbench.errors import UsageError
from clbench.results.frames import Results, load
from clbench.results.store import RunRecord, Store


def mean_of(results: Results, label: str, metric: str) -> float:
    summary = results.summary()
    (mean,) = summary[(summary["label"] == label) & (summary["metric"] == metric)]["mean"]
    return mean


# Reading


def test_load_names_and_skips_damaged_records(tmp_path: Path) -> None:
    for good in three_methods():
        Store(tmp_path).write(good)
    (tmp_path / "half.json").write_text('{"schema": 1, "key"')
    (tmp_path / "other.json").write_text("[]")
    results = load(tmp_path)
    assert len(results) == 6
    assert [problem.split(":")[0] for problem in results.problems] == ["skipped half.json", "skipped other.json"]


def test_load_refuses_folders_without_records(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder of records at .*missing"):
        load(tmp_path / "missing")
    with pytest.raises(UsageError, match="no records in"):
        load(tmp_path)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match=r"none of the 1 records .* can be read; the first, bad\.json"):
        load(tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        load(tmp_path / "bad.json")


# Numbers


def test_summary_is_tidy_and_right() -> None:
    summary = Results(three_methods()).summary()
    columns = ["sequence", "scenario", "model", "method", "label", "metric", "n", "mean", "std", "ci_low", "ci_high"]
    assert list(summary.columns) == columns
    rows = summary[summary["label"] == "finetune"].set_index("metric")
    expected = {
        "average_accuracy": (0.75 + 0.8) / 2,
        "anytime_accuracy": ((0.9 + 0.75) / 2 + (1.0 + 0.8) / 2) / 2,
        "learning_accuracy": (0.95 + 0.9) / 2,
        "forgetting": (0.4 + 0.2) / 2,
        "backward_transfer": (-0.4 - 0.2) / 2,
        "intransigence": ((0.95 - 0.95) + (1.0 - 0.9)) / 2,  # paired by seed
    }
    assert rows["mean"].to_dict() == pytest.approx(expected)  # and forward transfer, undefined here, has no row
    assert (rows["n"] == 2).all()
    forgetting = rows.loc["forgetting"]
    assert forgetting["std"] == pytest.approx(0.2 / 2**0.5)
    half = 12.7062 * 0.1  # t with one degree of freedom, times the standard error
    assert (forgetting["ci_low"], forgetting["ci_high"]) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-4)


def test_frame_has_a_row_per_run_and_defined_metric() -> None:
    frame = Results(three_methods()).frame
    assert list(frame.columns) == ["sequence", "scenario", "model", "method", "label", "seed", "metric", "value"]
    assert len(frame) == 6 * 6
    (value,) = frame[(frame["label"] == "lwf") & (frame["seed"] == 1) & (frame["metric"] == "forgetting")]["value"]
    assert value == pytest.approx(0.1)


def test_primary_view_follows_the_scenario() -> None:
    results = Results([record("lwf", 0), record("lwf", 0, scenario="class")])
    runs = results.runs.set_index("scenario")
    assert runs["average_accuracy"].to_dict() == pytest.approx({"class": 0.45, "task": 0.9})
    assert runs["task_aware_accuracy"].to_dict() == pytest.approx({"class": 0.9, "task": 0.9})
    assert runs["task_agnostic_accuracy"].to_dict() == pytest.approx({"class": 0.45, "task": 0.45})


def test_forward_transfer_where_tasks_to_come_are_answered() -> None:
    results = Results([record("lwf", R=[[0.1, 0.3], [0.9, 0.4], [0.8, 0.9]], scenario="domain")])
    assert mean_of(results, "lwf", "forward_transfer") == pytest.approx(0.1 / 2)  # halved in the primary view


def test_runs_hold_costs_and_failures() -> None:
    failed = record("lwf", 2, error="the loss became nan in task 1\n\nTraceback …")
    results = Results([*three_methods(), failed])
    runs = results.runs.set_index(["label", "seed"])
    assert len(results) == len(runs) == 7
    assert results.failed == [failed]
    good = runs.loc[("lwf", 1)]
    expected = {
        "status": "ok",
        "train_seconds": 2.5,
        "evaluate_seconds": 1.5,
        "updates": 200,
        "images": 3200,
        "forward_passes": 3200,
        "backward_passes": 3000,
        "parameters": 1000,
        "stored_bytes": 2048,
        "stored_images": 8,
        "device": "cpu",
        "weights_hash": "cd" * 32,
    }
    assert good[list(expected)].to_dict() == expected
    bad = runs.loc[("lwf", 2)]
    assert (bad["status"], bad["error"]) == ("failed", "the loss became nan in task 1")
    assert pd.isna(bad["average_accuracy"])
    assert pd.isna(bad["updates"])
    assert mean_of(results, "lwf", "average_accuracy") == pytest.approx((0.9 + 0.85) / 2)


def test_accuracy_gives_the_matrices() -> None:
    results = Results([*three_methods(), record("lwf", 0, sequence_label="split-mnist")])
    matrices = results.accuracy("finetune")
    np.testing.assert_array_equal(matrices, np.array(FINETUNE, dtype=float))
    np.testing.assert_array_equal(results.accuracy("finetune", view="task_agnostic"), matrices / 2)
    assert results.accuracy("lwf", sequence="split-digits").shape == (2, 3, 2)
    with pytest.raises(UsageError, match=r"ambiguous.*'lwf' on split-digits.*'lwf' on split-mnist"):
        results.accuracy("lwf")
    with pytest.raises(UsageError, match=r"'ewc' is not among.*'finetune' on split-digits"):
        results.accuracy("ewc")
    with pytest.raises(UsageError, match="task_aware, task_agnostic"):
        results.accuracy("finetune", view="both")  # type: ignore[arg-type]


# What is averaged, and what is compared


@pytest.mark.parametrize(
    ("changes", "suffixes"),
    [
        ({"code": {"method": "1a2b3c" + "0" * 58}}, ("code 1a2b3c", "code built-in")),
        ({"params": {"of": "lwf", "temperature": 4}}, ("params.temperature=4", "params.temperature=null")),
    ],
)
def test_different_configurations_are_never_averaged(changes: dict, suffixes: tuple[str, str]) -> None:
    results = Results([record("lwf", 0), record("lwf", 1, LWF[1], **changes)])
    assert set(results.summary()["n"]) == {1}
    assert sum("are not averaged" in warning for warning in results.warnings) == 1
    assert all(label in results.warnings[0] for label in results.labels)
    assert sorted(results.labels) == sorted(f"lwf [{suffix}]" for suffix in suffixes)


@pytest.mark.parametrize(
    ("changes", "suffixes"),
    [
        ({"training": {"epochs": 10, "iterations": None, "lr": 0.01}}, ("training.lr=0.01", "training.lr=0.1")),
        ({"device": "cuda"}, ("device=cpu", "device=cuda")),
        ({"data": "cd" * 32}, ("data ababab", "data cdcdcd")),
        ({"numbers": 2}, ("numbers=1", "numbers=2")),
        ({"class_order_rule": "given"}, None),
    ],
)
def test_runs_on_unequal_terms_are_not_compared(changes: dict, suffixes: tuple[str, str] | None) -> None:
    results = Results([record("lwf", 0), record("finetune", 0, FINETUNE[0], **changes)])
    assert [[group.label for group in place.groups] for place in results.comparisons] in (
        [["lwf"], ["finetune"]],
        [["finetune"], ["lwf"]],
    )
    (line,) = results.warnings
    assert "runs on unequal terms are not compared with each other, but in 2 comparisons: " in line
    if suffixes:
        assert {place.model for place in results.comparisons} == {f"mlp [{suffix}]" for suffix in suffixes}
        assert all(suffix in line for suffix in suffixes)


def test_methods_on_equal_terms_are_compared_without_a_word() -> None:
    longer = {"training": {"epochs": 20, "iterations": None, "lr": 0.1}}
    equal = Results([record("lwf", **longer), record("joint", weights_hash="ef" * 32, **longer)])
    assert equal.labels == ["joint", "lwf"]
    assert len(equal.comparisons) == 1
    assert equal.warnings == []


def test_class_orders_of_seeds_are_averaged_and_given_ones_are_not() -> None:
    drawn = [record("lwf", seed, class_order=[seed]) for seed in (0, 1)]
    given = [record("lwf", seed, class_order=[seed], class_order_rule="given") for seed in (0, 1)]
    assert set(Results(drawn).summary()["n"]) == {2}
    assert set(Results(given).summary()["n"]) == {1}


def test_intransigence_needs_the_joint_run_of_the_same_everything() -> None:
    def defined(*others: RunRecord) -> bool:
        frame = Results([record("lwf", 0), *others]).frame
        return "intransigence" in set(frame[frame["label"] == "lwf"]["metric"])

    joint = record("joint", 0, JOINT[0])
    assert defined(joint)
    assert defined(joint, record("joint@mode=final", 0))
    assert not defined(record("joint@mode=final", 0))
    assert not defined(record("joint", 1, JOINT[1], class_order=[0, 1]))
    assert not defined(record("joint", 0, JOINT[0], training={"epochs": 1}))
    assert not defined(record("joint", 0, JOINT[0], class_order=[7, 8]))
    assert not defined(record("joint", 0, error="failed"))
    assert not defined(joint, record("joint", 0, JOINT[0], code={"method": "ab"}))  # two candidates


def test_missing_seeds_are_said() -> None:
    results = Results([*three_methods(), record("lwf", 7)])
    (line,) = results.warnings
    assert line.endswith(": finetune, joint have no finished run of seed 7, which other methods have")


def test_methods_without_any_finished_run_are_one_line() -> None:
    failed = [record(f"m{number}", seed, error="no") for number in range(11) for seed in (0, 1)]
    results = Results([*three_methods(), *failed])
    (line,) = results.warnings
    assert line.endswith(f": {', '.join(f'm{number}' for number in range(11))} have no finished run")
    assert Results(failed).warnings == []


def test_a_failed_run_is_shown_in_a_short_line() -> None:
    (shown,) = Results([record("lwf", 3, error="DivergedError: the loss is NaN\n\nTraceback …")]).failed
    assert repr(shown) == "<RunRecord: lwf, split-digits, task, mlp, seed 3: failed, DivergedError: the loss is NaN>"
    assert repr(record("lwf", 0)) == "<RunRecord: lwf, split-digits, task, mlp, seed 0: ok>"


def test_a_second_record_of_a_seed_is_left_out_and_said() -> None:
    results = Results([record("lwf", 0), record("lwf", 0, class_order=[8, 9]), record("lwf", 1)])
    assert results.accuracy("lwf").shape[0] == 2
    assert any("left out" in warning for warning in results.warnings)


def test_order_is_the_callers_or_by_name() -> None:
    records = [record(label) for label in ("lwf@weight=10", "joint", "lwf@weight=2", "finetune")]
    assert Results(records).labels == ["finetune", "joint", "lwf@weight=2", "lwf@weight=10"]
    assert Results(records, order=["lwf@weight=10", "joint"]).labels[:2] == ["lwf@weight=10", "joint"]


def test_validation_accuracy_of_a_run() -> None:
    R = [[x if x is None else x / 2 for x in row] for row in LWF[0]]
    half = {"task_aware": R, "task_agnostic": R}
    runs = Results([record("lwf", R=LWF[0], validation=half), record("finetune", R=FINETUNE[0])]).runs
    found = runs.set_index("label")["validation_accuracy"]
    assert found["lwf"] == pytest.approx(0.45)
    assert np.isnan(found["finetune"])

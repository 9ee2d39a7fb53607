"""What classes were taken for: shares, orders and what is left out, on counts made by hand."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from made_up import N, record, sealed

from clbench.errors import ClbenchError, UsageError
from clbench.results.frames import Results
from clbench.results.record import RunRecord, parse_record, record_text

R = [[N, N], [1.0, N], [0.5, 0.75]]
# two tasks of two classes, four images each; classes 7 and 3, then 1 and 5
COUNTS: list[dict[int, int]] = [{0: 1, 3: 1}, {1: 1, 2: 1}, {2: 1, 0: 1}, {3: 2}]
OTHER: list[dict[int, int]] = [{0: 2}, {3: 2}, {2: 2}, {3: 1, 2: 1}]


def counted(seed: int = 0, classes: Any = ((7, 3), (1, 5)), counts: Any = COUNTS, **changes: Any) -> RunRecord:
    own = {"classes": [list(block) for block in classes], "counts": counts}
    both = {view: R for view in ("task_aware", "task_agnostic")}
    options = {"scenario": "class", "test_images": [4, 4], "accuracy": both, "confusion": own} | changes
    return record("lwf", seed, R, **options)


def damaged(**entries: Any) -> bytes:
    good = counted()
    content = dataclasses.asdict(good) | {"confusion": (good.confusion or {}) | entries}
    return sealed(json.loads(json.dumps(content)))


def test_it_is_written_and_read() -> None:
    assert parse_record(record_text(counted()).encode()) == counted()
    expected = [[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 2]]
    np.testing.assert_array_equal(counted().confusion_matrix(), expected)
    with pytest.raises(ClbenchError, match="seed 0: it does not say what classes were taken for"):
        record("lwf").confusion_matrix()


def test_labels_that_all_tasks_share_are_of_one_block() -> None:
    shared = counted(classes=[[0, 1]], counts=[{0: 3, 1: 1}, {0: 2, 1: 2}], scenario="domain")  # 5 of 8: 0.5, 0.75
    assert parse_record(record_text(shared).encode()) == shared


@pytest.mark.parametrize(
    "entries",
    [
        {"counts": COUNTS[:3]},  # a class has no row
        {"counts": [*COUNTS, {}]},
        {"counts": [{0: 1, 4: 1}, *COUNTS[1:]]},  # an answer that is no class
        {"counts": [{0: 1, -1: 1}, *COUNTS[1:]]},
        {"counts": [{0: 1, 3: 2}, *COUNTS[1:]]},  # five images of a task of four
        {"counts": [{1: 1, 3: 1}, *COUNTS[1:]]},  # another accuracy
        {"counts": [{0: 2}, *COUNTS[1:]]},
        {"counts": [{0: 1, 3: 1, 2: 0}, *COUNTS[1:]]},
        {"counts": [{0: 1, 3: 2, 2: -1}, *COUNTS[1:]]},
        {"counts": [{"a": 1, 3: 1}, *COUNTS[1:]]},
        {"counts": [{0: 1.0, 3: 1}, *COUNTS[1:]]},
        {"counts": [[0, 1], *COUNTS[1:]]},
        {"classes": [[7, 3, 1, 5]]},  # tasks are not told apart
        {"classes": [[7, 3], [1]]},
        {"classes": [[7, 3], ["1", 5]]},
        {"more": []},
    ],
)
def test_damage_is_named(entries: Any) -> None:
    with pytest.raises(ClbenchError, match="confusion") as caught:
        parse_record(damaged(**entries))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", [{"probe": [0.5]}, {"probe": [0.5, 1.5]}, {"probe": [0.5, 0.5], "spec": {}}])
def test_a_probe_that_does_not_fit_is_named(entry: Any) -> None:
    probed = record("lwf", R=R, probe=[0.5, 0.75])
    probed = dataclasses.replace(probed, spec=probed.spec | {"probe": True})
    assert parse_record(record_text(probed).encode()) == probed
    if "spec" in entry:
        entry = entry | {"spec": record("lwf").spec}  # which asks for no probe
    with pytest.raises(ClbenchError, match="probe"):
        parse_record(sealed(dataclasses.asdict(probed) | entry))


def test_accuracy_and_shares_of_classes() -> None:
    found = Results([counted(0), counted(1, [[1, 5], [7, 3]], OTHER)]).confusion("lwf")
    assert found.counts.shape == (2, 4, 4)
    np.testing.assert_array_equal(found.classes, [[7, 3, 1, 5], [1, 5, 7, 3]])
    assert found.tasks == [2, 2]
    np.testing.assert_allclose(found.accuracy, [[0.5, 0.5, 0.5, 1], [1, 0, 1, 0.5]])
    np.testing.assert_allclose(found.shares[0, 0], [0.5, 0, 0, 0.5])


def test_by_class_each_row_and_column_is_one_class_whenever_it_came() -> None:
    found = Results([counted(0), counted(1, [[1, 5], [7, 3]], OTHER)]).confusion("lwf").by_class()
    # classes 1, 3, 5, 7; seed 0: 7 is taken for 7 and 5, 3 for 3 and 1, 1 for 1 and 7, 5 for 5
    np.testing.assert_array_equal(found[0], [[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 2, 0], [0, 0, 1, 1]])
    # seed 1: 1 is right, 5 is taken for 3, 7 is right, 3 for 3 and 7
    np.testing.assert_array_equal(found[1], [[2, 0, 0, 0], [0, 1, 0, 1], [0, 2, 0, 0], [0, 0, 0, 2]])


def test_classes_that_come_in_several_tasks_have_several_places() -> None:
    found = Results([counted(0, [[0, 1], [0, 1]])]).confusion("lwf")
    with pytest.raises(UsageError, match="tasks share classes here"):
        found.by_class()


def test_a_class_without_images_has_no_accuracy() -> None:
    found = Results([counted(counts=[{0: 2, 3: 2}, {}, {2: 1, 0: 1}, {3: 2}])]).confusion("lwf")
    np.testing.assert_allclose(found.accuracy, [[0.5, np.nan, 0.5, 1]])


def test_runs_without_counts_are_left_out_and_named() -> None:
    results = Results([counted(0), counted(1, confusion=None), counted(2, [[7], [3, 1, 5]])])
    assert results.confusion("lwf").counts.shape[0] == 1
    (said,) = [line for line in results.warnings if "counts of classes" in line]
    assert said.endswith("lwf: seeds 1, 2 without counts of classes, left out of what is shown by class")
    older = Results([counted(0, confusion=None)])
    assert older.warnings == []
    with pytest.raises(UsageError, match="'lwf' on split-digits, class scenario, mlp: no record says what classes"):
        older.confusion("lwf")
    with pytest.raises(UsageError, match="'ewc' is not among the finished runs"):
        older.confusion("ewc")


# The probe


def probed(label: str, seed: int, accuracies: Any, **changes: Any) -> RunRecord:
    return record(label, seed, R, probe=accuracies, **changes) if accuracies else record(label, seed, R, **changes)


def test_the_probe_is_a_metric() -> None:
    results = Results([probed("lwf", 0, [0.5, 1.0]), probed("lwf", 1, [0.25, 0.5]), probed("ewc", 0, None)])
    summary = results.summary()
    rows = summary[summary["metric"] == "linear_probe_accuracy"]
    assert rows[["label", "n", "mean"]].to_numpy().tolist() == [["lwf", 2, (0.75 + 0.375) / 2]]
    assert "split-digits, task, mlp: ewc: seed 0 without a probe, left out of what is shown of it" in results.warnings


def test_runs_with_and_without_the_probe_are_the_same_runs() -> None:
    """One of a seed counts: that with the probe. Fine-tuning with it is compared with methods without."""
    plain, other = probed("lwf", 0, None), probed("joint", 0, None)
    both = [plain, probed("lwf", 0, [0.5, 1.0], asked="once more"), other]
    both[1] = dataclasses.replace(both[1], spec=plain.spec | {"probe": True}, key="b1")
    joint = dataclasses.replace(other, spec=other.spec | {"probe": True}, key="b2", probe=[1.0, 1.0])
    results = Results([*both, joint])
    (comparison,) = results.comparisons
    assert [[run.key for run in group.runs] for group in comparison.groups] == [["b2"], ["b1"]]
    assert not results.runs["intransigence"].isna().any()

"""What methods are said to be against each other, from made-up records whose numbers are known."""

from typing import Any

import numpy as np
import pytest
from made_up import ENDS, ending_at, record
from scipy import stats

from clbench.errors import UsageError
from clbench.results.analysis import (
    COMPARED,
    best,
    differences,
    gap_recovered,
    ranks,
    tasks_in_words,
    unequal_budgets,
)
from clbench.results.frames import Results
from clbench.results.record import RunRecord

FINETUNE, LWF, JOINT = ENDS.values()
MAS = [value + 0.005 for value in LWF]


@pytest.fixture
def results() -> Results:
    return Results([one for label, finals in ENDS.items() for one in ending_at(label, finals)])


def test_differences_are_paired_by_seed_and_corrected(results: Results) -> None:
    frame = differences(results).set_index("label")
    expected = {label: stats.ttest_rel(values, FINETUNE) for label, values in (("lwf", LWF), ("joint", JOINT))}
    assert set(frame.index) == {"lwf", "joint"}
    assert (frame["baseline"] == "finetune").all()
    p = {label: test.pvalue for label, test in expected.items()}
    larger, smaller = sorted(p, key=lambda label: -p[label])
    for label, test in expected.items():
        low, high = test.confidence_interval(0.95)
        line = frame.loc[label]
        assert line[["n", "difference", "ci_low", "ci_high", "p"]].tolist() == pytest.approx(
            [6, np.mean(np.subtract({"lwf": LWF, "joint": JOINT}[label], FINETUNE)), low, high, test.pvalue]
        )
        assert line["effect_size"] == pytest.approx(test.statistic / 6**0.5)
        assert line["verdict"] == "better"
    assert frame.loc[smaller, "p_holm"] == pytest.approx(2 * p[smaller])
    assert frame.loc[larger, "p_holm"] == pytest.approx(max(p[larger], 2 * p[smaller]))
    assert (differences(results, "forgetting")["verdict"] == "better").all()  # less of it
    assert (differences(results, baseline="joint")["verdict"] == "worse").all()
    exact = differences(results, test="wilcoxon")["p"]
    assert exact.tolist() == [2 / 2**6] * 2  # all six in one direction


def test_only_shared_seeds_are_paired() -> None:
    frame = differences(Results([*ending_at("finetune", FINETUNE), *ending_at("lwf", LWF)[2:4]]))
    assert frame["n"].tolist() == [2]
    assert frame["difference"].tolist() == pytest.approx([(0.18 + 0.09) / 2])
    assert differences(Results([*ending_at("finetune", FINETUNE)[:3], *ending_at("lwf", LWF)[3:]])).empty


def test_below_five_seeds_there_is_an_interval_and_no_verdict() -> None:
    one = differences(Results([*ending_at("finetune", [0.8]), *ending_at("lwf", [0.9])]))
    assert one[["p", "p_holm", "ci_low"]].isna().all(axis=None)
    four = differences(Results([*ending_at("finetune", FINETUNE[:4]), *ending_at("lwf", LWF)]))
    assert [*one["verdict"], *four["verdict"]] == ["too few seeds"] * 2
    assert four[["p", "p_holm"]].isna().all(axis=None)
    gained = np.subtract(LWF[:4], FINETUNE[:4])
    low, high = stats.ttest_1samp(gained, 0).confidence_interval(0.95)
    assert four[["ci_low", "ci_high"]].iloc[0].tolist() == pytest.approx([low, high])
    five = differences(Results([*ending_at("finetune", FINETUNE[:5]), *ending_at("lwf", LWF[:5])]))
    assert five["verdict"].tolist() == ["better"]


def test_a_difference_of_less_than_a_test_image_is_never_better() -> None:
    """The accuracies are of 50 images a task; of the two tasks one image is worth a point, and of forgetting two."""
    plain = [0.80, 0.82, 0.85, 0.87, 0.90, 0.93, 0.71, 0.66, 0.75, 0.97]
    for images, verdict in (([1, 1, 1, 0, 1, 1, 1, 1, 1, 1], "less than one image"), ([1] * 9 + [2], "better")):
        gained = [end + 0.01 * count for end, count in zip(plain, images, strict=True)]
        results = Results([*ending_at("finetune", plain), *ending_at("lwf", gained)])
        for metric in COMPARED:
            (line,) = differences(results, metric).itertuples()
            assert line.p_holm < 0.001
            assert line.verdict == verdict


def test_a_small_difference_that_may_be_chance_is_undecided() -> None:
    frame = differences(
        Results([*ending_at("finetune", FINETUNE), *ending_at("lwf", [0.81, 0.85, 0.71, 0.89, 0.77, 0.81])])
    )
    assert frame["verdict"].tolist() == ["undecided"]


def test_one_pair_that_wilcoxon_cannot_test_leaves_the_others() -> None:
    rows = [*ending_at("finetune", FINETUNE), *ending_at("lwf", LWF), *ending_at("si", LWF[:5])]
    frame = differences(Results(rows), test="wilcoxon").set_index("label")
    assert frame["verdict"].to_dict() == {"lwf": "better", "si": "no test"}
    assert frame.loc["lwf", "p_holm"] == 2 / 2**6


def test_the_baseline_is_fine_tuning_or_the_one_asked_for() -> None:
    rows = [*ending_at("EWC", LWF, method="ewc"), *ending_at("none", FINETUNE, method="finetune")]
    assert differences(Results(rows))["baseline"].tolist() == ["none"]
    assert differences(Results(rows), baseline="EWC")["label"].tolist() == ["none"]
    assert differences(Results(ending_at("b", LWF) + ending_at("a", LWF)))["baseline"].tolist() == ["a"]
    with pytest.raises(UsageError, match="no finished run of 'si': choose from EWC, none"):
        differences(Results(rows), baseline="si")
    with pytest.raises(UsageError, match=r"no metric 'accuracy', did you mean .*average_accuracy"):
        differences(Results(rows), "accuracy")


def test_gap_recovered_is_a_ratio_of_means(results: Results) -> None:
    (line,) = gap_recovered(results).itertuples()
    gained, gap = np.subtract(LWF, FINETUNE), np.subtract(JOINT, FINETUNE)
    assert line.label == "lwf"
    assert line.gap_recovered == pytest.approx(gained.mean() / gap.mean())
    for bound in (line.ci_low, line.ci_high):
        assert stats.ttest_1samp(gained - bound * gap, 0.0).pvalue == pytest.approx(0.05)


def test_gap_is_undefined_where_there_may_be_none() -> None:
    flat = Results([*ending_at("finetune", FINETUNE), *ending_at("lwf", LWF), *ending_at("joint", FINETUNE[::-1])])
    assert gap_recovered(flat)["gap_recovered"].isna().all()
    assert gap_recovered(Results(ending_at("lwf", LWF))).empty


def test_no_gap_is_recovered_where_joint_training_is_worse() -> None:
    rows = [
        *ending_at("finetune", LWF),
        *ending_at("lwf", FINETUNE),
        *ending_at("joint", [value - 0.3 for value in LWF]),
    ]
    assert gap_recovered(Results(rows))["gap_recovered"].isna().all()


def test_ranks_need_five_sequences() -> None:
    def sequences(count: int) -> Results:
        rows = []
        for number in range(count):
            shift = 0.01 * number
            for label, values in (("finetune", FINETUNE), ("lwf", LWF), ("joint", JOINT), ("mas", MAS)):
                finals = [value - shift for value in values]
                rows += ending_at(label, finals, sequence_label=f"split-{number}")
        return Results([*rows, *ending_at("si", LWF, sequence_label="split-0")])

    assert ranks(sequences(4)) == []
    (found,) = ranks(sequences(6))
    assert (found.scenario, found.sequences) == ("task", 6)
    assert dict(zip(found.labels, found.ranks, strict=True)) == {
        "finetune": 3,
        "lwf": 2,
        "mas": 1,
    }  # si is not in all, and joint training does not compete
    assert found.critical_difference == pytest.approx(2.343 * (3 * 4 / (6 * 6)) ** 0.5, abs=1e-3)
    (lowest,) = ranks(sequences(6), "forgetting")
    assert dict(zip(lowest.labels, lowest.ranks, strict=True)) == {"finetune": 3, "lwf": 2, "mas": 1}


def test_models_of_one_sequence_are_no_sequences() -> None:
    rows = []
    for number in range(5):
        for model in ("mlp", "cnn"):
            for label, values in (("finetune", FINETUNE), ("lwf", LWF)):
                rows += ending_at(label, values, sequence_label=f"split-{number}", model_label=model)
    (found,) = ranks(Results(rows))
    assert found.sequences == 5


def test_best_says_what_it_could_not_test(results: Results) -> None:
    (place,) = results.comparisons
    first, ties, untested = best(results, place, "average_accuracy")
    assert first is not None
    assert first.label == "lwf"  # joint training, the upper bound, does not compete
    assert ties == untested == []
    apart = Results([*ending_at("finetune", FINETUNE[:3]), *ending_at("lwf", LWF)[3:]])
    (place,) = apart.comparisons
    assert best(apart, place, "average_accuracy").untested == [place.groups[0]]


def test_unequal_budgets_are_said() -> None:
    rows = [*ending_at("finetune", FINETUNE), *ending_at("lwf", LWF)]
    (place,) = Results(rows).comparisons
    assert unequal_budgets(place) == []
    greedy = [
        RunRecord(**{**vars(one), "updates": [300, 100], "images": [1600, 1600]}) for one in ending_at("joint", JOINT)
    ]
    (place,) = Results([*rows, *greedy]).comparisons
    assert unequal_budgets(place) == ["Joint training took 2.00 times the updates of most methods"]


def test_what_guessing_scores_is_told_where_classes_are_shared() -> None:
    def told(**changes: Any) -> str:
        (comparison,) = Results([record("lwf", **{"class_order": list(range(10)), **changes})]).comparisons
        return tasks_in_words(comparison)

    assert told() == "2 tasks of 5 classes; guessing is right in 20 %."
    assert told(scenario="domain") == told()
    assert told(scenario="class") == "2 tasks of 5 classes; guessing is right in 10 %."
    assert told(sequence="permuted-mnist", class_order=None) == ""
    assert told(sequence="npz:a.npz") == told()
    R = [[None] * 4, *([0.9] * (i + 1) + [None] * (3 - i) for i in range(4))]
    unequal = {"R": R, "sequence_params": {"classes": "5+1+2x2"}}  # right in 1/5, 1, 1/2 and 1/2
    assert told(**unequal) == "4 tasks of 5+1+2x2 classes; guessing is right in 55 %."
    assert told(**unequal, scenario="class") == "4 tasks of 5+1+2x2 classes; guessing is right in 10 %."
    assert told(sequence="split-mine", code={"sequence": "ab"}) == ""

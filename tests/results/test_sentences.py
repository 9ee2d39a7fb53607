"""What is said of methods in sentences, from made-up records whose numbers are known."""

from typing import Any

import pandas as pd
import pytest
from made_up import ENDS, ending_at, record
from scipy import stats

from clbench.errors import UsageError
from clbench.results.analysis import differences
from clbench.results.frames import Results
from clbench.results.record import RunRecord
from clbench.results.sentences import compare, findings, tasks_in_words, unequal_budgets

FINETUNE, LWF, JOINT = ENDS.values()


@pytest.fixture
def results() -> Results:
    return Results([one for label, finals in ENDS.items() for one in ending_at(label, finals)])


def said_of(results: Results) -> list[str]:
    (place,) = results.comparisons
    frame = pd.concat([differences(results, metric) for metric in ("average_accuracy", "forgetting")])
    return findings(results, place, list(frame.itertuples()))


def test_findings_name_the_best_beside_the_upper_bound_and_the_baseline(results: Results) -> None:
    told = said_of(results)
    assert told[0].startswith("Highest average accuracy: LwF, 94.50 ± ")
    assert "Joint training, which sees all data: 98.83 ± " in told[0]
    assert "paired difference +14.17 points" in told[0]
    assert told[1].startswith("Least forgetting: LwF, 11.00 ± ")
    assert told[2] == "A run of LwF trains for 2.5 s, as long as one of Fine-tuning."


def test_what_was_not_tested_is_not_called_told_apart() -> None:
    said = said_of(Results([*ending_at("finetune", FINETUNE[:3]), *ending_at("lwf", LWF)[3:]]))
    assert "There is no test against Fine-tuning" in said[0]
    assert "from every other" not in " ".join(said)


def test_compare_answers_in_a_line_per_comparison(results: Results) -> None:
    (line,) = compare(results, "lwf", "finetune")
    test = stats.ttest_rel(LWF, FINETUNE)
    low, high = (100 * bound for bound in test.confidence_interval(0.95))
    assert line == (
        "split-digits, task scenario, mlp: lwf is better than finetune in average accuracy: +14.17 points "
        f"(95 % interval {low:+.2f} to {high:+.2f}, p = {test.pvalue:.2g}, 6 seeds)"
        if test.pvalue >= 0.001
        else "split-digits, task scenario, mlp: lwf is better than finetune in average accuracy: +14.17 points "
        f"(95 % interval {low:+.2f} to {high:+.2f}, p < 0.001, 6 seeds)"
    )
    (worse,) = compare(results, "finetune", "lwf", "forgetting")
    assert "finetune is worse than lwf in forgetting: +28.33 points" in worse
    same = Results([*ending_at("a", LWF), *ending_at("b", LWF)])
    assert "a can't be told from b" in compare(same, "a", "b")[0]
    two = Results(
        [
            *ending_at("lwf", LWF),
            *ending_at("si", FINETUNE),
            *ending_at("lwf", LWF, scenario="class"),
            *ending_at("si", JOINT, scenario="class"),
        ]
    )
    assert all("by Holm" in line for line in compare(two, "lwf", "si"))
    for a, b, metric, problem in (
        ("lwf", "lwf", "forgetting", "compared with itself"),
        ("lwf", "sii", "forgetting", "no finished run of 'sii'"),
        ("lwf", "joint", "forward_transfer", "no finished runs of the same seeds, with forward_transfer defined"),
    ):
        with pytest.raises(UsageError, match=problem):
            compare(results, a, b, metric)


def test_unequal_budgets_are_said() -> None:
    rows = [*ending_at("finetune", FINETUNE), *ending_at("lwf", LWF)]
    (place,) = Results(rows).comparisons
    assert unequal_budgets(place) == []
    greedy = [
        RunRecord(**{**vars(one), "updates": [300, 100], "images": [1600, 1600]}) for one in ending_at("joint", JOINT)
    ]
    (place,) = Results([*rows, *greedy]).comparisons
    assert unequal_budgets(place) == ["Joint training took 2.00 times the updates of most methods"]


def test_what_guessing_scores_is_told_of_split_sequences() -> None:
    def told(**changes: Any) -> str:
        (comparison,) = Results([record("lwf", class_order=list(range(10)), **changes)]).comparisons
        return tasks_in_words(comparison)

    assert told() == "2 tasks of 5 classes; guessing is right in 20 %."
    assert told(scenario="domain") == told()
    assert told(scenario="class") == "2 tasks of 5 classes; guessing is right in 10 %."
    assert told(sequence="permuted-mnist") == ""
    assert told(sequence="split-mine", code={"sequence": "ab"}) == ""

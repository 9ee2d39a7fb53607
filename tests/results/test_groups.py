"""Which runs are averaged, and what is said of those that cannot be."""

from typing import Any

import numpy as np
import pytest
from made_up import N, ending_at, record, with_curve

from clbench.results.analysis import differences
from clbench.results.frames import Results
from clbench.results.record import RunRecord
from clbench.results.sentences import compare


def test_a_seed_that_collapsed_is_pointed_out() -> None:
    results = Results([*ending_at("lwf", [0.95, 0.96, 0.55, 0.95, 0.97]), *ending_at("si", [0.95] * 5)])
    (line,) = results.warnings
    assert "lwf collapsed with seed 2: average accuracy 55.0 %, the median of its 5 seeds is 95.0 %" in line


def test_curves_give_the_lowest_accuracy_on_the_way() -> None:
    results = Results([with_curve("lwf", 0, 0.3), with_curve("lwf", 1, 0.5)])
    means = results.summary().set_index("metric")["mean"]
    assert means["minimum_accuracy"] == pytest.approx(0.4)
    assert means["worst_case_accuracy"] == pytest.approx((1.0 + 0.4) / 2)
    (group,) = results.comparisons[0].groups
    curves = group.curves("task_aware")
    assert curves is not None
    assert curves.updates.tolist() == [50, 100, 150, 200]
    assert curves.tasks.tolist() == [1, 1, 2, 2]
    assert curves.accuracy[:, :, 0].tolist() == [[0.7, 0.9, 0.3, 0.8], [0.7, 0.9, 0.5, 0.8]]
    assert np.isnan(curves.accuracy[:, :2, 1]).all()


def test_curves_of_tasks_of_different_sizes_are_paired_by_number() -> None:
    long, short = with_curve("lwf", 0, 0.3), with_curve("lwf", 1, 0.5)
    assert short.curves
    cut = [{name: values[1:] for name, values in short.curves[0].items()}, short.curves[1]]
    cut[0] = {**cut[0], "updates": [40]}
    short = RunRecord(**{**vars(short), "updates": [40, 100], "curves": cut})
    curves = Results([long, short]).comparisons[0].groups[0].curves("task_aware")
    assert curves is not None
    assert curves.updates.tolist() == [70, 120, 170]  # ends of task 1 at 100 and 40; then 150 and 90, 200 and 140
    assert curves.tasks.tolist() == [1, 2, 2]
    assert curves.accuracy[:, :, 0].tolist() == [[0.9, 0.3, 0.8], [0.9, 0.5, 0.8]]


def test_runs_with_and_without_curves_are_the_same_run() -> None:
    plain = record("lwf", 0, [[N, N], [0.9, N], [0.8, 1.0]])
    results = Results([plain, with_curve("lwf", 0, 0.3), record("lwf", 1, [[N, N], [0.9, N], [0.8, 1.0]])])
    (line,) = results.warnings
    assert line.endswith("lwf: seed 1 without --eval-every 50, left out of curves within tasks")
    (group,) = results.comparisons[0].groups
    assert group.seeds == [0, 1]
    assert group.runs[0].curves
    curves = group.curves("task_aware")
    assert curves is not None
    assert curves.accuracy[:, :, 0].tolist() == [[0.7, 0.9, 0.3, 0.8]]  # of seed 0


def test_methods_without_curves_beside_others_are_said() -> None:
    results = Results([with_curve("lwf", 0, 0.3), record("finetune", 0)])
    assert results.warnings[0].endswith("finetune: seed 0 without --eval-every, left out of curves within tasks")
    assert Results([record("lwf"), record("finetune", 0, [[N, N], [0.9, N], [0.8, 1.0]])]).warnings == []


def spent(epochs: int) -> dict[str, Any]:
    return {"training": {"epochs": epochs, "iterations": None, "lr": 0.1}}


def test_runs_with_other_budgets_are_paired_with_their_own_twin() -> None:
    finetune, lwf = [0.80, 0.85, 0.70, 0.90, 0.75], [0.85, 0.93, 0.76, 0.97, 0.79]
    runs = [*ending_at("finetune", finetune, **spent(10)), *ending_at("finetune", [0.6] * 5, **spent(2))]
    runs += [*ending_at("lwf", lwf, **spent(10)), *ending_at("lwf", [end - 0.1 for end in lwf], **spent(2))]
    results = Results(runs)
    assert [place.model for place in results.comparisons] == ["mlp [training.epochs=2]", "mlp [training.epochs=10]"]
    assert results.labels == ["finetune", "lwf"]
    (line,) = results.warnings
    assert "in 2 comparisons: training.epochs=2; training.epochs=10" in line
    short, long = differences(results).itertuples()
    assert (short.label, short.baseline, long.label, long.baseline) == ("lwf", "finetune") * 2
    assert short.difference == pytest.approx(np.mean(lwf) - 0.1 - 0.6)
    assert long.difference == pytest.approx(np.mean(np.subtract(lwf, finetune)))
    said = compare(results, "lwf", "finetune")
    assert [one.split(": ")[0] for one in said] == [place.title for place in results.comparisons]


def test_rows_of_a_preset_share_a_comparison_and_what_was_changed_sets_it_apart() -> None:
    def rows(epochs: int, **changed: Any) -> list[RunRecord]:
        told = {"name": "paper", "overridden": changed}
        return [
            record("Fine-tuning", method="finetune", preset={**told, "row": "Fine-tuning"}, **spent(epochs)),
            record("LwF", method="lwf", preset={**told, "row": "LwF"}, training={**spent(epochs)["training"], "lr": 1}),
        ]

    assert [place.model for place in Results(rows(10)).comparisons] == ["mlp"]
    results = Results([*rows(10), *rows(2, **{"training.epochs": 2}), record("lwf")])
    models = {place.model: [group.label for group in place.groups] for place in results.comparisons}
    assert models == {
        "mlp": ["lwf"],
        "mlp [preset=paper]": ["Fine-tuning", "LwF"],
        "mlp [preset=paper, training.epochs=2]": ["Fine-tuning", "LwF"],
    }


def test_the_largest_tasks_test_images_are_told_by_the_accuracies() -> None:
    """2/3 and 3/4 in one task are multiples of 1/12; 69 of 70 and 35 of 70 of 1/70."""
    R = [[N, N], [2 / 3, N], [3 / 4, 69 / 70]]
    (place,) = Results([record("lwf", 0, R), record("lwf", 1, [[N, N], [1 / 2, N], [1 / 2, 35 / 70]])]).comparisons
    assert place.test_images == 70


def test_a_method_that_changes_nothing_is_said_to() -> None:
    """Equal in accuracy, steps and weights with every seed; one that differs anywhere is another method."""
    finals = [0.8, 0.85]
    runs = [
        *ending_at("finetune", finals), *ending_at("pull", finals), *ending_at("lwf", [0.8, 0.9]),
        *ending_at("si", finals, weights_hash="ef" * 32), *ending_at("ewc", [*finals, 0.9]),
    ]  # fmt: skip
    said = [line for line in Results(runs).warnings if "equals" in line]
    what = "pull equals finetune to the last bit in every run: what sets it apart had no effect here"
    assert said == [f"split-digits, task, mlp: {what}"]


def test_variants_that_are_all_the_same_are_said_to_be() -> None:
    runs = [one for value in (1, 5) for one in ending_at(f"lwf@alpha=0.{value}", [0.8, 0.85], params={"alpha": value})]
    (said,) = [line for line in Results(runs).warnings if "equals" in line]
    assert "lwf@alpha=0.5 equals lwf@alpha=0.1 to the last bit" in said

"""What methods are said to be against each other, from made-up records whose numbers are known."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import record, three_methods
from scipy import stats
from typer.testing import CliRunner

from clbench.cli.app import app
from clbench.errors import UsageError
from clbench.report.commands import commands
from clbench.report.contents import Contents
from clbench.report.page import render
from clbench.report.tables import Choices, Tables
from clbench.results import names
from clbench.results.analysis import (
    best,
    compare,
    differences,
    findings,
    gap_recovered,
    ranks,
    tasks_in_words,
    unequal_budgets,
)
from clbench.results.frames import Results
from clbench.results.store import RunRecord, Store

N = None


def runs(label: str, finals: list[float], **changes: Any) -> list[RunRecord]:
    """Make a run per seed that learns both tasks and ends at a mean accuracy; the first task is what it forgets."""
    return [
        record(label, seed, [[N, N], [1.0, N], [2 * final - 1.0, 1.0]], **changes) for seed, final in enumerate(finals)
    ]


FINETUNE = [0.80, 0.85, 0.70, 0.90, 0.75, 0.82]
LWF = [0.95, 0.97, 0.88, 0.99, 0.93, 0.95]
JOINT = [0.99, 0.98, 0.99, 1.00, 0.98, 0.99]


@pytest.fixture
def results() -> Results:
    return Results([*runs("finetune", FINETUNE), *runs("lwf", LWF), *runs("joint", JOINT)])


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
    frame = differences(Results([*runs("finetune", FINETUNE), *runs("lwf", LWF)[2:4]]))
    assert frame["n"].tolist() == [2]
    assert frame["difference"].tolist() == pytest.approx([(0.18 + 0.09) / 2])
    assert differences(Results([*runs("finetune", FINETUNE)[:3], *runs("lwf", LWF)[3:]])).empty


def test_one_seed_is_no_test_and_an_undecided_pair_says_how_many_would_do() -> None:
    frame = differences(Results([*runs("finetune", [0.8]), *runs("lwf", [0.9])]))
    assert frame["verdict"].tolist() == ["no test"]
    assert frame[["p", "p_holm", "ci_low", "seeds_needed"]].isna().all(axis=None)
    frame = differences(Results([*runs("finetune", FINETUNE), *runs("lwf", [0.81, 0.85, 0.71, 0.89, 0.77, 0.81])]))
    (line,) = frame.itertuples()
    assert line.verdict == "undecided"
    gained = np.subtract([0.81, 0.85, 0.71, 0.89, 0.77, 0.81], FINETUNE)
    effect = gained.mean() / gained.std(ddof=1)
    n = int(line.seeds_needed)
    far = [stats.nct(k - 1, effect * k**0.5).sf(stats.t.ppf(0.975, k - 1)) for k in (n, n - 1)]
    assert far[0] >= 0.8 - 1e-3
    assert far[1] < 0.8


def test_the_baseline_is_fine_tuning_or_the_one_asked_for() -> None:
    rows = [*runs("EWC", LWF, method="ewc"), *runs("none", FINETUNE, method="finetune")]
    assert differences(Results(rows))["baseline"].tolist() == ["none"]
    assert differences(Results(rows), baseline="EWC")["label"].tolist() == ["none"]
    assert differences(Results(runs("b", LWF) + runs("a", LWF)))["baseline"].tolist() == ["a"]
    with pytest.raises(UsageError, match="no finished run of 'si': choose from EWC, none"):
        differences(Results(rows), baseline="si")
    with pytest.raises(UsageError, match="no metric 'accuracy': choose from average_accuracy"):
        differences(Results(rows), "accuracy")


def test_gap_recovered_is_a_ratio_of_means(results: Results) -> None:
    (line,) = gap_recovered(results).itertuples()
    gained, gap = np.subtract(LWF, FINETUNE), np.subtract(JOINT, FINETUNE)
    assert line.label == "lwf"
    assert line.gap_recovered == pytest.approx(gained.mean() / gap.mean())
    for bound in (line.ci_low, line.ci_high):
        assert stats.ttest_1samp(gained - bound * gap, 0.0).pvalue == pytest.approx(0.05)


def test_gap_is_undefined_where_there_may_be_none() -> None:
    flat = Results([*runs("finetune", FINETUNE), *runs("lwf", LWF), *runs("joint", FINETUNE[::-1])])
    assert gap_recovered(flat)["gap_recovered"].isna().all()
    (place,) = flat.comparisons
    assert ["LwF", "undefined"] in [[row[0].text, row[-2].text] for row in Tables(flat).results_table(place).rows]
    assert gap_recovered(Results(runs("lwf", LWF))).empty


def test_ranks_need_five_sequences() -> None:
    def sequences(count: int) -> Results:
        rows = []
        for number in range(count):
            shift = 0.01 * number
            for label, values in (("finetune", FINETUNE), ("lwf", LWF), ("joint", JOINT)):
                finals = [value - shift for value in values]
                rows += runs(label, finals, sequence_label=f"split-{number}")
        return Results([*rows, *runs("si", LWF, sequence_label="split-0")])

    assert ranks(sequences(4)) == []
    (found,) = ranks(sequences(6))
    assert (found.scenario, found.sequences) == ("task", 6)
    assert dict(zip(found.labels, found.ranks, strict=True)) == {
        "finetune": 3,
        "joint": 1,
        "lwf": 2,
    }  # si is not in all
    assert found.critical_difference == pytest.approx(2.343 * (3 * 4 / (6 * 6)) ** 0.5, abs=1e-3)
    (lowest,) = ranks(sequences(6), "forgetting")
    assert dict(zip(lowest.labels, lowest.ranks, strict=True)) == {"finetune": 3, "joint": 1, "lwf": 2}


def test_the_upper_bound_does_not_compete(results: Results) -> None:
    (place,) = results.comparisons
    first, ties, untested = best(results, place, "average_accuracy")
    assert first is not None
    assert first.label == "lwf"
    assert ties == untested == []
    frame = pd.concat([differences(results), differences(results, "forgetting")])
    told = findings(results, place, list(frame.itertuples()))
    assert told[0].startswith("Highest average accuracy: LwF, 94.50 ± ")
    assert "Joint training, which sees all data: 98.83 ± " in told[0]
    assert "paired difference +14.17 points" in told[0]
    assert told[1].startswith("Least forgetting: LwF, 11.00 ± ")
    assert told[2] == "A run of LwF trains for 2.5 s, as long as one of Fine-tuning."


def test_ties_are_those_that_a_paired_test_cannot_tell() -> None:
    near = [value - 0.001 * (-1) ** seed for seed, value in enumerate(LWF)]
    results = Results([*runs("finetune", FINETUNE), *runs("lwf", LWF), *runs("si", near)])
    (place,) = results.comparisons
    table = Tables(results).results_table(place)
    marks = {row[0].text: row[1].mark for row in table.rows}
    assert sorted([marks["LwF"], marks["SI"]]) == ["best", "tie"]
    assert marks["Fine-tuning"] == ""


def test_a_seed_that_collapsed_is_pointed_out() -> None:
    results = Results([*runs("lwf", [0.95, 0.96, 0.55, 0.95, 0.97]), *runs("si", LWF[:5])])
    (line,) = results.warnings
    assert "lwf collapsed with seed 2: average accuracy 55.0 %, the median of its 5 seeds is 95.0 %" in line


def test_unequal_budgets_are_said() -> None:
    rows = [*runs("finetune", FINETUNE), *runs("lwf", LWF)]
    (place,) = Results(rows).comparisons
    assert unequal_budgets(place) == []
    greedy = [RunRecord(**{**vars(one), "updates": [300, 100], "images": [1600, 1600]}) for one in runs("joint", JOINT)]
    (place,) = Results([*rows, *greedy]).comparisons
    assert unequal_budgets(place) == ["Joint training took 2.00 times the updates of most methods"]


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
    same = Results([*runs("a", LWF), *runs("b", LWF)])
    assert "a can't be told from b" in compare(same, "a", "b")[0]
    two = Results(
        [
            *runs("lwf", LWF),
            *runs("si", FINETUNE),
            *runs("lwf", LWF, scenario="class"),
            *runs("si", JOINT, scenario="class"),
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


def write(records: list[RunRecord], folder: Path) -> Path:
    for one in records:
        folder.mkdir(exist_ok=True)
        Store(folder).write(one)
    return folder


def test_compare_exits_with_zero_whatever_the_answer(tmp_path: Path, results: Results) -> None:
    folder = write(results.records, tmp_path / "runs")
    for pair in (("lwf", "finetune"), ("finetune", "lwf")):
        said = CliRunner().invoke(app, ["compare", *pair, "--records", str(folder)])
        assert said.exit_code == 0
        assert len(said.output.splitlines()) == 1


def test_a_report_takes_methods_in_their_order_columns_and_baseline(tmp_path: Path, results: Results) -> None:
    folder = write(results.records, tmp_path / "runs")
    options = "--methods lwf,finetune --columns forgetting,train_seconds,gap_recovered --baseline lwf --test wilcoxon"
    said = subprocess.run(
        [sys.executable, "-P", "-m", "clbench", "report", str(folder), "--out", str(tmp_path / "r"), *options.split()],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    rows = [line.split("|")[1:-1] for line in (tmp_path / "r/summary.md").read_text().splitlines() if "|" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells[0] == ["method", "forgetting", "training (s)", "gap recovered", "seeds"]
    assert [row[0] for row in cells[2:4]] == ["LwF", "Fine-tuning"]
    assert cells[3][2:] == ["2.50", "–", "6"]
    first = next(row for row in cells if row[1] == "average accuracy")
    assert first[0] == "Fine-tuning"
    assert first[4] == "0.031"  # 2 / 2⁶


def test_names_for_people() -> None:
    assert names.title("lwf", "lwf") == "LwF"
    assert names.title("lwf", "lwf@temperature=4@weight=2") == "LwF (temperature = 4, weight = 2)"
    assert names.title("lwf", "lwf [training.lr=0.1]") == "LwF [training.lr=0.1]"
    assert names.title("finetune", "fine-tuning") == "fine-tuning"  # a preset's row
    assert names.title("./pull.py:Pull", "./pull.py:Pull@strength=1") == "Pull (strength = 1)"
    two = Results([*runs("./a.py:Pull", LWF), *runs("./b.py:Pull", LWF)])
    assert list(two.comparisons[0].titles.values()) == ["./a.py:Pull", "./b.py:Pull"]


def test_every_built_in_method_has_a_name_and_papers() -> None:
    from clbench.experiment import registry

    assert set(names.known()) == set(registry.builtin("method"))
    for method in names.known():
        entries = names.bibliography([method])
        assert entries.startswith("@"), method
        assert entries.count("{") == entries.count("}")
    both = names.bibliography(["lwf", "finetune", "joint", "./mine.py:Mine"])
    assert both.count("@") == 2  # the papers of LwF and fine-tuning are one


@pytest.mark.parametrize(
    "asked",
    [
        {"methods": "lwf,lwf@temperature=4,finetune", "seeds": "0,3", "scenario": "class", "lr": 0.05},
        {"methods": "scratch", "seeds": "2-4", "iterations": 7, "class_order": "fixed", "model": "mlp@width=32"},
        {"methods": "finetune", "seeds": 1, "class_order": "9,8,7,6,5,4,3,2,1,0", "eval_every": 5},
        {"preset": "note", "rows": "LwF,fine-tuning", "seeds": 2},
    ],
)
def test_commands_make_the_same_runs_again(asked: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    """What a report says to type plans runs with the very keys of the records."""
    from clbench.execution.runner import prepare as plan

    if "preset" in asked:
        from clbench.experiment import presets

        asked["rows"] = ",".join(row.label for row in presets.load("note").rows[:2])
        asked |= {"sequence": "split-digits"}
    training = {name: asked.pop(name) for name in ("lr", "iterations") if name in asked}
    sweep = plan(**asked, training=training, out=tmp_path)
    records = [RunRecord(job.spec.key, job.spec.as_json(), "failed", "not run") for job in sweep.jobs]
    keys: set[str] = set()
    for place in Results(records).comparisons:
        for line in commands(place):
            words = shlex.split(line)
            assert words[:2] == ["clbench", "run"]
            keys |= planned(words[2:], tmp_path, monkeypatch)
    assert keys == {one.key for one in records}


def planned(options: list[str], out: Path, monkeypatch: Any) -> set[str]:
    import clbench.cli.app

    found: set[str] = set()
    monkeypatch.setattr(clbench.cli.app, "_print_plan", lambda sweep: found.update(job.spec.key for job in sweep.jobs))
    said = CliRunner().invoke(app, ["run", *options, "--dry-run", "--out", str(out)], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return found


def test_choices_that_there_are_not() -> None:
    with pytest.raises(UsageError, match="no column 'accuracy'"):
        Choices(columns=["accuracy"])
    with pytest.raises(UsageError, match="unknown 'z': choose from t, wilcoxon"):
        Choices(test="z")  # type: ignore[arg-type]


def test_wilcoxon_is_refused_in_a_report_with_its_reason() -> None:
    tables = Tables(Results(three_methods()), Choices(test="wilcoxon"))
    assert set(tables.differences["verdict"]) == {"no test"}
    assert "4 differences without a test: Wilcoxon's signed-rank test cannot reach p < 0.05" in tables.notes[0]


def test_one_pair_that_wilcoxon_cannot_test_leaves_the_others() -> None:
    rows = [*runs("finetune", FINETUNE), *runs("lwf", LWF), *runs("si", LWF[:3])]
    frame = differences(Results(rows), test="wilcoxon").set_index("label")
    assert frame["verdict"].to_dict() == {"lwf": "better", "si": "no test"}
    assert frame.loc["lwf", "p_holm"] == 2 / 2**6


def test_what_was_not_tested_is_not_called_told_apart() -> None:
    seeds_apart = [*runs("finetune", FINETUNE[:3]), *runs("lwf", LWF)[3:]]
    results = Results(seeds_apart)
    (place,) = results.comparisons
    assert best(results, place, "average_accuracy").untested == [place.groups[0]]
    said = Tables(results).findings(place)
    assert "There is no test against Fine-tuning" in said[0]
    assert "tells it from every other" not in " ".join(said)
    page = render(Contents(results, Tables(results)))
    assert "Fine-tuning (no test)" in page


def test_seeds_to_settle_are_more_than_there_were() -> None:
    """Six methods with the same effect: alone each would be decided, by Holm none is."""
    rng = np.random.default_rng(2)
    rows = runs("finetune", [0.8] * 10)
    for number in range(6):
        noise = rng.normal(size=10)
        noise = (noise - noise.mean()) / noise.std(ddof=1)
        rows += runs(f"m{number}", list(0.8 + 0.01 * (0.8 + noise)))
    frame = differences(Results(rows))
    assert (frame["p"] < 0.05).all()
    assert (frame["verdict"] == "undecided").all()
    assert (frame["seeds_needed"] > 10).all()


def test_findings_say_what_the_table_says() -> None:
    rows = [*runs("finetune", FINETUNE), *runs("lwf", LWF), *runs("si", [value + 0.01 for value in FINETUNE])]
    results = Results(rows)
    for choices in (Choices(), Choices(test="wilcoxon", interval="bootstrap")):
        tables = Tables(results, choices)
        table = tables.difference_table(results.comparisons[0])
        assert table is not None
        (row,) = [row for row in table.texts if row[:2] == ["LwF", "average accuracy"]]
        assert f"interval {row[3]}" in tables.findings(results.comparisons[0])[0]
        assert f"{row[5]} by Holm" in tables.findings(results.comparisons[0])[0]


def test_models_of_one_sequence_are_no_sequences() -> None:
    rows = []
    for number in range(5):
        for model in ("mlp", "cnn"):
            for label, values in (("finetune", FINETUNE), ("lwf", LWF)):
                rows += runs(label, values, sequence_label=f"split-{number}", model_label=model)
    (found,) = ranks(Results(rows))
    assert found.sequences == 5


def test_no_gap_is_recovered_where_joint_training_is_worse() -> None:
    rows = [*runs("finetune", LWF), *runs("lwf", FINETUNE), *runs("joint", [value - 0.3 for value in LWF])]
    assert gap_recovered(Results(rows))["gap_recovered"].isna().all()


def test_a_choice_among_variants_of_the_baseline_is_said() -> None:
    rows = [*runs("adam", FINETUNE, method="finetune"), *runs("sgd", LWF, method="finetune"), *runs("si", LWF)]
    (note,) = Tables(Results(rows)).notes
    assert note.endswith(
        "of adam, sgd, the baseline is adam (--baseline chooses another), and no gap recovered is given"
    )


def test_a_notebook_shows_the_tables(results: Results) -> None:
    shown = results._repr_html_()
    assert "<strong>94.50 ± " in shown
    assert json.dumps(shown)  # plain text


def with_curve(label: str, seed: int, lowest: float) -> RunRecord:
    """Make a run that evaluates twice a task: task 1 falls to `lowest` in the middle of task 2, and recovers."""
    plain = record(label, seed, [[N, N], [0.9, N], [0.8, 1.0]], eval_every=50)
    curves = [
        {"updates": [50, 100], "task_aware": [[0.7, N], [0.9, N]]},
        {"updates": [50, 100], "task_aware": [[lowest, 0.6], [0.8, 1.0]]},
    ]
    return RunRecord(**{**vars(plain), "curves": [{**one, "task_agnostic": one["task_aware"]} for one in curves]})


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
    assert results.warnings == []
    (group,) = results.comparisons[0].groups
    assert group.seeds == [0, 1]
    assert group.runs[0].curves
    assert group.curves("task_aware") is None  # not all have one


BAD = """
report nowhere                            | no folder of records at nowhere
report runs --methods si                  | no records of 'si' in runs: choose from finetune, joint, lwf
report runs --columns accuracy            | no column 'accuracy': choose from average_accuracy
report runs --baseline si                 | no finished run of 'si'
report runs --test z                      | unknown 'z': choose from t, wilcoxon
report runs --interval exact              | unknown 'exact': choose from t, bootstrap
report runs --formats gif                 | no format 'gif': choose from png, pdf, svg
report runs --width wide                  | no width 'wide': choose one of column, page
report runs --out runs/x.json/report      | cannot write the report to runs/x.json/report
compare lwf                               | Missing argument 'B'
compare lwf si --records runs             | no finished run of 'si': choose from finetune, joint, lwf
compare lwf lwf --records runs            | lwf is compared with itself
compare lwf joint --records runs --metric speed | no metric 'speed'
compare lwf joint --records runs --test z | unknown 'z'
compare lwf joint --records nowhere       | no folder of records at nowhere
compare joint finetune --records few --test wilcoxon | cannot reach p < 0.05 with 2 seeds
"""


@pytest.mark.parametrize("line", BAD.strip().splitlines())
def test_bad_input_is_one_clear_line(line: str, tmp_path: Path, results: Results, monkeypatch: Any) -> None:
    arguments, message = (part.strip() for part in line.split("|"))
    write(results.records, tmp_path / "runs")
    write(three_methods(), tmp_path / "few")
    (tmp_path / "runs/x.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    said = CliRunner().invoke(app, arguments.split())
    assert said.exit_code != 0
    if isinstance(said.exception, UsageError):
        assert message in str(said.exception)
        assert "\n" not in str(said.exception)
    else:
        assert said.exit_code == 2
        assert message in said.output
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "few"}


def test_what_guessing_scores_is_told_of_split_sequences() -> None:
    def told(**changes: Any) -> str:
        (comparison,) = Results([record("lwf", class_order=list(range(10)), **changes)]).comparisons
        return tasks_in_words(comparison)

    assert told() == "2 tasks of 5 classes; guessing is right in 20 %."
    assert told(scenario="domain") == told()
    assert told(scenario="class") == "2 tasks of 5 classes; guessing is right in 10 %."
    assert told(sequence="permuted-mnist") == ""
    assert told(sequence="split-mine", code={"sequence": "ab"}) == ""

"""Tables before they are written: marks, notes, and the commands that make the runs again."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from asking import prepared
from made_up import ENDS, N, ending_at, record, three_methods, with_curve
from scipy import stats
from typer.testing import CliRunner

from clbench.cli.app import app
from clbench.errors import UsageError
from clbench.experiment import presets
from clbench.report.contents import Contents, commands
from clbench.report.formats import page
from clbench.report.tables import Choices, Tables
from clbench.results.frames import Results
from clbench.results.store import Store

FINETUNE, LWF, _ = ENDS.values()


def test_ties_are_those_that_a_paired_test_cannot_tell() -> None:
    near = [value - 0.001 * (-1) ** seed for seed, value in enumerate(LWF)]
    results = Results([*ending_at("finetune", FINETUNE), *ending_at("lwf", LWF), *ending_at("si", near)])
    (place,) = results.comparisons
    table = Tables(results).results_table(place)
    marks = {row[0].text: row[1].mark for row in table.rows}
    assert sorted([marks["LwF"], marks["SI"]]) == ["best", "tie"]
    assert marks["Fine-tuning"] == ""


def test_wilcoxon_is_refused_in_a_report_with_its_reason() -> None:
    five = Results([one for label, finals in ENDS.items() for one in ending_at(label, finals[:5])])
    tables = Tables(five, Choices(test="wilcoxon"))
    assert set(tables.differences["verdict"]) == {"no test"}
    (note,) = tables.notes
    assert "4 differences without a verdict, no test: Wilcoxon's signed-rank test cannot reach p < 0.05" in note
    assert Tables(five).notes == []


def test_wilcoxon_that_no_outcome_could_decide_is_said() -> None:
    """Six seeds give p = 2/64 at least, and 4/64 over two methods; of seven it is 4/128."""
    results = Results([one for label, finals in ENDS.items() for one in ending_at(label, finals)])
    (note,) = Tables(results, Choices(test="wilcoxon")).notes
    assert "no difference can be told: Wilcoxon's signed-rank test cannot" in note
    assert note.endswith("with fewer than 7 seeds that differ, by Holm over 2 tests")


def test_an_interval_over_the_whole_scale_is_not_bold() -> None:
    """Of five seeds at 0 or 100 % in turns: 60 ± 68 %."""
    wild = [record("lwf", seed, [[N, N], [1.0, N], [end, end]]) for seed, end in enumerate([1.0, 0.0, 1.0, 0.0, 1.0])]
    results = Results([*wild, *ending_at("finetune", [0.52] * 5)])
    table = Tables(results).results_table(results.comparisons[0])
    assert ("LwF", "60.00 [0*, 100*]", "") in [(row[0].text, row[1].text, row[1].mark) for row in table.rows]


def test_too_few_seeds_are_said_and_nothing_is_bold() -> None:
    """Two seeds, of 87.5 ± 31.8 %: no verdict, no mark, and an interval that ends where the scale does."""
    results = Results(three_methods())
    tables = Tables(results)
    assert tables.notes == [
        "4 differences without a verdict, too few seeds: a verdict takes 5 seeds that both methods have"
    ]
    (place,) = results.comparisons
    table = tables.results_table(place)
    assert {cell.mark for row in table.rows for cell in row} == {""}
    assert ["LwF", "87.50 [55.73, 100*]"] in [row[:2] for row in table.texts]
    assert table.notes[-1] == "* The interval is cut where the scale ends."


def test_the_only_method_that_competes_is_not_marked() -> None:
    results = Results([*ending_at("lwf", LWF), *ending_at("joint", ENDS["joint"])])
    (place,) = results.comparisons
    table = Tables(results).results_table(place)
    assert {cell.mark for row in table.rows for cell in row} == {""}


def test_findings_say_what_the_table_says() -> None:
    rows = [
        *ending_at("finetune", FINETUNE),
        *ending_at("lwf", LWF),
        *ending_at("si", [value + 0.01 * (seed - 1.5) for seed, value in enumerate(FINETUNE)]),
    ]
    results = Results(rows)
    for choices in (Choices(), Choices(test="wilcoxon", interval="bootstrap")):
        tables = Tables(results, choices)
        table = tables.difference_table(results.comparisons[0])
        assert table is not None
        (row,) = [row for row in table.texts if row[:2] == ["LwF", "average accuracy"]]
        assert f"interval {row[3]}" in tables.findings(results.comparisons[0])[0]
        assert f"{row[5]} by Holm" in tables.findings(results.comparisons[0])[0]


def test_another_baseline_than_fine_tuning_is_said_once() -> None:
    ends = {"er": LWF, "si": FINETUNE}
    rows = [one for label, finals in ends.items() for one in ending_at(label, finals)]
    both = Results([*rows, *[one for label in ends for one in ending_at(label, LWF, scenario="class")]])
    assert Tables(both).notes[-1:] == ["no finetune here: differences are to er (--baseline chooses another)"]
    some = Tables(Results([*both.records, *ending_at("finetune", LWF, scenario="class")])).notes
    assert some == [
        "no finetune in split-digits, task scenario, mlp: differences are to er (--baseline chooses another)"
    ]
    assert Tables(both, Choices(baseline="si")).notes == []


def test_a_choice_among_variants_of_the_baseline_is_said() -> None:
    rows = [
        *ending_at("adam", FINETUNE, method="finetune"),
        *ending_at("sgd", LWF, method="finetune"),
        *ending_at("si", LWF),
    ]
    (note,) = Tables(Results(rows)).notes
    assert note.endswith(
        "of adam, sgd, the baseline is adam (--baseline chooses another), and no gap recovered is given"
    )


def test_choices_that_there_are_not() -> None:
    with pytest.raises(UsageError, match=r"no column 'accuracy', did you mean .*average_accuracy"):
        Choices(columns=["accuracy"])
    with pytest.raises(UsageError, match="unknown 'z': choose from t, wilcoxon"):
        Choices(test="z")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "asked",
    [
        {"methods": "lwf,lwf@temperature=4,finetune", "seeds": "0,3", "scenario": "class", "lr": 0.05},
        {"methods": "scratch", "seeds": "2-4", "iterations": 7, "class_order": "fixed", "model": "mlp@width=32"},
        {"methods": "finetune", "seeds": 1, "class_order": "9,8,7,6,5,4,3,2,1,0", "eval_every": 5},
        {"preset": "note", "rows": "LwF,fine-tuning", "seeds": 2},
    ],
)
def test_commands_make_the_same_runs_again(asked: dict[str, Any], tmp_path: Path) -> None:
    """What a report says to type plans the runs whose records are there, and no others."""
    if "preset" in asked:
        asked["rows"] = ",".join(row.label for row in presets.load("note").rows[:2])
        asked |= {"sequence": "split-digits"}
    training = {name: asked.pop(name) for name in ("lr", "iterations") if name in asked}
    specs = [job.spec for job in prepared(**asked, training=training, out=tmp_path / "none").jobs]
    done = with_curve("lwf", 0, 0.3) if "eval_every" in asked else record("lwf")
    records = [dataclasses.replace(done, key=spec.key, spec=spec.as_json()) for spec in specs]
    for one in records:
        Store(tmp_path).write(one)
    planned = 0
    for place in Results(records).comparisons:
        for line in commands(place):
            program, *words = shlex.split(line)
            assert program == "clbench"
            said = CliRunner().invoke(app, [*words, "--dry-run", "--out", str(tmp_path)], catch_exceptions=False)
            count = re.search(r"(\d+) runs?: 0 to do", said.output)
            assert count, said.output
            planned += int(count[1])
    assert planned == len(records)


def test_a_share_that_says_less_than_the_gap_is_undefined() -> None:
    """Joint training is 0.1 to 0.5 points better: sure enough, and shares of that reach from −62 to −14 gaps."""
    joint = [end + gain for end, gain in zip(FINETUNE, [0.001, 0.005, 0.002, 0.004, 0.001, 0.005], strict=True)]
    ends = {"finetune": FINETUNE, "lwf": [end - 0.08 for end in FINETUNE], "joint": joint}
    results = Results([one for label, finals in ends.items() for one in ending_at(label, finals)])
    assert stats.ttest_rel(joint, FINETUNE).pvalue < 0.05
    (place,) = results.comparisons
    assert ["LwF", "undefined"] in [[row[0].text, row[-2].text] for row in Tables(results).results_table(place).rows]


def test_a_gap_that_may_be_none_is_undefined() -> None:
    flat = [("finetune", FINETUNE), ("lwf", LWF), ("joint", FINETUNE[::-1])]
    results = Results([one for label, finals in flat for one in ending_at(label, finals)])
    (place,) = results.comparisons
    assert ["LwF", "undefined"] in [[row[0].text, row[-2].text] for row in Tables(results).results_table(place).rows]


def test_what_has_no_test_is_said_on_the_page() -> None:
    results = Results([*ending_at("finetune", FINETUNE[:3]), *ending_at("lwf", LWF)[3:]])
    assert "There is no test against Fine-tuning" in page(Contents(results, Tables(results)))

"""What results say of methods in sentences, from made-up records whose numbers are known."""

import itertools
from typing import Any

import numpy as np
import pytest
from made_up import ENDS, ending_at, three_methods
from scipy import stats

from clbench.errors import UsageError
from clbench.results.analysis import COMPARED, best, differences
from clbench.results.frames import Results
from clbench.results.sentences import compare, findings
from clbench.results.wording import of_p

FINETUNE, LWF, JOINT = ENDS.values()


@pytest.fixture
def results() -> Results:
    return Results([one for label, finals in ENDS.items() for one in ending_at(label, finals)])


def said_of(results: Results) -> list[str]:
    (place,) = results.comparisons
    return findings(results, place, list(differences(results, COMPARED).itertuples()))


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


def test_a_method_that_competes_with_none_is_no_highest() -> None:
    told = said_of(Results([*ending_at("lwf", LWF), *ending_at("joint", JOINT)]))
    assert told[0].startswith("Average accuracy: LwF, 94.50 ± ")
    assert told[1].startswith("Forgetting: LwF, 11.00 ± ")
    assert not [line for line in told if "Highest" in line or "Least" in line]
    assert said_of(Results(ending_at("lwf", LWF)))[0].endswith("No other method competes with it.")


def test_two_seeds_are_too_few_for_a_verdict() -> None:
    results = Results(three_methods())
    told = said_of(results)
    assert "95 % interval −53.53 to +73.53, no test, 2 seeds): too few seeds" in told[0]  # 10 ± 12.7062 · 5
    assert "There is no test against Fine-tuning: that takes 5 seeds that both have" in told[0]
    (line,) = compare(results, "lwf", "finetune")
    assert "lwf can't be told from finetune" in line
    assert line.endswith("2 seeds): too few seeds (a verdict takes 5 seeds that both methods have)")


def test_an_interval_past_the_scale_is_cut_and_said() -> None:
    told = said_of(Results(three_methods()))
    assert told[0].startswith("Highest average accuracy: LwF, 87.50 [55.73, 100*] %")  # 87.5 ± 12.7062 · 2.5
    assert "* The interval is cut where the scale ends." in told


NEAR = [0.78, 0.86, 0.69, 0.93, 0.79, 0.84]  # better than fine-tuning by p = 0.06 alone, and more so with one test


@pytest.mark.parametrize("metric", COMPARED)
@pytest.mark.parametrize("test", ["t", "wilcoxon"])
@pytest.mark.parametrize("baseline", [None, "si"])
def test_compare_gives_the_verdicts_of_a_report(metric: str, test: Any, baseline: str | None) -> None:
    others = {"near": NEAR, "si": [end + 0.02 + 0.01 * (-1) ** i for i, end in enumerate(FINETUNE)]}
    ends = {**ENDS, **others}
    results = Results([one for label, finals in ends.items() for one in ending_at(label, finals)])
    frame = differences(results, metric, baseline, test)
    assert len(set(frame["verdict"])) > 1 or test == "wilcoxon"
    family = f"by Holm over {frame['p'].notna().sum()} differences to {baseline or 'finetune'}"
    for line in frame[frame["verdict"] != "no test"].itertuples():
        (said,) = compare(results, line.label, line.baseline, metric, test, baseline=baseline)
        assert said.endswith(f": {line.verdict}")
        assert f"p {of_p(line.p)}, {of_p(line.p_holm).removeprefix('= ')} {family}" in said
        (back,) = compare(results, line.baseline, line.label, metric, test, baseline=baseline)
        assert back.endswith({"better": "worse", "worse": "better"}.get(line.verdict, line.verdict))


def test_methods_beside_the_baseline_are_one_family_of_pairs() -> None:
    """Of p values of all pairs without fine-tuning, corrected together; what is tied with the best is so here too."""
    ends = {**ENDS, "near": NEAR, "si": [end - 0.002 * (i % 3) for i, end in enumerate(LWF)]}
    results = Results([one for label, finals in ends.items() for one in ending_at(label, finals)])
    rest = sorted(set(ends) - {"finetune"})
    pairs = list(itertools.combinations(rest, 2))
    raw = [stats.ttest_rel(ends[one], ends[other]).pvalue for one, other in pairs]
    ordered = np.sort(raw)
    steps = np.minimum(1, np.maximum.accumulate(ordered * np.arange(len(raw), 0, -1)))
    expected = [steps[list(ordered).index(p)] for p in raw]
    (place,) = results.comparisons
    ties = [group.label for group in best(results, place, "average_accuracy").ties]
    for (one, other), p, p_holm in zip(pairs, raw, expected, strict=True):
        for a, b in ((one, other), (other, one)):
            (line,) = compare(results, a, b)
            assert (
                f"p {of_p(p)}, {of_p(p_holm).removeprefix('= ')} by Holm over 6 pairs of methods beside finetune"
                in line
            )
            assert line.endswith("undecided") == (p_holm >= 0.05)
        if "lwf" in (one, other) and "joint" not in (one, other):
            assert (p_holm >= 0.05) == bool({one, other} & set(ties))


def test_compare_takes_the_names_that_a_report_shows(results: Results) -> None:
    wanted = compare(results, "lwf", "finetune")
    for a, b in (("LwF", "Fine-tuning"), ("LWF", "fine-tuning"), ("lwf", "Fine-Tuning")):
        assert compare(results, a, b) == wanted
    grid = Results([*ending_at("lwf@temperature=4", LWF), *ending_at("finetune", FINETUNE)])
    assert compare(grid, "LwF (temperature=4)", "finetune") == compare(grid, "lwf@temperature=4", "finetune")
    for name, hint in (("lfw", "did you mean lwf"), ("Fine tunin", "did you mean Fine-tuning"), ("x", "choose from")):
        with pytest.raises(UsageError, match=f"no finished run of '{name}'.*{hint}"):
            compare(results, name, "joint")
    with pytest.raises(UsageError, match="no metric 'forgeting', did you mean forgetting"):
        compare(results, "lwf", "joint", "forgeting")


def test_compare_answers_in_a_line_per_comparison(results: Results) -> None:
    (line,) = compare(results, "lwf", "finetune")
    test = stats.ttest_rel(LWF, FINETUNE)
    low, high = (100 * bound for bound in test.confidence_interval(0.95))
    assert test.pvalue < 0.001 / 2
    found = f"+14.17 points (95 % interval {low:+.2f} to {high:+.2f}, p < 0.001, < 0.001 by Holm over 2 differences to"
    where = "split-digits, task scenario, mlp"
    assert line == f"{where}: lwf is better than finetune in average accuracy: {found} finetune, 6 seeds): better"
    (worse,) = compare(results, "finetune", "lwf", "forgetting")
    assert "finetune is worse than lwf in forgetting: +28.33 points" in worse
    same = Results([*ending_at("a", LWF), *ending_at("b", LWF)])
    assert "a can't be told from b" in compare(same, "a", "b")[0]
    for a, b, metric, problem in (
        ("lwf", "lwf", "forgetting", "compared with itself"),
        ("lwf", "sii", "forgetting", "no finished run of 'sii'"),
        ("lwf", "joint", "forward_transfer", "no finished runs of the same seeds, with forward_transfer defined"),
    ):
        with pytest.raises(UsageError, match=problem):
            compare(results, a, b, metric)

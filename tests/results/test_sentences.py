"""What results say of methods in sentences, from made-up records whose numbers are known."""

import itertools
from collections.abc import Iterable
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
        assert f": {line.verdict}" in said
        assert f"p {of_p(line.p)}, {of_p(line.p_holm).removeprefix('= ')} {family}" in said
        (back,) = compare(results, line.baseline, line.label, metric, test, baseline=baseline)
        assert ": " + {"better": "worse", "worse": "better"}.get(line.verdict, line.verdict) in back


def corrected(raw: dict[str, float]) -> dict[str, float]:
    """Correct p values by Holm's definition: the smallest times their number, the next times one less, never down."""
    largest, found = 0.0, {}
    for rank, label in enumerate(sorted(raw, key=lambda label: raw[label])):
        largest = found[label] = max(largest, min(1.0, (len(raw) - rank) * raw[label]))
    return found


@pytest.mark.parametrize("baseline", ["finetune", "lwf"])
def test_a_pair_has_one_verdict_by_its_family(baseline: str) -> None:
    """All against the baseline, else all against the best but joint training, else one test; findings say no other."""
    ends = {**ENDS, "near": NEAR, "si": [end - 0.002 * (i % 3) for i, end in enumerate(LWF)], "mas": NEAR[::-1]}
    results = Results([one for label, finals in ends.items() for one in ending_at(label, finals)])

    def raw(others: Iterable[str], to: str) -> dict[str, float]:
        return {label: stats.ttest_rel(ends[label], ends[to]).pvalue for label in others if label != to}

    to_baseline = corrected(raw(ends, baseline))
    to_best = corrected(raw((label for label in ends if label != "joint"), "lwf"))
    (place,) = results.comparisons
    ties = {group.label for group in best(results, place, "average_accuracy", "t", baseline).ties}
    for a, b in itertools.permutations(ends, 2):
        (line,) = compare(results, a, b, baseline=baseline)
        p = stats.ttest_rel(ends[a], ends[b]).pvalue
        if baseline in (a, b):
            p_holm = to_baseline[a if b == baseline else b]
            family = f"{of_p(p_holm).removeprefix('= ')} by Holm over 5 differences to {baseline}, "
        elif "lwf" in (a, b) and "joint" not in (a, b):
            p_holm = to_best[a if b == "lwf" else b]
            family = f"{of_p(p_holm).removeprefix('= ')} by Holm over 4 differences to lwf, the best, "
        else:
            p_holm, family = p, "one test, "
        assert f"p {of_p(p)}, {family}6 seeds" in line
        assert line.endswith("undecided") == (p_holm >= 0.05)
        if a == "lwf" and b != "joint":
            assert (b in ties) == line.endswith("undecided")


def test_many_methods_far_apart_are_told_apart() -> None:
    """24 methods of five seeds: 55 points between the best and the worst of those beside fine-tuning are no chance."""
    rng = np.random.default_rng(0)
    ends = {f"m{rank}": (0.95 - 0.025 * max(0, rank - 1) + rng.normal(0, 0.01, 5)).tolist() for rank in range(23)}
    results = Results(
        [one for label, finals in {"finetune": [0.3] * 5, **ends}.items() for one in ending_at(label, finals)]
    )
    (place,) = results.comparisons
    first, ties, untested = best(results, place, "average_accuracy")
    assert first is not None
    ends["finetune"] = [0.3] * 5
    raw = {label: stats.ttest_rel(ends[first.label], ends[label]).pvalue for label in ends if label != first.label}
    assert first.label in ("m0", "m1")
    assert untested == []
    assert {group.label for group in ties} == {label for label, p in corrected(raw).items() if p >= 0.05}
    assert 1 <= len(ties) < 5
    assert "m22" not in said_of(results)[0].split("cannot tell")[1]


def test_p_of_one_test_is_given_once() -> None:
    results = Results([*ending_at("lwf", NEAR), *ending_at("finetune", FINETUNE)])
    p = of_p(stats.ttest_rel(NEAR, FINETUNE).pvalue)
    for said in (*compare(results, "lwf", "finetune"), said_of(results)[0]):
        assert f"p {p}, one test, 6 seeds" in said
        assert "Holm" not in said


def test_wilcoxon_says_how_many_seeds_would_do() -> None:
    """Five seeds give p = 2/32 at least. Over four tests 4 · 2/2^n is below 0.05 from 8 seeds on."""
    ends = {**ENDS, "near": NEAR, "si": [end - 0.01 for end in LWF]}
    five = Results([one for label, finals in ends.items() for one in ending_at(label, finals[:5])])
    with pytest.raises(UsageError, match=r"with 5 seeds: its smallest p is 0.062; 8 would do, by Holm over 4 tests"):
        compare(five, "lwf", "finetune", test="wilcoxon")
    with pytest.raises(UsageError, match=r"0.062; 6 would do$"):
        compare(five, "near", "joint", test="wilcoxon")
    six = Results([one for label, finals in ends.items() for one in ending_at(label, finals)])
    (line,) = compare(six, "lwf", "finetune", test="wilcoxon")
    assert ": undecided (Wilcoxon's signed-rank test cannot reach p < 0.05 with fewer than 8 seeds" in line
    assert line.endswith("that differ, by Holm over 4 tests)")


@pytest.mark.parametrize("column", ["gap_recovered", "train_seconds", "stored_bytes"])
def test_columns_that_are_no_metric_say_where_they_are_shown(results: Results, column: str) -> None:
    with pytest.raises(
        UsageError, match=rf"{column} is .*no metric that is compared: clbench report --columns {column}"
    ):
        compare(results, "lwf", "finetune", column)


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

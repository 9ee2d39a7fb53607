"""Our numbers beside published ones: the statistics against SciPy and by simulation, and what verify says of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

import clbench
from clbench.cli.app import app
from clbench.experiment import presets
from clbench.experiment.presets import Preset, Published, Row
from clbench.results.record import RunRecord
from clbench.verification.comparison import by_our_deviation, compare, welch
from clbench.verification.tables import markdown, results_table

THEIRS = np.array([70.1, 68.3, 72.9, 69.0, 71.2, 66.8, 70.3, 73.5])
OURS = np.array([66.2, 69.9, 67.1, 64.0, 68.8])


@pytest.mark.parametrize("kind", ["sd", "sem"])
def test_welch_is_scipys(kind: str) -> None:
    n = len(THEIRS)
    error = THEIRS.std(ddof=1) / (np.sqrt(n) if kind == "sem" else 1)
    found = welch(OURS, THEIRS.mean(), error, kind, n)
    expected = stats.ttest_ind(OURS, THEIRS, equal_var=False)
    interval = expected.confidence_interval()
    assert found.difference == pytest.approx(OURS.mean() - THEIRS.mean())
    assert [found.low, found.high] == pytest.approx([interval.low, interval.high])
    assert found.p == pytest.approx(expected.pvalue)


def test_a_standard_deviation_divided_by_n_is_corrected() -> None:
    n = len(THEIRS)
    population = welch(OURS, THEIRS.mean(), THEIRS.std(ddof=0), "sd", n, ddof=0)
    sample = welch(OURS, THEIRS.mean(), THEIRS.std(ddof=1), "sd", n, ddof=1)
    assert population == pytest.approx(sample)


def test_rounding_widens_the_interval_and_never_counts_as_a_difference() -> None:
    exact, rounded = (welch(OURS, 70.0, 1.0, "sd", 10, rounding=r) for r in (0.0, 0.05))
    assert [rounded.low, rounded.high] == pytest.approx([exact.low - 0.05, exact.high + 0.05])
    assert rounded.p > exact.p
    assert welch([70.04, 70.04], 70.0, 0.0, "sd", 10, rounding=0.05).p == 1
    assert welch([70.06, 70.06], 70.0, 0.0, "sd", 10, rounding=0.05).p == 0


def test_one_value_is_not_enough() -> None:
    with pytest.raises(ValueError, match="at least two"):
        welch([70.0], 70.0, 1.0, "sd", 10)


def test_a_single_run_is_compared_by_students_test_of_one_value() -> None:
    found = by_our_deviation(OURS, 74.0, n=1)
    expected = stats.ttest_ind(OURS, [74.0])  # pooled: the deviation is that of our values alone
    interval = expected.confidence_interval()
    assert found.p == pytest.approx(expected.pvalue)
    assert [found.low, found.high] == pytest.approx([interval.low, interval.high])
    low, high = stats.t.interval(0.95, len(OURS) - 1, OURS.mean(), OURS.std(ddof=1) * np.sqrt(1 + 1 / len(OURS)))
    assert by_our_deviation(OURS, high, n=1).p == pytest.approx(0.05)  # the ends of the prediction interval
    assert by_our_deviation(OURS, low - 0.01, n=1).p < 0.05
    with pytest.raises(ValueError, match="at least two"):
        by_our_deviation([70.0], 70.0, n=1)


def test_a_mean_without_error_is_compared_by_our_deviation() -> None:
    found = by_our_deviation(OURS, 70.0, n=8, rounding=0.5)
    n, s = len(OURS), OURS.std(ddof=1)
    se = s * np.sqrt(1 / n + 1 / 8)
    difference = OURS.mean() - 70.0
    half = stats.t.ppf(0.975, n - 1) * se + 0.5
    assert [found.low, found.high] == pytest.approx([difference - half, difference + half])
    assert found.p == pytest.approx(2 * stats.t.sf((abs(difference) - 0.5) / se, n - 1))
    assert np.isnan(by_our_deviation([70.0, 70.0], 71.0, n=8).p)  # nothing says what chance does


def test_at_equal_deviations_it_errs_once_in_twenty() -> None:
    draws = np.random.default_rng(1)
    for n in (1, 3):
        false = [
            by_our_deviation(draws.normal(70, 2, 5), draws.normal(70, 2, n).mean(), n).p < 0.05 for _ in range(2000)
        ]
        assert np.mean(false) == pytest.approx(0.05, abs=0.015)


def test_the_smallest_difference_is_found_four_times_in_five() -> None:
    """1,000 simulated pairs of samples at that difference: 80 %, give or take 4 points."""
    draws = np.random.default_rng(0)
    n, sd = 10, 2.0
    hits, sizes = 0, []
    for _ in range(500):
        theirs, ours = draws.normal(70, sd, n), draws.normal(70, sd, n)
        sizes.append(welch(ours, theirs.mean(), theirs.std(ddof=1), "sd", n).smallest)
    shift = float(np.mean(sizes))
    for _ in range(1000):
        theirs, ours = draws.normal(70, sd, n), draws.normal(70 + shift, sd, n)
        hits += welch(ours, theirs.mean(), theirs.std(ddof=1), "sd", n).p < 0.05
    assert hits / 1000 == pytest.approx(0.8, abs=0.04)


def preset(error: str = "sd", n: int = 10, **rows: tuple[float, float | None]) -> Preset:
    published = Published(source="a paper", n=n, error=error)  # type: ignore[arg-type]
    made = [Row(label=name, method="finetune", published={"task": pair}) for name, pair in rows.items()]
    return Preset(name="mine", title="Mine", scenarios=["task"], rows=made, published=published)


def record(row: str, seed: int, accuracy: float | None, overridden: dict[str, Any] | None = None) -> RunRecord:
    spec = {
        "preset": {"name": "mine", "row": row, "overridden": overridden or {}},
        "scenario": "task",
        "seed": seed,
        "sequence_label": "some-sequence",
    }
    if accuracy is None:
        return RunRecord(f"{row}{seed}", spec, "failed", "it broke")
    rows = [[0.5, 0.5], [accuracy, None], [accuracy, accuracy]]
    return RunRecord(
        f"{row}{seed}", spec, "ok", accuracy={"task_aware": rows, "task_agnostic": rows}, environment={"commit": "c0"}
    )


def runs(row: str, *per_cent: float) -> list[RunRecord]:
    return [record(row, seed, value / 100) for seed, value in enumerate(per_cent)]


def test_rows_that_agree_and_rows_that_do_not() -> None:
    mine = preset(near=(70.0, 1.0), far=(60.0, 1.0))
    found = compare(mine, [*runs("near", 69.5, 70.5, 70.0), *runs("far", 69.5, 70.5, 70.0)])
    assert found.frame["verdict"].tolist() == ["agrees", "DISAGREES"]
    assert found.disagreeing == ["far, task"]
    line = found.frame.iloc[1]
    assert (line["n"], line["mean"], line["difference"]) == (3, pytest.approx(70), pytest.approx(10))
    assert line["p_holm_sd"] == pytest.approx(2 * line["p_sd"])  # two rows, and the smaller of two p values


def test_only_what_is_tested_counts() -> None:
    """Three of five published numbers have runs enough; the smallest of three p values is three times itself."""
    mine = preset(a=(70.0, 1.0), b=(60.0, 1.0), c=(69.0, 1.0), few=(70.0, 1.0), none=(70.0, 1.0))
    values = (69.5, 70.5, 70.0)
    found = compare(mine, [*runs("a", *values), *runs("b", *values), *runs("c", *values), *runs("few", 70.0)])
    assert found.tests == 3
    line = found.frame.set_index("row").loc["b"]
    assert line["p_holm_sd"] == pytest.approx(3 * line["p_sd"])
    assert "over the 3 published numbers that were tested" in markdown(found)


def test_a_control_is_judged_like_the_rows_that_were_tested() -> None:
    mine = preset(a=(70.0, 1.0), b=(70.0, 1.0))
    fault = Row(label="fault", method="finetune", control_of="a", published={"task": (70.0, 1.0)})
    mine = Preset(**{**vars(mine), "rows": [*mine.rows, fault]})
    values = (69.5, 70.5, 70.0)
    found = compare(mine, [*runs("a", *values), *runs("b", *values), *runs("fault", 60.0, 61.0, 62.0)])
    line = found.frame.set_index("row").loc["fault"]
    assert (found.tests, line["verdict"]) == (2, "moved out, as it should")
    assert line["p_holm_sd"] == pytest.approx(2 * line["p_sd"])


def test_the_table_says_how_far_a_number_can_be_compared() -> None:
    for n, limits, text in ((1, "a single run", "95 of 100 single runs"), (10, "no ±", "Our deviation is taken")):
        mine = preset("sd", n, near=(70.0, None), far=(60.0, None), same=(70.0, None))
        found = compare(mine, [*runs("near", 69.5, 70.5, 70), *runs("far", 69.5, 70.5, 70), *runs("same", 71, 71)])
        assert found.frame["verdict"].tolist() == ["agrees", "DISAGREES", "no test: no spread"]
        assert found.frame["p_sd"].tolist()[:2] == [by_our_deviation([69.5, 70.5, 70], m, n, 0.005).p for m in (70, 60)]
        assert found.tests == 2
        assert [row[3] for row in results_table(found)[1:]] == [f"{m}.00 ({limits})" for m in (70, 60, 70)]
        assert text in markdown(found)
    found = compare(preset("sd", 10, near=(70.0, 1.0)), runs("near", 69.5, 70.5, 70))
    assert "no ±" not in markdown(found)


def test_a_row_is_compared_by_its_view_of_runs_that_another_row_has() -> None:
    mine = preset(untold=(50.0, 1.0))
    told = Row(label="told", method="finetune", view="task-aware", published={"task": (90.0, 1.0)})
    mine = Preset(**{**vars(mine), "rows": [*mine.rows, told]})
    records = runs("untold", 49.0, 50.0, 51.0)
    for record, value in zip(records, (89.0, 90.0, 91.0), strict=True):
        assert record.accuracy is not None
        record.accuracy["task_agnostic"] = record.accuracy["task_aware"]
        record.accuracy["task_aware"] = [[0.5, 0.5], [1.0, None], [value / 100, value / 100]]
        record.spec["scenario"] = "class"
    mine = Preset(**{**vars(mine), "scenarios": ["class"]})
    rows = [Row(**{**vars(row), "published": {"class": row.published["task"]}}) for row in mine.rows]
    found = compare(Preset(**{**vars(mine), "rows": rows}), records)
    assert found.frame[["row", "mean", "verdict"]].to_numpy().tolist() == [
        ["untold", pytest.approx(50), "agrees"],
        ["told", pytest.approx(90), "agrees"],
    ]
    assert "By a view of their own: told (task-aware)." in markdown(found)


def test_an_unstated_error_is_read_both_ways_and_the_first_decides() -> None:
    values = (68.9, 69.1, 69.0, 68.8, 69.2)
    mine = preset("unstated", row=(70.0, 0.9))
    found = compare(mine, runs("row", *values))
    line = found.frame.iloc[0]
    assert line["p_sd"] < 0.05 < line["p_sem"]
    assert line["verdict"] == "DISAGREES"
    assert results_table(found)[0][-1] == "if ± is a standard error"
    assert results_table(found)[1][-1].endswith("agrees")
    assert "something that the source does not name" in markdown(found)


def test_what_cannot_be_compared_is_said() -> None:
    mine = preset(one=(70.0, 1.0), other=(70.0, 1.0))
    mine = Preset(**{**vars(mine), "rows": [*mine.rows, Row(label="unpublished", method="finetune")]})
    records = [*runs("one", 70.0), record("one", 1, None), *runs("unpublished", 50.0, 51.0)]
    found = compare(mine, records)
    assert found.frame[["row", "n", "failed", "verdict"]].to_numpy().tolist() == [
        ["one", 1, 1, "too few runs"],
        ["unpublished", 2, 0, "no published number"],
    ]
    assert found.failed == 1
    assert found.disagreeing == []


def test_rows_without_published_numbers_weigh_images_too() -> None:
    """Tasks of 30 and 10 test images: at the end (0.5 · 30 + 0.9 · 10) / 40 = 0.6, and 0.8 after the first task."""
    mine = Preset(name="mine", title="Mine", scenarios=["task"], rows=[Row(label="row", method="finetune")])
    old, new = record("row", 0, 0.5), record("row", 1, 0.5)
    assert results_table(compare(mine, [old]))[0] == ["row", "scenario", "average", "old tasks", "new task", "seeds"]
    rows: list[list[float | None]] = [[None, None], [0.8, None], [0.5, 0.9]]
    both = {"task_aware": rows, "task_agnostic": rows}
    old, new = (replace(one, accuracy=both, test_images=[30, 10]) for one in (old, new))
    headings, line = results_table(compare(mine, [old, new]))
    assert headings == ["row", "scenario", "average", "old tasks", "new task", "all images", "incremental", "seeds"]
    numbers = [f"{value:.2f} ± 0.00" for value in (70, 50, 90, 60, 70)]
    assert line == ["row", "task", *numbers, "2"]
    assert "so nothing is compared" in markdown(compare(mine, [old, new]))


def test_records_of_other_presets_are_left_aside_and_overrides_are_told() -> None:
    mine = preset(row=(70.0, 1.0))
    stranger = record("row", 5, 0.1)
    stranger.spec["preset"] = {"name": "yours", "row": "row", "overridden": {}}
    alone = record("row", 6, 0.1)
    alone.spec["preset"] = None
    changed = [record("row", seed, 0.7 + seed / 100, {"training.epochs": 1}) for seed in range(3)]
    found = compare(mine, [*changed, stranger, alone])
    assert found.frame["n"].tolist() == [3]
    assert "Not as in the preset: training.epochs = 1." in markdown(found)


MINE = """
title = "Fine-tuning on digits"
scenarios = ["task"]

[sequence]
name = "split-digits"
tasks = 2

[training]
epochs = 1

[published]
source = "nobody's table 1"
n = 10
error = "sd"

[[rows]]
label = "fine-tuning"
method = "finetune"
published = { task = [PUBLISHED, 1.0] }

[[rows]]
label = "joint"
method = "joint"

[[rows]]
label = "fine-tuning at a tiny rate"
control_of = "fine-tuning"
training = { lr = 1e-9 }

[[claims]]
on = "old"
better = "joint"
worse = "fine-tuning"
"""


def command(folder: Path, published: float, *options: str) -> Any:
    path = folder / "mine.toml"
    path.write_text(MINE.replace("PUBLISHED", str(published)))
    return CliRunner().invoke(
        app, ["verify", str(path), "--seeds", "3", "--jobs", "1", "--out", str(folder / "runs"), *options]
    )


def test_too_few_runs_are_said_in_the_table() -> None:
    found = compare(preset("unstated", row=(70.0, 1.0)), runs("row", 70.0))
    assert results_table(found)[1] == ["row", "task", "70.00 (1)", "70.00 ± 1.00", "–", "–", "too few runs", "–"]


def test_from_python_and_by_the_command(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace("PUBLISHED", "50"))
    found = clbench.verify(path, rows=["fine-tuning"], seeds=3, jobs=1, out=tmp_path / "runs", quiet=True)
    assert found.frame[["row", "scenario", "n"]].to_numpy().tolist() == [["fine-tuning", "task", 3]]
    assert found.disagreeing == ["fine-tuning, task"]
    ours = round(float(found.frame["mean"].iloc[0]), 2)
    right = command(tmp_path, ours, "--controls")
    assert right.exit_code == 0, right.output
    table = pd.read_csv(tmp_path / "runs" / "verify-mine.csv", nrows=3)
    assert table["verdict"].tolist() == ["agrees", "no published number", "moved out, as it should"]
    assert len(list((tmp_path / "runs").glob("*.json"))) == 9  # the fine-tuning runs were there already
    text = (tmp_path / "runs" / "verify-mine.md").read_text()
    assert "nobody's table 1, mean of 10 repeats ± a standard deviation" in text
    assert "| joint ≥ fine-tuning | old | task |" in text
    wrong = command(tmp_path, ours - 30, "--rows", "fine-tuning")
    assert wrong.exit_code == 1
    assert "1 disagree: fine-tuning, task" in wrong.stderr


def test_the_table_is_of_all_records_that_are_there(tmp_path: Path) -> None:
    for seeds, rows in (("3", "joint"), ("2", "fine-tuning,fine-tuning at a tiny rate"), ("2-2", "fine-tuning")):
        assert command(tmp_path, 50, "--rows", rows, "--seeds", seeds).exit_code == (0 if rows == "joint" else 1)
    table = pd.read_csv(tmp_path / "runs" / "verify-mine.csv", nrows=3)
    assert table[["row", "n"]].to_numpy().tolist() == [
        ["fine-tuning", 3],
        ["joint", 3],
        ["fine-tuning at a tiny rate", 2],
    ]
    path = tmp_path / "mine.toml"
    found = clbench.verify(path, rows="joint", seeds=1, jobs=1, out=tmp_path / "runs", quiet=True)
    assert found.frame["n"].tolist() == [3, 3, 2]
    # other settings are other runs
    changed = command(tmp_path, 50, "--rows", "joint", "--seeds", "2", "--set", "training.lr=0.2")
    table = pd.read_csv(tmp_path / "runs" / "verify-mine.csv", nrows=1)
    assert table[["row", "n"]].to_numpy().tolist() == [["joint", 2]], changed.output


def test_a_row_that_cannot_be_run_does_not_keep_the_others_from_their_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace("PUBLISHED", "50") + '[[rows]]\nlabel = "lost"\nmethod = "./lost.py:Lost"\n')
    words = ["verify", str(path), "--rows", "joint", "--seeds", "2", "--jobs", "1", "--out", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "the table has only what was asked for: preset mine, row 'lost': unknown method" in result.stderr
    assert pd.read_csv(tmp_path / "runs" / "verify-mine.csv", nrows=1)["row"].tolist() == ["joint"]


def test_what_would_be_verified(tmp_path: Path) -> None:
    result = command(tmp_path, 50, "--rows", "joint", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "3 runs: 3 to do, 0 done" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


def test_a_failed_run_is_an_exit_code_of_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINE.replace("PUBLISHED", "90").replace("epochs = 1", "epochs = 1\nlr = 1e30"))
    result = CliRunner().invoke(
        app, ["verify", str(path), "--seeds", "2", "--jobs", "1", "--out", str(tmp_path / "runs")]
    )
    assert result.exit_code == 1
    assert "runs failed" in result.stderr


def test_claims_are_paired_by_seed() -> None:
    rows = [Row(label=name, method="finetune") for name in ("a", "b")]
    claim = presets.Claim(on="new", better="a", worse="b", strictly=True)
    mine = Preset(name="mine", title="Mine", scenarios=["task"], rows=rows, claims=[claim])
    a, b = (60.0, 80.0, 70.0, 90.0), (59.0, 79.2, 68.9, 88.9)
    found = compare(mine, [*runs("a", *a), *runs("b", *b)])
    line = found.claims.iloc[0]
    assert line["p"] == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert line["verdict"] == "holds"
    assert compare(mine, [*runs("a", *b), *runs("b", *a)]).disagreeing == ["a > b on the new task"]
    undecided = compare(mine, [*runs("a", 60, 80), *runs("b", 61, 79)])
    assert undecided.claims["verdict"].tolist() == ["undecided"]

"""Our numbers beside published ones: the statistics against SciPy and by simulation, and what verify says of them."""

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
from clbench.verification.comparison import compare, welch
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


def preset(error: str = "sd", **rows: tuple[float, float]) -> Preset:
    published = Published(source="a paper", n=10, error=error)  # type: ignore[arg-type]
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

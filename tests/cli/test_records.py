"""Commands that read records: report, compare and merge."""

from pathlib import Path

import pytest
from made_up import ENDS, ending_at, record, three_methods
from typer.testing import CliRunner

import clbench
from clbench.cli.app import app
from clbench.errors import UsageError
from clbench.report.figures import files
from clbench.results.frames import Results
from clbench.results.record import RunRecord
from clbench.results.store import Store


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to read: six seeds in `runs`, one record of them damaged, two in `few`, other methods in `other`."""
    place = tmp_path_factory.mktemp("records")
    write([one for label, finals in ENDS.items() for one in ending_at(label, finals)], place / "runs")
    write(three_methods(), place / "few")
    write([one for label in ("er", "lwf", "si") for one in ending_at(label, ENDS["lwf"])], place / "other")
    (place / "runs/x.json").write_text("{}")
    return place


def write(records: list[RunRecord], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for one in records:
        Store(folder).write(one)
    return folder


def test_compare_exits_with_zero_whatever_the_answer(place: Path) -> None:
    for pair in (("lwf", "finetune"), ("finetune", "lwf")):
        said = CliRunner().invoke(app, ["compare", *pair, "--records", str(place / "runs")])
        assert said.exit_code == 0
        assert len(said.stdout.splitlines()) == 1
        assert "skipped x.json: missing entries" in said.stderr


def test_a_report_takes_methods_in_their_order_columns_and_baseline(place: Path, tmp_path: Path) -> None:
    options = "--methods lwf,finetune --columns forgetting,train_seconds,gap_recovered --baseline lwf --test wilcoxon"
    words = ["report", str(place / "runs"), "--out", str(tmp_path), "--formats", "svg", *options.split()]
    assert CliRunner().invoke(app, words).exit_code == 0
    rows = [line.split("|")[1:-1] for line in (tmp_path / "summary.md").read_text().splitlines() if "|" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells[0] == ["method", "forgetting", "training (s)", "gap recovered", "seeds"]
    assert [row[0] for row in cells[2:4]] == ["LwF", "Fine-tuning"]
    assert cells[3][2:] == ["2.50", "–", "6"]
    first = next(row for row in cells if row[1] == "average accuracy")
    assert first[0] == "Fine-tuning"
    assert first[4] == "0.031"  # 2 / 2⁶


def test_a_report_is_narrowed_by_place_and_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FIGURES", {})
    budget = {"iterations": None, "lr": 0.1}
    runs = [record("lwf", seed, training={"epochs": epochs, **budget}) for seed in (0, 1) for epochs in (2, 10)]
    runs += [record("finetune", 0, training={"epochs": 2, **budget})]
    runs += [record("lwf@temperature=4", 0, scenario="class", params={"temperature": 4.0})]
    runs += [record("lwf", 0, sequence_label="split-digits@tasks=2", sequence_params={"tasks": 2})]
    runs += [record("lwf", 0, model_label="mlp@width=8", model_params={"width": 8})]
    folder = write(runs, tmp_path / "runs")
    for options, count in (
        ({}, 8),
        ({"sequence": ["split-digits"]}, 7),
        ({"sequence": ["split-digits@tasks=2"]}, 1),
        ({"scenario": ["class", "task"]}, 8),
        ({"model": ["mlp@width=8"]}, 1),
        ({"where": {"training.epochs": 2}}, 3),
        ({"where": {"training.epochs": ["2", "10"], "seed": "1"}}, 2),
        ({"where": {"training.iterations": "none", "params.temperature": "4"}}, 1),
        ({"where": {"lwf.temperature": 4}, "scenario": ["class"]}, 1),
        ({"where": {"lwf@temperature=4.temperature": 4}}, 8),  # others are not asked
        ({"where": {"mlp.width": 256}, "model": "mlp"}, 7),
        ({"where": "mlp.width=256"}, 7),
        ({"where": {"mlp@width=8.width": "8"}, "model": ["mlp@width=8"]}, 1),
        ({"where": {"split-digits@tasks=2.tasks": 2}}, 8),  # as above
        ({"where": ["split-digits.tasks=2"], "scenario": "task"}, 1),
        ({"where": ["training.epochs=2", "seed=0"]}, 2),
        ({"where": "seed=0,1", "scenario": "class, task"}, 8),
        ({"methods": "LwF (temperature = 4),fine-TUNING"}, 2),
        ({"methods": ["LwF (temperature = 4)", "fine-TUNING"]}, 2),
    ):
        assert len(Results.load(folder, **options)) == count, options
    out = tmp_path / "report"
    words = ["report", str(folder), "--out", str(out), "--where", "training.epochs=2,3", "--where", "seed=0"]
    said = CliRunner().invoke(app, [*words, "--sequence", "split-digits", "--scenario", "task", "--model", "mlp"])
    assert said.exit_code == 0, said.output
    assert "no run with training.epochs=3: these records have 2, 10" in said.stderr
    rows = [line.split(",")[1:6] for line in (out / "runs.csv").read_text().splitlines()[1:]]
    place = ["split-digits", "task", "mlp"]
    assert rows == [[*place, "finetune", "finetune"], [*place, "lwf", "lwf"]]


def test_runs_of_two_budgets_are_compared_each_with_its_own_twin(tmp_path: Path) -> None:
    runs = []
    for epochs, better in ((2, "finetune"), (10, "lwf")):
        for label in ("finetune", "lwf"):
            ends = ENDS["lwf" if label == better else "finetune"]
            runs += ending_at(label, ends, training={"epochs": epochs, "iterations": None, "lr": 0.1})
    folder = write(runs, tmp_path / "runs")
    compare = ["compare", "LwF", "Fine-tuning", "--records", str(folder)]
    few, many = CliRunner().invoke(app, compare).stdout.splitlines()
    assert few.startswith("split-digits, task scenario, mlp [training.epochs=2]: lwf is worse than finetune")
    assert many.startswith("split-digits, task scenario, mlp [training.epochs=10]: lwf is better than finetune")
    said = CliRunner().invoke(app, [*compare, "--where", "training.epochs=10"])
    (line,) = said.stdout.splitlines()
    assert line == many.replace(" [training.epochs=10]", "")


def test_why_there_is_no_verdict_is_said_in_the_terminal(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FIGURES", {})
    five = [one for label, finals in ENDS.items() for one in ending_at(label, finals[:5])]
    for folder, reason in (
        (write(five, tmp_path / "five"), "Wilcoxon's signed-rank test cannot reach p < 0.05 with fewer than 7 seeds"),
        (place / "few", "too few seeds: a verdict takes 5 seeds"),
    ):
        said = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "out"), "--test", "wilcoxon"])
        assert said.exit_code == 0, said.output
        assert reason in said.stderr


def test_compare_says_that_another_baseline_than_fine_tuning_is_taken(place: Path) -> None:
    words = ["compare", "lwf", "si", "--records", str(place / "other")]
    said = CliRunner().invoke(app, words)
    note = "no finetune here: differences are to er (--baseline chooses another)"
    assert said.stderr.count(note) == 1
    assert "baseline" not in CliRunner().invoke(app, [*words, "--baseline", "si"]).stderr


def test_a_report_reads_folders_below_and_says_so(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    write(three_methods(), above / "first")
    write(three_methods(scenario="class"), above / "second")
    words = ["--out", str(tmp_path / "report"), "--formats", "svg"]
    said = CliRunner().invoke(app, ["report", str(above), *words])
    assert said.exit_code == 0
    assert f"records of 2 folders: {above / 'first'}, {above / 'second'}" in said.stderr
    assert len((tmp_path / "report/runs.csv").read_text().splitlines()) == 1 + 12
    compared = CliRunner().invoke(app, ["compare", "lwf", "joint", "--records", str(above)])
    assert "records of 2 folders" in compared.stderr
    assert len(compared.stdout.splitlines()) == 2
    alone = CliRunner().invoke(app, ["compare", "lwf", "joint", "--records", str(above / "first")])
    assert "records of" not in alone.stderr


BAD = """
report nowhere                            | no folder of records at nowhere
report runs --methods si                  | no records of 'si' in runs: choose from finetune, joint, lwf
report runs --columns accuracy            | no column 'accuracy', did you mean
report runs --baseline si                 | no finished run of 'si'
report runs --test z                      | unknown 'z': choose from t, wilcoxon
report runs --interval exact              | unknown 'exact': choose from t, bootstrap
report nowhere --formats jpg --width wide | no format 'jpg': choose from png, pdf, svg
report runs --formats gif                 | no format 'gif': choose from png, pdf, svg
report runs --width wide                  | no width 'wide': choose one of column, page
report runs --out runs                    | runs holds records, which a report must not mix with: name another folder
report few --out runs                     | runs holds records
report runs --out runs/x.json/report      | cannot write the report to runs/x.json/report
compare lwf                               | Missing argument 'B'
compare lwf si --records runs             | no finished run of 'si': choose from finetune, joint, lwf
compare lwf lwf --records runs            | lwf is compared with itself
compare lwf joint --records runs --metric speed | no metric 'speed'
compare lwf joint --records runs --test z | unknown 'z'
compare lwf joint --records runs --metric gap_recovered | clbench report --columns gap_recovered shows it
compare Fine-tunning lwf --records runs   | no finished run of 'Fine-tunning', did you mean Fine-tuning
compare lwf joint --records runs --metric forgeting | no metric 'forgeting', did you mean forgetting
report runs --columns forgetting,training_seconds | no column 'training_seconds', did you mean train_seconds
report runs --methods LFW                 | no records of 'LFW' in runs
report runs --sequence split-digit        | no records of the sequence 'split-digit', did you mean split-digits
report runs --scenario clas               | no records of the scenario 'clas': choose from task
report runs --model cnn                   | no records of the model 'cnn': choose from mlp
report runs --where epochs=2              | no setting 'epochs' in these records, did you mean training.epochs
report runs --where training.epochs=2     | no run with training.epochs=2: these records have 10
report runs --where training.epochs       | --where takes SETTING=VALUE
compare lwf joint --records runs --where lwf.rate=1 | no setting 'lwf.rate' in these records: choose from lwf.of
report runs --where mlp.widht=32          | no setting 'mlp.widht' in these records, did you mean mlp.width?
report runs --where mlp.width=32          | no run with mlp.width=32: these records have 256
report runs --where split-digits.tasks=2  | no setting 'split-digits.tasks' in these records: it has none
compare lwf joint --records nowhere       | no folder of records at nowhere
compare joint finetune --records few --test wilcoxon | cannot reach p < 0.05 with 2 seeds
"""


@pytest.mark.parametrize("line", BAD.strip().splitlines())
def test_bad_input_is_one_clear_line(line: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, message = (part.strip() for part in line.split("|"))
    monkeypatch.chdir(place)
    said = CliRunner().invoke(app, arguments.split())
    assert said.exit_code != 0
    if isinstance(said.exception, UsageError):
        assert message in str(said.exception)
        assert "\n" not in str(said.exception)
    else:
        assert said.exit_code == 2
        assert message in said.output
    assert {path.name for path in place.iterdir()} == {"runs", "few", "other"}


def test_python_takes_what_the_command_line_takes(place: Path) -> None:
    folder = place / "runs"
    wanted = clbench.compare(clbench.load(folder), "lwf", "finetune")
    assert clbench.compare(folder, "lwf", "finetune") == clbench.compare(str(folder), "lwf", "finetune") == wanted
    assert len(clbench.load(folder, where="seed=0", methods="lwf,joint")) == 2
    some = clbench.load(folder, where=["seed=0,7", "mlp.width=256"])
    assert len(some) == 3
    assert some.problems[-1] == "no run with seed=7: these records have 0, 1, 2, 3, 4, 5"
    for where in ("seed", ["seed=0", "lwf"], [7], 7):
        with pytest.raises(UsageError, match="takes SETTING=VALUE"):
            clbench.load(folder, where=where)  # type: ignore[arg-type]
    for results in (None, [1], some.runs):
        with pytest.raises(
            UsageError, match=r"compare takes the results of clbench\.load or run, or a folder of records"
        ):
            clbench.compare(results, "lwf", "finetune")  # type: ignore[arg-type]


def test_one_file_stands_for_a_folder_of_records(place: Path, tmp_path: Path) -> None:
    published = tmp_path / "all.jsonl.gz"
    said = CliRunner().invoke(app, ["merge", str(place / "runs"), "--out", str(published)])
    assert said.exit_code == 0
    assert f"18 records were added to {published}" in said.stderr
    asked = ["compare", "lwf", "finetune", "--records"]
    from_folder, from_file = (
        CliRunner().invoke(app, [*asked, str(path)]).stdout for path in (place / "runs", published)
    )
    assert from_folder == from_file != ""
    again = CliRunner().invoke(app, ["merge", str(published), "--out", str(tmp_path / "unpacked")])
    assert "18 records were added" in again.stderr
    assert len(list((tmp_path / "unpacked").glob("*.json"))) == 18

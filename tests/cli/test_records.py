"""Commands that read records: report, compare and merge."""

from pathlib import Path

import pytest
from made_up import ENDS, ending_at, three_methods
from typer.testing import CliRunner

from clbench.cli.app import app
from clbench.errors import UsageError
from clbench.results.record import RunRecord
from clbench.results.store import Store


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with records of six seeds in `runs`, one of them damaged, of two seeds in `few`; only read."""
    place = tmp_path_factory.mktemp("records")
    write([one for label, finals in ENDS.items() for one in ending_at(label, finals)], place / "runs")
    write(three_methods(), place / "few")
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
report runs --columns accuracy            | no column 'accuracy': choose from average_accuracy
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
    assert {path.name for path in place.iterdir()} == {"runs", "few"}


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

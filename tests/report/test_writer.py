"""The folder of a report."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from made_up import record, three_methods

import clbench
from clbench.errors import UsageError
from clbench.report.contents import Contents
from clbench.report.figures import files
from clbench.report.figures.kinds import FIGURES
from clbench.report.formats import markdown
from clbench.report.tables import Tables
from clbench.report.writer import write_report
from clbench.results.frames import METRIC_NAMES, Results
from clbench.results.metrics import CURVE_METRICS, IMAGE_METRICS, PROBE_METRIC
from clbench.results.store import Store

TABLES = {"summary.csv", "runs.csv", "differences.csv", "gap_recovered.csv", "summary.md", "summary.tex"}
TABLES |= {
    "methods.bib",
    "report.html",
    *(name.replace(".csv", ".parquet") for name in TABLES if name.endswith(".csv")),
}


def test_report_needs_neither_torch_nor_avalanche(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor Matplotlib and SciPy's statistics, for tables in the terminal; its figures are those of another process."""
    Store(tmp_path).write(record("finetune"))
    code = """
import sys
from clbench.report.figures import files
from clbench.report.writer import print_tables, write_report
from clbench.results.frames import load
results = load(sys.argv[1])
print_tables(results)
assert "matplotlib" not in sys.modules and "scipy.stats" not in sys.modules
files.FIGURES = {kind: files.FIGURES[kind] for kind in ("accuracy-matrix", "average-accuracy")}
write_report(results, sys.argv[2], formats=["svg"])
print(sorted({"torch", "torchvision", "avalanche"} & set(sys.modules)))
"""
    command = [sys.executable, "-P", "-c", code, str(tmp_path), str(tmp_path / "report")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "finetune" in done.stdout
    monkeypatch.setattr(files, "FIGURES", {kind: FIGURES[kind] for kind in ("accuracy-matrix", "average-accuracy")})
    again = write_report(Results.load(tmp_path), tmp_path / "again", formats=["svg"])
    drawn = [path for path in again if path.suffix == ".svg"]
    assert len(drawn) == 2
    assert all((tmp_path / "report/figures" / path.name).read_bytes() == path.read_bytes() for path in drawn)


def test_report_writes_tables_and_figures(written: tuple[Path, set[str]]) -> None:
    folder, names = written
    # of one sequence, without curves, memory, counts of classes, the probe and tuning
    others = {"ranks", "within-task-curves", "accuracy-memory", "class-accuracy", "confusion", "probe", "sensitivity"}
    kinds = set(FIGURES) - others
    drawn = {f"figures/split-digits-task-mlp-{kind}.{suffix}" for kind in kinds for suffix in ("png", "pdf")}
    assert names == {*TABLES, *drawn}
    for name in names:
        if name.endswith(".parquet"):
            again = pd.read_parquet(folder / name).to_csv(index=False)
            assert again == (folder / name).with_suffix(".csv").read_text()
    assert all((folder / name).stat().st_size > 0 for name in names)
    assert not list(folder.rglob("*.tmp"))
    assert len(pd.read_csv(folder / "runs.csv")) == 6
    undefined = {"forward_transfer", *IMAGE_METRICS, *CURVE_METRICS, PROBE_METRIC}  # of these runs
    assert set(pd.read_csv(folder / "summary.csv")["metric"]) == set(METRIC_NAMES) - undefined


def test_markdown_has_every_table_and_figure(written: tuple[Path, set[str]]) -> None:
    text = (written[0] / "summary.md").read_text()
    links = re.findall(r"\]\((.*?)\)", text)
    assert len(links) == 7
    assert all((written[0] / link).is_file() for link in links)
    row = next(line for line in text.splitlines() if line.startswith("| Fine-tuning"))
    assert r"77.50 \[45.73, 100\*]" in row.split(" | ")[1]  # 77.5 ± 12.7062 · 2.5
    assert "| 2.50 | 1.50 | 200 | 3,200 | 3,200 | 3,000 | 1,000 | 2.0 kB | 8 | – |" in text
    assert "**" not in text  # two seeds
    assert "| LwF | average accuracy | +10.00 |" in text


def test_report_again_replaces_its_own_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FIGURES", {"accuracy-matrix": FIGURES["accuracy-matrix"]})
    both = [record("lwf"), record("lwf", sequence_label="split-mnist")]
    first = write_report(Results(both), tmp_path, formats=["svg"])
    mine = tmp_path / "figures" / "mine-accuracy-matrix.svg"
    mine.write_text("my own")
    second = write_report(Results(both[:1]), tmp_path, formats=["svg"])
    assert set(second) < set(first)
    assert {path for path in first if path.exists()} == set(second)
    assert mine.read_text() == "my own"


def test_report_refuses_folders_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UsageError, match=f"cannot write the report to {folder}: .*--out"):
            write_report(Results([record("lwf")]), folder)


def test_only_failed_runs_make_a_report_without_figures(tmp_path: Path) -> None:
    paths = write_report(Results([record("lwf", error="out of memory")]), tmp_path)
    assert {path.name for path in paths} == TABLES
    assert pd.read_csv(tmp_path / "summary.csv").empty
    assert "out of memory" in (tmp_path / "summary.md").read_text()


def test_one_seed_has_no_intervals() -> None:
    results = Results([record("lwf")])
    text = markdown(Contents(results, Tables(results)))
    assert "One seed: there are no intervals" in text
    assert "| LwF | 90.00 | 90.00 | 90.00 | 0.00 |" in text


def test_ranks_of_five_sequences_stand_behind_the_comparisons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FIGURES", {"ranks": FIGURES["ranks"]})
    rows = [one for i in range(5) for one in three_methods(sequence_label=f"s{i}")]
    write_report(Results(rows), tmp_path, formats=["svg", "pdf"])
    text = (tmp_path / "summary.md").read_text()
    assert text.index("## s4, task scenario, mlp") < text.index("(figures/task-ranks.svg)")
    assert (tmp_path / "report.html").read_text().count('src="data:image/svg+xml;base64,') == 1


def test_a_report_and_a_merge_from_python(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for made in three_methods():
        Store(tmp_path / "a").write(made)
    assert clbench.merge([tmp_path / "a"], tmp_path / "b") == (6, [])
    paths = clbench.write_report(tmp_path / "b", tmp_path / "report", formats="svg", columns=["forgetting"])
    assert tmp_path / "report/report.html" in paths
    assert {path.suffix for path in paths if path.parent.name == "figures"} == {".svg"}
    some = clbench.load(tmp_path / "b", methods=["lwf", "finetune"])
    clbench.write_report(some, tmp_path / "some", formats=["svg"])
    assert "joint" not in (tmp_path / "some/summary.csv").read_text()
    with pytest.raises(UsageError, match="no records in"):
        clbench.merge([tmp_path / "none"], tmp_path / "b")
    with pytest.raises(UsageError, match="lwff"):
        clbench.write_report(some, tmp_path / "other", baseline="lwff")
    assert not (tmp_path / "other").exists()

"""What stands around a sweep: options in a file, a record for people, lists for programs, completion."""

import json
import re
from pathlib import Path

import pytest
import torch
from commands import Command, one_clear_line

from clbench.cli.options import completing
from clbench.data.sources import IDX_FILES
from clbench.experiment import registry
from clbench.results.store import Store

RUN = ["--methods", "lwf@temperature=4,finetune", "--seeds", "1", "--epochs", "1", "--jobs", "1"]


def test_a_plan_is_saved_and_run_again(clbench: Command, tmp_path: Path) -> None:
    saved = clbench("run", *RUN, "--dry-run", "--save-config", "sweep.toml")
    assert saved.code == 0
    assert "clbench run --config sweep.toml" in saved.err
    assert clbench("run", "--config", "sweep.toml", "--dry-run").out == saved.out
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.toml"]
    other = clbench("run", "--config", "sweep.toml", "--methods", "er", "--dry-run")
    assert other.out.startswith("to do  split-digits  task  mlp  er  seed 0")
    one_clear_line(clbench("run", "--methods", "er", "--save-config", "sweep.toml"), "says otherwise")
    assert not (tmp_path / "results").exists()


def test_a_default_in_the_command_line_goes_before_the_file(clbench: Command, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text('[run]\nmethods = "lwf"\nout = "elsewhere"\nthreads = 2\n')
    assert clbench("run", "--config", "sweep.toml", "--threads", "1", "--seeds", "1", "--jobs", "1").code == 0
    (record,) = Store("elsewhere").read()[0].values()
    assert record.spec["threads"] == 1


def test_a_record_is_shown(clbench: Command, tmp_path: Path) -> None:
    assert clbench("run", *RUN, "--scenario", "class", "--quiet").code == 0
    records = Store("results/runs").read()[0]
    for key, record in records.items():
        shown = clbench("show", f"results/runs/{key}.json")
        assert shown.code == 0
        assert shown.out.startswith(f"{record.title}: finished\n")
        last = re.search(r"not told the task.*?after task 5 +([\d. ]+)\n", shown.out, re.DOTALL)
        assert last is not None
        assert [float(cell) for cell in last[1].split()] == pytest.approx(100 * record.matrix()[-1], abs=0.051)
        average = re.search(r"average accuracy +([\d.]+)", shown.out)
        assert average is not None
        assert float(average[1]) == pytest.approx(100 * record.matrix()[-1].mean(), abs=0.0051)
        assert re.search(rf"updates +{sum(record.updates or [])}\b", shown.out.replace(",", ""))
    assert "temperature=4" in "".join(clbench("show", f"results/runs/{key}.json").out for key in records)
    Path("bad.json").write_text("{}")
    one_clear_line(clbench("show", "bad.json"), "bad.json is no good record: missing entries")
    one_clear_line(clbench("show", "none.json"), "cannot be read: No such file")


def test_a_failed_record_is_shown(clbench: Command, tmp_path: Path) -> None:
    assert clbench("run", "--methods", "finetune", "--seeds", "1", "--lr", "1e9", "--jobs", "1", "--quiet").code == 1
    (path,) = Path("results/runs").glob("*.json")
    shown = clbench("show", str(path))
    assert shown.code == 0
    assert "diverged; try a smaller lr" in shown.out


@pytest.mark.parametrize("what", ["methods", "sequences", "models", "presets"])
def test_lists_for_programs(clbench: Command, what: str) -> None:
    entries = json.loads(clbench("list", what, "--json").out)
    plain = clbench("list", what).out
    assert len(entries) > 3
    for entry in entries:
        assert entry["title"]
        assert re.search(rf"^{re.escape(entry['name'])}  ", plain, re.MULTILINE)
    if what == "methods":
        lwf = next(entry for entry in entries if entry["name"] == "lwf")
        found = {field["name"]: field["default"] for field in lwf["fields"]}
        assert found == registry.defaults(registry.find("method", "lwf"))
        assert lwf["scenarios"] == ["class", "domain", "task"]
        assert [e["scenarios"] for e in entries if e["name"] == "icarl"] == [["class"]]


def test_names_are_completed(clbench: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = completing("methods")
    assert methods is not None
    assert methods("finetune,lw") == ["finetune,lwf", "finetune,lwf-mc"]
    assert set(methods("")) >= {*registry.names("method"), "core", "all"}
    assert completing("lr") is None
    for words, expected in (
        ("clbench run --scenario cl", ["class"]),
        ("clbench verify vande", ["vandeven2018-split-mnist"]),
        ("clbench show split-dig", ["split-digits"]),
    ):
        monkeypatch.setenv("_CLBENCH_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert clbench().out.split() == expected


def test_the_doctor_says_what_will_be_used(clbench: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clbench.experiment.planning.count_cores", lambda: 3)
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    for name in IDX_FILES:
        (tmp_path / "MNIST/raw" / f"{name}.gz").touch()
    told = clbench("doctor", "--data-root", ".")
    assert told.code == 0
    assert f"torch {torch.__version__.split('+')[0]}" in told.out
    assert f"data sets in {tmp_path}: mnist\n" in told.out
    if not torch.cuda.is_available():
        assert "GPU: none that PyTorch finds" in told.out
        assert "'clbench run' takes cpu, 3 runs at a time" in told.out
    one_clear_line(clbench("doctor", "--data-root", "nowhere"), "the data root nowhere is not a folder")

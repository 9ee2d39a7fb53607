"""The preset that a search writes, and what it says."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from commands import command, one_clear_line

import clbench
from clbench.experiment import presets
from clbench.tuning.findings import relative, toml, unequal

SMALL: dict[str, Any] = {"sequence": "./made_up.py:Shown", "seeds": "1000-1001", "jobs": 1, "quiet": True}
WORDS = ("tune", "--methods", "./made_up.py:Peak", "--sequence", "./made_up.py:Shown", "--jobs", "1")
pytestmark = pytest.mark.usefixtures("made_up")


def test_the_preset_says_all_that_was_asked_for() -> None:
    found = clbench.tune(
        methods="lwf@scope=joined,er",
        scenario="class",
        model="cnn",
        class_order=[3, 1, 4, 0, 5, 9, 2, 6, 8, 7],
        epochs=1,
        lr=0.05,
        settings={"cnn.width": 8, "split-digits.tasks": 5, "training.clip_norm": 1, "er.images": 20},
        trials=1,
        seeds="7-7",
        jobs=1,
        quiet=True,
    )
    preset = presets.load(found.preset_path)
    assert (preset.scenarios, preset.tasks, preset.class_order) == (["class"], "2-", [3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
    assert preset.sequence == {"name": "split-digits"}  # five tasks are the default
    assert preset.model == {"name": "cnn", "width": 8}
    assert preset.training == {"epochs": 1, "lr": 0.05, "clip_norm": 1.0}  # validation images are for the search alone
    assert preset.tuning is not None
    assert (preset.tuning.protocol, preset.tuning.tasks, preset.tuning.validation) == ("first-tasks", "0-1", 0.1)
    lwf, er = preset.rows
    assert (lwf.label, lwf.method, lwf.fields["scope"]) == ("lwf@scope=joined", "lwf", "joined")
    assert er.fields["images"] == 20
    (record,) = clbench.run(preset=found.preset_path, rows="lwf@scope=joined", seeds="3-3", jobs=1, quiet=True).records
    assert record.spec["class_order"] == [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    assert record.spec["training"]["held_out"] == 0
    assert record.spec["training"]["lr"] == 0.05


def test_a_value_at_the_edge_is_pointed_out() -> None:
    found = clbench.tune(methods="./made_up.py:Peak", search={"./made_up.py:Peak.at": "0.01..1:log"}, trials=3,
                         search_by="grid", **SMALL)  # fmt: skip
    said = "at = 1 lies at the upper end of its space 0.01..1:log: a better one may lie beyond"
    assert f"./made_up.py:Peak: {said}" in found.warnings
    lines = found.preset_path.read_text().splitlines()
    assert lines.index(f"# WARNING: {said}") == lines.index("fields = { at = 1.0 }") - 1


def test_a_method_with_more_trials_is_pointed_out() -> None:
    few = clbench.tune(methods="./made_up.py:Peak", trials=2, **SMALL)
    more = clbench.tune(methods="./made_up.py:Peak@tasks=9", trials=3, **SMALL)
    assert unequal([*few.tuned, *more.tuned]) == [
        "./made_up.py:Peak@tasks=9 had 3 trials, others 2: not the same budget"
    ]
    assert unequal(more.tuned) == []


def test_it_is_said_where_nothing_is_better_than_the_default() -> None:
    more = SMALL | {"seeds": "1000-1003"}
    said = "as far as 4 seeds can tell, no setting is better than the default: ./made_up.py:Peak"
    near = clbench.tune(methods="./made_up.py:Peak", search={"./made_up.py:Peak.at": "0.1,0.11"}, **more)
    far = clbench.tune(methods="./made_up.py:Peak", search={"./made_up.py:Peak.at": "0.1,9"}, **more)
    assert (near.warnings, far.warnings) == ([said], [])


def test_an_earlier_preset_that_says_something_else_is_kept() -> None:
    few = clbench.tune(methods="./made_up.py:Peak", trials=2, **SMALL)
    clbench.tune(methods="./made_up.py:Peak", trials=2, **SMALL)  # the same
    text = few.preset_path.read_text()
    more = clbench.tune(methods="./made_up.py:Peak@tasks=9", trials=2, **SMALL)
    assert more.preset_path == few.preset_path
    assert sorted(path.name for path in few.preset_path.parent.glob("*.toml")) == [
        "Shown-task.earlier-1.toml",
        "Shown-task.toml",
    ]
    assert few.preset_path.with_name("Shown-task.earlier-1.toml").read_text() == text


def test_the_score_is_the_mean_over_seeds_with_its_interval() -> None:
    found = clbench.tune(methods="./made_up.py:Peak", search={"./made_up.py:Peak.at": "10"}, **SMALL | {"seeds": "3-5"})
    (row,) = presets.load(found.preset_path).rows
    (line,) = found.frame.itertuples()
    records = [json.loads(path.read_text()) for path in sorted(found.plan.records.glob("*.json"))]
    finals = [sum(record["validation"]["task_aware"][-1]) / 2 for record in records]
    mean = sum(finals) / 3
    half = 4.302653 * (sum((x - mean) ** 2 for x in finals) / 2 / 3) ** 0.5  # Student's, two degrees of freedom
    assert row.tuning is not None
    assert row.tuning.score == round(100 * mean, 2)
    assert row.tuning.interval == pytest.approx([100 * (mean - half), min(100, 100 * (mean + half))], abs=0.01)
    assert (line.ci_low, line.ci_high) == tuple(row.tuning.interval)


@pytest.mark.parametrize("value", [1e-05, 1e6, 'a "b" \\ ü', True, [1, 2], {"a": {"b c": 1.5}}, "x\ny"])
def test_values_in_toml(value: Any) -> None:
    import tomllib

    assert tomllib.loads(f"x = {toml(value)}") == {"x": value}


def test_files_are_named_from_the_folder_of_the_preset(made_up: Path) -> None:
    assert relative("./made_up.py:Peak", Path("results/tuned")) == "../../made_up.py:Peak"
    assert relative("./made_up.py:Peak", Path()) == "./made_up.py:Peak"
    assert relative("npz:a.npz", Path("results/tuned")) == "npz:../../a.npz"
    for name in ("lwf", "torchvision:MNIST", "avalanche:SplitMNIST", "mnist+fashion-mnist", "package.module:Name"):
        assert relative(name, Path("results/tuned")) == name


def test_the_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    run = command(monkeypatch, capfd)
    planned = run(*WORDS, "--trials", "4", "--dry-run")
    assert (planned.code, planned.out) == (0, "")
    assert "settings are chosen on tasks 0-1 alone, which are left out of what is reported (tasks 2-)" in planned.err
    assert "./made_up.py:Peak: at over 0.001..10000:log; 4 trials by tpe, from at=0.1 on" in planned.err
    assert "12 runs at most" in planned.err
    assert not Path("results").exists()
    ended = run(*WORDS, "--trials", "4", "--out", "here", "--quiet")
    assert ended.code == 0
    assert "Tuned on Shown-task" in ended.out
    assert "the preset is here/Shown-task.toml: clbench run --preset here/Shown-task.toml --seeds 10" in ended.err
    assert run("run", "--preset", "here/Shown-task.toml", "--seeds", "2", "--jobs", "1", "--quiet").code == 0
    assert "tuned by first-tasks" in run("report", "--formats", "svg").out
    one_clear_line(run(*WORDS, "--search", "lwf.wight=1..2"), "lwf has no field 'wight', did you mean weight")
    one_clear_line(
        run(*WORDS, "--search", "./made_up.py:Peak.at=1-2"), "Peak.at=1-2: the value should be a valid number"
    )


def test_a_stop_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("clbench.tuning.tune.prepare", stopped)
    ended = command(monkeypatch, capfd)(*WORDS)
    assert ended.code == 130
    assert "stopped; what was done is in results/tuned/Shown-task. Run it again to go on." in ended.err


def test_without_optuna_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else find(name))
    one_clear_line(command(monkeypatch, capfd)(*WORDS), "clbench tune needs optuna: pip install 'clbench[tune]'")

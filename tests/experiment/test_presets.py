"""Presets: the built-in files, a user's own, what is put in their place, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import prepared as plan
from commands import Command, command, one_clear_line

import clbench
from clbench.errors import UsageError
from clbench.execution.sweep import Sweep
from clbench.experiment import presets
from clbench.experiment.points import resolve_training
from clbench.experiment.presets import Preset, at
from clbench.results.store import RunRecord, Store
from clbench.verification.comparison import compare
from clbench.verification.tables import results_table

SCENARIOS = ("task", "domain", "class")

OWN = """
title = "Two methods on the digits"
scenarios = ["task", "class"]
class_order = "fixed"

[sequence]
name = "split-digits"

[model]
name = "mlp"
width = 16

[training]
epochs = 1
batch_size = { task = 32, class = 64 }
lr = 0.05

[[rows]]
label = "carried on"
method = "finetune"
training = { optimizer = "adam", lr = 0.002 }

[[rows]]
label = "distilled"
method = "lwf"
fields = { weight = { task = 2.0, class = 3.0 }, scale_t2 = true, temperature = { task = 2.0, class = 3.0 } }
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    return file


def planned(preset: Path | str, folder: Path, **options: Any) -> Sweep:
    return plan(**{"preset": preset, "out": folder / "out", "seeds": 1, "jobs": 1} | options)


def run_all(sweep: Sweep) -> list[RunRecord]:
    return list(sweep.run())


def overridden(sweep: Sweep) -> list[dict[str, Any]]:
    """What each job says was put in the place of the preset's, as its record would."""
    return [job.spec.as_json()["preset"]["overridden"] for job in sweep.jobs]


# ---------------------------------------------------------------------------------------------------------------------
# The built-in ones


@pytest.mark.parametrize(("name", "tasks", "stored"), [("b0", "tasks=10", 200), ("b50", "classes=50+10x5", 100)])
def test_class_incremental_cifar100_without_published_numbers(
    name: str, tasks: str, stored: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows on 100 made-up classes of two images; B50 keeps one of each class here."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).integers(0, 256, (300, 4, 4, 3), dtype=np.uint8)
    y = np.arange(300) % 100
    np.savez("small.npz", x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])
    tiny = ["resnet32.channels=2", "resnet32.blocks=1", "training.epochs=1", "bic.bias_epochs=1"]
    if name == "b50":
        tiny += [f"{method}.per_class=1" for method in ("icarl", "bic", "wa", "lucir")]
    sweep = planned(f"cifar100-{name}-inc10", tmp_path, sequence=[f"npz:small.npz@{tasks}"], settings=tiny)
    records = {record.spec["label"].split("@")[0]: record for record in run_all(sweep)}
    assert [record.error for record in records.values()] == [None] * 8
    orders = {tuple(record.spec["class_order"]) for record in records.values()}
    assert orders == {tuple(np.random.RandomState(1993).permutation(100).tolist())}
    assert [records[label].stored_images for label in ("iCaRL", "BiC", "WA", "LUCIR")] == [stored] * 4
    found = compare(presets.load(f"cifar100-{name}-inc10"), list(records.values()))
    headings, *lines = results_table(found)
    assert headings == ["row", "scenario", "average", "old tasks", "new task", "all images", "incremental", "seeds"]
    assert [line[0] for line in lines] == ["finetune", "LwF", "replay", "iCaRL", "BiC", "WA", "LUCIR", "joint"]
    assert [line[6] for line in lines].count("–") == 1  # joint training is evaluated once, in the end


@pytest.mark.parametrize("name", presets.names())
def test_every_built_in_preset_loads(name: str) -> None:
    preset = presets.load(name)
    assert preset.name == name
    assert preset.title
    assert preset.choose(None)


def test_list_presets(typed: Command) -> None:
    lines = typed("list", "presets").out.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == presets.names()
    assert {"hsu2018-split-mnist", "note", "vandeven2018-split-mnist"} <= set(presets.names())
    shown = typed("show", "vandeven2018-split-mnist").out
    assert "Scenarios: task, domain, class\nRows: none, SI, LwF, offline\n" in shown
    assert shown.endswith((presets.FOLDER / "vandeven2018-split-mnist.toml").read_text(encoding="utf-8"))


def published(preset: Preset) -> dict[str, dict[str, tuple[float, float]]]:
    return {row.label: dict(row.published) for row in preset.choose(None)}


def test_the_protocol_of_hsu_2018() -> None:
    preset = presets.load("hsu2018-split-mnist")
    assert preset.scenarios == ["task", "domain", "class"]
    assert preset.class_order == "fixed"
    assert preset.sequence == {"name": "split-mnist", "padding": 2, "mean": 0.1, "std": 0.2752}
    assert preset.model == {"name": "mlp", "depth": 2, "width": 400}
    expected = {
        "optimizer": "adam", "lr": 0.001, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 128, "drop_last": False,
        "epochs": 4, "keep_optimizer": True, "full_head": True,
    }  # fmt: skip
    untouched = {"task": "zero-once-reached", "domain": "skip", "class": "zero"}
    for scenario in SCENARIOS:
        training = at(preset.training, scenario)
        assert training.pop("untouched") == untouched[scenario]
        assert training.pop("predict_over") == ("all" if scenario == "class" else "seen")
        assert training == expected
    rows = {row.label: row for row in preset.choose(None)}
    assert rows["finetune (SGD)"].training == {"optimizer": "sgd", "lr": 0.01}
    assert rows["finetune (Adagrad)"].training == {"optimizer": "adagrad", "lr": 0.01}
    strengths = {label: row.fields["strength"] for label, row in rows.items() if "strength" in row.fields}
    assert strengths == {
        "L2": {"task": 0.01, "domain": 0.5, "class": 100},
        "EWC": {"task": 100, "domain": 100, "class": 600},
        "online EWC": {"task": 400, "domain": 700, "class": 100},
        "SI": {"task": 300, "domain": 3000, "class": 600},
        "MAS": {"task": 1, "domain": 10000, "class": 1},
    }
    assert rows["naive rehearsal"].fields["images"] == 1100
    assert rows["naive rehearsal-C"].fields["images"] == 4400


def test_the_table_of_hsu_2018() -> None:
    preset = presets.load("hsu2018-split-mnist")
    table = published(preset)
    assert list(table) == [
        "finetune (Adam)", "finetune (SGD)", "finetune (Adagrad)", "L2", "EWC", "online EWC", "SI", "MAS",
        "naive rehearsal", "naive rehearsal-C", "offline",
    ]  # fmt: skip
    assert all(set(row) == set(SCENARIOS) for row in table.values())
    assert table["finetune (Adam)"] == {"task": (93.46, 2.01), "domain": (55.16, 1.38), "class": (19.71, 0.08)}
    assert table["offline"] == {"task": (99.52, 0.16), "domain": (98.59, 0.15), "class": (97.53, 0.30)}
    assert preset.published is not None
    assert (preset.published.n, preset.published.error, preset.published.ddof) == (10, "unstated", 0)
    assert preset.published.kinds == ["sd", "sem"]
    assert "1810.12488" in preset.published.source


def test_the_protocol_of_van_de_ven_2018() -> None:
    preset = presets.load("vandeven2018-split-mnist")
    assert preset.scenarios == ["task", "domain", "class"]
    assert preset.class_order == "seed"
    assert preset.sequence == {"name": "split-mnist", "mean": 0.0, "std": 1.0}
    assert preset.model == {"name": "mlp", "depth": 2, "width": 400}
    for scenario in SCENARIOS:
        assert at(preset.training, scenario) == {
            "optimizer": "adam", "lr": 0.001, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 128,
            "drop_last": True, "iterations": 2000, "keep_optimizer": True, "full_head": True, "untouched": "zero",
            "predict_over": "seen",
        }  # fmt: skip
    (lwf,) = preset.choose(["LwF"])
    assert {scenario: at(lwf.fields, scenario)["scope"] for scenario in SCENARIOS} == {
        "task": "per-task", "domain": "auto", "class": "padded",
    }  # fmt: skip
    assert lwf.fields["temperature"] == 2
    assert lwf.fields["mixing"] == "share"


def test_the_table_of_van_de_ven_2018() -> None:
    preset = presets.load("vandeven2018-split-mnist")
    table = published(preset)
    assert list(table) == ["none", "SI", "LwF", "offline"]
    assert all(set(row) == set(SCENARIOS) for row in table.values())
    assert table["LwF"] == {"task": (99.60, 0.03), "domain": (71.02, 1.26), "class": (24.17, 0.51)}
    assert preset.published is not None
    assert (preset.published.n, preset.published.error) == (20, "sem")
    assert preset.published.kinds == ["sem"]


@pytest.mark.data
def test_the_published_presets_as_they_are_planned(data_root: Path, tmp_path: Path) -> None:
    for name, rows in (("hsu2018-split-mnist", 11), ("vandeven2018-split-mnist", 4)):
        sweep = planned(name, tmp_path, data_root=data_root, seeds=None)
        assert len(sweep.jobs) == rows * 3 * 10
        assert sweep.notes == []
        assert overridden(sweep) == [{}] * len(sweep.jobs)
        assert {job.spec.model_params["width"] for job in sweep.jobs} == {400}
        assert {job.spec.training["batch_size"] for job in sweep.jobs} == {128}
        orders = {tuple(job.spec.class_order or ()) for job in sweep.jobs}
        assert len(orders) == (1 if name.startswith("hsu") else 10)
        budgets = {(job.spec.training["epochs"], job.spec.training["iterations"]) for job in sweep.jobs}
        assert budgets == {(4, None) if name.startswith("hsu") else (None, 2000)}
        assert len({job.spec.key for job in sweep.jobs}) == len(sweep.jobs)


# ---------------------------------------------------------------------------------------------------------------------
# A user's own


def test_a_table_by_scenario_is_resolved() -> None:
    values = {"epochs": 4, "batch_size": {"task": 1, "class": 2}, "label": {"class": "true"}}
    assert at(values, "task") == {"epochs": 4, "batch_size": 1}
    assert at(values, "class") == {"epochs": 4, "batch_size": 2, "label": "true"}
    assert at(values, "domain") == {"epochs": 4}


def test_a_file_of_the_users_own(own: Path, tmp_path: Path) -> None:
    results = clbench.run(preset=own, seeds=2, out=tmp_path / "out", quiet=True, jobs=1)
    assert len(results) == 2 * 2 * 2
    assert results.failed == []
    assert results.labels == ["carried on", "distilled"]
    written, problems = Store(tmp_path / "out").read()
    assert problems == []
    found = {(r.spec["label"], r.spec["scenario"], r.spec["seed"]): r.spec for r in written.values()}
    assert len(found) == 8
    for (label, scenario, _), spec in found.items():
        assert spec["preset"] == {"name": "own", "row": label, "overridden": {}}
        assert (spec["sequence"], spec["model"], spec["model_params"]["width"]) == ("split-digits", "mlp", 16)
        assert spec["class_order_rule"] == "fixed"
        assert spec["class_order"] == list(range(10))
        assert spec["training"]["epochs"] == 1
        assert spec["training"]["batch_size"] == {"task": 32, "class": 64}[scenario]
        adam = label == "carried on"
        assert spec["method"] == ("finetune" if adam else "lwf")
        # what neither the preset nor its row says is the sequence's: split-digits has momentum, which adam has not
        assert [spec["training"][name] for name in ("optimizer", "lr", "momentum")] == (
            ["adam", 0.002, 0.0] if adam else ["sgd", 0.05, 0.9]
        )
        if not adam:
            assert spec["params"]["scale_t2"] is True
            assert spec["params"]["weight"] == {"task": 2.0, "class": 3.0}[scenario]
            assert spec["params"]["temperature"] == {"task": 2.0, "class": 3.0}[scenario]


def test_a_preset_from_the_command_line(typed: Command) -> None:
    words = ["--preset", "own.toml", "--rows", "distilled", "--scenario", "task", "--seeds", "2", "--dry-run"]
    planned = typed("run", *words)
    assert planned.code == 0, planned.err
    assert [line.split("  ")[-2:] for line in planned.out.splitlines()[:-1]] == [["distilled", "seeds 0-1"]]
    assert "2 runs: 2 to do, 0 done" in planned.out


def test_ten_seeds_unless_told(own: Path, tmp_path: Path) -> None:
    assert {job.spec.seed for job in planned(own, tmp_path, seeds=None).jobs} == set(range(10))


def test_narrowing(own: Path, tmp_path: Path) -> None:
    def cells(**options: Any) -> set[tuple[str, str, int]]:
        sweep = planned(own, tmp_path, **options)
        assert overridden(sweep) == [{}] * len(sweep.jobs)
        assert sweep.notes == []
        return {(job.spec.label, job.spec.scenario, job.spec.seed) for job in sweep.jobs}

    everything = cells(seeds=2)
    assert len(everything) == 8
    assert cells(seeds=2, rows="distilled") == {cell for cell in everything if cell[0] == "distilled"}
    assert cells(seeds=2, rows=["carried on", "distilled"]) == everything
    assert cells(seeds=2, scenario="class") == {cell for cell in everything if cell[1] == "class"}
    assert cells(seeds="1-1", rows="carried on", scenario="task") == {("carried on", "task", 1)}


def test_a_row_in_some_of_the_scenarios(own: Path, tmp_path: Path) -> None:
    own.write_text(OWN + 'scenarios = ["class"]\n')
    cells = {(job.spec.label, job.spec.scenario) for job in planned(own, tmp_path).jobs}
    assert cells == {("carried on", "task"), ("carried on", "class"), ("distilled", "class")}


def test_a_preset_that_leaves_sequence_and_model_open(tmp_path: Path) -> None:
    file = tmp_path / "open.toml"
    file.write_text(
        'title = "Anything"\nscenarios = ["task"]\ntraining = { epochs = 1 }\n[[rows]]\nlabel = "a"\nmethod = "l2"\n'
    )
    (job,) = planned(file, tmp_path).jobs
    assert (job.spec.sequence, job.spec.class_order_rule, job.spec.model) == ("split-digits", "seed", "mlp")
    (job,) = planned(file, tmp_path, sequence="split-digits@tasks=2", model="cnn", class_order="fixed").jobs
    assert (job.spec.sequence_label, job.spec.class_order_rule, job.spec.model) == (
        "split-digits@tasks=2", "fixed", "cnn",
    )  # fmt: skip
    assert job.spec.preset == {"name": "open", "row": "a", "overridden": {}}  # it had nothing to say of them


# ---------------------------------------------------------------------------------------------------------------------
# What is put in its place


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"training": {"epochs": 2}}, {"training.epochs": 2}),
        ({"training": {"lr": 0.5}}, {"training.lr": 0.5}),
        ({"settings": {"lwf.temperature": 4}}, {"lwf.temperature": 4.0}),
        ({"settings": ["lwf.temperature=4"]}, {"lwf.temperature": 4.0}),
        ({"settings": {"training.weight_decay": 0.1}}, {"training.weight_decay": 0.1}),
        ({"model": "cnn"}, {"model": "cnn"}),
        ({"model": "mlp@width=8"}, {"model": "mlp@width=8"}),
        ({"model": "mlp"}, {"model": "mlp"}),  # with its own default width
        ({"settings": {"mlp.depth": 2}}, {"model": "mlp@width=16@depth=2"}),
        ({"sequence": "split-digits@tasks=2"}, {"sequence": "split-digits@tasks=2"}),
        ({"settings": {"split-digits.tasks": 2}}, {"sequence": "split-digits@tasks=2"}),
        ({"class_order": "seed"}, {"class_order": "seed"}),
        ({"class_order": "9,8,7,6,5,4,3,2,1,0"}, {"class_order": [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]}),
        ({"training": {"epochs": 2}, "class_order": "seed"}, {"training.epochs": 2, "class_order": "seed"}),
    ],
    ids=str,
)
def test_what_is_overridden_is_recorded_and_said(
    options: dict[str, Any], expected: dict[str, Any], own: Path, tmp_path: Path
) -> None:
    sweep = planned(own, tmp_path, rows="distilled", **options)
    assert overridden(sweep) == [expected] * 2
    assert len(sweep.notes) == len(expected)
    for name, value in expected.items():
        (note,) = [note for note in sweep.notes if f"not as in preset own: {name}=" in note]
        assert "".join(str(value).split()).strip("[]").removesuffix(".0") in "".join(note.split())
    assert all(job.spec.label.startswith("distilled") for job in sweep.jobs)
    assert all(job.spec.preset is not None and job.spec.preset["row"] == "distilled" for job in sweep.jobs)
    plain = {job.spec.key for job in planned(own, tmp_path, rows="distilled").jobs}
    assert not plain & {job.spec.key for job in sweep.jobs}


@pytest.mark.parametrize(
    "options",
    [
        {"training": {"epochs": 1}},
        {"settings": {"lwf.scale_t2": True}},
        {"class_order": "fixed"},
        {"model": "mlp@width=16"},
        {"settings": {"mlp.width": 16}},
        {"sequence": "split-digits"},
    ],
    ids=str,
)
def test_what_the_preset_says_anyway_is_not_overridden(options: dict[str, Any], own: Path, tmp_path: Path) -> None:
    sweep = planned(own, tmp_path, rows="distilled", **options)
    plain = planned(own, tmp_path, rows="distilled")
    assert [job.spec.key for job in sweep.jobs] == [job.spec.key for job in plain.jobs]
    assert overridden(sweep) == [{}] * 2
    assert sweep.notes == []
    assert sweep.labels == ["distilled"]


def test_each_record_names_its_own_model_and_sequence(own: Path, tmp_path: Path) -> None:
    sweep = planned(own, tmp_path, rows="distilled", scenario="task", model="mlp@width=8,cnn")
    assert [job.spec.model_label for job in sweep.jobs] == ["mlp@width=8", "cnn"]
    for job, changed in zip(sweep.jobs, overridden(sweep), strict=True):
        assert job.spec.model_label in changed["model"].split(", ")
    sweep = planned(
        own, tmp_path, rows="distilled", scenario="task", sequence="split-digits@tasks=2,split-digits@tasks=1"
    )
    for job, changed in zip(sweep.jobs, overridden(sweep), strict=True):
        assert job.spec.sequence_label in changed["sequence"].split(", ")


def test_a_grid_over_a_preset(own: Path, tmp_path: Path) -> None:
    settings = {"lwf.temperature": [1, 5], "training.lr": [0.05, 0.2]}
    sweep = planned(own, tmp_path, rows="distilled", scenario="task", settings=settings)
    assert [json.dumps(each, sort_keys=True) for each in overridden(sweep)] == [
        '{"lwf.temperature": 1.0}',
        '{"lwf.temperature": 5.0}',
        '{"lwf.temperature": 1.0, "training.lr": 0.2}',
        '{"lwf.temperature": 5.0, "training.lr": 0.2}',
    ]
    assert len(set(sweep.labels)) == 4  # told apart in the tables
    assert len({job.spec.key for job in sweep.jobs}) == 4


@pytest.mark.parametrize(
    ("preset", "given"),
    [
        ("iterations = 20", {"epochs": 3}),
        ("epochs = 3", {"iterations": 20}),
        ("iterations = 20", {"iterations": 7}),
        ("epochs = 3", {"epochs": 2}),
    ],
)
def test_a_budget_in_the_other_unit_takes_the_place_of_the_presets(
    preset: str, given: dict[str, int], own: Path, tmp_path: Path
) -> None:
    own.write_text(OWN.replace("epochs = 1", preset))
    (job,) = planned(own, tmp_path, rows="distilled", scenario="task", training=given).jobs
    assert {k: job.spec.training[k] for k in ("epochs", "iterations")} == {"epochs": None, "iterations": None} | given
    assert job.spec.preset is not None
    assert given.items() <= {k.removeprefix("training."): v for k, v in job.spec.preset["overridden"].items()}.items()


def test_a_rows_budget_takes_the_place_of_the_presets(own: Path, tmp_path: Path) -> None:
    text = OWN.replace("epochs = 1", "iterations = 20").replace(
        'training = { optimizer = "adam"', "training = { epochs = 2"
    )
    own.write_text(text)
    (job,) = planned(own, tmp_path, rows="carried on", scenario="task").jobs
    assert (job.spec.training["epochs"], job.spec.training["iterations"]) == (2, None)


def test_iterations_of_a_preset_take_the_place_of_the_sequences_epochs() -> None:
    preset = presets.load("vandeven2018-split-mnist")
    training = resolve_training({"epochs": 1}, at(preset.training, "task"), [])
    assert (training.epochs, training.iterations) == (None, 2000)


# ---------------------------------------------------------------------------------------------------------------------
# The same runs by another name


def test_a_presets_run_is_found_without_the_preset_and_the_other_way_round(own: Path, tmp_path: Path) -> None:
    by_hand: dict[str, Any] = {
        "methods": "finetune", "sequence": "split-digits", "scenario": "task", "seeds": 1, "class_order": "fixed",
        "model": "mlp@width=16", "training": {"epochs": 1, "batch_size": 32, "optimizer": "adam", "lr": 0.002},
    }  # fmt: skip
    for place, first, second in (("one", "preset", "hand"), ("two", "hand", "preset")):
        folder = tmp_path / place

        def ask(how: str, folder: Path = folder) -> Sweep:
            if how == "hand":
                return plan(**by_hand, out=folder / "out", jobs=1)
            return planned(own, folder, rows="carried on", scenario="task")

        made = ask(first)
        (record,) = run_all(made)
        assert record.ok
        found = ask(second)
        assert found.missing == []
        assert [job.spec.key for job in found.jobs] == [record.key]
        assert not [note for note in found.notes if "another version" in note]
        label = {"preset": "carried on", "hand": "finetune"}
        assert made.labels == [label[first]]
        assert found.labels == [label[second]]
        (under_new_name,) = found.records
        assert under_new_name.spec["label"] == label[second]
        assert (under_new_name.spec["preset"] is None) == (second == "hand")
        assert under_new_name.weights_hash == record.weights_hash


def test_renaming_a_row_runs_nothing_again(own: Path, tmp_path: Path) -> None:
    options = {"seeds": 1, "scenario": "task", "out": tmp_path / "out", "quiet": True, "jobs": 1}
    before = clbench.run(preset=own, **options)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.json")}
    renamed = tmp_path / "renamed.toml"
    renamed.write_text(OWN.replace('"carried on"', '"baseline"'))
    after = clbench.run(preset=renamed, **options)
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.json")}
    assert before.labels == ["carried on", "distilled"]
    assert after.labels == ["baseline", "distilled"]


# ---------------------------------------------------------------------------------------------------------------------
# Bad input

ROW = '[[rows]]\nlabel = "a"\nmethod = "finetune"\n'
HEAD = 'title = "A"\nscenarios = ["task", "domain"]\n'
PUBLISHED = '[published]\nsource = "A"\nn = 5\nerror = "sd"\n'

BAD_FILES: dict[str, tuple[str, str]] = {
    "empty file": ("", "title"),
    "not TOML": ("title = ", "is not TOML"),
    "unknown key": (
        HEAD + "sedes = 3\n" + ROW, "the file has no entry 'sedes', did you mean seeds? There are title, scenarios,",
    ),
    "unknown key of a row": (HEAD + ROW + "lr = 1.0\n", "the row 'a' has no entry 'lr': choose from label, method, "),
    "no title": ('scenarios = ["task"]\n' + ROW, "title"),
    "no scenarios": ('title = "A"\n' + ROW, "scenarios"),
    "a name": (HEAD + 'name = "mine"\n' + ROW, "call it title"),
    "wrong type": (HEAD.replace('"A"', "3") + ROW, "title: should be a valid string; it is 3"),
    "wrong type of a label": (HEAD + ROW.replace('"a"', "1"), "row 1: label: should be a valid string; it is 1"),
    "wrong type of training": (HEAD + "training = 3\n" + ROW, "training: should be a table; it is 3"),
    "wrong type of rows": (HEAD + "rows = 3\n", "rows: should be a valid list"),
    "unknown scenario": (
        HEAD.replace("domain", "moon") + ROW, "'moon' is no scenario: choose from task, class, domain",
    ),
    "scenarios empty": ('title = "A"\nscenarios = []\n' + ROW, "scenarios: list should have at least 1 item"),
    "no rows": (HEAD, "rows"),
    "rows empty": (HEAD + "rows = []\n", "it has no rows"),
    "two rows of one label": (HEAD + ROW + ROW, "two rows are called 'a'"),
    "label with a comma": (HEAD + ROW.replace('"a"', '"a,b"'), "no comma"),
    "label empty": (HEAD + ROW.replace('"a"', '" "'), "not empty"),
    "label with a space at its end": (HEAD + ROW.replace('"a"', '"a "'), "'a '"),
    "row without a method": (HEAD + '[[rows]]\nlabel = "a"\n', "method"),
    "published missing": (
        HEAD + ROW + "published = { task = [90.0, 1.0] }\n", "the row 'a' has published numbers, but there",
    ),
    "published in an unknown scenario": (
        HEAD + PUBLISHED + ROW + "published = { moon = [90.0, 1.0] }\n",
        "the row 'a': published: moon: 'moon' is no scenario: choose from task, class, domain",
    ),
    "published where the row is not run": (
        HEAD + PUBLISHED + ROW + "published = { class = [90.0, 1.0] }\n",
        "the row 'a': published: class is a scenario that the row is not run in: those are task, domain",
    ),
    "published where the row, not the preset, is not run": (
        HEAD + PUBLISHED + ROW + 'scenarios = ["task"]\npublished = { domain = [90.0, 1.0] }\n', "those are task"
    ),
    "published as text": (
        HEAD + PUBLISHED + ROW + 'published = { task = "90" }\n', "published: task: a mean, or a mean and",
    ),
    "published with three numbers": (HEAD + PUBLISHED + ROW + "published = { task = [9, 1, 3] }\n", "it is [9, 1, 3]"),
    "published as a fraction": (
        HEAD + PUBLISHED + ROW + "published = { domain = 90.0, task = [0.9557, 0.01] }\n",
        "the row 'a': published: task: 0.9557 looks like a fraction, and numbers are in per cent: write 95.57",
    ),
    "published over 100": (
        HEAD + PUBLISHED + ROW + "published = { task = [955.7, 1] }\n", "no accuracy between 0 and 100",
    ),
    "fractions over 1": (
        HEAD + PUBLISHED + 'unit = "fraction"\n' + ROW + "published = { task = 95.57 }\n", "between 0 and 1 (unit"
    ),
    "published below 0": (HEAD + PUBLISHED + ROW + "published = { task = [90, -1] }\n", "-1.0 after ± is below 0"),
    "published without what ± is": (
        HEAD + PUBLISHED.replace('error = "sd"\n', "") + ROW + "published = { task = [90, 1] }\n", "what stands after ±"
    ),
    "± of a single repeat": (
        HEAD + PUBLISHED.replace("5", "1") + ROW + "published = { task = [90, 1] }\n",
        "the row 'a': published: task: a single",
    ),
    "unknown kind of ±": (
        HEAD + PUBLISHED.replace("sd", "std") + ROW, "[published]: error: 'std' is not one of 'sd', 'sem'",
    ),
    "wrong type of n": (HEAD + PUBLISHED.replace("5", '"five"') + ROW, "[published]: n: should be a valid integer"),
    "a control's own number": (
        HEAD + PUBLISHED + ROW + '[[rows]]\nlabel = "b"\ncontrol_of = "a"\npublished = { task = 90 }\n', "is a control"
    ),
    "control of no row": (HEAD + ROW + '[[rows]]\nlabel = "b"\ncontrol_of = "A"\n', "which is no row, did you mean a?"),
    "unknown key of a claim": (
        HEAD + ROW + '[[claims]]\nworst = "a"\n', "claim 1 has no entry 'worst', did you mean worse",
    ),
    "claim on no row": (
        HEAD + ROW + '[[claims]]\non = "old"\nbetter = "a"\nworse = "b"\n', "on 'b', which is no row: choose from a"
    ),
    "rows that are no tables": (HEAD + 'rows = ["a"]\n', "row 1: should be a table; it is 'a'"),
    "unknown scenario of a row": (
        HEAD + ROW + 'scenarios = ["moon"]\n', "the row 'a': scenarios: 'moon' is no scenario",
    ),
    "unknown precision of a row": (
        HEAD + ROW + 'precision = "fp16"\n', "the row 'a': precision: 'fp16' is not one of 'fp32'",
    ),
    "unknown view of a row": (HEAD + ROW + 'view = "own"\n', "the row 'a': view: 'own' is not one of 'task-aware' or"),
    "unknown class order of a row": (
        HEAD + ROW + 'class_order = "x"\n', "row 'a': class_order: seed, fixed, seed:7, numpy:1993 or a list of",
    ),
    "seeds of a row that are none": (
        HEAD + ROW + 'seeds = "x"\n', "the row 'a': seeds='x': cannot read 'x'; write 5, 0,4",
    ),
    "sequence of a row without a name": (
        HEAD + ROW + "sequence = { tasks = 2 }\n", "the row 'a': sequence has no name",
    ),
    "unknown field of a row's model": (
        HEAD + ROW + 'model = { name = "mlp", widht = 3 }\n',
        "preset bad, row 'a': mlp has no field 'widht', did you mean width",
    ),
    "a grid for all rows": (
        HEAD + "[training]\nlr = [0.1, 0.2]\n" + ROW, "[training]: lr is a list; a grid stands in a row",
    ),
    "a grid without points": (HEAD + ROW + "training = { lr = [] }\n", "the row 'a': lr is an empty list"),
    "a grid by scenario": (
        HEAD + ROW + "training = { lr = { task = [1, 2] } }\n", "the row 'a': training: lr is a grid in one",
    ),
    "a grid with published numbers": (
        HEAD + PUBLISHED + ROW + "training = { lr = [0.1, 0.2] }\npublished = { task = 90 }\n", "give each point a row"
    ),
    "a file that is not there": (HEAD + ROW.replace("finetune", "./x.py:M"), "preset bad, row 'a': unknown method"),
    "a folder": (HEAD + 'folder = "x"\n' + ROW, "the file has no entry 'folder'"),
    "published without a source": (
        HEAD + '[published]\nn = 5\nerror = "sd"\n' + ROW, "[published]: source: it is missing",
    ),
    "published with no repeat": (HEAD + PUBLISHED.replace("5", "0") + ROW, "[published]: n: should be greater"),
    "a table not by scenario": (HEAD + "[training]\nlr = { fast = 1.0 }\n" + ROW, "lr is a table, but not one by"),
    "a table that lacks a scenario of its row": (
        HEAD + ROW + "training = { lr = { task = 0.1 } }\n",
        "the row 'a': training: lr has no value for the scenario domain: write it out",
    ),
    "a table of all rows that lacks a scenario": (
        HEAD + "[training]\nlr = { domain = 0.1 }\n" + ROW,
        "[training]: lr has no value for the scenario task: write it out",
    ),
    "a table partly by scenario": (HEAD + "[training]\nlr = { task = 1.0, fast = 1.0 }\n" + ROW, "not one by scenario"),
    "a table in a table": (HEAD + "[training]\nlr = { task = { class = 1.0 } }\n" + ROW, "lr"),
    "a table of fields not by scenario": (HEAD + ROW + "fields = { x = { y = 1 } }\n", "x is a table"),
    "sequence without a name": (HEAD + "[sequence]\ntasks = 5\n" + ROW, "[sequence] has no name"),
    "row outside of the preset": (HEAD + ROW + 'scenarios = ["class"]\n', "is in the scenario class"),
    "unknown method": (HEAD + ROW.replace("finetune", "finetun"), "row 'a': unknown method 'finetun', did you mean"),
    "unknown field": (HEAD + ROW.replace("finetune", "lwf") + "fields = { temprature = 1 }\n", "did you mean temperat"),
    "bad value of a field": (HEAD + ROW.replace("finetune", "lwf") + "fields = { temperature = 0 }\n", "greater than"),
    "unknown sequence": (HEAD + '[sequence]\nname = "split-digit"\n' + ROW, "did you mean split-digits"),
    "unknown field of the sequence": (HEAD + '[sequence]\nname = "split-digits"\ntask = 5\n' + ROW, "mean tasks"),
    "unknown model": (HEAD + '[model]\nname = "mlpp"\n' + ROW, "did you mean mlp"),
    "unknown field of the model": (HEAD + '[model]\nname = "mlp"\nwidht = 5\n' + ROW, "did you mean width"),
    "unknown training setting": (HEAD + "[training]\nepoch = 5\n" + ROW, "did you mean epochs"),
    "unknown training setting of a row": (HEAD + ROW + "training = { epoch = 5 }\n", "did you mean epochs"),
    "training setting out of range": (HEAD + "[training]\nlr = -1.0\n" + ROW, "greater than 0"),
    "training setting not finite": (HEAD + "[training]\nlr = inf\n" + ROW, "finite"),
    "epochs and iterations": (HEAD + "[training]\nepochs = 3\niterations = 20\n" + ROW, "iterations"),
    "class order of unknown classes": (HEAD + "class_order = [11, 12]\n" + ROW, "class"),
    "class order backwards": (
        HEAD + 'class_order = "backwards"\n' + ROW, "class_order: seed, fixed, seed:7, numpy:1993 or a list",
    ),
    "two rows that ask for the same": (HEAD + ROW + ROW.replace('"a"', '"b"'), "ask for the same runs"),
    "warm-up in domain": (HEAD + "[training]\nepochs = 3\nwarmup_epochs = 1\n" + ROW, "no block is new"),
    "warm-up takes all": (HEAD + "[training]\nepochs = 3\nwarmup_epochs = 3\n" + ROW, "leaves nothing of the budget"),
    "patience without validation": (HEAD + "[training]\npatience = 3\n" + ROW, "give validation too"),
    "patience with iterations": (
        HEAD + "[training]\niterations = 3\npatience = 3\nvalidation = 0.1\n" + ROW, "count epochs"
    ),
    "too few held": (HEAD + "[training]\npatience = 3\nvalidation = 0.0001\n" + ROW, "none is left on one side"),
    "too few left": (HEAD + "[training]\npatience = 3\nvalidation = 0.9999\n" + ROW, "none is left on one side"),
}  # fmt: skip


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command line, in a working folder with own.toml, which has a row more in the class scenario."""
    monkeypatch.chdir(tmp_path)
    more = '[[rows]]\nlabel = "only class"\nmethod = "l2"\nscenarios = ["class"]\n'
    (tmp_path / "own.toml").write_text(OWN + more)
    return command(monkeypatch, capfd)


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_file_is_one_clear_line(what: str, typed: Command, tmp_path: Path) -> None:
    content, message = BAD_FILES[what]
    (tmp_path / "bad.toml").write_text(content)
    one_clear_line(typed("run", "--preset", "bad.toml", "--seeds", "1", "--dry-run"), message)
    assert {path.name for path in tmp_path.iterdir()} == {"bad.toml", "own.toml"}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(HEAD.replace('"A"', '"É"').encode("latin-1") + ROW.encode())
    (tmp_path / "folder.toml").mkdir()
    for path in (file, tmp_path / "folder.toml"):
        with pytest.raises(UsageError, match="cannot be read"):
            presets.load(path)
    with pytest.raises(UsageError, match="unknown preset"):
        presets.load(tmp_path)


BAD_REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown preset": ({"preset": "hsu2018-split-mnits"}, "did you mean hsu2018-split-mnist"),
    "unknown preset, nothing close": ({"preset": "x"}, "hsu2018-split-mnist"),
    "preset empty": ({"preset": ""}, "preset"),
    "preset is the folder": ({"preset": "."}, "preset"),
    "name of a preset too long": ({"preset": "x" * 300}, "preset"),
    "missing file": ({"preset": "none.toml"}, "the preset none.toml cannot be read: No such file"),
    "file without its ending": ({"preset": "own"}, "own.toml"),
    "unknown row": ({"preset": "own.toml", "rows": "distiled"}, "did you mean distilled"),
    "unknown row, nothing close": ({"preset": "own.toml", "rows": "x"}, "choose from carried on, distilled"),
    "row empty": ({"preset": "own.toml", "rows": "distilled,"}, "empty name"),
    "rows without a preset": ({"rows": "distilled"}, "give --preset"),
    "methods beside a preset": ({"preset": "own.toml", "methods": "lwf"}, "name some with --rows"),
    "scenario outside": ({"preset": "own.toml", "scenario": "domain"}, "has the scenarios task, class, not domain"),
    "unknown scenario": ({"preset": "own.toml", "scenario": "moon"}, "unknown scenario 'moon'"),
    "setting of a method outside": ({"preset": "own.toml", "settings": ["ewc.strength=3"]}, "names nothing in this"),
    "setting of a row left out": (
        {"preset": "own.toml", "rows": "carried on", "settings": ["lwf.temperature=3"]}, "names nothing in this"
    ),
    "unknown field": ({"preset": "own.toml", "settings": ["lwf.temprature=3"]}, "did you mean temperature"),
    "unknown model": ({"preset": "own.toml", "model": "mlpp"}, "did you mean mlp"),
    "row in no scenario asked for": ({"preset": "own.toml", "rows": "only class", "scenario": "task"}, "own"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_bad_request_is_one_clear_line(what: str, typed: Command, tmp_path: Path) -> None:
    options, message = BAD_REQUESTS[what]
    words = ["run", "--seeds", "1"]
    for name, value in options.items():
        words += ["--set", value[0]] if name == "settings" else [f"--{name}", value]
    one_clear_line(typed(*words), message)
    assert [path.name for path in tmp_path.iterdir()] == ["own.toml"]

"""Avalanche's strategies as methods: which run, what they cost, what is refused, and what records and reports say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import prepared
from commands import Command, one_clear_line
from tiny import tiny_tasks

from clbench.errors import UsageError
from clbench.experiment import own_code
from clbench.experiment.points import choose
from clbench.guests import offered
from clbench.guests.avalanche import ENGINE
from clbench.method import Scenario, Training
from clbench.models.backbones import MLP
from clbench.report.tables import Tables
from clbench.results.frames import Results
from clbench.results.store import RunRecord, Store
from clbench.testing import check_method
from clbench.training.run import Outcome, run_sequence

TRAINING = Training(epochs=2, batch_size=8, lr=0.05)
WIDE = Training(epochs=2, batch_size=8, lr=0.05, full_head=True, loss_over="all")
# each of Avalanche's strategies that can be a method, with what must be given, in a scenario that it is made for
RUN: dict[str, Scenario] = {
    "AGEM@patterns_per_exp=8@sample_size=6": "class",
    "CWRStar@cwr_layer_name=classifier.classifier": "class",
    "Cumulative": "class",
    "DER@mem_size=16": "class",
    "ER_ACE@mem_size=16@batch_size_mem=4": "class",
    "ER_AML@mem_size=40@batch_size_mem=4": "class",  # with fewer images of a class than a batch has it never ends
    "EWC@ewc_lambda=1": "task",
    "FeatureReplay@mem_size=16@batch_size_mem=4": "class",
    "FromScratchTraining": "task",
    "GDumb@mem_size=16": "class",
    "GEM@patterns_per_exp=8": "task",
    "GSS_greedy@mem_size=40": "class",
    "ICaRL@memory_size=16@fixed_memory=true": "class",
    "LFL@lambda_e=1": "domain",
    "LwF": "task",
    "MAS": "task",
    "MER@mem_size=16@batch_size_mem=2@n_inner_steps=1": "domain",
    "MIR@mem_size=16@subsample=8@batch_size_mem=4": "class",
    "Naive": "domain",
    "Naive+EWCPlugin@ewc_lambda=1": "task",
    "Naive+LwFPlugin+ReplayPlugin@mem_size=16": "task",
    "Naive+MASPlugin@lambda_reg=0.1": "class",
    "Replay@mem_size=16": "class",
    "StreamingLDA": "class",
    "SynapticIntelligence@si_lambda=1": "task",
}


def method(item: str) -> Any:
    (choice,) = choose("method", [f"avalanche:{item}"], {})
    return choice.instance


def go(item: str, scenario: Scenario = "class", training: Training = TRAINING, tasks: int = 2) -> Outcome:
    instance = method(item)
    instance.check(scenario, training)
    return run_sequence(tiny_tasks(tasks), instance, MLP(width=16), training, scenario, 3)


@pytest.mark.parametrize("item", RUN)
def test_a_strategy_runs_and_repeats(item: str) -> None:
    training = WIDE if item.split("@")[0] in ("DER", "ICaRL") else TRAINING
    first, second = (go(item, RUN[item], training) for _ in range(2))
    assert first.weights_hash == second.weights_hash
    assert (first.task_aware, first.task_agnostic) == (second.task_aware, second.task_agnostic)
    view = first.task_aware if RUN[item] == "task" else first.task_agnostic
    assert all(cell is not None for cell in view[-1])
    assert all(images > 0 for images in first.images)


def test_all_that_avalanche_has_runs_or_is_refused() -> None:
    """BiC alone is neither: with PyTorch from 2.7 on it fails at its second task, as a scheduler lost an argument."""
    usable = {name for name, one in offered.strategies().items() if not one.refused}
    assert usable == {item.split("@")[0] for item in RUN if "+" not in item} | {"BiC"}
    refused = {**offered.strategies(), **offered.all_plugins()}
    assert all(one.refused.startswith(("it ", "evaluation ")) for one in refused.values() if one.refused)


@pytest.mark.parametrize("item", ["Naive", "AGEM@patterns_per_exp=8", "Replay@mem_size=16", "EWC@ewc_lambda=1"])
def test_it_keeps_the_contract_of_a_method(item: str) -> None:
    """Repeats, goes on from a checkpoint or begins again, and answers without regard to other questions."""
    check_method(method(item), models=["mlp"], quiet=True)


def test_it_learns() -> None:
    longer = Training(epochs=6, batch_size=8, lr=0.1)
    assert min(cell or 0 for cell in go("Replay@mem_size=40", training=longer).task_agnostic[-1]) > 0.9
    assert (go("Naive", training=longer).task_agnostic[-1][0] or 0) <= 0.5  # without a memory the first task is lost


def test_costs_are_counted_where_they_arise() -> None:
    """24 images a task: 3 steps of 8 in an epoch."""
    naive = go("Naive")
    assert (naive.updates, naive.images, naive.forward_passes) == ([6, 6], [48, 48], [48, 48])
    assert (naive.backward_passes, naive.stored_images, naive.stored_bytes) == ([48, 48], 0, 0)
    assert naive.parameters == 64 * 16 + 16 + 4 * 16 + 4
    ewc = go("EWC@ewc_lambda=1")  # one more pass over a task, for the importances
    assert (ewc.images, ewc.forward_passes, ewc.backward_passes) == ([48, 48], [72, 72], [72, 72])
    replay = go("Replay@mem_size=10")  # at the second task a batch from the memory beside each
    assert replay.stored_images == 10
    assert replay.images[0] == 48
    assert replay.images[1] > 48
    assert go("GEM@patterns_per_exp=5").stored_images == 10
    assert go("LwF").stored_bytes >= 4 * (64 * 16 + 16 + 2 * 16 + 2)  # a copy of the network


def test_a_budget_of_updates_ends_in_the_middle_of_an_epoch() -> None:
    terms = Training(iterations=7, epochs=None, batch_size=8, lr=0.05)
    assert go("Naive", training=terms).updates == [7, 7]
    assert go("Replay@mem_size=10", training=terms).updates == [7, 7]


def test_other_batches_and_optimisers_of_the_sweep_reach_it() -> None:
    assert go("Naive", training=Training(epochs=2, batch_size=10, drop_last=True, lr=0.05)).updates == [4, 4]
    adam = Training(epochs=2, batch_size=8, optimizer="adam", lr=0.01)
    assert go("Naive", training=adam).weights_hash != go("Naive").weights_hash
    kept = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9, keep_optimizer=True)
    reset = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9)
    assert go("Naive", training=kept).weights_hash != go("Naive", training=reset).weights_hash


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("avalanche:LwG", "unknown strategy 'LwG' of Avalanche, did you mean LwF?"),
        ("avalanche:Naive+Nothing", "unknown plugin 'Nothing' of Avalanche; see clbench list methods --all"),
        ("avalanche:SCR", "Avalanche's SCR cannot be a method here: it needs a network of its own kind, SCRModel"),
        ("avalanche:EWC", "avalanche:EWC.ewc_lambda has no default"),
        ("avalanche:LwF@alpha=x", "avalanche:LwF.alpha=x: the value should be a valid number"),
        ("avalanche:LwF@weight=1", "avalanche:LwF has no field 'weight': its fields are alpha, temperature"),
        ("avalanche:BiC", "the method avalanche:BiC is not defined for the scenario task"),
        (
            "avalanche:LwF --set training.clip_norm=1",
            "avalanche:LwF trains by Avalanche's own loop, which has no clip_n",
        ),
        ("avalanche:DER --scenario class", "avalanche:DER needs all outputs from the start in the class scenario"),
        ("avalanche:Naive+EWCPlugin+RWalkPlugin", "avalanche:Naive+EWCPlugin+RWalkPlugin.ewc_lambda has no default"),
    ],
)
def test_what_cannot_be_run_is_one_clear_line(words: str, message: str, clbench: Command) -> None:
    one_clear_line(clbench("run", "--methods", *words.split(), "--seeds", "1"), message)


def record(folder: Path, item: str, **options: Any) -> RunRecord:
    sweep = prepared(f"avalanche:{item}", seeds=1, training={"epochs": 1}, out=folder, **options)
    list(sweep.run())
    return next(one for one in Store(folder).read()[0].values() if one.spec["method"].endswith(item.split("@")[0]))


def test_a_record_names_its_engine_and_what_differs(tmp_path: Path) -> None:
    made = record(tmp_path, "Naive", eval_every=20)
    assert made.ok
    assert made.spec["code"] == {"method": ENGINE}
    assert made.environment is not None
    assert made.environment["engine"] == ENGINE
    assert made.environment["differs"][0].startswith("batches are drawn by Avalanche's loaders")
    assert made.curves is not None
    assert [curve["updates"] for curve in made.curves] == [[updates] for updates in made.updates or ()]


def test_another_version_of_avalanche_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = type(method("Naive"))
    assert own_code.code_hash(cls) == ENGINE
    monkeypatch.setattr(cls, "engine", "Avalanche 0.7.0")
    assert own_code.code_hash(cls) == "Avalanche 0.7.0"


def test_a_strategy_that_raises_is_a_failed_record(tmp_path: Path) -> None:
    made = record(tmp_path, "EWC@ewc_lambda=1@mode=none of both")
    assert made.status == "failed"
    assert made.reason is not None
    assert "ewc.py" in made.reason
    assert "Traceback" in str(made.error)


def test_every_table_names_both_engines(tmp_path: Path) -> None:
    record(tmp_path, "Naive")
    list(prepared("finetune", seeds=1, training={"epochs": 1}, out=tmp_path).run())
    results = Results(list(Store(tmp_path).read()[0].values()))
    (comparison,) = results.comparisons
    tables = [*Tables(results).of(comparison), Tables(results).terminal_table(comparison)]
    assert len(tables) == 4
    for table in tables:
        column = [row[list(table.headings).index("engine")].text for row in table.rows]
        assert set(column) <= {ENGINE, "clbench"}
        assert ENGINE in column
    assert any(note.startswith(f"{ENGINE}: batches are drawn") for note in tables[0].notes)


def test_without_guests_tables_say_nothing_of_engines(tmp_path: Path) -> None:
    list(prepared("finetune", seeds=1, training={"epochs": 1}, out=tmp_path).run())
    results = Results(list(Store(tmp_path).read()[0].values()))
    assert "engine" not in Tables(results).results_table(results.comparisons[0]).headings


@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize(("first", "second"), [(3, 2), (1, 2)])
def test_tasks_of_unequal_numbers_of_classes(first: int, second: int, scenario: Scenario) -> None:
    (one,), (other,) = tiny_tasks(1, classes=first), tiny_tasks(1, classes=second, seed=1)
    tasks = [one, replace(other, index=1, classes=tuple(range(first, first + second)))]
    outcome = run_sequence(tasks, method("Naive"), MLP(width=16), TRAINING, scenario, 3)
    assert outcome.task_aware[-1][1] == 1
    assert outcome.updates == [6, 6]


def test_fields_are_the_arguments_of_the_constructors() -> None:
    fields = offered.fields_of(offered.parts("Naive+EWCPlugin+MASPlugin"))
    assert list(fields) == ["ewc_lambda", "mode", "keep_importance_data", "lambda_reg", "alpha"]
    assert fields["alpha"] == (float, 0.5)
    assert offered.strategies()["LwF"].fields["temperature"][1] == 2  # as LwFPlugin's, where LwF has none
    with pytest.raises(UsageError, match="cannot be a method here: it needs a generator"):
        offered.parts("Naive+GenerativeReplayPlugin")


def test_lists_and_explanations(clbench: Command) -> None:
    listed = clbench("list", "methods", "--all").out
    assert "avalanche:LwF" in listed
    assert "refused: it needs a network of its own kind, SCRModel" in " ".join(listed.split())
    assert "avalanche:LwF" not in clbench("list", "methods").out
    shown = clbench("show", "avalanche:GEM").out
    assert "patterns_per_exp: whole number; must be given" in shown
    assert "(sequence)" in clbench("show", "avalanche:SplitMNIST").out

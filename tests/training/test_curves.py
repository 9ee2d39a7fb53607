"""Curves within tasks: they show the network between two updates, and change no number."""

import contextlib
import copy
import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import clbench
from clbench.errors import UsageError
from clbench.execution.sweep import prepare as plan
from clbench.experiment import registry
from clbench.experiment.spec import RunSpec
from clbench.method.base import SCENARIOS, Method, Scenario
from clbench.method.schedule import Training
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.methods.lwf import LwF
from clbench.methods.scratch import Scratch
from clbench.models.networks import MLP, Backbone, ExpandingHeadModel, ResNet18
from clbench.results.store import Store
from clbench.sequences.tasks import Task
from clbench.testing import check_method, tiny_tasks
from clbench.training.loop import Outcome, run_sequence
from clbench.training.snapshots import Checkpoint, FirstTask

TRAINING = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9)  # six updates per task
EQUAL = ("weights_hash", "task_aware", "task_agnostic", "updates", "images", "history", "forward_passes")
EQUAL += ("backward_passes", "parameters", "stored_bytes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noisy(Backbone):
    """A network with running statistics and random masks."""

    name: ClassVar[str] = "noisy"

    def build(self, input_shape: Any) -> nn.Module:
        layers = [nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)]
        return nn.Sequential(nn.Flatten(), *layers)


BACKBONES = {"mlp": MLP(width=16, dropout=0.3), "noisy": Noisy()}


def noisy_tasks(tasks: int) -> list[Task]:
    """Make tasks hard enough for accuracies to move from one update to the next."""
    made, generator = tiny_tasks(tasks), torch.Generator().manual_seed(1)
    for split in (split for task in made for split in (task.train, task.test)):
        split.images.add_(2 * torch.randn(split.images.shape, generator=generator))
    return made


def go(method: Method, scenario: Scenario = "task", tasks: int = 3, **keywords: Any) -> Outcome:
    options = {"backbone": BACKBONES["noisy"], "training": TRAINING, "seed": 1} | keywords
    return run_sequence(noisy_tasks(tasks), method, scenario=scenario, **options)


def new(name: str) -> Method:
    return registry.find("method", name)()


def same(one: Outcome, other: Outcome, curves: bool = False) -> None:
    for what in (*EQUAL, *(["curves"] if curves else [])):
        assert getattr(one, what) == getattr(other, what), what


@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "no reuse"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", registry.builtin("method"))
def test_with_curves_a_run_is_the_same(name: str, scenario: Scenario, backbone: str, reuse: bool) -> None:
    if scenario not in new(name).scenarios:
        pytest.skip(f"{name} is not defined for {scenario}")
    options = {"backbone": BACKBONES[backbone], "reuse": reuse}
    plain, seen = go(new(name), scenario, **options), go(new(name), scenario, eval_every=1, **options)
    same(plain, seen)
    assert plain.curves == []
    for curve, updates in zip(seen.curves, seen.updates, strict=True):
        assert curve["updates"] == list(range(1, updates + 1))


@pytest.mark.parametrize(
    "method", [LwF(teacher="train-mode"), LwF(warmup_epochs=1), new("feature-extraction")], ids=repr
)
@pytest.mark.parametrize(
    "settings",
    [
        {"held_out": 0.25, "patience": 1, "epochs": 4},
        {"warmup_epochs": 1},
        {"optimizer": "adam", "momentum": 0.0, "keep_optimizer": True, "full_head": True, "untouched": "zero"},
        {"full_head": True, "predict_over": "all"},
    ],
    ids=str,
)
def test_under_other_terms_too(method: Method, settings: dict[str, Any]) -> None:
    training = dataclasses.replace(TRAINING, **settings)
    plain, seen = (go(method, training=training, eval_every=every) for every in (None, 2))
    same(plain, seen)
    assert [curve["updates"][-1] for curve in seen.curves] == seen.updates


@pytest.mark.parametrize("method", [new("finetune"), new("feature-extraction"), Scratch(networks="per-task")], ids=repr)
def test_with_curves_a_deep_network_is_the_same(method: Method) -> None:
    plain, seen = (go(method, tasks=2, backbone=ResNet18(channels=8), eval_every=every) for every in (None, 2))
    same(plain, seen)


@pytest.mark.parametrize(
    ("every", "updates"),
    [(1, [1, 2, 3, 4, 5, 6]), (3, [3, 6]), (4, [4, 6]), (5, [5, 6]), (6, [6]), (100, [6])],
)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_points(scenario: Scenario, every: int, updates: list[int]) -> None:
    outcome = go(Finetune(), scenario, eval_every=every)
    for task, curve in enumerate(outcome.curves):
        assert curve["updates"] == updates
        for view in ("task_aware", "task_agnostic"):
            assert len(curve[view]) == len(updates)
            for row in curve[view]:
                assert [cell is None for cell in row] == [other > task for other in range(3)]
            assert curve[view][-1][: task + 1] == getattr(outcome, view)[task + 1][: task + 1]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_points_against_a_count_by_hand(scenario: Scenario) -> None:
    tasks = noisy_tasks(3)
    counted: dict[str, list[list[float]]] = {"task_aware": [], "task_agnostic": []}

    class Counting(Finetune):
        def start_task(self, model: ExpandingHeadModel, task: Task) -> None:
            self.seen = tasks[: task.index + 1]

        def after_step(self, model: ExpandingHeadModel) -> None:
            network = copy.deepcopy(model).eval()
            aware, agnostic = [], []
            for task in self.seen:
                start = 0 if scenario == "domain" else 2 * task.index
                scores, y = network(task.test.images).detach().numpy(), task.test.y.numpy()
                aware.append(float(np.mean(scores[:, start : start + 2].argmax(1) == y)))
                agnostic.append(float(np.mean(scores.argmax(1) == y + start)))
            counted["task_aware"].append(aware)
            counted["task_agnostic"].append(agnostic)

    outcome = run_sequence(tasks, Counting(), BACKBONES["noisy"], TRAINING, scenario, 1, eval_every=1)
    for view, rows in counted.items():
        ours = [[cell for cell in row if cell is not None] for curve in outcome.curves for row in curve[view]]
        assert ours == rows
        assert len({tuple(row) for row in rows}) > 6  # it moves


def test_a_point_is_where_a_shorter_run_ends() -> None:
    (curve,) = go(Finetune(), tasks=1, eval_every=1).curves
    for updates in range(1, 7):
        shorter = dataclasses.replace(TRAINING, epochs=None, iterations=updates)
        assert curve["task_aware"][updates - 1] == go(Finetune(), tasks=1, training=shorter).task_aware[-1]


def test_where_nothing_is_trained_there_is_no_curve() -> None:
    outcome = go(Joint(mode="final"), eval_every=4)
    assert outcome.updates[:2] == [0, 0]
    assert outcome.curves[0] == outcome.curves[1] == {"updates": [], "task_aware": [], "task_agnostic": []}
    assert outcome.curves[2]["updates"] == [4, 8, 12, 16, 18]


def test_without_a_name_of_the_task_there_is_no_answer() -> None:
    outcome = go(Scratch(networks="per-task"), eval_every=3)
    assert outcome.curves[1]["task_agnostic"] == [[None] * 3] * 2
    assert [[cell is None for cell in row] for row in outcome.curves[1]["task_aware"]] == [[False, False, True]] * 2
    first = outcome.task_aware[1][0]
    assert all(row[0] == first for curve in outcome.curves[1:] for row in curve["task_aware"])  # nothing is forgotten


class Late(Finetune):
    """Its answers are another's until it has finished the task."""

    def start_task(self, model: ExpandingHeadModel, task: Task) -> None:
        self.ready = False

    def finish_task(self, model: ExpandingHeadModel, task: Task) -> None:
        self.ready = True

    def predict(self, model: ExpandingHeadModel, x: Tensor, task: Task) -> Tensor:
        return model(x) if self.ready else -model(x)


def test_the_last_point_is_of_the_finished_task() -> None:
    plain, late = go(Finetune(), eval_every=3), go(Late(), eval_every=3)
    assert late.curves[0]["task_aware"][0][0] == pytest.approx(1 - plain.curves[0]["task_aware"][0][0])
    assert late.curves[0]["task_aware"][1] == plain.curves[0]["task_aware"][1]
    assert late.task_aware == plain.task_aware


class Guessing(Finetune):
    def predict(self, model: ExpandingHeadModel, x: Tensor, task: Task) -> Tensor:
        return model(x) + 1e-3 * torch.rand(1)


def test_a_prediction_that_draws_moves_no_mask() -> None:
    plain, seen = (go(Guessing(), backbone=MLP(width=16, dropout=0.5), eval_every=every) for every in (None, 1))
    assert plain.weights_hash == seen.weights_hash
    assert plain.history == seen.history


class Watching(Finetune):
    """Freezes part of the network, and notes what it finds after each step."""

    def begin(self, run: Any) -> None:
        super().begin(run)
        self.found: list[Any] = []

    def trainable(self, model: ExpandingHeadModel, task: Task, epoch: int) -> list[nn.Parameter]:
        return [*model.backbone[1].parameters(), *model.newest.parameters()]

    def after_backward(self, model: ExpandingHeadModel) -> None:
        self.found.append([module.training for module in model.modules()])
        self.found.append([parameter.requires_grad for parameter in model.parameters()])
        self.found.append([parameter.grad is None for parameter in model.parameters()])
        self.found.append((model.images_forwarded, torch.get_rng_state().sum().item()))


def test_modes_and_counts_are_as_they_were() -> None:
    plain, seen = Watching(), Watching()
    same(go(plain, tasks=2), go(seen, tasks=2, eval_every=1))
    assert plain.found[::4] == seen.found[::4]
    assert plain.found[1::4] == seen.found[1::4]
    assert plain.found[2::4] == seen.found[2::4]
    evaluated = [forwarded for forwarded, _ in seen.found[3::4]]
    assert evaluated == [forwarded for forwarded, _ in plain.found[3::4]]
    assert [state for _, state in seen.found[3::4]] == [state for _, state in plain.found[3::4]]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("stop", [0, 1])
@pytest.mark.parametrize("name", ["finetune", "duplicate-finetune", "si", "lwf", "replay"])
def test_a_run_that_goes_on_has_the_same_curves(name: str, stop: int, tmp_path: Path) -> None:
    def stopping(_: ExpandingHeadModel, task: Task) -> None:
        if task.index == stop + 1:
            raise Stopped

    checkpoint = Checkpoint(tmp_path / "run.pt")
    with contextlib.suppress(Stopped):
        go(new(name), eval_every=4, checkpoint=checkpoint, after_task=stopping)
    kept = checkpoint.load()
    assert kept is not None
    assert len(kept["outcome"]["curves"]) == stop + 1
    same(go(new(name), eval_every=4), go(new(name), eval_every=4, checkpoint=checkpoint), curves=True)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", ["lwf", "joint", "scratch", "ewc", "feature-extraction"])
def test_a_shared_first_task_brings_its_curve(name: str, scenario: Scenario, tmp_path: Path) -> None:
    first = FirstTask(tmp_path / "first.pt")
    go(new("finetune"), scenario, eval_every=4, first_task=first)
    alone, shared = go(new(name), scenario, eval_every=4), go(new(name), scenario, eval_every=4, first_task=first)
    assert shared.shared_first_task
    same(alone, shared, curves=True)


class Slow(Finetune):
    plain_first_task: ClassVar[bool] = True

    def predict(self, model: ExpandingHeadModel, x: Tensor, task: Task) -> Tensor:
        time.sleep(0.1)
        return model(x)


def test_the_time_of_curves_is_evaluation(tmp_path: Path) -> None:
    first = FirstTask(tmp_path / "first.pt")
    for shared in (False, True):
        start = time.perf_counter()
        outcome = go(Slow(), tasks=2, eval_every=1, first_task=first)
        wall = time.perf_counter() - start
        assert outcome.shared_first_task == shared
        assert all(seconds < 0.4 for seconds in outcome.train_seconds)
        assert outcome.evaluate_seconds[1] >= 0.1 * (6 + 1)  # six points of one task, and the row
        assert outcome.evaluate_seconds[2] >= 0.1 * (6 * 2 + 2)
        if not shared:  # what it took over has its cost from elsewhere
            assert sum(outcome.train_seconds) + sum(outcome.evaluate_seconds) <= wall


class Counting(Finetune):
    """Each prediction moves it."""

    asked = 0

    def predict(self, model: ExpandingHeadModel, x: Tensor, task: Task) -> Tensor:
        self.asked += 1
        return model(x)

    def loss(self, *arguments: Any) -> Tensor:
        return super().loss(*arguments) * (1 + self.asked / 100)

    def begin(self, run: Any) -> None:
        super().begin(run)
        self.asked = 0


def test_the_contract_finds_a_method_that_minds() -> None:
    with pytest.raises(AssertionError, match="a run with curves differs"):
        check_method(Counting, models=["mlp"], scenarios=["task"])


def spec_of(tmp_path: Path, eval_every: int | None = None, **options: Any) -> RunSpec:
    return plan("finetune", seeds=1, out=tmp_path, eval_every=eval_every, **options).jobs[0].spec


def test_keys_are_as_before_there_were_curves(tmp_path: Path) -> None:
    """They are worked out here as they were then."""
    spec = spec_of(tmp_path)
    names = {field.name for field in dataclasses.fields(RunSpec)} - {"eval_every", "precision", "preset", "threads"}
    content = {name: getattr(spec, name) for name in names if not name.endswith("label")}
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]
    assert spec.key == key
    shared = {name: value for name, value in content.items() if name not in ("method", "params")}
    assert spec.first_task_key == hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:20]
    assert "eval_every" not in spec.as_json()
    records = Store(Path(__file__).parents[2] / "results" / "reference" / "split-digits").read()[0]
    assert records
    for key, record in records.items():
        assert RunSpec(**record.spec).key == key
        assert RunSpec(**record.spec).as_json() == {**record.spec, "precision": "fp32"}


def test_a_run_with_curves_is_another(tmp_path: Path) -> None:
    specs = [spec_of(tmp_path, every) for every in (None, 1, 2)]
    assert len({spec.key for spec in specs}) == 3
    assert len({spec.first_task_key for spec in specs}) == 3
    assert specs[2].as_json()["eval_every"] == 2
    lwf = plan("lwf", seeds=1, out=tmp_path, eval_every=2).jobs[0].spec
    assert lwf.first_task_key == specs[2].first_task_key


@pytest.mark.parametrize("value", [0, -1, 2**31 + 1, True, 1.5, "10"])
def test_bad_values(value: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="eval_every="):
        plan("finetune", seeds=1, out=tmp_path, eval_every=value)


def test_a_sweep_with_curves(tmp_path: Path) -> None:
    options = {"methods": "finetune,lwf,si", "seeds": 1, "epochs": 1, "scenario": "class", "quiet": True, "jobs": 2}
    clbench.run(**options, out=tmp_path / "plain")  # type: ignore[arg-type]
    clbench.run(**options, out=tmp_path / "shared", eval_every=4)  # type: ignore[arg-type]
    clbench.run(**options, out=tmp_path / "alone", eval_every=4, reuse=False)  # type: ignore[arg-type]
    (plain, _), (shared, _), (alone, _) = (Store(tmp_path / name).read() for name in ("plain", "shared", "alone"))
    assert set(shared) == set(alone)
    assert len(shared) == 3
    assert [record.shared_first_task for record in shared.values()].count(True) == 1
    without = {record.spec["method"]: record for record in plain.values()}
    for key, record in shared.items():
        other = without[record.spec["method"]]
        assert other.curves is None
        assert record.curves == alone[key].curves
        for what in ("accuracy", "updates", "images", "forward_passes", "weights_hash", "history"):
            assert getattr(record, what) == getattr(other, what), what
        assert record.spec["eval_every"] == 4
        assert record.curves is not None
        assert record.updates is not None
        assert [curve["updates"][-1] for curve in record.curves] == record.updates
    again = clbench.run(**options, out=tmp_path / "shared", eval_every=4)  # type: ignore[arg-type]
    assert len(again) == 3

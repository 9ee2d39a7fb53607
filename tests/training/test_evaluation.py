"""Two questions about each task; and curves within tasks, which show a network between updates and change no number."""

import contextlib
import copy
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny
import torch
from tiny import same_as
from torch import Tensor, nn

import clbench
from clbench.experiment import registry
from clbench.method import SCENARIOS, GradientOf, Gradients, Learner, Method, Phase, Run, Scenario, Step, Training
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.methods.lwf import LwF
from clbench.methods.scratch import Scratch
from clbench.models import Backbone
from clbench.models.backbones import MLP, ResNet18
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks
from clbench.training.run import Outcome
from clbench.training.snapshots import SnapshotFile

TRAINING = Training(epochs=2, batch_size=8, lr=0.05, momentum=0.9)  # six updates per task


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
    return tiny.go(method, scenario, noisy_tasks(tasks), **options)


def new(name: str) -> Method:
    return registry.find("method", name)()


# ---------------------------------------------------------------------------------------------------------------------
# Two questions


class Asked(Finetune):
    """Keeps what it is asked: how many images, and the task that it is told."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.questions: list[tuple[int, int | None]] = []

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        assert not self.network.training
        assert not torch.is_grad_enabled()
        self.questions.append((len(x), task))
        return super().scores(x, task)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_first_not_told_and_then_told_and_in_domain_never(scenario: Scenario) -> None:
    method = Asked()
    go(method, scenario, tasks=2)
    if scenario == "domain":
        assert method.questions == [(12, None)] * 6
    else:
        assert method.questions == [(12, None), (12, 0)] * 2 + [(12, None), (12, 1)]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_both_views_of_plain_scores_come_from_one_pass(scenario: Scenario) -> None:
    outcome = go(Asked(), scenario)
    same_as(outcome, go(Finetune(), scenario), "task_aware", "task_agnostic")


class TaskAware(Finetune):
    """Answers by the task where it is told, and never otherwise."""

    def scores(self, x: Tensor, task: int | None) -> Tensor | None:
        return None if task is None else torch.eye(2 * self.network.seen)[2 * task].expand(len(x), -1)


def test_no_answer_is_none() -> None:
    outcome = go(TaskAware(), "class")
    assert outcome.task_agnostic == [[None] * 3] * 4
    assert outcome.task_aware[3] == [0.5] * 3  # half of the images are of the first class
    assert go(TaskAware(), "domain").task_aware == [[None] * 3] * 4


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_held_out_images_are_asked_about_as_far_as_there_are_answers(scenario: Scenario) -> None:
    training = dataclasses.replace(TRAINING, validation=0.5, patience=1)
    outcome = go(TaskAware(), scenario, training=training)
    assert all(0 < accuracy < 1 for history in outcome.history for accuracy in history["validation"])


# ---------------------------------------------------------------------------------------------------------------------
# Curves


ALL = [(name, some) for name in registry.builtin("method") for some in SCENARIOS if some in new(name).scenarios]


@pytest.mark.parametrize("number", range(len(ALL)), ids=map("-".join, ALL))
def test_with_curves_a_run_is_the_same(number: int) -> None:
    name, scenario = ALL[number]
    in_a_row = name in ("hat", "pnn")  # they take no other backbone
    options = {"backbone": BACKBONES["mlp" if in_a_row else ("mlp", "noisy")[number % 2]]}
    plain, seen = go(new(name), scenario, **options), go(new(name), scenario, eval_every=1, **options)
    same_as(plain, seen)
    assert plain.curves == []
    for curve, updates in zip(seen.curves, seen.updates, strict=True):
        assert curve["updates"] == (list(range(1, updates + 1)) or [0])  # a closed form takes no step


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (LwF(teacher="train-mode"), {"validation": 0.25, "patience": 1, "epochs": 4}),
        (LwF(), {"warmup_epochs": 1}),
        (
            new("feature-extraction"),
            {"optimizer": "adam", "momentum": 0.0, "keep_optimizer": True, "full_head": True, "untouched": "zero"},
        ),
        (new("finetune"), {"full_head": True, "predict_over": "all"}),
    ],
    ids=str,
)
def test_under_other_terms_too(method: Method, settings: dict[str, Any]) -> None:
    training = dataclasses.replace(TRAINING, **settings)
    plain, seen = (go(method, training=training, eval_every=every) for every in (None, 2))
    same_as(plain, seen)
    assert [curve["updates"][-1] for curve in seen.curves] == seen.updates


def test_with_curves_a_deep_network_is_the_same() -> None:
    method = new("feature-extraction")
    plain, seen = (go(method, tasks=2, backbone=ResNet18(channels=2), eval_every=every) for every in (None, 4))
    same_as(plain, seen)


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
        def start_task(self, task: Task) -> None:
            self.seen = tasks[: task.index + 1]

        def after_step(self, step: Step) -> None:
            network = copy.deepcopy(step.network).eval()
            aware, agnostic = [], []
            for task in self.seen:
                start = 0 if scenario == "domain" else 2 * task.index
                scores, y = network(task.test.images).detach().numpy(), task.test.y.numpy()
                aware.append(float(np.mean(scores[:, start : start + 2].argmax(1) == y)))
                agnostic.append(float(np.mean(scores.argmax(1) == y + start)))
            counted["task_aware"].append(aware)
            counted["task_agnostic"].append(agnostic)

    outcome = tiny.go(Counting(), scenario, tasks, backbone=BACKBONES["noisy"], training=TRAINING, seed=1, eval_every=1)
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


def test_curves_of_networks_that_are_kept() -> None:
    outcome = go(new("duplicate-finetune"), eval_every=3)
    assert outcome.curves[1]["task_agnostic"] == [[None] * 3] * 2
    assert [[cell is None for cell in row] for row in outcome.curves[1]["task_aware"]] == [[False, False, True]] * 2
    for method in (new("duplicate-finetune"), Scratch()):
        outcome = go(method, eval_every=3)
        first = outcome.task_aware[1][0]
        assert all(row[0] == first for curve in outcome.curves[1:] for row in curve["task_aware"])


class Late(Finetune):
    """Its answers are another's until it has finished the task."""

    def start_task(self, task: Task) -> None:
        self.ready = False

    def finish_task(self, task: Task) -> None:
        self.ready = True

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        return self.network(x) if self.ready else -self.network(x)


def test_the_last_point_is_of_the_finished_task() -> None:
    plain, late = go(Finetune(), eval_every=3), go(Late(), eval_every=3)
    assert late.curves[0]["task_aware"][0][0] == pytest.approx(1 - plain.curves[0]["task_aware"][0][0])
    assert late.curves[0]["task_aware"][1] == plain.curves[0]["task_aware"][1]
    assert late.task_aware == plain.task_aware


class Guessing(Finetune):
    def scores(self, x: Tensor, task: int | None) -> Tensor:
        return self.network(x) + 1e-3 * torch.rand(1)


def test_a_prediction_that_draws_moves_no_mask() -> None:
    plain, seen = (go(Guessing(), backbone=MLP(width=16, dropout=0.5), eval_every=every) for every in (None, 1))
    assert plain.weights_hash == seen.weights_hash
    assert plain.history == seen.history


class Watching(Finetune):
    """Freezes part of the network, and notes what it finds after each step."""

    def begin(self, run: Any) -> None:
        super().begin(run)
        self.found: list[Any] = []

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        trainable = [*self.network.backbone[1].parameters(), *self.network.newest.parameters()]  # type: ignore[index]
        return [Phase(tasks=[task], trainable=trainable)]

    def gradients(self, step: Step, gradient_of: GradientOf) -> Gradients:
        gradients, network = super().gradients(step, gradient_of), step.network
        self.found.append([module.training for module in network.modules()])
        self.found.append([parameter.requires_grad for parameter in network.parameters()])
        self.found.append(set(gradients))
        self.found.append((network.passes.forward, torch.get_rng_state().sum().item()))
        return gradients


def test_modes_and_counts_are_as_they_were() -> None:
    plain, seen = Watching(), Watching()
    same_as(go(plain, tasks=2), go(seen, tasks=2, eval_every=1))
    assert plain.found[::4] == seen.found[::4]
    assert plain.found == seen.found


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    ("name", "stop"), [("finetune", 1), ("duplicate-finetune", 0), ("si", 1), ("lwf", 0), ("replay", 1)]
)
def test_a_run_that_goes_on_has_the_same_curves(name: str, stop: int, tmp_path: Path) -> None:
    def stopping(_: Learner, task: Task) -> None:
        if task.index == stop + 1:
            raise Stopped

    checkpoint = SnapshotFile(tmp_path / "run.pt")
    with contextlib.suppress(Stopped):
        go(new(name), eval_every=4, checkpoint=checkpoint, after_task=stopping)
    kept = checkpoint.load()
    assert kept is not None
    assert len(kept["outcome"]["curves"]) == stop + 1
    whole, resumed = go(new(name), eval_every=4), go(new(name), eval_every=4, checkpoint=checkpoint)
    same_as(whole, resumed)
    assert whole.curves == resumed.curves


@pytest.mark.parametrize(
    ("name", "scenario"),
    [("lwf", "task"), ("joint", "class"), ("scratch", "domain"), ("ewc", "task"), ("feature-extraction", "class")],
)
def test_a_shared_first_task_brings_its_curve(name: str, scenario: Scenario, tmp_path: Path) -> None:
    first = SnapshotFile(tmp_path / "first.pt")
    go(new("finetune"), scenario, eval_every=4, first_task=first)
    alone, shared = go(new(name), scenario, eval_every=4), go(new(name), scenario, eval_every=4, first_task=first)
    assert shared.shared_first_task
    same_as(alone, shared)
    assert alone.curves == shared.curves


class Slow(Finetune):
    first_task_is_finetuning: ClassVar[bool] = True

    def scores(self, x: Tensor, task: int | None) -> Tensor:
        time.sleep(0.02)  # twice for each task: not told, and told
        return self.network(x)


def test_the_time_of_curves_is_evaluation(tmp_path: Path) -> None:
    first = SnapshotFile(tmp_path / "first.pt")
    for shared in (False, True):
        start = time.perf_counter()
        outcome = go(Slow(), tasks=2, eval_every=1, first_task=first)
        wall = time.perf_counter() - start
        assert outcome.shared_first_task == shared
        assert outcome.evaluate_seconds[1] >= 0.04 * (6 + 1)  # six points of one task, and the row
        assert outcome.evaluate_seconds[2] >= 0.04 * (6 * 2 + 2)
        if not shared:  # what it took over has its cost from elsewhere
            assert sum(outcome.train_seconds) + sum(outcome.evaluate_seconds) <= wall


def test_a_sweep_with_curves(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seeds": 1, "epochs": 1, "scenario": "class", "quiet": True, "jobs": 1}
    shared = clbench.run("finetune,lwf,si", **options, out=tmp_path / "shared", eval_every=4).records
    alone = clbench.run("lwf", **options, out=tmp_path / "alone", eval_every=4).records
    plain = clbench.run("lwf", **options, out=tmp_path / "plain").records
    assert [record.shared_first_task for record in shared].count(True) == 1
    (lwf,) = (record for record in shared if record.spec["method"] == "lwf")
    assert lwf.curves == alone[0].curves
    assert plain[0].curves is None
    for what in ("accuracy", "updates", "images", "forward_passes", "weights_hash", "history"):
        assert getattr(lwf, what) == getattr(alone[0], what) == getattr(plain[0], what), what
    assert lwf.key == alone[0].key != plain[0].key
    for record in shared:
        assert record.spec["eval_every"] == 4
        assert record.curves is not None
        assert [curve["updates"][-1] for curve in record.curves] == record.updates
    assert len(clbench.run("finetune,lwf,si", **options, out=tmp_path / "shared", eval_every=4).records) == 3


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_what_is_evaluated_changes_nothing_but_what_is_measured(scenario: Scenario) -> None:
    every, seen, end = (go(Finetune(), scenario, evaluate=which) for which in ("all", "seen", "end"))
    assert every.weights_hash == seen.weights_hash == end.weights_hash
    assert every.history == seen.history == end.history
    for view in ("task_aware", "task_agnostic"):
        full = getattr(every, view)
        assert getattr(seen, view) == [[a if j < i else None for j, a in enumerate(row)] for i, row in enumerate(full)]
        assert getattr(end, view) == [[None] * 3] * 3 + [full[-1]]

"""What is computed once and used again changes no number: first tasks, responses and frozen features."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import clbench
from clbench.execution.sharing import order_jobs
from clbench.execution.sweep import prepare as plan
from clbench.experiment import registry
from clbench.method.base import SCENARIOS, Batch, Criterion, Method, Scenario, as_recorded, in_chunks, shares_first_task
from clbench.method.schedule import Training
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.methods.lwf import LwF
from clbench.models.networks import MLP, ExpandingHeadModel
from clbench.report.writer import write_report
from clbench.results.store import RunRecord, Store
from clbench.sequences.tasks import Task
from clbench.testing import check_method, tiny_tasks
from clbench.training.loop import Outcome, run_sequence
from clbench.training.snapshots import FirstTask

SHARING = ["duplicate-finetune", "ewc", "feature-extraction", "finetune", "finetune-fc", "joint", "l2", "lfl", "lwf"]
SHARING += ["mas", "online-ewc", "replay", "scratch"]
BUDGETS = {
    "momentum": Training(epochs=2, batch_size=7, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "kept Adam": Training(
        epochs=2, batch_size=7, optimizer="adam", lr=0.01, keep_optimizer=True, full_head=True, untouched="zero"
    ),
    "kept, zero once reached": Training(
        epochs=1, batch_size=8, optimizer="adam", keep_optimizer=True, full_head=True, untouched="zero-once-reached"
    ),
    "held out": Training(epochs=3, batch_size=8, held_out=0.25, patience=1),
}
EQUAL = ("weights_hash", "task_aware", "task_agnostic", "updates", "images", "history", "stored_bytes")


def go(
    method: Method, scenario: Scenario, training: Training, first_task: FirstTask | None = None, reuse: bool = True
) -> Outcome:
    model = MLP(width=16, dropout=0.3)
    return run_sequence(
        tiny_tasks(3, images=23), method, model, training, scenario, 1, first_task=first_task, reuse=reuse
    )


def new(name: str) -> Method:
    return registry.find("method", name)()


def test_which_built_in_methods_share() -> None:
    assert [name for name in registry.builtin("method") if shares_first_task(new(name))] == SHARING


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", SHARING)
def test_a_first_task_from_another_run_gives_the_same_run(
    name: str, scenario: Scenario, budget: str, tmp_path: Path
) -> None:
    if scenario not in new(name).scenarios:
        pytest.skip(f"{name} is not defined for {scenario}")
    training = BUDGETS[budget]
    first = FirstTask(tmp_path / "first.pt")
    trainer = go(new("finetune"), scenario, training, first)
    alone, shared = go(new(name), scenario, training), go(new(name), scenario, training, first)
    assert (trainer.shared_first_task, alone.shared_first_task, shared.shared_first_task) == (False, False, True)
    for what in (*EQUAL, "forward_passes", "backward_passes"):
        assert getattr(alone, what) == getattr(shared, what), what


@pytest.mark.parametrize("name", SHARING)
def test_a_first_task_may_be_trained_by_any_of_them(name: str, tmp_path: Path) -> None:
    first = FirstTask(tmp_path / "first.pt")
    trainer = go(new(name), "task", BUDGETS["momentum"], first)
    shared = go(new("finetune"), "task", BUDGETS["momentum"], first)
    assert (trainer.shared_first_task, shared.shared_first_task) == (False, True)
    assert shared.weights_hash == go(new("finetune"), "task", BUDGETS["momentum"]).weights_hash
    assert trainer.weights_hash == go(new(name), "task", BUDGETS["momentum"]).weights_hash


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(
    "method",
    [
        LwF(),
        LwF(teacher="unnormalised"),
        LwF(teacher="train-mode"),
        LwF(scope="padded", scale_t2=True),
        *[new(name) for name in ("feature-extraction", "lfl", "finetune-fc", "joint")],
    ],
    ids=repr,
)
@pytest.mark.parametrize("images", [23, 1025, 1068])  # a last chunk of 23, 1 and 44 rows
def test_without_reuse_a_run_is_the_same(method: Method, scenario: Scenario, images: int) -> None:
    tasks = tiny_tasks(3, images=images)
    training = Training(epochs=2, batch_size=64, lr=0.05, momentum=0.9)
    one, other = (
        run_sequence(tasks, method, MLP(width=32, dropout=0.2), training, scenario, 0, reuse=reuse)
        for reuse in (True, False)
    )
    for what in EQUAL:
        assert getattr(one, what) == getattr(other, what), what
    if method.name in ("feature-extraction", "lwf") and getattr(method, "teacher", "") != "train-mode":
        assert sum(other.forward_passes) > sum(one.forward_passes)  # it did look again


@pytest.mark.parametrize("model_name", ["mlp", "cnn", "resnet18"])
def test_a_step_is_answered_as_the_whole_was(model_name: str) -> None:
    backbone = registry.find("model", model_name)()
    last = 2 * backbone.chunk + 2
    (task,) = tiny_tasks(1, images=last + 1)
    model = ExpandingHeadModel(backbone, task.train.shape, 0).eval()
    model.expand(2)
    whole = in_chunks(model, task.train, model.chunk)
    for size in (1, 2, 5, 64, 100, 256, 300):
        rows = torch.randperm(last + 1)[:size]
        assert torch.equal(as_recorded(model, task.train.batch(rows), model.chunk), whole[rows])
    assert torch.equal(as_recorded(model, task.train.batch(torch.tensor([last])), model.chunk), whole[last:])


class Doubled(Finetune):
    def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
        return 2 * criterion(model, batch)


class LouderLwF(LwF):
    def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
        return 2 * super().loss(model, batch, criterion)


class LaterLwF(LouderLwF):
    plain_first_task: ClassVar[bool] = True

    def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
        return super().loss(model, batch, criterion) / (1 if self.teaching is None else 2)


class Noise(Method):
    def after_step(self, model: ExpandingHeadModel) -> None:
        pass


class NoisyLwF(LwF, Noise):
    pass


class QuietLwF(LwF):
    def state(self) -> dict[str, object]:
        return {}


class AlwaysZero(Finetune):
    """Under `patience`, how it predicts decides how long the first task is trained."""

    def predict(self, model: ExpandingHeadModel, x: Tensor, task: Task) -> Tensor:
        return torch.eye(len(task.classes))[torch.zeros(len(x), dtype=torch.long)]


class Speaker(Method):
    plain_first_task: ClassVar[bool] = True

    def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
        return super().loss(model, batch, criterion)


class Mixed(Speaker, Doubled):
    pass


class Refusing(LwF):
    plain_first_task: ClassVar[bool] = False


@pytest.mark.parametrize(
    ("method", "shares"),
    [
        (Doubled, False),
        (LouderLwF, False),
        (LaterLwF, True),
        (NoisyLwF, False),
        (QuietLwF, True),
        (AlwaysZero, False),
        (Mixed, False),
        (Refusing, False),
    ],
)
def test_a_class_answers_for_its_own_hooks_only(method: type[Method], shares: bool) -> None:
    assert shares_first_task(method()) == shares


class Liar(Doubled):
    plain_first_task: ClassVar[bool] = True


def test_the_contract_check_finds_a_false_claim() -> None:
    with pytest.raises(AssertionError, match="its first task is not that of fine-tuning"):
        check_method(Liar, models=["mlp"], scenarios=["task"])


def test_a_method_that_skips_the_first_task_takes_none_over(tmp_path: Path) -> None:
    first = FirstTask(tmp_path / "first.pt")
    go(new("finetune"), "task", BUDGETS["momentum"], first)
    outcome = go(Joint(mode="final"), "task", BUDGETS["momentum"], first)
    assert not outcome.shared_first_task
    assert outcome.updates[0] == 0


def test_a_full_disk_leaves_no_half_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    first = FirstTask(tmp_path / "first.pt")
    outcomes = [go(new("finetune"), "task", BUDGETS["momentum"], first) for _ in range(2)]
    assert [outcome.shared_first_task for outcome in outcomes] == [False, False]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_file_that_cannot_be_used_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = go(new("finetune"), "task", BUDGETS["momentum"], FirstTask(tmp_path / "file" / "first.pt"))
    assert not outcome.shared_first_task
    damaged = FirstTask(tmp_path / "first.pt")
    damaged.path.write_bytes(b"no snapshot")
    assert not go(new("finetune"), "task", BUDGETS["momentum"], damaged).shared_first_task
    assert go(new("finetune"), "task", BUDGETS["momentum"], damaged).shared_first_task  # it was made anew


def test_waiting_for_another_run_is_no_cost(tmp_path: Path) -> None:
    class Slow(FirstTask):
        @contextlib.contextmanager
        def claim(self) -> Iterator[dict[str, Any] | None]:
            time.sleep(2)
            yield None

    outcome = go(new("finetune"), "task", BUDGETS["momentum"], Slow(tmp_path / "first.pt"))
    assert outcome.train_seconds[0] < 2


def test_a_network_from_outside_shares_nothing(tmp_path: Path) -> None:
    """It may have state that no snapshot holds."""
    file = tmp_path / "outside.py"
    file.write_text("from clbench.models.networks import MLP\n\n\nclass Own(MLP):\n    name = 'own'\n")
    sweep = plan("finetune,lwf", seeds=1, model=f"{file}:Own", out=tmp_path)
    assert [job.first_task for job in order_jobs(sweep.jobs, 2, tmp_path)] == [None, None]


METHODS = "finetune,lwf,joint,si,scratch@networks=per-task"


def records(out: Path) -> dict[str, RunRecord]:
    return Store(out).read()[0]


def test_a_sweep_is_the_same_with_and_without_reuse(tmp_path: Path) -> None:
    options = {"methods": METHODS, "seeds": 2, "epochs": 2, "scenario": "task", "quiet": True}
    clbench.run(**options, out=tmp_path / "shared", jobs=2)  # type: ignore[arg-type]
    clbench.run(**options, out=tmp_path / "alone", jobs=1, reuse=False)  # type: ignore[arg-type]
    shared, alone = records(tmp_path / "shared"), records(tmp_path / "alone")
    assert set(shared) == set(alone)
    for key, record in shared.items():
        for what in ("accuracy", "updates", "images", "weights_hash", "forward_passes"):
            if what != "forward_passes" or record.spec["method"] != "lwf":
                assert getattr(record, what) == getattr(alone[key], what), (record.spec["label"], what)
    write_report(clbench.load(tmp_path / "shared"), tmp_path / "report", formats=("pdf",))
    text = (tmp_path / "report/summary.md").read_text()
    assert "A first task that methods have in common was trained once; its cost is counted in each." in text
    taken = [record for record in shared.values() if record.shared_first_task]
    assert len(taken) == 2 * (4 - 1)  # of each seed one run trains it for the others; si is not among them
    assert not any(record.shared_first_task for record in alone.values())
    for record in taken:  # its cost is that of the run that trained it, and then the method's own
        seed = record.spec["seed"]
        others = [other for other in shared.values() if other.spec["seed"] == seed and other.spec["method"] != "si"]
        (owner,) = (other for other in others if not other.shared_first_task)
        assert record.history is not None
        assert owner.history is not None
        assert record.history[0] == owner.history[0]
        assert record.seconds is not None
        assert owner.seconds is not None
        assert record.seconds["train"][0] == pytest.approx(owner.seconds["train"][0], rel=0.5)


def test_first_tasks_come_early_and_are_told_apart(tmp_path: Path) -> None:
    sweep = plan(METHODS, seeds=3, settings={"training.lr": [0.1, 0.2]}, out=tmp_path)
    jobs = order_jobs(sweep.jobs, 2, tmp_path)
    assert {job.spec.key for job in jobs} == {job.spec.key for job in sweep.jobs}
    groups: dict[str | None, list[str]] = {}
    for job in jobs:
        groups.setdefault(job.first_task, []).append(job.spec.method)
    assert groups.pop(None) == ["si"] * 6  # three seeds at two rates, each on its own
    assert len(groups) == 6
    assert all(group == ["joint", "finetune", "lwf", "scratch"] for group in groups.values())
    leaders = [job for job in jobs if job.spec.method in ("joint", "si")]
    assert jobs[:12] == leaders


def test_few_first_tasks_are_kept_at_once(tmp_path: Path) -> None:
    sweep = plan("finetune,lwf", seeds=40, out=tmp_path)
    jobs = order_jobs(sweep.jobs, 2, tmp_path)
    open_now: set[str | None] = set()
    for job in jobs:
        open_now ^= {job.first_task}  # two runs of each: the second closes it
        assert len(open_now) <= 16
    assert not open_now


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    sweep = plan("finetune,lwf", seeds=1, training={"epochs": 1}, out=tmp_path / "records")
    files = [len(list((tmp_path / "temporary").rglob("*.pt"))) for _ in sweep.run()]
    assert files == [1, 0]
    assert list((tmp_path / "temporary").iterdir()) == []

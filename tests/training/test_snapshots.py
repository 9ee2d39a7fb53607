"""Snapshots: first tasks that runs share, and checkpoints, change no number."""

import contextlib
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny
import torch
from tiny import new, same_as
from torch import Tensor, nn

import clbench
from clbench.errors import ClbenchError
from clbench.experiment import registry
from clbench.method import SCENARIOS, Learner, Method, Run, Scenario, Step, Training, shares_first_task
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.methods.lwf import LwF
from clbench.models.backbones import MLP
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks
from clbench.training.run import Outcome
from clbench.training.snapshots import SnapshotFile

SHARING = ["agem", "duplicate-finetune", "ewc", "feature-extraction", "finetune", "finetune-fc", "gem", "joint"]
SHARING += ["l2", "lfl", "lwf", "mas", "ncm", "online-ewc", "pnn", "ranpac", "replay", "scratch", "slda"]
BUDGETS = {
    "momentum": Training(epochs=2, batch_size=7, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "kept Adam": Training(
        epochs=2, batch_size=7, optimizer="adam", lr=0.01, keep_optimizer=True, full_head=True, untouched="zero"
    ),
    "kept, zero once reached": Training(
        epochs=1, batch_size=8, optimizer="adam", keep_optimizer=True, full_head=True, untouched="zero-once-reached"
    ),
    "held out": Training(epochs=3, batch_size=8, validation=0.25, patience=1),
}


def go(method: Method, scenario: Scenario, training: Training, **files: SnapshotFile | None) -> Outcome:
    model = MLP(width=16, dropout=0.3)
    tasks = tiny_tasks(3, images=23, as_bytes=True)
    return tiny.go(method, scenario, tasks, backbone=model, training=training, seed=1, **files)


# ---------------------------------------------------------------------------------------------------------------------
# First tasks


def test_which_built_in_methods_share() -> None:
    assert [name for name in registry.builtin("method") if shares_first_task(type(new(name)))] == SHARING


def test_a_tensor_that_was_on_the_cpu_stays_there(tmp_path: Path) -> None:
    """Whatever the device of the run: a memory keeps its labels on the CPU, its images on the device."""
    SnapshotFile(tmp_path / "run.pt").keep({"labels": torch.arange(3)})
    found = SnapshotFile(tmp_path / "run.pt", "cuda:0").load()
    assert found is not None
    assert found["labels"].device.type == "cpu"


CASES = [(name, some) for name in SHARING for some in SCENARIOS if some in new(name).scenarios]


@pytest.mark.parametrize("number", range(len(CASES)), ids=map("-".join, CASES))
def test_a_first_task_from_another_run_gives_the_same_run(number: int, tmp_path: Path) -> None:
    """The budgets take turns: each method meets three of the four."""
    name, scenario = CASES[number]
    training = list(BUDGETS.values())[number % 4]
    first = SnapshotFile(tmp_path / "first.pt")
    trainer = go(new("finetune"), scenario, training, first_task=first)
    alone, shared = go(new(name), scenario, training), go(new(name), scenario, training, first_task=first)
    assert (trainer.shared_first_task, alone.shared_first_task, shared.shared_first_task) == (False, False, True)
    same_as(alone, shared)


@pytest.mark.parametrize("name", SHARING)
def test_a_first_task_may_be_trained_by_any_of_them(name: str, tmp_path: Path) -> None:
    training = BUDGETS["momentum"]
    first = SnapshotFile(tmp_path / "first.pt")
    trainer = go(new(name), "task", training, first_task=first)
    shared = go(new("finetune"), "task", training, first_task=first)
    assert (trainer.shared_first_task, shared.shared_first_task) == (False, True)
    same_as(shared, go(new("finetune"), "task", training))
    same_as(trainer, go(new(name), "task", training))


class Doubled(Finetune):
    def loss(self, step: Step) -> Tensor:
        return 2 * step.cross_entropy()


class Speaker(LwF):
    first_task_is_finetuning: ClassVar[bool] = True


class Mixed(Speaker, Doubled):
    pass


class Refusing(LwF):
    first_task_is_finetuning: ClassVar[bool] = False


@pytest.mark.parametrize(
    ("method", "shares"),
    [(Finetune, True), (Doubled, False), (Speaker, True), (Mixed, False), (Refusing, False), (Method, False)],
)
def test_a_class_answers_for_itself_alone(method: type[Method], shares: bool) -> None:
    assert shares_first_task(method) == shares


def test_a_method_that_skips_the_first_task_takes_none_over(tmp_path: Path) -> None:
    first = SnapshotFile(tmp_path / "first.pt")
    go(new("finetune"), "task", BUDGETS["momentum"], first_task=first)
    outcome = go(Joint(mode="final"), "task", BUDGETS["momentum"], first_task=first)
    assert not outcome.shared_first_task
    assert outcome.updates[0] == 0


def test_waiting_for_another_run_is_no_cost(tmp_path: Path) -> None:
    class Slow(SnapshotFile):
        @contextlib.contextmanager
        def claim(self) -> Iterator[dict[str, Any] | None]:
            time.sleep(2)
            yield None

    start = time.perf_counter()
    outcome = go(new("finetune"), "task", BUDGETS["momentum"], first_task=Slow(tmp_path / "first.pt"))
    assert sum(outcome.train_seconds) + sum(outcome.evaluate_seconds) <= time.perf_counter() - start - 2


def test_a_sweep_shares_and_every_run_is_as_if_it_were_alone(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seeds": 1, "epochs": 1, "scenario": "task", "quiet": True, "jobs": 1}
    methods = "finetune,lwf,joint,si,scratch"
    shared = {r.spec["method"]: r for r in clbench.run(methods, **options, out=tmp_path / "shared").records}
    taken = [name for name, record in shared.items() if record.shared_first_task]
    assert len(taken) == 3  # one run trains it for the others; si is not among them
    (owner,) = (record for name, record in shared.items() if name not in (*taken, "si"))
    for name, record in shared.items():
        (alone,) = clbench.run(name, **options, out=tmp_path / name).records
        assert not alone.shared_first_task
        assert alone.key == record.key
        for what in ("accuracy", "updates", "images", "weights_hash", "forward_passes", "backward_passes", "history"):
            assert getattr(record, what) == getattr(alone, what), (name, what)
    for name in taken:  # its cost is that of the run that trained it, and then the method's own
        found = shared[name]
        assert found.history is not None
        assert owner.history is not None
        assert found.history[0] == owner.history[0]
        assert found.seconds is not None
        assert owner.seconds is not None
        assert found.seconds["train"][0] >= 0.5 * owner.seconds["train"][0]


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints


class Stopped(Exception):
    pass


def stop_after(tasks: int) -> Any:
    def stop(_: Learner, task: Task) -> None:
        if task.index == tasks:
            raise Stopped

    return stop


ALL = [(name, some) for name in registry.builtin("method") for some in SCENARIOS if some in new(name).scenarios]


@pytest.mark.parametrize("number", range(len(ALL)), ids=map("-".join, ALL))
def test_a_run_that_goes_on_is_the_same(number: int, tmp_path: Path) -> None:
    """Stopped in the second task or in the third; the budgets take turns."""
    name, scenario = ALL[number]
    training, checkpoint = list(BUDGETS.values())[number % 4], SnapshotFile(tmp_path / "run.pt")
    with contextlib.suppress(Stopped):
        go(new(name), scenario, training, checkpoint=checkpoint, after_task=stop_after(1 + number % 2))
    same_as(go(new(name), scenario, training, checkpoint=checkpoint), go(new(name), scenario, training))


def test_a_run_that_is_done_trains_no_more(tmp_path: Path) -> None:
    class Counting(Finetune):
        steps = 0

        def after_step(self, step: Step) -> None:
            Counting.steps += 1

    checkpoint = SnapshotFile(tmp_path / "run.pt")
    outcomes = [go(Counting(), "class", BUDGETS["momentum"], checkpoint=checkpoint) for _ in range(2)]
    same_as(*outcomes)
    assert Counting.steps == sum(outcomes[0].updates)


def test_a_checkpoint_says_that_the_first_task_was_shared(tmp_path: Path) -> None:
    first, checkpoint, training = SnapshotFile(tmp_path / "1.pt"), SnapshotFile(tmp_path / "2.pt"), BUDGETS["momentum"]
    go(new("finetune"), "task", training, first_task=first)
    with contextlib.suppress(Stopped):
        go(new("lwf"), "task", training, first_task=first, checkpoint=checkpoint, after_task=stop_after(1))
    assert go(new("lwf"), "task", training, first_task=first, checkpoint=checkpoint).shared_first_task


class Own(Method):
    """Has parameters of its own, and a count; `load_state` has to take over the count."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.scale, self.done = nn.Parameter(torch.ones(())), 0

    def parameters(self) -> dict[str, nn.Parameter]:
        return {"scale": self.scale}

    def loss(self, step: Step) -> Tensor:
        return self.scale * (1 + self.done) * step.cross_entropy()

    def finish_task(self, task: Task) -> None:
        self.done += 1

    def state(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state(self, state: dict[str, Any]) -> None:
        self.done = state["done"]


class NoLoadState(Own):
    load_state = Method.load_state


def test_a_methods_own_parameters_and_state_go_on(tmp_path: Path) -> None:
    training = Training(epochs=1, batch_size=8, optimizer="adam", keep_optimizer=True)
    checkpoint = SnapshotFile(tmp_path / "run.pt")
    with contextlib.suppress(Stopped):
        go(Own(), "task", training, checkpoint=checkpoint, after_task=stop_after(1))
    same_as(go(Own(), "task", training, checkpoint=checkpoint), go(Own(), "task", training))
    with contextlib.suppress(Stopped):
        go(Own(), "task", training, checkpoint=checkpoint, after_task=stop_after(1))
    with pytest.raises(ClbenchError, match="NoLoadState has a state but no load_state"):
        go(NoLoadState(), "task", training, checkpoint=checkpoint)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_a_full_disk_leaves_no_half_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> None:
        write(path, content[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    first = SnapshotFile(tmp_path / "first.pt")
    outcomes = [go(new("finetune"), "task", BUDGETS["momentum"], first_task=first) for _ in range(2)]
    assert [outcome.shared_first_task for outcome in outcomes] == [False, False]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_file_that_cannot_be_used_is_no_reason_to_fail(tmp_path: Path) -> None:
    training = BUDGETS["momentum"]
    (tmp_path / "file").write_text("")
    outcome = go(new("finetune"), "task", training, first_task=SnapshotFile(tmp_path / "file" / "first.pt"))
    assert not outcome.shared_first_task
    damaged = SnapshotFile(tmp_path / "first.pt")
    damaged.path.write_bytes(b"no snapshot")
    assert not go(new("finetune"), "task", training, first_task=damaged).shared_first_task
    assert go(new("finetune"), "task", training, first_task=damaged).shared_first_task  # it was made anew


@pytest.mark.parametrize("damage", ["shortened", "one bit", "empty"])
def test_a_damaged_file_is_none(damage: str, tmp_path: Path) -> None:
    file = SnapshotFile(tmp_path / "some.pt")
    file.keep({"a": torch.arange(9)})
    content = bytearray(file.path.read_bytes())
    content[len(content) // 2] ^= 1
    file.path.write_bytes({"shortened": content[:-7], "one bit": content, "empty": b""}[damage])
    assert file.load() is None


def test_what_something_else_has_made_is_none(tmp_path: Path) -> None:
    path = tmp_path / "some.pt"
    SnapshotFile(path, made_by={"processor": "a"}).keep({"a": 1})
    assert SnapshotFile(path, made_by={"processor": "a"}).load() == {"a": 1}
    assert SnapshotFile(path, made_by={"processor": "b"}).load() is None
    assert SnapshotFile(path).load() is None


def _claim(path: Path, answers: Any) -> None:
    with SnapshotFile(path).claim() as found:
        answers.put(found)


def test_others_wait_for_the_run_that_is_to_keep_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers, file = context.Queue(), SnapshotFile(tmp_path / "some.pt")
    with file.claim() as found:
        assert found is None
        other = context.Process(target=_claim, args=(file.path, answers))
        other.start()
        file.keep({"a": 1})
    assert answers.get(timeout=600) == {"a": 1}
    other.join()

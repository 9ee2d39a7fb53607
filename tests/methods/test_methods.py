"""The contract over every registered method, and the identities that hold between methods."""

from typing import Any

import pytest
import torch
from torch import Tensor

from clbench.errors import UsageError
from clbench.experiment import registry
from clbench.method.base import SCENARIOS, Batch, Criterion, Method, Scenario
from clbench.method.schedule import Training
from clbench.methods.feature_extraction import FeatureExtraction
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.methods.lwf import LwF
from clbench.methods.scratch import Scratch
from clbench.models.networks import MLP, ExpandingHeadModel, ResNet18
from clbench.sequences.tasks import Task
from clbench.testing import TRAINING, check_method, tiny_tasks
from clbench.training.loop import Outcome, run_sequence

BATCHES = Training(epochs=3, batch_size=8, lr=0.05, momentum=0.9, weight_decay=1e-3)


def go(method: Method, scenario: Scenario = "task", tasks: int = 3, **keywords: Any) -> Outcome:
    options = {"backbone": MLP(width=16, dropout=0.2), "training": BATCHES, "seed": 3} | keywords
    return run_sequence(tiny_tasks(tasks), method, scenario=scenario, **options)


@pytest.mark.parametrize("name", registry.names("method"))
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("model", registry.names("model"))
def test_contract(name: str, scenario: Scenario, model: str) -> None:
    method = registry.find("method", name)
    if scenario not in method.scenarios:
        pytest.skip(f"{name} is not defined for {scenario}")
    check_method(method, models=[model], scenarios=[scenario])


@pytest.mark.parametrize(
    "method",
    [
        LwF(teacher="live", scope="joined"),
        LwF(scope="padded", mixing="share", scale_t2=True, reduction="mean"),
        LwF(freeze_old_blocks=True, new_classes_only=True),
        LwF(warmup_epochs=1),
        LwF(teacher="unnormalised"),
        Joint(mode="incremental", task_share="equal"),
        Joint(mode="final"),
        Scratch(networks="per-task"),
    ],
    ids=repr,
)
def test_contract_of_variants(method: Method) -> None:
    for scenario in ("task", "class"):
        if scenario == "task" or not method.uses_task_name:
            check_method(method, models=["mlp"], scenarios=[scenario], tasks=3)


@pytest.mark.parametrize(
    "options",
    [
        {"keep_optimizer": True},
        {"full_head": True},
        {"full_head": True, "untouched": "zero"},
        {"full_head": True, "predict_over": "all"},
        {"drop_last": True},
        {"epochs": None, "iterations": 7},
        {"optimizer": "adam", "momentum": 0.0},
        {"optimizer": "adagrad", "momentum": 0.0},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", registry.names("method"))
def test_contract_under_every_training_option(name: str, options: dict[str, Any]) -> None:
    training = Training(**{"epochs": 2, "batch_size": 10, "momentum": 0.9, **options})
    check_method(registry.find("method", name), models=["mlp"], training=training)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("training", [BATCHES, Training(epochs=2, batch_size=8, optimizer="adam", keep_optimizer=True)])
def test_lwf_of_weight_zero_is_finetune(scenario: Scenario, training: Training) -> None:
    one, other = (go(method, scenario, training=training) for method in (LwF(weight=0), Finetune()))
    assert one.weights_hash == other.weights_hash
    assert one.task_aware == other.task_aware
    assert go(LwF(weight=1e-3), scenario, training=training).weights_hash != other.weights_hash


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_methods_share_the_first_task(scenario: Scenario) -> None:
    outcomes = [
        go(method, scenario, tasks=1) for method in (Finetune(), Joint(), Scratch(), LwF(), FeatureExtraction())
    ]
    assert len({outcome.weights_hash for outcome in outcomes}) == 1


def test_scratch_does_not_depend_on_the_tasks_before() -> None:
    snapshots: dict[int, dict[str, Tensor]] = {}

    def keep(model: ExpandingHeadModel, task: Task) -> None:
        snapshots[task.index] = {name: value.clone() for name, value in model.state_dict().items()}

    tasks = tiny_tasks(3)
    run_sequence(tasks, Scratch(), MLP(width=16), BATCHES, "task", 3, after_task=keep)
    before = snapshots.pop(2)
    for task in tasks[:2]:
        task.train.images.normal_(generator=torch.Generator().manual_seed(9))
    run_sequence(tasks, Scratch(), MLP(width=16), BATCHES, "task", 3, after_task=keep)
    assert all(torch.equal(snapshots[2][name], value) for name, value in before.items())
    assert not torch.equal(snapshots[2]["backbone.1.weight"], snapshots[1]["backbone.1.weight"])


def test_scratch_with_separate_networks_forgets_nothing() -> None:
    separate = go(Scratch(networks="per-task"))
    aware = separate.task_aware
    assert all(aware[3][j] == aware[j + 1][j] for j in range(3))
    assert all(cell is None for row in separate.task_agnostic for cell in row)
    latest = go(Scratch())
    assert [latest.task_aware[j + 1][j] for j in range(3)] == [aware[j + 1][j] for j in range(3)]
    assert separate.stored_bytes == 4 * (2 * (64 * 16 + 16) + 3 * (2 * 16 + 2))  # two networks, of one and two blocks
    assert latest.stored_bytes == 0


def test_separate_networks_need_the_name_of_the_task() -> None:
    for scenario in ("class", "domain"):
        with pytest.raises(UsageError, match="needs the task's name"):
            Scratch(networks="per-task").check(scenario, BATCHES)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_feature_extraction_leaves_the_backbone_alone(scenario: Scenario) -> None:
    states: list[dict[str, Tensor]] = []

    def keep(model: ExpandingHeadModel, task: Task) -> None:
        states.append({name: value.clone() for name, value in model.state_dict().items()})

    go(FeatureExtraction(), scenario, backbone=ResNet18(channels=4), after_task=keep)
    backbone = [name for name in states[0] if name.startswith("backbone")]
    assert any("running_mean" in name for name in backbone)
    for later in states[1:]:
        assert all(torch.equal(later[name], states[0][name]) for name in backbone)
        newest = max(name for name in later if name.startswith("head"))
        assert newest not in states[0] or not torch.equal(later[newest], states[0][newest])


def test_feature_extraction_computes_features_once_per_task() -> None:
    outcome = go(FeatureExtraction())
    assert outcome.forward_passes == [3 * 24, 24, 24]
    assert outcome.updates == [9, 9, 9]


def test_recorded_features_give_the_same_run_as_computing_them_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = go(FeatureExtraction())
    monkeypatch.setattr("clbench.training.loop.in_chunks", lambda function, split, size: None)
    monkeypatch.setattr("clbench.method.base.Batch.features", property(lambda self: self._model.features(self.x)))
    history = _history_without_evaluation(FeatureExtraction(), monkeypatch)
    for one, other in zip(recorded.history, history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def _history_without_evaluation(method: Method, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, list[float]]]:
    monkeypatch.setattr("clbench.training.loop._Sequence._evaluate", lambda self: self._no_row())
    return go(method).history


def test_joint_trains_on_every_task_so_far() -> None:
    outcome = go(Joint())
    assert outcome.images == [3 * 24, 3 * 48, 3 * 72]
    assert outcome.stored_bytes == 2 * 24 * 64 * 4
    forgetful = go(Finetune())
    assert forgetful.images == [72, 72, 72]
    assert forgetful.stored_bytes == 0


def test_joint_starts_from_the_initial_weights_unless_incremental() -> None:
    def after_two(method: Method) -> str:
        return go(method, tasks=2).weights_hash

    assert after_two(Joint()) == after_two(Joint(mode="final")) != after_two(Joint(mode="incremental"))


def test_joint_once_at_the_end_measures_only_the_last_row() -> None:
    outcome = go(Joint(mode="final"), "domain")
    assert [all(cell is None for cell in row) for row in outcome.task_aware] == [False, True, True, False]
    assert outcome.updates == [0, 0, 27]


class SharesOfTheBatch(Joint):
    """Counts how many images of each task are in a batch."""

    def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
        self.counts = [*getattr(self, "counts", []), torch.bincount(batch.task_ids, minlength=3).tolist()]
        return super().loss(model, batch, criterion)


def test_joint_with_equal_shares_takes_as_much_of_each_task() -> None:
    method = SharesOfTheBatch(task_share="equal")
    go(method)
    assert method.counts[:9] == [[8, 0, 0]] * 9
    assert method.counts[9:27] == [[4, 4, 0]] * 18
    assert method.counts[27:] == [[3, 3, 3]] * 27  # ⌈8 / 3⌉ each


def test_the_contract_catches_data_kept_from_earlier_tasks() -> None:
    class Cheat(Method):
        def start_task(self, model: ExpandingHeadModel, task: Task) -> None:
            self.kept = [*getattr(self, "kept", []), task] if task.index else [task]

        def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
            return criterion(model, batch) + 0 * self.kept[0].train.images.sum()

    with pytest.raises(AssertionError, match="without declaring `memory = True`"):
        check_method(Cheat, models=["mlp"], scenarios=["task"])


def test_the_contract_catches_what_breaks_it() -> None:
    class Forgetless(Method):
        steps = 0

        def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
            self.steps += 1
            return criterion(model, batch) * (1 + self.steps)

    class Meddler(Method):
        def finish_task(self, model: ExpandingHeadModel, task: Task) -> None:
            with torch.no_grad():
                model.head[0].bias.add_(1)

    class Hoarder(Method):
        def training_tasks(self, seen: Any) -> Any:
            return seen

    class Unseeded(Method):
        def loss(self, model: ExpandingHeadModel, batch: Batch, criterion: Criterion) -> Tensor:
            torch.seed()
            return criterion(model, batch) * torch.rand(())

    for cls, message in (
        (Forgetless, "reset everything in `begin`"),
        (Meddler, "finish_task changes the network"),
        (Hoarder, "without declaring `memory = True`"),
        (Unseeded, "differ"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_method(cls, models=["mlp"], scenarios=["task"], training=TRAINING)

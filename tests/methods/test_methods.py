"""The identities that hold between methods, and what each of the plain ones does."""

import pytest
import torch
from tiny import ADAM, equal, go, same_as, states
from torch import Tensor

from clbench.method import SCENARIOS, Method, Scenario, Step, Training
from clbench.methods.feature_extraction import FeatureExtraction
from clbench.methods.finetune import Finetune
from clbench.methods.joint import Joint
from clbench.methods.lwf import LwF
from clbench.methods.scratch import Scratch
from clbench.models.backbones import MLP, ResNet18
from clbench.testing import tiny_tasks

BATCHES = Training(epochs=3, batch_size=8, lr=0.05, momentum=0.9, weight_decay=1e-3)


@pytest.mark.parametrize(("scenario", "training"), [("task", BATCHES), ("class", ADAM), ("domain", BATCHES)])
def test_lwf_of_weight_zero_is_finetune(scenario: Scenario, training: Training) -> None:
    one, other = (go(method, scenario, training=training) for method in (LwF(weight=0), Finetune()))
    same_as(one, other, "weights_hash", "task_aware")
    assert go(LwF(weight=1e-3), scenario, training=training).weights_hash != other.weights_hash


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_methods_share_the_first_task(scenario: Scenario) -> None:
    outcomes = [
        go(method, scenario, tasks=1) for method in (Finetune(), Joint(), Scratch(), LwF(), FeatureExtraction())
    ]
    assert len({outcome.weights_hash for outcome in outcomes}) == 1


def test_scratch_does_not_depend_on_the_tasks_before() -> None:
    tasks = tiny_tasks(3)
    before = states(Scratch(), tasks=tasks, training=BATCHES)
    for task in tasks[:2]:
        task.train.images.normal_(generator=torch.Generator().manual_seed(9))
    after = states(Scratch(), tasks=tasks, training=BATCHES)
    assert equal(after[2], before[2])
    assert not equal(after[1], before[1])
    assert not torch.equal(after[2]["backbone.1.weight"], after[1]["backbone.1.weight"])


def test_scratch_answers_each_task_by_its_own_network_where_it_is_told() -> None:
    separate, latest = go(Scratch()), go(Scratch(networks="latest"))
    aware = separate.task_aware
    assert all(aware[3][j] == aware[j + 1][j] for j in range(3))  # nothing is forgotten
    assert [latest.task_aware[j + 1][j] for j in range(3)] == [aware[j + 1][j] for j in range(3)]
    assert latest.task_aware[3] != aware[3]
    assert separate.task_agnostic == latest.task_agnostic  # where it is not told, the latest one answers
    assert separate.stored_bytes == 4 * (2 * (64 * 16 + 16) + 3 * (2 * 16 + 2))  # two networks, of one and two blocks
    assert latest.stored_bytes == 0


@pytest.mark.parametrize("scenario", ["class", "domain"])
def test_scratch_answers_by_the_latest_network_elsewhere(scenario: Scenario) -> None:
    auto, latest = go(Scratch(), scenario), go(Scratch(networks="latest"), scenario)
    same_as(auto, latest)
    assert auto.stored_bytes == 0


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_feature_extraction_leaves_the_backbone_alone(scenario: Scenario) -> None:
    backbone = ResNet18(channels=2) if scenario == "domain" else MLP(width=8)
    first, *others = states(FeatureExtraction(), scenario, backbone=backbone)
    body = [name for name in first if name.startswith("backbone")]
    assert any("running_mean" in name for name in body) == (scenario == "domain")
    for later in others:
        assert all(torch.equal(later[name], first[name]) for name in body)
        newest = max(name for name in later if name.startswith("head"))
        assert newest not in first or not torch.equal(later[newest], first[newest])


def test_feature_extraction_computes_features_once_per_task() -> None:
    outcome = go(FeatureExtraction(), training=BATCHES)
    assert outcome.forward_passes == [3 * 24, 24, 24]
    assert outcome.updates == [9, 9, 9]


def test_recorded_features_give_the_same_run_as_computing_them_each_step() -> None:
    class NotRecorded(FeatureExtraction):
        def loss(self, step: Step) -> Tensor:
            return super().loss(step.on(step.batch))

    recorded, computed = (go(method, training=BATCHES) for method in (FeatureExtraction(), NotRecorded()))
    for one, other in zip(recorded.history, computed.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert sum(computed.forward_passes) > sum(recorded.forward_passes)


def test_joint_trains_on_every_task_so_far() -> None:
    outcome = go(Joint(), training=BATCHES)
    assert outcome.images == [3 * 24, 3 * 48, 3 * 72]
    assert outcome.stored_bytes == 2 * 24 * 64 * 4
    assert outcome.stored_images == 2 * 24
    forgetful = go(Finetune(), training=BATCHES)
    assert forgetful.images == [72, 72, 72]
    assert forgetful.stored_bytes == 0


def test_joint_starts_from_the_initial_weights_unless_incremental() -> None:
    def after_two(method: Method) -> str:
        return go(method, tasks=2).weights_hash

    assert after_two(Joint()) == after_two(Joint(mode="final")) != after_two(Joint(mode="incremental"))


def test_joint_once_at_the_end_measures_only_the_last_row() -> None:
    outcome = go(Joint(mode="final"), "domain", training=BATCHES)
    assert [all(cell is None for cell in row) for row in outcome.task_aware] == [False, True, True, False]
    assert outcome.updates == [0, 0, 27]


class SharesOfTheBatch(Joint):
    """Counts how many images of each task are in a batch."""

    def loss(self, step: Step) -> Tensor:
        self.counts = [*getattr(self, "counts", []), torch.bincount(step.batch.task_ids, minlength=3).tolist()]
        return super().loss(step)


def test_joint_with_equal_shares_takes_as_much_of_each_task() -> None:
    method = SharesOfTheBatch(task_share="equal")
    go(method, training=BATCHES)
    assert method.counts[:9] == [[8, 0, 0]] * 9
    assert method.counts[9:27] == [[4, 4, 0]] * 18
    assert method.counts[27:] == [[3, 3, 3]] * 27  # ⌈8 / 3⌉ each

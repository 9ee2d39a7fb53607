"""The other baselines of Li & Hoiem's table 1: less-forgetting learning, fine-tuned FC, duplicate and fine-tune."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import ADAM, SGD, ScaledPixels, batch_of, begun, equal, go, same_as, state_of, states, step_on
from torch import Tensor

from clbench.method import SCENARIOS, Learner, Run, Scenario, Step, Training
from clbench.methods.duplicate_finetune import DuplicateFinetune
from clbench.methods.feature_extraction import FeatureExtraction
from clbench.methods.finetune import Finetune
from clbench.methods.finetune_fc import FinetuneFC
from clbench.methods.lfl import LFL
from clbench.models import Backbone, ExpandingHeadModel
from clbench.models.backbones import CNN, MLP, ResNet18
from clbench.sequences.tasks import Split, Task
from clbench.testing import tiny_tasks
from clbench.training.run import Outcome

PAIRS = pytest.mark.parametrize(
    ("scenario", "training"), [("task", SGD), ("class", ADAM), ("domain", SGD)], ids=["task", "class", "domain"]
)
SMALL_CNN = CNN(channels=2, width=8)


def assert_finetune(outcome: Outcome, scenario: Scenario, training: Training) -> None:
    same_as(outcome, go(Finetune(), scenario, training=training), "weights_hash", "task_aware", "task_agnostic")


# ------------------------------------------------------------------------------------------ less-forgetting learning


@pytest.mark.parametrize("augment", [False, True])
def test_lfl_by_hand(augment: bool) -> None:
    """Features (3, 4) and (0, 2) become 1.5 times as large: they move by (1.5, 2) and (0, 1), squared 6.25 and 1."""
    images = torch.tensor([[[[3.0, 4.0]]], [[[0.0, 2.0]]]])
    split = Split(images, torch.arange(2), torch.tensor([0, 1]), augment=augment)  # no generator: nothing is moved
    task = Task(1, (0, 1), split, split)
    model = ExpandingHeadModel(ScaledPixels(), (1, 1, 2), 0).eval()
    method = begun(LFL(weight=0.2), model)
    model.expand(2)
    method.start_task(task)
    model.expand(2)
    model.seen = 2
    scale: Tensor = model.backbone[1].weight
    with torch.no_grad():
        scale.fill_(1.5)
        for parameter in model.head[1].parameters():
            parameter.zero_()  # logits 0, 0
    rows = torch.arange(2)
    model.passes.reset()
    loss = method.loss(step_on(model, batch_of(split, rows, rows + 2, rows * 0 + 1), "task"))
    assert loss.item() == pytest.approx(math.log(2) + 0.2 / 2 * (6.25 + 1) / 2, rel=1e-6)
    loss.backward()
    # ∂/∂s of λ/2 · mean (s − 1)² ‖x‖² with ‖x‖² = 25 and 4; the head, all zero, passes nothing on
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(0.2 * 0.5 * (25 + 4) / 2, rel=1e-6)
    assert model.passes.forward == (4 if augment else 2)  # the old network's passes are counted


class LFLByHand(LFL):
    """Writes the loss out with a copy of the weights from before the task."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.pairs: list[tuple[float, float, float]] = []  # found, cross-entropy, moved

    def start_task(self, task: Task) -> None:
        self.frozen = state_of(self.network.backbone)
        self.index = task.index
        super().start_task(task)

    def loss(self, step: Step) -> Tensor:
        loss, batch = super().loss(step), step.batch
        then = torch.func.functional_call(step.network.backbone, self.frozen, (batch.x,))
        moved = sum(((a - b) ** 2).sum().item() for a, b in zip(step.features, then, strict=True)) / len(batch)
        own, y = step.network(batch.x), batch.y
        if step.criterion.scenario == "task":
            own, y = own[:, -2:], y - own.shape[1] + 2
        cross_entropy = -own.log_softmax(1)[torch.arange(len(batch)), y].mean().item()
        self.pairs.append((loss.item(), cross_entropy, moved if self.index else 0.0))
        return loss


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("freeze", [True, False])
def test_loss_of_lfl_over_three_tasks(double: None, scenario: Scenario, freeze: bool) -> None:
    method = LFLByHand(weight=0.6, freeze_old_blocks=freeze)
    go(method, scenario, backbone=MLP(width=8, depth=2))
    assert len(method.pairs) == 18
    for found, cross_entropy, moved in method.pairs:
        assert found == pytest.approx(cross_entropy + 0.3 * moved, rel=1e-10)
    assert method.pairs[6][2] == method.pairs[12][2] == 0  # a task's first step is taken where the old network is
    assert all(pair[2] > 1e-6 for pair in [*method.pairs[7:12], *method.pairs[13:]])


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_lfl_freezes_old_blocks(scenario: Scenario) -> None:
    after = states(LFL(), scenario)
    for kind in ("weight", "bias"):
        assert torch.equal(after[1][f"head.0.{kind}"], after[0][f"head.0.{kind}"])
        assert torch.equal(after[2][f"head.0.{kind}"], after[0][f"head.0.{kind}"])
        assert torch.equal(after[2][f"head.1.{kind}"], after[1][f"head.1.{kind}"])
    fresh = states(LFL(), scenario, training=replace(SGD, lr=1e-30))  # as good as untrained: the blocks' first weights
    for task in range(3):
        assert not torch.equal(after[task][f"head.{task}.weight"], fresh[2][f"head.{task}.weight"])
        assert not task or not torch.equal(after[task]["backbone.1.weight"], after[task - 1]["backbone.1.weight"])
    free = states(LFL(freeze_old_blocks=False), "class")
    assert not torch.equal(free[1]["head.0.weight"], free[0]["head.0.weight"])


def test_lfl_freezes_the_one_block_of_domain() -> None:
    after = states(LFL(), "domain")
    for later in after[1:]:
        assert torch.equal(later["head.0.weight"], after[0]["head.0.weight"])
        assert torch.equal(later["head.0.bias"], after[0]["head.0.bias"])
        assert not torch.equal(later["backbone.1.weight"], after[0]["backbone.1.weight"])
    free = states(LFL(freeze_old_blocks=False), "domain")
    assert not torch.equal(free[1]["head.0.weight"], free[0]["head.0.weight"])


@PAIRS
def test_lfl_of_weight_zero_is_finetune(scenario: Scenario, training: Training) -> None:
    def lfl(weight: float, freeze: bool = False) -> Outcome:
        return go(LFL(weight=weight, freeze_old_blocks=freeze), scenario, training=training)

    free = lfl(0)
    assert_finetune(free, scenario, training)
    assert lfl(1e-3).weights_hash != free.weights_hash
    frozen = lfl(0, freeze=True)
    # in the task scenario no loss reaches old blocks, so that freezing them changes nothing
    assert (frozen.weights_hash == free.weights_hash) == (scenario == "task")


def test_a_large_weight_keeps_features_near() -> None:
    tasks = tiny_tasks(2)

    def moved(weight: float) -> float:
        found: list[Tensor] = []

        def look(learner: Learner, task: Task) -> None:
            with torch.no_grad():
                found.append(learner.network.features(tasks[1].train.images))  # type: ignore[attr-defined]

        training = replace(SGD, lr=0.02)
        go(LFL(weight=weight), tasks=tasks, backbone=MLP(width=16), training=training, after_task=look)
        return (found[1] - found[0]).square().sum(1).mean().item()

    assert moved(1.0) < 0.5 * moved(0.0)


# ------------------------------------------------------------------------------------------ fine-tuned FC


@PAIRS
def test_finetune_fc_of_an_mlp_is_finetune(scenario: Scenario, training: Training) -> None:
    assert_finetune(go(FinetuneFC(), scenario, training=training), scenario, training)


@PAIRS
def test_finetune_fc_freezes_convolutions_after_the_first_task(scenario: Scenario, training: Training) -> None:
    after = states(FinetuneFC(), scenario, backbone=SMALL_CNN, training=training)
    plain = states(Finetune(), scenario, backbone=SMALL_CNN, training=training)
    assert equal(after[0], plain[0])  # the first task trains it all
    for one, before in zip(after[1:], after, strict=False):
        for layer in (0, 3):
            for kind in ("weight", "bias"):
                assert torch.equal(one[f"backbone.{layer}.{kind}"], before[f"backbone.{layer}.{kind}"])
        assert not torch.equal(one["backbone.7.weight"], before["backbone.7.weight"])
        # old blocks may train where a loss reaches them
        assert torch.equal(one["head.0.weight"], before["head.0.weight"]) == (scenario == "task")
    assert not torch.equal(plain[1]["backbone.0.weight"], plain[0]["backbone.0.weight"])


def test_finetune_fc_without_fully_connected_layers_is_feature_extraction() -> None:
    """The features of a residual network are averages of its last maps: there is only the head to train."""
    backbone = ResNet18(channels=2)
    found, expected = (states(method, backbone=backbone, tasks=2) for method in (FinetuneFC(), FeatureExtraction()))
    assert all(equal(*pair) for pair in zip(found, expected, strict=True))


# ------------------------------------------------------------------------------------------ duplicate and fine-tune


def network_bytes(width: int, blocks: int) -> int:
    """Return the bytes of a network with one hidden layer on 64 pixels and blocks of two outputs."""
    return 4 * (64 * width + width + blocks * (2 * width + 2))


@pytest.mark.parametrize(
    ("backbone", "training"), [(MLP(width=16, dropout=0.2), ADAM), (ResNet18(channels=2), SGD)], ids=["mlp", "resnet18"]
)
def test_duplicates_forget_nothing(backbone: Backbone, training: Training) -> None:
    found = go(DuplicateFinetune(), backbone=backbone, training=training)
    plain = go(Finetune(), backbone=backbone, training=training)
    assert found.weights_hash == plain.weights_hash  # each copy is tuned as the one network would be
    assert found.history == plain.history
    aware = found.task_aware
    assert len(aware) == 4
    for task in range(3):
        assert aware[task + 1][task] == plain.task_aware[task + 1][task]
        column = [row[task] for row in aware]
        assert column[: task + 1] == [None] * (task + 1)  # there is no network for it yet
        assert len(set(column[task + 1 :])) == 1
    assert found.task_agnostic == [[None] * 3] * 4


def test_duplicates_predict_with_the_network_of_the_task() -> None:
    """Scores of images of each task after all tasks equal those from right after it, to the last bit."""
    tasks, method = tiny_tasks(3), DuplicateFinetune()
    fresh: list[Tensor] = []

    def look(learner: Learner, task: Task) -> None:
        with torch.no_grad():
            fresh.append(method.network(tasks[task.index].test.images))
            for old, scores in enumerate(fresh):
                assert torch.equal(method.scores(tasks[old].test.images, old), scores)
            if task.index:
                assert not torch.equal(method.network(tasks[0].test.images)[:, :2], fresh[0])

    go(method, tasks=tasks, after_task=look)
    assert len(fresh) == 3


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_duplicates_are_paid_for(tasks: int) -> None:
    """All networks but the last one are kept beside it; the network of task t has t blocks."""
    outcome = go(DuplicateFinetune(), tasks=tasks)
    assert outcome.stored_bytes == sum(network_bytes(16, blocks) for blocks in range(1, tasks))


def test_duplicates_need_the_name_of_the_task() -> None:
    assert DuplicateFinetune.scenarios == {"task"}

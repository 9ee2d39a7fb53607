"""LwF against values worked out by hand, and the choices on which published codes differ."""

import math
from typing import Any

import pytest
import torch
from tiny import ScaledPixels, batch_of, begun, go, step_on
from torch import Tensor

from clbench.method import Run, Scenario, Step, Training
from clbench.methods.lwf import LwF
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.sequences.tasks import Split, Task


def setting(scenario: Scenario = "task", tasks: int = 2, **fields: Any) -> tuple[LwF, ExpandingHeadModel, Step]:
    """Make the situation at the last task: an image (1, 0), recorded old logits, and moved head weights.

    The old logits were 0, 2 | 1, 0 | … when recorded and are 1, 0 | 1, 0 | … now; the new ones are 0, 0 with label 1.
    """
    split = Split(torch.tensor([[[1.0, 0.0]]]), torch.arange(1), torch.ones(1, dtype=torch.long))
    task = Task(tasks - 1, (0, 1), split, split)
    model = ExpandingHeadModel(ScaledPixels(), (1, 2), 0)
    then, now = [[0.0, 2.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]
    method = begun(LwF(**fields), model, scenario, tasks)
    with torch.no_grad():
        for old in range(tasks - 1):
            model.expand(2)
            set_logits(model, old, then[old])
        model.seen = tasks - 1
        method.start_task(task)
        model.expand(2)
        model.seen = tasks
        for old in range(tasks - 1):
            set_logits(model, old, now[old])
        set_logits(model, tasks - 1, [0.0, 0.0])
    zero = torch.zeros(1, dtype=torch.long)
    batch = batch_of(split, zero, zero + 2 * tasks - 1, zero + tasks - 1)
    return method, model, step_on(model, batch, scenario)


def set_logits(model: ExpandingHeadModel, block: int, logits: list[float]) -> None:
    """Let a block answer the image (1, 0) with these logits."""
    head = model.head[block]
    head.weight.copy_(torch.tensor([[z, 0.0] for z in logits]))
    head.bias.zero_()


def softmax(*z: float) -> list[float]:
    total = sum(math.exp(v) for v in z)
    return [math.exp(v) / total for v in z]


# recorded (0, 2) and now (1, 0), both halved by T = 2: −Σ y' log ŷ'
TARGET, NOW = softmax(0, 1), softmax(0.5, 0)
DISTILLED = -(TARGET[0] * math.log(NOW[0]) + TARGET[1] * math.log(NOW[1]))
OTHER = softmax(0.5, 0)  # the second old task, whose logits 1, 0 have not moved
ENTROPY = -sum(p * math.log(p) for p in OTHER)
LN2 = math.log(2)


def value(scenario: Scenario = "task", tasks: int = 2, **fields: Any) -> float:
    method, _, step = setting(scenario, tasks, **fields)
    return method.loss(step).item()


def test_the_example_by_hand() -> None:
    assert pytest.approx(0.8397, abs=1e-4) == DISTILLED  # 0.26894 · 0.47408 + 0.73106 · 0.97408
    assert value() == pytest.approx(LN2 + DISTILLED, rel=1e-6)


def test_old_tasks_are_summed() -> None:
    assert value(tasks=3) == pytest.approx(LN2 + DISTILLED + ENTROPY, rel=1e-6)


def test_weight_temperature_and_t_squared() -> None:
    assert value(weight=0.5) == pytest.approx(LN2 + 0.5 * DISTILLED, rel=1e-6)
    assert value(scale_t2=True) == pytest.approx(LN2 + 4 * DISTILLED, rel=1e-6)
    target, now = softmax(0, 2), softmax(1, 0)
    plain = -(target[0] * math.log(now[0]) + target[1] * math.log(now[1]))
    assert value(temperature=1) == pytest.approx(LN2 + plain, rel=1e-6)


def test_weight_zero_builds_no_term() -> None:
    assert value(weight=0) == pytest.approx(LN2, rel=1e-6)
    method, model, step = setting(weight=0)
    method.loss(step).backward()
    assert model.head[0].weight.grad is None


@pytest.mark.parametrize(("mixing", "new", "old"), [("share", 1 / 3, 2 / 3), ("convex", 0.3, 0.7), ("constant", 1, 1)])
def test_mixing(mixing: str, new: float, old: float) -> None:
    expected = new * LN2 + old * (DISTILLED + ENTROPY)
    assert value(tasks=3, mixing=mixing, alpha=0.3) == pytest.approx(expected, rel=1e-6)


def test_joined_scope_has_one_softmax_over_all_old_classes() -> None:
    target, now = softmax(0, 1, 0.5, 0), softmax(0.5, 0, 0.5, 0)
    joined = -sum(t * math.log(p) for t, p in zip(target, now, strict=True))
    assert value(tasks=3, scope="joined") == pytest.approx(LN2 + joined, rel=1e-6)
    # in the class scenario that is the default, and cross-entropy runs over all six outputs: 1, 0, 1, 0, 0, 0
    cross_entropy = -math.log(softmax(1, 0, 1, 0, 0, 0)[5])
    assert value("class", tasks=3) == pytest.approx(cross_entropy + joined, rel=1e-6)


def test_padded_scope_compares_with_old_and_new_outputs() -> None:
    student = softmax(0.5, 0, 0, 0)
    padded = -(TARGET[0] * math.log(student[0]) + TARGET[1] * math.log(student[1]))
    assert value(scope="padded") == pytest.approx(LN2 + padded, rel=1e-6)
    # van de Ven before May 2019: T² times the mean over all four outputs
    assert value(scope="padded", scale_t2=True, reduction="mean") == pytest.approx(LN2 + padded, rel=1e-6)


def test_mean_reduction_is_over_the_distilled_outputs() -> None:
    assert value(tasks=3, reduction="mean") == pytest.approx(LN2 + (DISTILLED + ENTROPY) / 4, rel=1e-6)


def test_old_tasks_of_different_sizes() -> None:
    method = begun(LwF(scope="per-task"), ExpandingHeadModel(ScaledPixels(), (1, 2), 0), tasks=3)
    method.old_widths = [2, 3]
    z = torch.randn(4, 5)
    expected = torch.cat([torch.softmax(z[:, :2] / 2, 1), torch.softmax(z[:, 2:] / 2, 1)], 1)
    torch.testing.assert_close(method.soften(z, torch.softmax), expected)


def test_gradient_by_hand() -> None:
    method, model, step = setting(weight=3)
    method.loss(step).backward()
    # ∂/∂z of −Σ y' log softmax(z/T) is (ŷ' − y') / T; the image is (1, 0)
    expected = [3 * (NOW[i] - TARGET[i]) / 2 for i in range(2)]
    assert model.head[0].bias.grad.tolist() == pytest.approx(expected, rel=1e-5)
    assert model.head[0].weight.grad[:, 0].tolist() == pytest.approx(expected, rel=1e-5)
    assert model.head[0].weight.grad[:, 1].tolist() == [0, 0]
    # the new block gets only the cross-entropy's: softmax − one-hot
    assert model.head[1].bias.grad.tolist() == pytest.approx([0.5, -0.5], rel=1e-5)
    # the backbone's one weight multiplies the feature 1: Σ_k ∂loss/∂z_k · w_k over all outputs
    assert model.backbone[1].weight.grad.item() == pytest.approx(expected[0] * 1 + expected[1] * 0, rel=1e-5)


class GradientProbe(LwF):
    """Keeps the gradient of the distillation term alone, at every step of the second task."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.norms: list[dict[str, float]] = []

    def loss(self, step: Step) -> Tensor:
        if self.old_network is not None:
            term = self.weight * self.distillation(step.outputs, self.old_network(step.batch))
            named = {n: p for n, p in step.network.named_parameters() if not n.startswith("head.1")}
            gradients = torch.autograd.grad(term, list(named.values()), retain_graph=True)
            self.norms.append({name: g.norm().item() for name, g in zip(named, gradients, strict=True)})
        return super().loss(step)


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_distillation_starts_with_no_gradient(scenario: Scenario) -> None:
    norms = {}
    for weight in (1.0, 2.0):
        probe = GradientProbe(weight=weight)
        go(probe, scenario, 2, backbone=MLP(width=16), training=Training(batch_size=8, lr=0.1), seed=0)
        norms[weight] = probe.norms
    first, second = norms[1.0][:2]
    assert all(norm < 1e-6 for norm in first.values()), first
    assert all(norm > 1e-4 for norm in second.values()), second
    # the weights before the second step are the same for both, because the first step's term had no gradient
    for name, norm in norms[2.0][1].items():
        assert norm == pytest.approx(2 * second[name], rel=1e-3)


def test_the_cost_of_a_teacher_is_counted() -> None:
    def passes(**fields: Any) -> list[int]:
        training = Training(batch_size=8, epochs=3)
        return go(LwF(**fields), tasks=2, backbone=MLP(width=16), training=training).forward_passes

    assert passes(weight=0) == [72, 72]
    assert passes() == [72, 72 + 24]  # once over the 24 images
    assert passes(teacher="train-mode") == [72, 72 + 72]


def test_teacher_in_training_mode_is_told_apart() -> None:
    def losses(teacher: str, dropout: float) -> list[float]:
        backbone = MLP(width=16, dropout=dropout)
        return go(LwF(teacher=teacher), tasks=2, backbone=backbone, training=Training(batch_size=8)).history[-1]["loss"]

    assert losses("train-mode", 0.0) == pytest.approx(losses("recorded", 0.0), rel=1e-5)
    assert losses("train-mode", 0.5) != pytest.approx(losses("recorded", 0.5), rel=1e-4)


def test_convex_mixing_of_alpha_one_is_fine_tuning() -> None:
    def final(method: LwF) -> str:
        training = Training(batch_size=8, weight_decay=0.1)
        return go(method, tasks=2, training=training).weights_hash

    assert final(LwF(mixing="convex", alpha=1)) == final(LwF(weight=0)) != final(LwF(mixing="convex", alpha=0.9))

"""BiC, WA, LUCIR and SS-IL against their formulas by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from tiny import batch_of, begun, go, step_on
from torch import Tensor

from clbench.method import Batch, Phase, Step, Training
from clbench.methods.bic import BiC
from clbench.methods.icarl import ICaRL
from clbench.methods.lucir import LUCIR
from clbench.methods.ss_il import SSIL
from clbench.methods.wa import WA
from clbench.models import ExpandingHeadModel
from clbench.models.backbones import MLP
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks

pytestmark = pytest.mark.usefixtures("double")
SLOW = Training(epochs=2, batch_size=8, lr=0.05)


def network_of(tasks: int = 2) -> ExpandingHeadModel:
    network = ExpandingHeadModel(MLP(width=6), (1, 8, 8), 0)
    network.expand_to([2] * tasks)
    network.seen = tasks
    return network


def mixed(tasks: Sequence[Task]) -> Batch:
    """Make a batch of three images of the first task and four of the second, as rows of both together."""
    x = torch.cat([tasks[0].train.batch(torch.arange(3)), tasks[1].train.batch(torch.arange(4))])
    y = torch.cat([tasks[0].train.y[:3], tasks[1].train.y[:4] + 2])
    return Batch(x, y, torch.tensor([0] * 3 + [1] * 4), [0, 1], torch.tensor([0, 1, 2, 24, 25, 26, 27]))


def prepared(method: Any) -> tuple[Any, ExpandingHeadModel, Batch, Tensor]:
    """Begin a method's second task: the method, its network as it is now, a batch, the old network's features of it."""
    tasks, network = tiny_tasks(2), network_of()
    begun(method, network, "class")
    network.seen = 1
    method.keep(tasks[0])
    network.seen = 2
    batch = mixed(tasks)
    then = network.features(batch.x).detach()
    method.ask_old_network(tasks)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.arange(parameter.numel()).view_as(parameter).cos())
    return method, network, batch, then


def old_outputs(features: Tensor) -> Tensor:
    return network_of().logits(features, [0]).detach()


@pytest.mark.parametrize(("most", "kept"), [(None, [6, 3, 2]), (1, [1, 1, 1]), (5, [5, 3, 2])])
def test_exemplars_of_each_class_at_most(most: int | None, kept: list[int]) -> None:
    """Three tasks of two classes share 12 places."""
    stored: list[list[int]] = []

    def look(learner: Any, task: Task) -> None:
        places = learner.buffer.places()
        stored.append(learner.buffer.y[places].bincount().tolist())

    for method in (WA(images=12, per_class=most), ICaRL(images=12, per_class=most)):
        stored.clear()
        go(method, "class", training=SLOW, after_task=look)
        assert stored == [[count] * 2 * (number + 1) for number, count in enumerate(kept)]


# ------------------------------------------------------------------------------------------------------------------ WA


def test_wa_mixes_cross_entropy_and_distillation_by_the_share_of_old_classes() -> None:
    method, network, batch, then = prepared(WA(images=24, temperature=3.0))
    z, q = network(batch.x), (old_outputs(then) / 3).softmax(1)
    distillation = -(q * (z[:, :2] / 3).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(
        method.loss(step_on(network, batch, "class")), 0.5 * F.cross_entropy(z, batch.y) + 0.5 * distillation
    )


def test_wa_makes_new_weights_as_long_as_old_ones() -> None:
    network = network_of(3)
    method = begun(WA(images=9), network, "class", tasks=3)
    before = [block.weight.detach().clone() for block in network.head]  # type: ignore[union-attr]
    method.finish_task(tiny_tasks(3)[2])
    after = [block.weight.detach() for block in network.head]  # type: ignore[union-attr]
    assert torch.equal(torch.cat(after[:2]), torch.cat(before[:2]))
    lengths = torch.cat(before[:2]).norm(dim=1)
    torch.testing.assert_close(after[2], before[2] * lengths.mean() / before[2].norm(dim=1).mean())
    torch.testing.assert_close(after[2].norm(dim=1).mean(), lengths.mean())


@pytest.mark.parametrize("positive", [True, False])
def test_wa_keeps_the_heads_weights_positive(positive: bool) -> None:
    lowest: list[float] = []

    class Watched(WA):
        def finish_task(self, task: Task) -> None:
            super().finish_task(task)
            lowest.append(min(block.weight.min().item() for block in self.network.head))  # type: ignore[operator]

    go(Watched(images=12, positive=positive), "class", training=SLOW)
    assert [low >= 0 for low in lowest] == [positive] * 3


# --------------------------------------------------------------------------------------------------------------- LUCIR


def test_lucirs_losses_by_hand() -> None:
    method, network, batch, then = prepared(LUCIR(images=24, scale=4.0, less_forget=3.0, margin=0.9, rivals=1))
    f = network.features(batch.x)
    w = torch.cat([block.weight for block in network.head])  # type: ignore[misc]
    cosines = torch.stack([torch.stack([F.cosine_similarity(x, v, dim=0) for v in w]) for x in f])
    kept = torch.stack([F.cosine_similarity(one, other, dim=0) for one, other in zip(f, then, strict=True)])
    number = cosines.tolist()
    stored = range(3)
    margins = [max(0.0, 0.9 - number[n][batch.y[n]] + max(number[n][2], number[n][3])) for n in stored]
    assert any(margins)
    expected = F.cross_entropy(4 * cosines, batch.y) + 3 * (1 - kept).mean() + sum(margins) / 3
    torch.testing.assert_close(method.loss(step_on(network, batch, "class")), expected)
    torch.testing.assert_close(method.scores(batch.x, None), cosines)


def test_lucirs_scale_is_learnt() -> None:
    found: list[float] = []

    class Watched(LUCIR):
        def finish_task(self, task: Task) -> None:
            super().finish_task(task)
            found.append(self.eta.item())

    go(Watched(images=12), "class", training=SLOW)
    assert len({1.0, *found}) == 4


# --------------------------------------------------------------------------------------------------------------- SS-IL


def test_ss_ils_loss_by_hand() -> None:
    tasks, network = tiny_tasks(3), network_of(3)
    method = begun(SSIL(images=24, temperature=2.0), network, "class", tasks=3)
    parts = [task.train.batch(torch.arange(2)) for task in tasks]
    x, y = torch.cat(parts), torch.tensor([0, 1, 2, 3, 4, 5])
    index = torch.tensor([0, 1, 24, 25, 48, 49])
    batch = Batch(x, y, torch.tensor([0, 0, 1, 1, 2, 2]), [0, 1, 2], index)
    then = network(x).detach()
    method.ask_old_network(tasks)
    with torch.no_grad():
        network.backbone[1].weight.mul_(1.3)  # type: ignore[index, union-attr, operator]
    z = network(x)
    old = F.cross_entropy(z[:4, :4], y[:4], reduction="sum")
    new = F.cross_entropy(z[4:, 4:], y[4:] - 4, reduction="sum")
    own_classes = (slice(2), slice(2, 4))
    kept = [-((then[:, s] / 2).softmax(1) * (z[:, s] / 2).log_softmax(1)).sum(1).mean() for s in own_classes]
    step = step_on(network, batch, "class")
    torch.testing.assert_close(method.loss(step), (old + new) / 6 + kept[0] + kept[1])


def test_in_ss_il_new_images_do_not_push_old_outputs_down() -> None:
    """What an old class's weights get of new images is the distillation's gradient alone."""
    method, network, _, _ = prepared(SSIL(images=24))
    task, rows = tiny_tasks(2)[1], torch.arange(4)
    new = batch_of(task.train, rows, task.train.y[rows] + 2, torch.ones_like(rows))
    new.index = rows + 24
    weight: Any = network.head[0].weight
    step = step_on(network, new, "class")
    distillation = method.distillation(step.outputs[:, :2], method.old_network(new))
    (expected,) = torch.autograd.grad(distillation, weight, retain_graph=True)
    (found,) = torch.autograd.grad(method.loss(step), weight)
    torch.testing.assert_close(found, expected)
    assert expected.any()


def test_ss_il_draws_a_number_of_stored_images_into_each_batch() -> None:
    sizes: list[tuple[int, int]] = []

    class Watched(SSIL):
        def loss(self, step: Step) -> Tensor:
            new = int((step.batch.task_ids == self.network.seen - 1).sum())
            sizes.append((new, len(step.batch) - new))
            return super().loss(step)

    go(Watched(images=12, memory_batch=3), "class", tasks=2, training=Training(epochs=1, batch_size=8, lr=0.1))
    assert sizes == [(8, 0)] * 3 + [(8, 3)] * 3


# ----------------------------------------------------------------------------------------------------------------- BiC


class Watched(BiC):
    """Keeps, for each bias phase, the validation share's outputs and columns, and what was fitted."""

    def begin(self, run: Any) -> None:
        super().begin(run)
        self.fits: list[tuple[Tensor, Tensor, int, Tensor]] = []
        self.rows: list[dict[str, set[bytes]]] = []

    def phases(self, task: Task, earlier: Sequence[Task]) -> Sequence[Phase]:
        phases = super().phases(task, earlier)
        self.rows.append(
            {phase.name: {x.numpy().tobytes() for one in phase.tasks for x in images(one)} for phase in phases}
        )
        return phases

    def finish_phase(self, phase: Phase) -> None:
        super().finish_phase(phase)
        if phase.name == "bias":
            x = torch.cat([images(one) for one in phase.tasks])
            y = torch.cat([one.train.y + 2 * one.index for one in phase.tasks])
            with torch.no_grad():
                z = self.network(x)
            self.fits.append((z, y, 2 * (self.network.seen - 1), self.newest.detach()[0]))


def images(task: Task) -> Tensor:
    return task.train.batch(torch.arange(len(task.train)))


@pytest.mark.parametrize("settings", [{"lr": 0.1}, {"lr": 0.01, "momentum": 0.9}, {"lr": 0.003, "optimizer": "adam"}])
def test_bics_two_parameters_are_those_that_scipy_finds(settings: dict[str, Any]) -> None:
    method = Watched(images=40, validation=0.4, bias_epochs=3000, bias_lr=0.3)
    go(method, "class", tiny_tasks(3, images=80), training=Training(epochs=2, batch_size=64, **settings))
    corrections = torch.tensor([[1.0, 0.0]], dtype=torch.double)
    assert len(method.fits) == 2
    for z, y, start, found in method.fits:
        z[:, :start] = z[:, :start] * corrections[:, 0].repeat_interleave(2) + corrections[:, 1].repeat_interleave(2)

        def cross_entropy(parameters: np.ndarray, z: Tensor = z, y: Tensor = y, start: int = start) -> float:
            alpha, beta = parameters
            corrected = torch.cat([z[:, :start], alpha * z[:, start:] + beta], 1)
            return float(F.cross_entropy(corrected, y))

        best = minimize(cross_entropy, [1.0, 0.0])
        assert abs(best.x - [1, 0]).max() > 0.05  # there is something to correct
        assert found.tolist() == pytest.approx(best.x, abs=0.05)
        assert cross_entropy(found.numpy()) == pytest.approx(best.fun, abs=1e-3)
        corrections = torch.cat([corrections, found[None].to(corrections)])


def test_bics_validation_share_is_balanced_and_not_trained_on() -> None:
    method = Watched(images=16, validation=0.25, bias_epochs=5)
    go(method, "class", tiny_tasks(3), training=SLOW)
    assert [set(rows) for rows in method.rows] == [{"train"}, {"train", "bias"}, {"train", "bias"}]
    for rows in method.rows[1:]:
        assert not rows["train"] & rows["bias"]
    for _, y, _, _ in method.fits:
        assert len(set(y.bincount().tolist())) == 1


def test_bic_without_a_memory_corrects_nothing() -> None:
    method = Watched(images=0)
    go(method, "class", training=SLOW)
    assert method.fits == []
    assert method.corrections.tolist() == [[1, 0]] * 3

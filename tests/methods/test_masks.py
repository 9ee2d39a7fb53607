"""Methods that give parts of the network to tasks: old answers stay, and each formula is worked out otherwise."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import ADAM, SGD, batch_of, begun, equal, go, made_up_run, state_of, step_on
from torch import Tensor, nn

from clbench.errors import UsageError
from clbench.method import Batch, Learner, Method, Phase, Step, Training
from clbench.methods.finetune import Finetune
from clbench.methods.hat import HAT, compensation, regulariser
from clbench.methods.packnet import FREE, PackNet
from clbench.methods.pnn import PNN
from clbench.methods.scratch import Scratch
from clbench.models import Backbone, ExpandingHeadModel
from clbench.models.backbones import CNN, MLP, ResNet18
from clbench.sequences.tasks import Task
from clbench.testing import tiny_tasks

MLPS, CNNS = MLP(width=16, depth=2, dropout=0.2), CNN(channels=3, width=12)
PLAIN = Training(epochs=2, batch_size=8, lr=0.05)
# what moves weights whose gradient is zero
MOVING = {
    "momentum, decay": SGD,
    "kept momentum, zeros": replace(SGD, keep_optimizer=True, full_head=True, untouched="zero"),
    "kept Adam, decay": replace(ADAM, weight_decay=1e-2),
    "adamw": Training(epochs=2, batch_size=8, lr=0.01, optimizer="adamw", weight_decay=0.1),
    "warm-up": replace(SGD, epochs=3, warmup_epochs=1),
}


def old_scores(method: Method, **options: Any) -> dict[int, list[Tensor]]:
    """Run a method on three tasks and return its scores on each one's own outputs, after it and each later one."""
    tasks = tiny_tasks(3)
    found: dict[int, list[Tensor]] = {}

    def ask(learner: Learner, last: Task) -> None:
        network = method.network
        for task in tasks[: last.index + 1]:
            with torch.no_grad():
                scores = learner.scores(task.test.batch(torch.arange(len(task.test))), task.index)
            assert scores is not None
            found.setdefault(task.index, []).append(scores[:, network.columns(task.index)])

    go(method, tasks=tasks, after_task=ask, **options)
    return found


def unchanged(found: dict[int, list[Tensor]]) -> bool:
    """Whether all answers are those that were given right after the task, bit for bit."""
    return all(torch.equal(later, first) for first, *others in found.values() for later in others)


# ---------------------------------------------------------------------------------------------------------------------
# What all of them promise


@pytest.mark.parametrize("training", MOVING.values(), ids=MOVING)
@pytest.mark.parametrize(
    ("cls", "backbone"),
    [(PackNet, MLPS), (PackNet, CNNS), (PackNet, ResNet18(channels=2)), (PNN, MLPS), (PNN, CNNS)],
    ids=["packnet-mlp", "packnet-cnn", "packnet-resnet18", "pnn-mlp", "pnn-cnn"],
)
def test_old_answers_do_not_change(cls: type[Method], backbone: Backbone, training: Training) -> None:
    assert unchanged(old_scores(cls(), backbone=backbone, training=training))


@pytest.mark.parametrize("training", MOVING.values(), ids=MOVING)
@pytest.mark.parametrize("backbone", [MLPS, CNNS], ids=["mlp", "cnn"])
def test_old_answers_of_hat_hardly_change(backbone: Backbone, training: Training) -> None:
    """With gates at 0 or 1 they would not change at all."""
    method = HAT(scale=4000)  # gates of |e| > 0.005 are 0 or 1 to seven digits
    found = old_scores(method, backbone=backbone, training=training)
    for first, *others in found.values():
        for later in others:
            torch.testing.assert_close(later, first, rtol=0, atol=1e-3)


def test_fine_tuning_changes_its_answers() -> None:
    """The two tests above can fail."""

    class Told(Finetune):
        def scores(self, x: Tensor, task: int | None) -> Tensor | None:
            return self.network(x)

    first, *_, last = old_scores(Told(), backbone=MLPS)[0]
    assert (first - last).abs().max() > 0.1


@pytest.mark.parametrize("cls", [PackNet, HAT, PNN])
def test_only_those_who_are_told_the_task_are_answered(cls: type[Method]) -> None:
    outcome = go(cls())
    assert outcome.task_agnostic == [[None] * 3] * 4
    assert [cell is None for cell in outcome.task_aware[2]] == [False, False, True]
    assert min(map(float, outcome.task_aware[-1])) > 0.7  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", [HAT, PNN])
def test_a_warm_up_trains_on_gated_and_joined_features(cls: Any) -> None:
    """Not on those that the loop records while the backbone is frozen: they come from the backbone alone."""
    compared = 0

    class Watched(cls):  # type: ignore[misc]
        def loss(self, step: Step) -> Tensor:
            nonlocal compared
            loss: Tensor = super().loss(step)
            if step.recorded is not None:
                torch.testing.assert_close(loss, super().loss(step.on(step.batch)))
                compared += 1
            return loss

    go(Watched(), training=MOVING["warm-up"])
    assert compared == 6


@pytest.mark.parametrize("cls", [HAT, PNN])
def test_backbones_that_are_no_chain_of_layers_are_refused(cls: type[Method]) -> None:
    with pytest.raises(UsageError, match=f"^{cls.name} needs a backbone of linear and convolutional layers in a row"):
        go(cls(), backbone=ResNet18(channels=2))


# ---------------------------------------------------------------------------------------------------------------------
# PackNet


def test_packnet_prunes_the_smallest_of_its_own_weights() -> None:
    """The next task's weights are those that the last one freed; of 16 × 64 it frees three in four."""
    before: list[dict[str, np.ndarray]] = []
    owners: list[dict[str, np.ndarray]] = []

    class Watched(PackNet):
        def prune(self) -> None:
            before.append(
                {name: self.network.backbone.get_parameter(name).detach().numpy().copy() for name in self.owners}
            )
            super().prune()
            owners.append({name: owner.numpy().copy() for name, owner in self.owners.items()})

    go(Watched(), backbone=MLP(width=16, depth=2))
    free = {"1.weight": 16 * 64, "3.weight": 16 * 16}
    for task in range(3):
        for name, count in free.items():
            own, weight = owners[task][name], np.abs(before[task][name])
            mine = np.ones_like(own, dtype=bool) if task == 0 else owners[task - 1][name] == FREE
            threshold = np.sort(weight[mine])[count // 4 * 3]
            np.testing.assert_array_equal(own == task, mine & (weight >= threshold))
            np.testing.assert_array_equal(own == FREE, mine & (weight < threshold))
            free[name] = count // 4 * 3
    assert free == {"1.weight": 432, "3.weight": 108}  # (3/4)³ of each


def test_packnet_trains_in_two_phases_and_what_is_free_is_zero() -> None:
    phases: list[str] = []
    ends: list[int] = []

    class Watched(PackNet):
        def after_step(self, step: Step) -> None:
            super().after_step(step)
            phases.append(step.phase.name)

        def finish_task(self, task: Task) -> None:
            ends.append(len(phases))
            for name, owner in self.owners.items():
                weight = self.network.backbone.get_parameter(name)
                assert weight[owner == FREE].eq(0).all()
                assert weight[owner == task.index].ne(0).all()

    outcome = go(Watched(), training=replace(SGD, epochs=4))
    assert phases[: ends[0]] == ["train"] * 12 + ["retrain"] * 6  # of three steps an epoch
    assert outcome.updates == [18] * 3
    assert go(PackNet(retrain_epochs=0), training=replace(SGD, epochs=4)).updates == [12] * 3
    assert go(PackNet(), training=replace(SGD, epochs=1)).updates == [6] * 3
    assert go(PackNet(), training=replace(SGD, epochs=None, iterations=5)).updates == [8] * 3


def test_packnet_answers_with_the_weights_of_tasks_so_far() -> None:
    """NumPy computes the answer of each task from the weights that it and earlier ones own."""
    method, tasks = PackNet(), tiny_tasks(3)
    go(method, tasks=tasks, backbone=MLP(width=16))
    weights = {name: value.numpy() for name, value in state_of(method.network).items()}
    for task in tasks:
        x = task.test.batch(torch.arange(12))
        kept = weights["backbone.1.weight"] * (method.owners["1.weight"].numpy() <= task.index)
        hidden = np.maximum(x.flatten(1).numpy() @ kept.T + weights["backbone.1.bias"], 0)
        block = f"head.{task.index}"
        expected = hidden @ weights[f"{block}.weight"].T + weights[f"{block}.bias"]
        scores = method.scores(x, task.index)
        assert scores is not None
        found = scores[:, method.network.columns(task.index)].detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_packnet_fixes_biases_and_batch_norm_before_it_first_prunes() -> None:
    seen = []

    class Watched(PackNet):
        def finish_phase(self, phase: Phase) -> None:
            super().finish_phase(phase)
            seen.append(state_of(self.network))

    method = Watched()
    go(method, backbone=ResNet18(channels=2))
    assert len(seen) == 6
    fixed = [
        name for name in seen[0] if name.startswith("backbone") and name.removeprefix("backbone.") not in method.owners
    ]
    assert any("running_var" in name for name in fixed)
    assert any("num_batches" in name for name in fixed)
    for later in seen[1:]:
        assert equal({name: seen[0][name] for name in fixed}, {name: later[name] for name in fixed})
    fresh = ExpandingHeadModel(ResNet18(channels=2), (1, 8, 8), 3, "weights").state_dict()
    assert any(not torch.equal(seen[0][name], fresh[name]) for name in fixed if "running_mean" in name)


def test_packnet_says_beforehand_when_nothing_will_be_free() -> None:
    with pytest.raises(UsageError, match="pruned=0 of packnet leaves no free weight for task 2 of 3: prune a larger"):
        go(PackNet(pruned=0))
    go(PackNet(pruned=0), tasks=1)
    with pytest.raises(UsageError, match=r"pruned=0.01 of packnet leaves no free weight for task 3 of 3"):
        go(PackNet(pruned=0.01))  # 10 of 1024, then 0


# ---------------------------------------------------------------------------------------------------------------------
# HAT


def network_of(backbone: Backbone, tasks: int = 2) -> ExpandingHeadModel:
    """Make a network in double precision with blocks of two classes for some tasks, all seen."""
    network = ExpandingHeadModel(backbone, (1, 8, 8), 0)
    for _ in range(tasks):
        network.expand(2)
    network.seen = tasks
    return network.double()


def hat_at_its_second_task(backbone: Backbone, training: Training = PLAIN, **fields: float) -> tuple[HAT, Batch]:
    """Begin HAT by hand, in double precision; its gates are soft, so that every factor of a step counts."""
    tasks = [replace(t, train=replace(t.train, images=t.train.images.double())) for t in tiny_tasks(2)]
    method = HAT(**({"scale": 3.0} | fields))
    method.begin(replace(made_up_run(0, "task", 2), training=training, new_network=lambda: network_of(backbone)))
    method.embeddings = [[nn.Parameter(e.detach().double()) for e in own] for own in method.embeddings]
    method.phases(tasks[1], [])
    rows = torch.arange(8)
    return method, batch_of(tasks[1].train, rows, tasks[1].train.y[rows] + 2, torch.ones(8, dtype=torch.long))


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def forward_by_hand(network: ExpandingHeadModel, x: Tensor, gates: Sequence[Tensor]) -> Tensor:
    """The MLP or CNN with gated units, written out."""
    body = network.backbone
    if isinstance(body[1], nn.Linear):  # type: ignore[index]
        h = x.flatten(1)
        for place, a in zip((1, 3), gates, strict=True):
            h = a * F.relu(F.linear(h, body[place].weight, body[place].bias))  # type: ignore[index]
        return h
    for place, a in zip((0, 3), gates[:2], strict=True):
        layer = body[place]  # type: ignore[index]
        x = a[:, None, None] * F.max_pool2d(F.relu(F.conv2d(x, layer.weight, layer.bias, padding=1)), 2)
    return gates[2] * F.relu(F.linear(x.flatten(1), body[7].weight, body[7].bias))  # type: ignore[index]


BACKBONES = pytest.mark.parametrize("backbone", [MLP(width=6, depth=2), CNN(channels=2, width=5)], ids=["mlp", "cnn"])


@BACKBONES
def test_hat_gates_units_and_weighs_new_ones(backbone: Backbone) -> None:
    """Its loss, written out: s = s_max at the last of the three steps of an epoch, 1/s_max at the first."""
    method, batch = hat_at_its_second_task(backbone)
    for steps, s in ((0, 1 / 3), (1, (3 + 1 / 3) / 2), (2, 3.0), (3, 1 / 3)):
        method.steps = steps
        a, used = ([sigmoid(x * e) for e in method.embeddings[t]] for t, x in ((1, s), (0, 3.0)))
        features = forward_by_hand(method.network, batch.x, a)
        block = method.network.head[1]
        ce = F.cross_entropy(F.linear(features, block.weight, block.bias), batch.y - 2)
        new = sum((1 - u).sum() for u in used)
        r = sum((now * (1 - u)).sum() for now, u in zip(a, used, strict=True)) / new
        torch.testing.assert_close(method.loss(step_on(method.network, batch, "task")), ce + 0.75 * r)


def test_the_regulariser_by_hand() -> None:
    gates = [torch.tensor([1.0, 0.5]), torch.tensor([0.25])]
    used = [torch.tensor([0.0, 1.0]), torch.tensor([0.5])]
    assert regulariser(gates, used).item() == pytest.approx((1 * 1 + 0.5 * 0 + 0.25 * 0.5) / (1 + 0 + 0.5))
    assert regulariser(gates, [torch.ones(2), torch.ones(1)]).item() == 0  # nothing is left


def test_the_gradient_of_an_embedding_is_compensated() -> None:
    """After it, ∂a/∂e is s_max σ'(e), whatever s is: that is what the formula is for."""
    e = torch.linspace(-6, 6, 25, dtype=torch.float64)
    for s in (1 / 400, 0.7, 3.0):
        x = e.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(torch.sigmoid(s * x).sum(), x)
        expected = 400 * sigmoid(e) * (1 - sigmoid(e))
        torch.testing.assert_close(gradient * compensation(e, s, 400.0), expected)
    s, far = 400.0, torch.tensor(5.0, dtype=torch.float64)
    assert compensation(far, s, 400.0).item() == pytest.approx((np.cosh(50) + 1) / (np.cosh(5) + 1))  # not cosh(2000)


def gradients_of(loss: Tensor, method: HAT) -> dict[str, Tensor]:
    own = {f"method.{name}": e for name, e in method.parameters().items()}
    parameters = {**dict(method.network.named_parameters()), **own}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}


@BACKBONES
def test_hat_holds_what_earlier_tasks_use(backbone: Backbone) -> None:
    """A step of SGD with plain gradients moves weight ij by −lr (1 − min(a_i, a_j)) g, and an embedding by −lr q' g."""
    method, batch = hat_at_its_second_task(backbone)
    method.steps = 1
    step, lr = step_on(method.network, batch, "task"), 0.1
    plain = gradients_of(method.loss(step), method)
    given = method.gradients(step, lambda loss: gradients_of(loss, method))
    before = state_of(method.network)
    with torch.no_grad():
        for name, gradient in given.items():
            if not name.startswith("method."):
                method.network.get_parameter(name).sub_(lr * gradient)
    method.after_step(step)
    used = [sigmoid(3.0 * e).detach() for e in method.embeddings[0]]
    names = [name.removesuffix(".weight") for name in before if name.startswith("backbone") and name.endswith("weight")]
    for number, name in enumerate(names):
        gradient = plain[f"{name}.weight"]
        factor = torch.empty_like(gradient)
        per_unit = 1 if number == 0 else gradient.shape[1] // len(used[number - 1])
        for i, j in np.ndindex(*gradient.shape[:2]):
            below = 1.0 if number == 0 else used[number - 1][j // per_unit]
            factor[i, j] = 1 - min(used[number][i], below)  # type: ignore[call-overload]
        expected = before[f"{name}.weight"] - lr * factor * gradient
        torch.testing.assert_close(method.network.get_parameter(f"{name}.weight").detach(), expected)
        expected = before[f"{name}.bias"] - lr * (1 - used[number]) * plain[f"{name}.bias"]
        torch.testing.assert_close(method.network.get_parameter(f"{name}.bias").detach(), expected)
    s = (3 + 1 / 3) / 2
    for number, e in enumerate(method.embeddings[1]):
        ratio = 3.0 / s * (torch.cosh(s * e) + 1) / (torch.cosh(e) + 1)
        key = f"method.embedding.1.{number}"
        torch.testing.assert_close(given[key], (plain[key] * ratio).detach())
    assert not any("embedding.0" in name for name in given)


@pytest.mark.parametrize("training", MOVING.values(), ids=MOVING)
@pytest.mark.parametrize("backbone", [MLPS, CNNS], ids=["mlp", "cnn"])
def test_weights_between_two_used_units_do_not_move_at_all(backbone: Backbone, training: Training) -> None:
    """Where both gates are 1, whatever the optimiser does."""
    held = 0

    class Watched(HAT):
        def after_step(self, step: Step) -> None:
            nonlocal held
            before = {name: value.clone() for name, value in self.before.items()}
            super().after_step(step)
            for name, share in self.shares.items():
                both = (share == 0).expand_as(before[name])
                assert torch.equal(self.network.get_parameter(name)[both], before[name][both])
                held += int(both.sum())

    go(Watched(), backbone=backbone, training=training)
    assert held > 0


def test_embeddings_stay_within_their_bounds() -> None:
    method, batch = hat_at_its_second_task(MLP(width=6, depth=2))
    step = step_on(method.network, batch, "task")
    method.gradients(step, lambda loss: {})
    with torch.no_grad():
        method.embeddings[1][0].copy_(torch.tensor([-9.0, -6.0, 1.0, 5.75, 6.5, 30.0]))
    method.after_step(step)
    assert method.embeddings[1][0].tolist() == [-6.0, -6.0, 1.0, 5.75, 6.0, 6.0]


def test_only_the_embeddings_of_the_current_task_move() -> None:
    method, seen = HAT(), []

    def look(_: Learner, task: Task) -> None:
        seen.append([[e.detach().clone() for e in own] for own in method.embeddings])

    outcome = go(method, training=MOVING["kept momentum, zeros"], after_task=look)
    for later, earlier in zip(seen[1:], seen, strict=False):
        moved = [not torch.equal(one[0], other[0]) for one, other in zip(later, earlier, strict=True)]
        assert sum(moved) == 1
    assert outcome.parameters == 64 * 16 + 16 + 3 * (16 * 2 + 2) + 3 * 16
    assert outcome.stored_bytes == 0


# ---------------------------------------------------------------------------------------------------------------------
# Progressive networks


def adapter_by_hand(adapter: Any, taken: Sequence[Tensor], connect: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """U σ(V [α h]) for units [n, units, …], V as a matrix over units."""
    scaled = torch.cat([a * h for a, h in zip(adapter.scales, taken, strict=True)], 1)
    projected = torch.einsum("uv,nv...->nu...", adapter.project.weight[:, :, 0], scaled)
    return connect(F.relu(projected), adapter.connect.weight)


def test_columns_of_an_mlp_are_joined_as_in_equation_2() -> None:
    method, tasks = PNN(), tiny_tasks(3)
    go(method, tasks=tasks, backbone=MLP(width=5, depth=2))
    x = tasks[0].test.batch(torch.arange(12))
    taken: list[list[Tensor]] = []
    for task, network in enumerate(method.columns):
        body, h, own = network.backbone, x.flatten(1), []
        layers = [body[1], body[3], network.head[task]]  # type: ignore[index]
        for number, layer in enumerate(layers):
            own.append(h)
            h = F.linear(h, layer.weight, layer.bias)
            if task and number:
                h = h + adapter_by_hand(method.adapters[task][number - 1], [t[number] for t in taken], F.linear)
            h = F.relu(h) if number < 2 else h
        taken.append(own)
        scores = method.scores(x, task)
        assert scores is not None
        torch.testing.assert_close(scores[:, method.network.columns(task)], h)
        assert scores.isinf().sum() == 4 * 12  # the other tasks' outputs


def test_columns_of_a_cnn_are_joined_channel_by_channel() -> None:
    method, tasks = PNN(), tiny_tasks(2)
    go(method, tasks=tasks, backbone=CNN(channels=2, width=5))
    x = tasks[1].test.batch(torch.arange(12))

    def conv(h: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(h, weight, padding=1)

    def fully(h: Tensor, weight: Tensor) -> Tensor:
        return F.linear(h.flatten(1), weight)

    old, new = (column.backbone for column in method.columns)
    adapters, below, h = method.adapters[1], x, x
    for number, place in enumerate((0, 3)):
        was, layer = old[place], new[place]  # type: ignore[index]
        joined = adapter_by_hand(adapters[0], [below], conv) if number else 0
        h = F.relu(F.max_pool2d(conv(h, layer.weight) + layer.bias[:, None, None] + joined, 2))
        below = F.relu(F.max_pool2d(conv(below, was.weight) + was.bias[:, None, None], 2))
    z = F.linear(h.flatten(1), new[7].weight, new[7].bias) + adapter_by_hand(adapters[1], [below], fully)  # type: ignore[index]
    features = F.relu(z)
    before = F.relu(F.linear(below.flatten(1), old[7].weight, old[7].bias))  # type: ignore[index]
    block = method.network.head[1]
    expected = F.linear(features, block.weight, block.bias) + adapter_by_hand(adapters[2], [before], F.linear)
    scores = method.scores(x, 1)
    assert scores is not None
    torch.testing.assert_close(scores[:, 2:], expected)


def test_without_adapters_columns_are_networks_of_their_own() -> None:
    """With U = 0 that cannot move, each column is what training from scratch makes of the task."""

    class Apart(PNN):
        def new_adapters(self, task: int) -> nn.ModuleList:
            made = super().new_adapters(task)
            for adapter in made:
                nn.init.zeros_(adapter.connect.weight)  # type: ignore[union-attr, arg-type]
                nn.init.zeros_(adapter.project.weight)  # type: ignore[union-attr, arg-type]
            return made

    apart, scratch, joined = (go(method) for method in (Apart(), Scratch(), PNN()))
    assert apart.history == scratch.history
    assert apart.task_aware == scratch.task_aware
    assert joined.history[0] == scratch.history[0]
    assert joined.history[1] != scratch.history[1]


def test_what_progressive_networks_cost() -> None:
    """Columns of 64 × 16 + 16 and their blocks of 16 × 2 + 2; a column's adapter has α, V and U = 16 × 2."""
    outcome = go(PNN())
    column, block = 64 * 16 + 16, 16 * 2 + 2
    adapters = [k + 16 * 16 * k + 16 * 2 for k in (1, 2)]
    assert outcome.parameters == 3 * (column + block) + sum(adapters)
    assert outcome.forward_passes == [48, 2 * 48, 3 * 48]  # two epochs of 24 images
    assert outcome.backward_passes == [48] * 3
    assert [go(PNN(), tasks=n).parameters for n in (1, 2)] == [column + block, 2 * (column + block) + adapters[0]]


def test_the_network_has_every_block_that_answers() -> None:
    method = PNN()
    go(method)
    for task, column in enumerate(method.columns):
        assert equal(state_of(method.network.head[task]), state_of(column.head[task]))


def test_begun_again_nothing_is_left() -> None:
    method = PNN()
    go(method)
    again = begun(copy.copy(method), network_of(MLP(width=6)))
    assert (again.columns, again.adapters, dict(again.parameters())) == ([], [], {})

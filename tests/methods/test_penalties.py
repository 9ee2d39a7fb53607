"""Penalties on weights against closed forms, values by hand, and autograd in float64 one image at a time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import ADAM, SGD, Pixels, Weights, batch_of, begun, go, state_of, step_on
from torch import Tensor, nn

from clbench.method import SCENARIOS, Method, Run, Scenario, Step, Training
from clbench.method.penalty import Quadratic, QuadraticPenalty
from clbench.methods.ewc import EWC
from clbench.methods.finetune import Finetune
from clbench.methods.l2 import L2
from clbench.methods.mas import MAS
from clbench.methods.online_ewc import OnlineEWC
from clbench.methods.si import SI
from clbench.models import Backbone, ExpandingHeadModel
from clbench.models.backbones import CNN, MLP, ResNet18
from clbench.seeding import stream
from clbench.sequences.tasks import Split, Task
from clbench.testing import tiny_tasks
from clbench.training.run import Outcome, run_sequence

SEED = 5
PLAIN = Training(epochs=2, batch_size=8, lr=0.05)
WEIGHTED: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-14}  # float64 sums in another order
LABELS = ("true", "argmax", "exact", "sampled")

TWO_LAYERS, SMALL_CNN, SMALL_RESNET = MLP(width=7, depth=2), CNN(channels=2, width=8), ResNet18(channels=2)
BACKBONES = pytest.mark.parametrize("backbone", [TWO_LAYERS, SMALL_CNN, SMALL_RESNET], ids=lambda b: b.name)


def setting(scenario: Scenario, backbone: Backbone, images: int = 10) -> tuple[ExpandingHeadModel, Task]:
    """Make the situation after the second task, of 3 classes; there is a block for a third that has not been seen."""
    task = tiny_tasks(2, classes=3, images=images)[1]
    model = ExpandingHeadModel(backbone, (1, 8, 8), 0)
    for width in (3,) if scenario == "domain" else (2, 3, 2):
        model.expand(width)
    model.seen = 1 if scenario == "domain" else 2
    torch.manual_seed(0)
    for module in model.modules():  # running averages and scales that are not those of a new network
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
    with torch.no_grad():
        model.train()(torch.randn(16, 1, 8, 8) * 2 + 1)
    return model.eval(), task


# in the setting above: the columns that the loss is taken on, and the column of them that the task's first class has
COLUMNS: dict[str, slice] = {"task": slice(2, 5), "class": slice(0, 5), "domain": slice(0, 3)}
FIRST: dict[str, int] = {"task": 0, "class": 2, "domain": 0}


def gradient(model: ExpandingHeadModel, scalar: Tensor) -> Weights:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(scalar, list(named.values()), allow_unused=True, retain_graph=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


def fisher(method: EWC, model: ExpandingHeadModel, task: Task, scenario: Scenario, seed: int = SEED) -> Weights:
    return begun(method, model, scenario, seed=seed).fisher(task)


def zeros(model: ExpandingHeadModel) -> Weights:
    return {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}


def label_shares(label: str, logits: Tensor, y: Tensor, task: int = 1, seed: int = SEED) -> Tensor:
    """Return how much each label counts for each image [n, classes]."""
    p = logits.detach().softmax(1)
    if label == "exact":
        return p
    if label == "argmax":
        y = p.argmax(1)
    if label == "sampled":  # walk through the classes until their probability has used up a uniform draw
        draws = torch.rand(len(p), generator=stream(seed, "method", "fisher labels", task)).tolist()
        chosen = []
        for row, left in zip(p.tolist(), draws, strict=True):
            c = 0
            while c < len(row) - 1 and left > row[c]:
                left -= row[c]
                c += 1
            chosen.append(c)
        y = torch.tensor(chosen)
    return F.one_hot(y, p.shape[1]).to(p.dtype)


def fisher_one_by_one(model: ExpandingHeadModel, split: Split, scenario: str, label: str) -> Weights:
    """Return the mean of the squared gradients of log p(y), one backward pass per image and label."""
    total = zeros(model)
    rows = torch.arange(len(split))
    shares = label_shares(label, model(split.batch(rows))[:, COLUMNS[scenario]], split.y + FIRST[scenario])
    for row in rows:
        logs = model(split.batch(row[None]))[0, COLUMNS[scenario]].log_softmax(0)
        for c in shares[row].nonzero()[:, 0]:
            for name, g in gradient(model, logs[c]).items():
                total[name] += shares[row, c] * g.square() / len(split)
    return total


def assert_same(one: Weights, other: Weights, **tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **(tolerance or WEIGHTED), msg=lambda m, n=name: f"{n}: {m}")


# ------------------------------------------------------------------------------------------ Fisher information


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("label", LABELS)
def test_fisher_of_a_linear_softmax(double: None, scenario: Scenario, label: str) -> None:
    """z = W a + b: the gradient of log p(y) is (onehot(y) − p) aᵀ, so F = mean Σ_y share(y) (onehot(y) − p)² (a²)ᵀ."""
    model, task = setting(scenario, Pixels())
    found = fisher(EWC(label=label), model, task, scenario)
    assert_same(found, fisher_closed_form(model, task, scenario, label))


def fisher_closed_form(model: ExpandingHeadModel, task: Task, scenario: str, label: str) -> Weights:
    a = task.train.images.flatten(1)
    weight = torch.cat([block.weight for block in model.head]).detach()
    bias = torch.cat([block.bias for block in model.head]).detach()
    columns = COLUMNS[scenario]
    z = (a @ weight.T + bias)[:, columns]
    shares = label_shares(label, z, task.train.y + FIRST[scenario])
    apart = torch.eye(z.shape[1])[None] - z.softmax(1)[:, None]  # [n, y, c]: onehot(y) − p
    squares = (shares[:, :, None] * apart.square()).sum(1)
    of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(bias)  # other blocks' outputs play no part
    of_weight[columns] = torch.einsum("nc,nj->cj", squares, a.square()) / len(a)
    of_bias[columns] = squares.mean(0)
    parts: Weights = {}
    for block, (w, b) in enumerate(zip(of_weight.split(model.widths), of_bias.split(model.widths), strict=True)):
        parts |= {f"head.{block}.weight": w, f"head.{block}.bias": b}
    return parts


def test_fisher_in_float32() -> None:
    model, task = setting("class", Pixels())
    found = fisher(EWC(label="exact"), model, task, "class")
    assert found["head.0.weight"].dtype == torch.float32
    assert_same(found, fisher_closed_form(model, task, "class", "exact"), rtol=1e-5, atol=1e-8)


def test_fisher_of_one_image_by_hand(double: None) -> None:
    """Logits 0 and ln 3 give p = ¼, ¾: with label 0 the gradient by the logits is ¾, −¾, with label 1 −¼, ¼."""
    model = ExpandingHeadModel(Pixels(), (1, 1, 2), 0)
    model.expand(2)
    model.seen = 1
    with torch.no_grad():
        model.head[0].weight.zero_()
        model.head[0].bias.copy_(torch.tensor([0.0, math.log(3)]))
    split = Split(torch.tensor([[[[2.0, 3.0]]]]), torch.tensor([0]), torch.tensor([0]))
    task = Task(0, (0, 1), split, split)
    for label, square in (("true", 9 / 16), ("argmax", 1 / 16), ("exact", (9 + 3 * 1) / 16 / 4)):
        found = fisher(EWC(label=label), model, task, "task")
        assert found["head.0.bias"].tolist() == pytest.approx([square] * 2, rel=1e-12)
        assert found["head.0.weight"].flatten().tolist() == pytest.approx([4 * square, 9 * square] * 2, rel=1e-12)


@pytest.mark.parametrize(
    ("backbone", "scenario", "label"),
    [  # every pair of two is there
        *[(TWO_LAYERS, *pair) for pair in zip(("task", "class", "domain", "class"), LABELS, strict=True)],
        *[(SMALL_CNN, *pair) for pair in zip(("class", "domain", "task", "domain"), LABELS, strict=True)],
        *[(SMALL_RESNET, *pair) for pair in zip(("domain", "task", "class", "task"), LABELS, strict=True)],
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_fisher_against_one_image_at_a_time(double: None, backbone: Backbone, scenario: Scenario, label: str) -> None:
    model, task = setting(scenario, backbone, images=6)
    model.requires_grad_(False)  # as a method may have left it: it must neither matter nor change
    found = fisher(EWC(label=label), model, task, scenario)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.requires_grad_(True)
    assert_same(found, fisher_one_by_one(model, task.train, scenario, label))
    assert found["backbone.1.weight" if backbone.name == "mlp" else "backbone.0.weight"].sum() > 0
    if scenario != "domain":
        assert (found["head.0.weight"].sum() > 0) == (scenario == "class")  # old outputs compete in `class` alone
        assert found["head.2.weight"].sum() == 0  # not seen yet


class OtherLinear(nn.Linear):
    """No plain linear layer to whoever asks for its class, but it computes the same."""


@dataclass(frozen=True, kw_only=True)
class OtherMLP(MLP):
    def build(self, input_shape: Sequence[int]) -> nn.Module:
        network = super().build(input_shape)
        for layer in network.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = OtherLinear
        return network


@pytest.mark.parametrize("measured", ["fisher", "mas"])
def test_linear_layers_and_any_layers_agree(double: None, monkeypatch: pytest.MonkeyPatch, measured: str) -> None:
    """300 images are two chunks of the one path and ten of the other, the last of them smaller."""
    paths: list[int] = []
    general = torch.func.vmap

    def vmap(*args: Any, **keywords: Any) -> Any:
        paths.append(1)
        return general(*args, **keywords)

    def importances(backbone: Backbone) -> Weights:
        model, task = setting("class", backbone, images=300)
        if measured == "fisher":
            return fisher(EWC(label="sampled"), model, task, "class")
        return mas_importance(model, task, "class")

    monkeypatch.setattr("torch.func.vmap", vmap)
    shortcut = importances(TWO_LAYERS)
    assert not paths  # the shortcut needs no torch.func
    assert_same(importances(OtherMLP(width=7, depth=2)), shortcut)
    assert len(paths) == 10


def test_a_layer_used_twice_is_no_shortcut(double: None) -> None:
    """The product form holds for one use of a layer: with two, a sample's gradient is a sum of two products."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x.flatten(1)).relu()).relu()

    @dataclass(frozen=True, kw_only=True)
    class Recurrent(Backbone):
        def build(self, input_shape: Sequence[int]) -> nn.Module:
            return Twice()

    model, task = setting("task", Recurrent())
    found = fisher(EWC(label="true"), model, task, "task")
    assert_same(found, fisher_one_by_one(model, task.train, "task", "true"))


def test_sampled_labels_are_drawn_from_the_networks_distribution(double: None) -> None:
    """Mean over 8 images × 1000 draws against the expectation, within 5 standard errors of each entry."""
    model, task = setting("class", Pixels(), images=8)
    with torch.no_grad():
        for block in model.head:
            block.weight.mul_(3)
    draws = 1000
    many = replace(task, train=task.train.subset(torch.arange(8).repeat(draws)))
    found, exact = (
        torch.cat([fisher(EWC(label=label), model, some, "class")[f"head.{b}.bias"] for b in range(2)])
        for label, some in (("sampled", many), ("exact", task))
    )
    p = model(task.train.images)[:, :5].softmax(1).detach()
    squares = (torch.eye(5)[None] - p[:, None]).square()  # [n, y, c], each with probability p[n, y]
    mean = (p[:, :, None] * squares).sum(1)
    variance = (p[:, :, None] * squares.square()).sum(1) - mean.square()
    sigma = (variance.mean(0) / (8 * draws)).sqrt()
    torch.testing.assert_close(exact, mean.mean(0), **WEIGHTED)
    assert ((found - exact).abs() < 5 * sigma).all(), (found - exact) / sigma
    for other in ("argmax", "true"):  # that the bound is sharp enough to tell the choices apart
        wrong = fisher(EWC(label=other), model, task, "class")
        assert (torch.cat([wrong["head.0.bias"], wrong["head.1.bias"]]) - exact).abs().gt(10 * sigma).any()


def test_sampled_labels_depend_on_the_seed_alone(double: None) -> None:
    model, task = setting("task", Pixels())

    def drawn(seed: int) -> Tensor:
        torch.rand(1)  # whatever was drawn before must not matter
        return fisher(EWC(), model, task, "class", seed)["head.1.weight"]

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    # other draws for another task: two tasks of the same images in one setting differ only by them
    model, task = setting("domain", Pixels())
    one, other = (fisher(EWC(), model, replace(task, index=i), "domain", 1)["head.0.weight"] for i in range(2))
    assert not torch.equal(one, other)


@BACKBONES
def test_fisher_of_batches(double: None, backbone: Backbone) -> None:
    """10 images in batches of 4: the mean of three squared mean gradients, the last one that of 2 images."""
    model, task = setting("class", backbone)
    found = fisher(EWC(label="true", batch=4), model, task, "class")
    order = torch.randperm(10, generator=stream(SEED, "method", "fisher batches", 1))
    expected = zeros(model)
    for rows in (order[:4], order[4:8], order[8:]):
        loss = F.cross_entropy(model(task.train.images[rows])[:, :5], task.train.y[rows] + 2)
        for name, g in gradient(model, loss).items():
            expected[name] += g.square() / 3
    assert_same(found, expected)


@pytest.mark.parametrize("label", LABELS)
def test_fisher_of_one_batch_of_a_linear_softmax(double: None, label: str) -> None:
    """All images in one batch, in whatever order: the square of mean (onehot(y) − p) aᵀ."""
    model, task = setting("domain", Pixels())
    found = fisher(EWC(label=label, batch=10), model, task, "domain")
    a = task.train.images.flatten(1)
    z = model(task.train.images).detach()
    shares, p = label_shares(label, z, task.train.y), z.softmax(1)
    if label == "exact":  # Σ_c (mean of √p(c) (onehot(c) − p) aᵀ)²
        apart = p.sqrt()[:, :, None] * (torch.eye(3)[None] - p[:, None])
        expected = torch.einsum("nyc,nj->ycj", apart, a).div(10).square().sum(0)
    else:
        expected = ((shares - p).T @ a / 10).square()
    torch.testing.assert_close(found["head.0.weight"], expected, **WEIGHTED)


@pytest.mark.parametrize("backbone", [TWO_LAYERS, SMALL_CNN], ids=lambda b: b.name)
def test_fisher_on_some_images(double: None, backbone: Backbone) -> None:
    model, task = setting("class", backbone)
    model.passes.reset()
    found = fisher(EWC(label="true", samples=4), model, task, "class")
    assert (model.passes.forward, model.passes.backward) == (4, 4)
    rows = torch.randperm(10, generator=stream(SEED, "method", "fisher images", 1))[:4]
    assert_same(found, fisher_one_by_one(model, task.train.subset(rows), "class", "true"))
    everything = fisher(EWC(label="true"), model, task, "class")
    assert not torch.equal(found["head.1.bias"], everything["head.1.bias"])
    for more in (10, 11):
        assert_same(fisher(EWC(label="true", samples=more), model, task, "class"), everything)


# ------------------------------------------------------------------------------------------ the quadratic term


def random_quadratic(generator: torch.Generator, names: Sequence[str], zero_at: int) -> Quadratic:
    def draw() -> Weights:
        return {name: torch.randn(3, 4, generator=generator) for name in names}

    omega = {name: value.square() for name, value in draw().items()}
    for value in omega.values():
        value[0] = 0  # no term cares
        value[1, zero_at] = 0
    return Quadratic(draw(), omega)


def value_at(quadratic: Quadratic, point: Weights) -> float:
    assert quadratic.importance is not None
    terms = (omega * (point[n] - quadratic.anchor[n]).square() for n, omega in quadratic.importance.items())
    return sum(term.sum().item() for term in terms) + float(quadratic.constant)


def test_a_sum_of_quadratics_is_one(double: None) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [random_quadratic(generator, "abc"[: t + 1], zero_at=t) for t in range(3)]  # a parameter joins each time
    two = parts[0].plus(parts[1])
    three = two.plus(parts[2])
    for _ in range(5):
        point = {name: 3 * torch.randn(3, 4, generator=generator) for name in "abc"}
        values = [value_at(part, point) for part in parts]
        assert value_at(two, point) == pytest.approx(values[0] + values[1], rel=1e-12)
        assert value_at(three, point) == pytest.approx(sum(values), rel=1e-12)
    assert 0 < float(two.constant) < float(three.constant)
    assert all(torch.isfinite(value).all() for value in three.anchor.values())


def test_a_sum_of_quadratics_by_hand(double: None) -> None:
    """(θ − 0)² + 3 (θ − 4)² = 4 (θ − 3)² + 12, and a term of importance 0 adds nothing."""
    one, three, nothing = (
        Quadratic({"a": torch.tensor([anchor])}, {"a": torch.tensor([omega])})
        for anchor, omega in ((0.0, 1.0), (4.0, 3.0), (-7.0, 0.0))
    )
    for total in (one.plus(three), three.plus(one), nothing.plus(one).plus(three), one.plus(three).plus(nothing)):
        assert total.importance is not None
        assert (total.anchor["a"].item(), total.importance["a"].item(), float(total.constant)) == (3, 4, 12)
    empty = nothing.plus(nothing)
    assert (empty.anchor["a"].item(), float(empty.constant)) == (-7, 0)


# ------------------------------------------------------------------------------------------ the loss of whole runs


def plain_cross_entropy(step: Step) -> Tensor:
    """Return the mean of −log softmax over the scenario's outputs; all images are of the current task."""
    z, widths = step.network(step.batch.x), step.network.widths
    first = sum(widths[:-1]) if step.criterion.scenario == "task" else 0
    return -z[:, first:].log_softmax(1)[torch.arange(len(step.batch)), step.batch.y - first].mean()


def weights_of(model: ExpandingHeadModel) -> Weights:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


class ByHand:
    """Mixed into a penalty: write its sum out from every old task's weights and importances, at every step."""

    terms: list[tuple[Weights, Weights]]

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.terms = []
        self.steps: list[tuple[int, float, float, float]] = []  # old tasks, loss, cross-entropy, Σ Σ F (θ − θ*)²
        self.found: list[tuple[Weights, Weights]] = []  # gradients

    def remember(self, task: Task) -> None:
        self.terms.append((weights_of(self.network), self.fisher(task)))

    def finish_task(self, task: Task) -> None:
        self.remember(task)
        super().finish_task(task)

    def loss(self, step: Step) -> Tensor:
        loss: Tensor = super().loss(step)
        now = dict(step.network.named_parameters())
        pull = torch.zeros(())
        for anchor, importance in self.terms:
            for name in anchor:
                pull = pull + (importance[name] * (now[name] - anchor[name]) ** 2).sum()
        cross_entropy = plain_cross_entropy(step)
        self.steps.append((len(self.terms), loss.item(), cross_entropy.item(), pull.item()))
        whole = cross_entropy + self.factor_by_hand() * pull
        self.found.append((gradient(step.network, loss), gradient(step.network, whole)))
        return loss

    def factor_by_hand(self) -> float:
        return self.strength / 2 if self.half else self.strength


class EWCByHand(ByHand, EWC):
    pass


class OnlineEWCByHand(ByHand, OnlineEWC):
    def remember(self, task: Task) -> None:
        super().remember(task)
        if len(self.terms) > 1:  # F* = γ F* + F, around the last weights alone
            (_, old), (weights, new) = self.terms
            running = {n: self.gamma * old[n] + v if n in old else v for n, v in new.items()}
            self.terms = [(weights, running)]


def three_tasks(method: Method, scenario: Scenario, training: Training = PLAIN, **keywords: Any) -> Outcome:
    return go(method, scenario, **({"backbone": MLP(width=8), "training": training} | keywords))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("half", [True, False])
def test_ewc_has_a_term_for_each_old_task(double: None, scenario: Scenario, half: bool) -> None:
    method = EWCByHand(strength=10.0, half=half)
    three_tasks(method, scenario)
    assert [step[0] for step in method.steps] == [0] * 6 + [1] * 6 + [2] * 6
    for _, loss, cross_entropy, pull in method.steps:
        assert loss == pytest.approx(cross_entropy + (5 if half else 10) * pull, rel=1e-10)
    assert all(10 * step[3] > 1e-3 * step[2] for step in method.steps[-6:])  # or there would be nothing to compare
    for found, expected in method.found:
        assert_same(found, expected, rtol=1e-9, atol=1e-12)


def test_half_is_half_of_the_strength() -> None:
    hashes = {
        (strength, half): three_tasks(EWC(strength=strength, half=half), "task").weights_hash
        for strength, half in ((40.0, True), (20.0, False), (20.0, True))
    }
    assert hashes[40.0, True] == hashes[20.0, False] != hashes[20.0, True]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_online_ewc_has_one_running_term(double: None, scenario: Scenario, gamma: float) -> None:
    method = OnlineEWCByHand(strength=20.0, gamma=gamma)
    last: list[Weights] = []
    three_tasks(
        method,
        scenario,
        after_task=lambda learner, task: last.append(weights_of(learner.network)),
    )
    for _, loss, cross_entropy, pull in method.steps:
        assert loss == pytest.approx(cross_entropy + 10 * pull, rel=1e-10)
    assert all(10 * step[3] > 1e-4 * step[2] for step in method.steps[-5:])  # the first step is taken at the anchor
    for found, expected in method.found:
        assert_same(found, expected, rtol=1e-9, atol=1e-12)
    quadratic = method.quadratic
    assert quadratic is not None
    assert quadratic.importance is not None
    assert quadratic.constant == 0
    assert_same(quadratic.anchor, last[-1])
    assert_same(quadratic.importance, method.terms[0][1])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_online_ewc_is_ewc_while_there_is_one_old_task(scenario: Scenario) -> None:
    def final(method: Method, tasks: int) -> str:
        return run_sequence(tiny_tasks(tasks), method, MLP(width=8), PLAIN, scenario, seed=3).weights_hash

    for gamma in (1.0, 0.5):  # γ matters from the second old task on
        assert final(OnlineEWC(strength=20.0, gamma=gamma), 2) == final(EWC(strength=20.0), 2)
    assert final(OnlineEWC(strength=20.0), 3) != final(EWC(strength=20.0), 3)


@pytest.mark.parametrize(("half", "pull"), [(False, 10.0), (True, 5.0)])
def test_l2_by_hand(half: bool, pull: float) -> None:
    """Weights 1 2 | 3 4 go to 2 2 | 3 1: (2 − 1)² + (1 − 4)² = 10; the new block is held by nothing."""
    model = ExpandingHeadModel(Pixels(), (1, 1, 2), 0)
    model.expand(2)
    method = begun(L2(strength=1.0, half=half), model, "task")
    split = Split(torch.zeros(1, 1, 1, 2), torch.tensor([0]), torch.tensor([1]))
    with torch.no_grad():
        model.head[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        method.finish_task(Task(0, (0, 1), split, split))
        model.head[0].weight.copy_(torch.tensor([[2.0, 2.0], [3.0, 1.0]]))
    model.expand(2)
    model.seen = 2
    nn.init.zeros_(model.head[1].bias)  # the image is black: logits 0, 0
    batch = batch_of(split, torch.tensor([0]), torch.tensor([3]), torch.tensor([1]))
    loss = method.loss(step_on(model, batch, "task"))
    assert loss.item() == pytest.approx(math.log(2) + pull, rel=1e-6)
    loss.backward()
    slope = [[1.0, 0.0], [0.0, -3.0]] if half else [[2.0, 0.0], [0.0, -6.0]]
    assert model.head[0].weight.grad.tolist() == slope
    assert model.head[0].bias.grad.tolist() == [0, 0]
    assert model.head[1].bias.grad.tolist() == [0.5, -0.5]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_l2_is_anchored_at_the_last_task(double: None, scenario: Scenario) -> None:
    class L2ByHand(ByHand, L2):
        def remember(self, task: Task) -> None:
            weights = weights_of(self.network)
            self.terms = [(weights, {name: torch.ones_like(value) for name, value in weights.items()})]

    method = L2ByHand(strength=0.7)
    three_tasks(method, scenario)
    for _, loss, cross_entropy, pull in method.steps:
        assert loss == pytest.approx(cross_entropy + 0.7 * pull, rel=1e-10)
    assert method.steps[-1][3] > 1e-3
    for found, expected in method.found:
        assert_same(found, expected, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------ synaptic intelligence

CENTRE = (0.5, -1.0, 2.0, 0.25)
# eigenvalues between 0.5 and 3.5 (Gershgorin): positive definite
HESSIAN = ((3.0, 0.3, 0.1, 0.1), (0.3, 2.0, 0.4, 0.1), (0.1, 0.4, 1.0, 0.0), (0.1, 0.1, 0.0, 1.5))


class Bowl(SI):
    """The loss is ½ (θ − m)ᵀ H (θ − m) of the head's four weights; the images play no part."""

    def start_task(self, task: Task) -> None:
        self.first = self.network.head[0].weight.detach().flatten().clone()

    def loss(self, step: Step) -> Tensor:
        apart = step.network.head[0].weight.flatten() - torch.tensor(CENTRE)
        return apart @ torch.tensor(HESSIAN) @ apart / 2

    def finish_task(self, task: Task) -> None:
        self.omega = self.integral["head.0.weight"].flatten().clone()
        self.untouched = self.integral["head.0.bias"].clone()
        super().finish_task(task)
        self.last = self.network.head[0].weight.detach().flatten().clone()


def roll(rate: float, steps: int, **fields: Any) -> Bowl:
    method = Bowl(**fields)
    data = tiny_tasks(1, images=4, shape=(1, 1, 2))
    run_sequence(data, method, Pixels(), Training(epochs=None, iterations=steps, lr=rate), "domain", seed=0)
    return method


def bowl(theta: Tensor) -> float:
    apart = theta - torch.tensor(CENTRE)
    return (apart @ torch.tensor(HESSIAN) @ apart / 2).item()


def test_path_integral_of_gradient_descent(double: None) -> None:
    rate, steps = 0.1, 20
    method = roll(rate, steps)
    hessian, apart = torch.tensor(HESSIAN), method.first - torch.tensor(CENTRE)
    shrink = torch.eye(4) - rate * hessian  # θ_k − m = (I − ηH)ᵏ (θ_0 − m)
    gradients = [hessian @ torch.linalg.matrix_power(shrink, k) @ apart for k in range(steps)]
    omega = rate * torch.stack(gradients).square().sum(0)
    torch.testing.assert_close(method.omega, omega, rtol=1e-10, atol=0)
    assert method.untouched.tolist() == [0, 0]  # no gradient reached the bias
    # a step lowers the loss by g · δ less the curvature's ½ δᵀ H δ
    curvature = sum((rate**2 / 2 * g @ hessian @ g).item() for g in gradients)
    assert method.omega.sum().item() - (bowl(method.first) - bowl(method.last)) == pytest.approx(curvature, rel=1e-9)
    # Ω = ω / (Δ² + ξ)
    travelled = torch.linalg.matrix_power(shrink, steps) @ apart - apart
    assert method.quadratic is not None
    assert method.quadratic.importance is not None
    found = method.quadratic.importance["head.0.weight"].flatten()
    torch.testing.assert_close(found, omega / (travelled.square() + 0.1), rtol=1e-10, atol=0)
    damped = roll(rate, steps, damping=0.02).quadratic
    assert damped is not None
    assert damped.importance is not None
    expected = omega / (travelled.square() + 0.02)
    torch.testing.assert_close(damped.importance["head.0.weight"].flatten(), expected, rtol=1e-10, atol=0)


def test_the_path_integral_tends_to_the_drop_of_the_loss(double: None) -> None:
    """Over the same time, half the rate in twice the steps leaves half of the gap, up to a term of order η."""
    gaps = []
    for rate, steps in ((0.004, 100), (0.002, 200)):
        method = roll(rate, steps)
        drop = bowl(method.first) - bowl(method.last)
        gaps.append(method.omega.sum().item() - drop)
        assert 0 < gaps[-1] < 0.02 * drop
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.01)


class WatchedPath(SI):
    """Adds the path integral up from gradients that autograd takes of the loss with or without the penalty."""

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.expected: Weights = {}
        self.negative = 0
        self.own: Weights | None = None

    def loss(self, step: Step) -> Tensor:
        loss = super().loss(step)
        self.theta = weights_of(step.network)
        if self.own is None:
            self.own, self.origin = zeros(step.network), self.theta
        self.g = gradient(step.network, plain_cross_entropy(step) if self.path == "task" else loss)
        return loss

    def after_step(self, step: Step) -> None:
        super().after_step(step)
        assert self.own is not None
        for name, parameter in step.network.named_parameters():
            self.own[name] -= self.g[name] * (parameter.detach() - self.theta[name])

    def finish_task(self, task: Task) -> None:
        assert self.own is not None
        for name, parameter in self.network.named_parameters():
            omega = self.own[name] / ((parameter.detach() - self.origin[name]) ** 2 + self.damping)
            self.negative += int((omega < -1e-6).sum())
            if self.clip:
                omega = omega.clamp(min=0)
            self.expected[name] = self.expected.get(name, 0) + omega
        self.own = None
        super().finish_task(task)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("path", ["task", "total"])
@pytest.mark.parametrize("clip", [False, True])
def test_path_integral_of_training(double: None, scenario: Scenario, path: str, clip: bool) -> None:
    """Three tasks with momentum and decay, whose steps do not follow the gradient: importances add up over tasks."""
    training = replace(PLAIN, momentum=0.9, weight_decay=0.05)
    importances = {}
    for strength in (0.0, 5.0):
        method = WatchedPath(strength=strength, path=path, clip=clip)
        three_tasks(method, scenario, training)
        assert method.quadratic is not None
        assert method.quadratic.importance is not None
        assert_same(method.quadratic.importance, method.expected, rtol=1e-9, atol=1e-12)
        assert method.negative > 0  # or there would be nothing to clip
        importances[strength] = method.expected["backbone.1.weight"]
    assert not torch.allclose(importances[0.0], importances[5.0], rtol=1e-3)


def test_the_two_paths_differ_only_where_there_is_a_penalty(double: None) -> None:
    def importance(path: str, tasks: int) -> Tensor:
        method = SI(strength=5.0, path=path)
        run_sequence(tiny_tasks(tasks), method, MLP(width=8), PLAIN, "task", seed=3)
        assert method.quadratic is not None
        assert method.quadratic.importance is not None
        return method.quadratic.importance["backbone.1.weight"]

    assert torch.equal(importance("task", 1), importance("total", 1))
    assert not torch.allclose(importance("task", 2), importance("total", 2), rtol=1e-6)


# ------------------------------------------------------------------------------------------ memory aware synapses


def mas_importance(model: ExpandingHeadModel, task: Task, scenario: Scenario, **fields: Any) -> Weights:
    method = begun(MAS(**fields), model, scenario, seed=SEED)
    method.finish_task(task)
    assert method.quadratic is not None
    assert method.quadratic.importance is not None
    return method.quadratic.importance


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_mas_of_a_linear_map(double: None, scenario: Scenario, reduction: str) -> None:
    """f = W x + b: ∂‖f‖²/∂W_ij = 2 f_i x_j and ∂‖f‖²/∂b_i = 2 f_i; no softmax is taken."""
    model, task = setting(scenario, Pixels())
    found = mas_importance(model, task, scenario, reduction=reduction)
    x = task.train.images.flatten(1)
    used = {"task": [1], "class": [0, 1], "domain": [0]}[scenario]
    divisor = {"task": 3, "class": 5, "domain": 3}[scenario] if reduction == "mean" else 1
    for index, block in enumerate(model.head):
        f = (x @ block.weight.T + block.bias).detach()
        on = float(index in used)
        weight = on * (2 * f[:, :, None] * x[:, None, :]).abs().mean(0) / divisor
        torch.testing.assert_close(found[f"head.{index}.weight"], weight, **WEIGHTED)
        torch.testing.assert_close(found[f"head.{index}.bias"], on * (2 * f).abs().mean(0) / divisor, **WEIGHTED)


@BACKBONES
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_mas_against_one_image_at_a_time(double: None, backbone: Backbone, scenario: Scenario) -> None:
    model, task = setting(scenario, backbone, images=6)
    found = mas_importance(model, task, scenario)
    expected = zeros(model)
    for image in task.train.images:
        for name, g in gradient(model, (model(image[None])[0, COLUMNS[scenario]] ** 2).sum()).items():
            expected[name] += g.abs() / 6
    assert_same(found, expected)


@BACKBONES
def test_mas_of_batches(double: None, backbone: Backbone) -> None:
    """10 images in batches of 4: the mean of three absolute mean gradients, the last one that of 2 images."""
    model, task = setting("class", backbone)
    found = mas_importance(model, task, "class", batch=4, reduction="mean")
    order = torch.randperm(10, generator=stream(SEED, "method", "importance batches", 1))
    expected = zeros(model)
    for rows in (order[:4], order[4:8], order[8:]):
        outputs = model(task.train.images[rows])[:, :5]
        for name, g in gradient(model, outputs.square().mean()).items():  # over images and outputs
            expected[name] += g.abs() / 3
    assert_same(found, expected)


@pytest.mark.parametrize("carried", [1.0, 0.5, 0.0])
def test_mas_adds_importances_up_around_the_last_weights(double: None, carried: float) -> None:
    model, task = setting("class", TWO_LAYERS)
    single = mas_importance(model, task, "class")
    method = begun(MAS(carried=carried), model, "class")
    method.finish_task(task)
    with torch.no_grad():
        model.head[0].bias.add_(1)
    second = mas_importance(model, task, "class")
    method.finish_task(task)
    assert method.quadratic is not None
    assert method.quadratic.importance is not None
    both = {name: carried * value + second[name] for name, value in single.items()}
    assert_same(method.quadratic.importance, both)
    assert torch.equal(method.quadratic.anchor["head.0.bias"], model.head[0].bias)


class MASByHand(ByHand, MAS):
    def remember(self, task: Task) -> None:
        """Σ over old tasks of |∂ Σ z² / ∂θ|, taken here one image at a time."""
        model = self.network
        total = zeros(model)
        first = {"task": sum(model.widths[:-1])}.get(self.run.scenario, 0)
        for image in task.train.images:
            for name, g in gradient(model, (model(image[None])[0, first:] ** 2).sum()).items():
                total[name] += g.abs() / len(task.train)
        for name, value in self.terms[0][1].items() if self.terms else ():
            total[name] += self.carried * value
        self.terms = [(weights_of(model), total)]


@pytest.mark.parametrize("carried", [1.0, 0.0, 0.5])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_loss_of_mas_over_three_tasks(double: None, scenario: Scenario, carried: float) -> None:
    method = MASByHand(strength=0.3, carried=carried)
    three_tasks(method, scenario)
    for _, loss, cross_entropy, pull in method.steps:
        assert loss == pytest.approx(cross_entropy + 0.3 * pull, rel=1e-10)
    assert method.steps[-1][3] > 1e-3


# ------------------------------------------------------------------------------------------ identities

TRAININGS = pytest.mark.parametrize("training", [SGD, ADAM], ids=["sgd", "adam"])
PENALTIES: dict[str, Callable[[float], QuadraticPenalty]] = {
    "l2": lambda strength: L2(strength=strength),
    "ewc": lambda strength: EWC(strength=strength),
    "online-ewc": lambda strength: OnlineEWC(strength=strength),
    "si": lambda strength: SI(strength=strength),
    "si-total": lambda strength: SI(strength=strength, path="total"),
    "mas": lambda strength: MAS(strength=strength),
}


def with_dropout(method: Method, scenario: Scenario, training: Training) -> Outcome:
    return three_tasks(method, scenario, training, backbone=MLP(width=16, dropout=0.2))


@cache
def finetuned(scenario: Scenario, training: Training) -> Outcome:
    return with_dropout(Finetune(), scenario, training)


@TRAININGS
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("name", PENALTIES)
def test_strength_zero_is_finetune(name: str, scenario: Scenario, training: Training) -> None:
    plain = finetuned(scenario, training)
    free, held = (with_dropout(PENALTIES[name](strength), scenario, training) for strength in (0.0, 0.01))
    assert free.weights_hash == plain.weights_hash
    assert free.task_aware == plain.task_aware
    assert free.task_agnostic == plain.task_agnostic
    assert held.weights_hash != plain.weights_hash
    assert held.history[0] == plain.history[0]  # nothing is held in the first task


@pytest.mark.parametrize("name", PENALTIES)
def test_a_strong_penalty_holds_the_weights(name: str) -> None:
    """Distance from the weights after the first task, by strength; the new block is free."""
    distances = []
    for strength in (0.0, 1.0):
        states: list[Weights] = []
        run_sequence(
            tiny_tasks(2),
            PENALTIES[name](strength),
            MLP(width=8),
            replace(PLAIN, epochs=10, lr=0.02),
            "class",
            seed=3,
            after_task=lambda learner, task, states=states: states.append(state_of(learner.network)),
        )
        old = states[0]
        distances.append(sum((states[1][n] - v).square().sum().item() for n, v in old.items()))
    assert distances[1] < distances[0]
